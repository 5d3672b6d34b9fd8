"""The same random operations and queries on the embedded store and on qdrant-client's local mode.

Where the two rightly differ:

- No interface promises the order of equal scores: results are compared as scores, and as points wherever scores tell.
- Local mode runs the stages of a query one after another and overlooks what is wrong with a later one (a point id that
  does not exist, say) where an earlier one found nothing. The engine, like a server, checks the whole request first.
  The requests here name points that exist.
- Local mode sorts by a payload key without an index; the engine, like a server, needs one (see test_reading).
- Setting a key to null removes it, and local mode removes it always. The engine keeps the null on a point without a
  stored payload, which EdgeClient makes up for and a server does not: there, nothing is set to null.
- A point whose words cancel out (a sparse score of 0) is a hit of local mode's, and none of the engine's: no two of a
  query's examples cancel out here, and one test of its own shows it.
- Local mode is exact. Collections here are small, so the engine is exact, too.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from qdrant_client import QdrantClient, models

from situate.retrievers.storage.edge import EdgeClient
from tests.conftest import FULL

from . import strategies as some
from .conftest import SERVER, create

_names = itertools.count()

pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
]


def examples(count: int) -> Any:
    return settings(
        max_examples=count * (40 if FULL else 1),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


class Pair:
    """The store under test and the reference, given the same calls."""

    def __init__(self, ours: QdrantClient, reference: QdrantClient) -> None:
        self.both = (ours, reference)

    @contextmanager
    def collection(self, points: list[models.PointStruct]) -> Iterator[str]:
        name = f"conformance-{os.getpid()}-{next(_names)}"
        for client in self.both:
            create(client, name)
            client.upsert(name, points)
        try:
            yield name
        finally:
            for client in self.both:
                client.delete_collection(name)

    def call(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """The answers of both; an Exception where one raises."""
        answers: list[Any] = []
        for client in self.both:
            try:
                answers.append(getattr(client, method)(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - the two raise classes of their own; that both do is what matters
                answers.append(error)
        return answers


@pytest.fixture(scope="module", params=["edge", *(["server"] if SERVER else [])])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    ours = EdgeClient(auto_optimize=False) if request.param == "edge" else QdrantClient(url=SERVER, timeout=60)
    reference = QdrantClient(":memory:")
    yield Pair(ours, reference)
    ours.close()
    reference.close()


def rounded(value: Any) -> Any:
    """``value`` in a form that compares: floats to four digits, sparse vectors as sorted cells."""
    if isinstance(value, models.SparseVector):
        return sorted((i, round(v, 4)) for i, v in zip(value.indices, value.values, strict=True))
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def contents(answer: Any) -> dict[str, Any]:
    return {str(p.id): (rounded(p.vector), p.payload) for p in answer[0]}


def assert_both_raise_or_none(answers: list[Any]) -> bool:
    """Whether both answered."""
    raised = [isinstance(a, Exception) for a in answers]
    assert raised[0] == raised[1], answers
    return not raised[0]


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4)


def assert_same_hits(answers: list[Any]) -> None:
    if not assert_both_raise_or_none(answers):
        return
    ours, reference = (a.points for a in answers)
    assert len(ours) == len(reference), (ours, reference)
    assert all(close(a.score, b.score) for a, b in zip(ours, reference, strict=True)), (ours, reference)
    expected = {p.id: p for p in reference}
    for hit in ours:
        if hit.id in expected:
            assert close(hit.score, expected[hit.id].score)
            assert hit.payload == expected[hit.id].payload
        else:
            assert any(close(hit.score, other.score) for other in reference), (ours, reference)


points = st.lists(some.points, min_size=1, max_size=8, unique_by=lambda p: p.id)


@examples(50)
@given(points=points, condition=some.filters)
def test_filters_select_the_same_points(pair: Pair, points: list[models.PointStruct], condition: models.Filter) -> None:
    with pair.collection(points) as name:
        found = pair.call("scroll", name, scroll_filter=condition, limit=100)
        counted = pair.call("count", name, count_filter=condition)
    if assert_both_raise_or_none(found):
        assert {p.id for p in found[0][0]} == {p.id for p in found[1][0]}
        assert counted[0] == counted[1]


selectors = st.one_of(
    st.lists(some.point_ids, min_size=1, max_size=3).map(lambda ids: models.PointIdsList(points=ids)),
    some.filters.map(lambda f: models.FilterSelector(filter=f)),
)
#: Payloads to set; see above for null on a server.
additions = some.payloads.map(lambda p: {k: v for k, v in p.items() if v is not None}) if SERVER else some.payloads
operations = st.one_of(
    st.tuples(
        st.just("upsert"),
        st.fixed_dictionaries(
            {"points": points},
            optional={"update_filter": some.filters, "update_mode": st.sampled_from(list(models.UpdateMode))},
        ),
    ),
    st.tuples(st.just("delete"), st.fixed_dictionaries({"points_selector": selectors})),
    st.tuples(
        st.just("set_payload"),
        st.fixed_dictionaries(
            {"payload": additions, "points": selectors},
            optional={"key": st.sampled_from(["deep", "items[0]", "items[]", "new.key"])},
        ),
    ),
    st.tuples(st.just("overwrite_payload"), st.fixed_dictionaries({"payload": some.payloads, "points": selectors})),
    st.tuples(
        st.just("delete_payload"),
        st.fixed_dictionaries(
            {
                "keys": st.lists(
                    st.sampled_from(["number", "deep.word", "items[].name", "items[0]", "word", "missing"]),
                    min_size=1,
                    max_size=2,
                ),
                "points": selectors,
            }
        ),
    ),
    st.tuples(st.just("clear_payload"), st.fixed_dictionaries({"points_selector": selectors})),
    st.tuples(
        st.just("update_vectors"),
        st.fixed_dictionaries(
            {
                "points": st.lists(
                    st.builds(models.PointVectors, id=some.point_ids, vector=some.named_vectors),
                    min_size=1,
                    max_size=3,
                    unique_by=lambda p: p.id,
                )
            },
            optional={"update_filter": some.filters},
        ),
    ),
    st.tuples(
        st.just("delete_vectors"),
        st.fixed_dictionaries(
            {
                "vectors": st.lists(st.sampled_from(["dense", "words", "tokens"]), min_size=1, max_size=2),
                "points": selectors,
            }
        ),
    ),
)


@examples(40)
@given(points=points, changes=st.lists(operations, max_size=5))
def test_changes_leave_the_same_points(
    pair: Pair, points: list[models.PointStruct], changes: list[tuple[str, dict[str, Any]]]
) -> None:
    with pair.collection(points) as name:
        for method, arguments in changes:
            assert_both_raise_or_none(pair.call(method, name, **arguments))
            ours, reference = pair.call("scroll", name, limit=100, with_vectors=True)
            assert contents(ours) == contents(reference), (method, arguments)


@pytest.mark.parametrize("key", [None, "new"])
@pytest.mark.parametrize(
    "selector",
    [models.PointIdsList(points=[0, 1, 99]), models.FilterSelector(filter=models.Filter())],
    ids=["ids", "filter"],
)
def test_null_removes_a_key_from_points_without_a_payload(selector: Any, key: str | None) -> None:
    stored = [
        models.PointStruct(id=0, vector={"dense": [0, 0, 0, 1]}, payload={"real": 1.0}),
        models.PointStruct(id=1, vector={"dense": [0, 0, 1, 0]}, payload={"real": 1.0}),
    ]
    with EdgeClient(auto_optimize=False) as ours:
        pair = Pair(ours, QdrantClient(":memory:"))
        with pair.collection(stored) as name:
            pair.call("clear_payload", name, [0])
            answers = pair.call("set_payload", name, {"real": None, "word": "red"}, selector, key=key)
            # The point that does not exist is reported, and does not affect the others.
            assert [isinstance(a, Exception) for a in answers] == [isinstance(selector, models.PointIdsList)] * 2
            left, reference = pair.call("scroll", name, limit=100, with_vectors=True)
            assert contents(left) == contents(reference)
            assert left[0][0].payload == ({"word": "red"} if key is None else {key: {"word": "red"}})


@examples(60)
@given(data=st.data(), stored=some.searchable_points, limit=st.sampled_from([1, 3, 50]))
def test_queries_find_the_same_points(
    pair: Pair, data: st.DataObject, stored: list[models.PointStruct], limit: int
) -> None:
    request = data.draw(some.requests(stored))
    condition = data.draw(st.one_of(st.none(), some.filters))
    offset = data.draw(st.sampled_from([None, 1]))
    threshold = data.draw(st.sampled_from([None, None, 0.1]))
    with pair.collection(stored) as name:
        assert_same_hits(
            pair.call(
                "query_points",
                name,
                query_filter=condition,
                limit=limit,
                offset=offset,
                score_threshold=threshold,
                **request,
            )
        )


def test_words_that_cancel_out_are_no_hits(pair: Pair) -> None:
    good, bad = models.SparseVector(indices=[1], values=[1.0]), models.SparseVector(indices=[1], values=[2.0])
    queries = (
        models.SparseVector(indices=[1, 2], values=[1.0, -1.0]),
        models.SparseVector(indices=[1], values=[0.0]),
        models.RecommendQuery(recommend=models.RecommendInput(positive=[good], negative=[bad])),
    )
    words = models.SparseVector(indices=[1, 2], values=[1.0, 1.0])
    with pair.collection([models.PointStruct(id=1, vector={"words": words})]) as name:
        for query in queries:
            ours, reference = pair.call("query_points", name, query, using="words")
            assert ours.points == []
            assert [hit.score for hit in reference.points] == [0.0]


@examples(20)
@given(
    data=st.data(),
    stored=some.searchable_points,
    group_by=st.sampled_from(["word", "number", "deep.word", "items[].name"]),
    limit=st.sampled_from([1, 2, 5]),
    size=st.sampled_from([1, 2]),
)
def test_groups_hold_the_same_points(
    pair: Pair, data: st.DataObject, stored: list[models.PointStruct], group_by: str, limit: int, size: int
) -> None:
    vector = data.draw(some.generic_vectors)
    with pair.collection(stored) as name:
        ours, reference = pair.call(
            "query_points_groups", name, group_by=group_by, query=vector, using="dense", limit=limit, group_size=size
        )
    if not assert_both_raise_or_none([ours, reference]):
        return
    # A point with several values is in several groups, whose order is then a tie.
    assert sorted((g.hits[0].score for g in ours.groups), reverse=True) == pytest.approx(
        sorted((g.hits[0].score for g in reference.groups), reverse=True), rel=1e-3, abs=1e-4
    )
    expected = {g.id: [h.id for h in g.hits] for g in reference.groups}
    for group in ours.groups:
        if group.id in expected:
            assert [h.id for h in group.hits] == expected[group.id]
