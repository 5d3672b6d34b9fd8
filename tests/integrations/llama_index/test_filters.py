"""The Qdrant filters select what LlamaIndex's own filter function selects."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn
from packaging.version import Version

from situate.errors import InputError
from situate.integrations.llama_index import SituateVectorStore
from situate.integrations.llama_index.filters import to_qdrant_filter

O = FilterOperator  # noqa: E741 - fourteen of them are named below
OLD = Version(version("llama-index-core")) < Version("0.14.23")

METADATA: list[dict[str, Any]] = [
    {"name": "Alpha", "year": 2020, "score": 1.5, "tags": ["red", "Blue"], "when": "2024-01-31"},
    {"name": "alpha centauri", "year": 2021, "score": 2.0, "tags": [], "when": "2024-02-01T10:00:00"},
    {"name": "", "year": 2020.0, "tags": ["blue"], "a b": 1},
    {"name": "BETA", "year": -3, "score": 0.0, "tags": ["red", "green", "red"], "ümlaut": "ja"},
    {"name": None, "score": 2, "tags": ["green"]},
    {},
]
NAMES = ["Alpha", "alpha", "lph", "BETA", "x", "", "centauri"]
TAGS = ["red", "blue", "Blue", "green", "none"]


@pytest.fixture(scope="module")
def store() -> SituateVectorStore:
    store = SituateVectorStore()
    store.add([TextNode(id_=str(i), text="t", embedding=[1.0, 0.0], metadata=m) for i, m in enumerate(METADATA)])
    return store


def one(key: str, operator: FilterOperator, value: Any) -> MetadataFilter:
    return MetadataFilter(key=key, operator=operator, value=value)


def selected(store: SituateVectorStore, filters: MetadataFilters) -> set[str]:
    found = store.get_nodes(filters=filters)
    again = store.query(VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=10, filters=filters))
    assert {node.node_id for node in found} == set(again.ids or [])
    return {node.node_id for node in found}


def alone(part: MetadataFilter, metadata: dict[str, Any]) -> bool:
    """LlamaIndex's own function; for a version before 0.14.23, with what it says of missing keys and texts since."""
    value = metadata.get(part.key)
    if OLD and value is None and part.operator in (O.NE, O.NIN):
        return True
    if OLD and value is not None and part.operator in (O.TEXT_MATCH, O.TEXT_MATCH_INSENSITIVE):
        case = str if part.operator == O.TEXT_MATCH else str.lower
        return case(part.value) in case(value)
    return bool(build_metadata_filter_fn(lambda _: metadata, MetadataFilters(filters=[part]))("any id"))


def expected(filters: MetadataFilters) -> set[str]:
    """LlamaIndex's own function, extended by nesting, and by lists for ANY and ALL."""

    def holds(group: MetadataFilters, metadata: dict[str, Any]) -> bool | None:
        results = []
        for part in group.filters:
            if isinstance(part, MetadataFilters):
                # A group without any condition, at any depth, is left out.
                if (inner := holds(part, metadata)) is not None:
                    results.append(inner)
            else:
                results.append(alone(part, metadata))
        if not results:
            return None
        match group.condition:
            case FilterCondition.OR:
                return any(results)
            case FilterCondition.NOT:
                return not any(results)
            case _:
                return all(results)

    return {str(i) for i, metadata in enumerate(METADATA) if holds(filters, metadata) is not False}


numbers = st.sampled_from([2020, 2021, -3, 1.5, 2.0, 2, 0.0, 0, 5])
leaves = st.one_of(
    st.builds(one, st.just("name"), st.sampled_from([O.EQ, O.NE]), st.sampled_from(NAMES)),
    st.builds(
        one, st.sampled_from(["year", "score"]), st.sampled_from([O.EQ, O.NE, O.GT, O.GTE, O.LT, O.LTE]), numbers
    ),
    st.builds(one, st.just("name"), st.sampled_from([O.IN, O.NIN]), st.lists(st.sampled_from(NAMES), max_size=3)),
    st.builds(
        one,
        st.sampled_from(["year", "score"]),
        st.sampled_from([O.IN, O.NIN]),
        st.one_of(st.lists(st.sampled_from([2020, 2021, 2])), st.lists(st.sampled_from([1.5, 2.0, 9.0]))),
    ),
    st.builds(
        one, st.just("tags"), st.sampled_from([O.ANY, O.ALL]), st.lists(st.sampled_from(TAGS), min_size=1, max_size=3)
    ),
    st.builds(one, st.just("tags"), st.just(O.CONTAINS), st.sampled_from(TAGS)),
    st.builds(one, st.just("name"), st.sampled_from([O.TEXT_MATCH, O.TEXT_MATCH_INSENSITIVE]), st.sampled_from(NAMES)),
    st.builds(
        one,
        st.sampled_from(["name", "tags", "year", "missing", "a b", "ümlaut"]),
        st.just(O.IS_EMPTY),
        st.none(),
    ),
)
conditions = st.sampled_from(list(FilterCondition))
groups = st.recursive(
    st.builds(MetadataFilters, filters=st.lists(leaves, max_size=3), condition=conditions),
    lambda inner: st.builds(
        MetadataFilters, filters=st.lists(st.one_of(leaves, inner), max_size=3), condition=conditions
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(filters=groups)
def test_selects_what_llama_index_selects(store: SituateVectorStore, filters: MetadataFilters) -> None:
    assert selected(store, filters) == expected(filters)


def test_every_operator_is_translated() -> None:
    for operator in FilterOperator:
        value: Any = ["x"] if operator in (O.IN, O.NIN, O.ANY, O.ALL) else 1
        if operator in (O.TEXT_MATCH, O.TEXT_MATCH_INSENSITIVE):
            value = "x"
        assert to_qdrant_filter(MetadataFilters(filters=[one("key", operator, value)])) is not None


def test_dates_are_compared_as_dates(store: SituateVectorStore) -> None:
    def after(value: str) -> set[str]:
        return selected(store, MetadataFilters(filters=[one("when", O.GTE, value)]))

    assert after("2024-01-31") == {"0", "1"}
    assert after("2024-02-01") == {"1"}
    assert after("2024-02-01T10:00:01") == set()


@pytest.mark.parametrize("key", ["a b", "ümlaut"])
def test_keys_that_are_no_paths_are_quoted(store: SituateVectorStore, key: str) -> None:
    have = {str(i) for i, metadata in enumerate(METADATA) if key in metadata}
    value = next(m[key] for m in METADATA if key in m)
    assert selected(store, MetadataFilters(filters=[one(key, O.EQ, value)])) == have


def test_values_that_do_not_fit_are_refused_by_name() -> None:
    for operator, value in [(O.GT, "soon"), (O.LT, ["a"]), (O.EQ, ["a"]), (O.TEXT_MATCH, 3), (O.IN, None)]:
        with pytest.raises(InputError, match="'key'"):
            to_qdrant_filter(MetadataFilters(filters=[one("key", operator, value)]))
    with pytest.raises(InputError, match="quotation mark"):
        to_qdrant_filter(MetadataFilters(filters=[one('a"b', O.EQ, 1)]))


def test_nothing_selects_everything() -> None:
    assert to_qdrant_filter(None) is None
    assert to_qdrant_filter(MetadataFilters(filters=[])) is None
    assert (
        to_qdrant_filter(MetadataFilters(filters=[MetadataFilters(filters=[])], condition=FilterCondition.OR)) is None
    )
