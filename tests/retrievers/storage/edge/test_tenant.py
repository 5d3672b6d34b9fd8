"""A tenant's client never shows or changes another tenant's points, whatever its arguments."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from qdrant_client import QdrantClient, models

from situate.errors import InputError, SituateError, StorageError
from situate.retrievers.storage.edge import (
    AsyncTenantClient,
    EdgeClient,
    TenantClient,
    bind_tenant,
    prepare_for_tenants,
)

from . import strategies as some
from .conftest import create

OWN = list(range(0, 20, 2))
OTHERS = list(range(1, 20, 2))
_names = itertools.count()

Bound = tuple[EdgeClient, TenantClient, str]


def fill(client: QdrantClient, name: str) -> None:
    create(client, name)
    client.create_payload_index(
        name, "tenant", models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    )
    client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER)
    client.upsert(
        name,
        [
            models.PointStruct(
                id=i,
                vector={
                    "dense": [1.0, i / 10, 0.5, 0.1],
                    "tokens": [[1.0, i, 0.0, 0.0]],
                    "words": models.SparseVector(indices=[i % 3, 5 + i], values=[1.0, 2.0]),
                },
                payload={"tenant": "ab"[i % 2], "number": i, "word": "red" if i % 2 else "green", "secret": f"s{i}"},
            )
            for i in range(20)
        ],
    )


@pytest.fixture
def bound() -> Iterator[Bound]:
    with EdgeClient(auto_optimize=False) as client:
        fill(client, "c")
        yield client, bind_tenant(client, "tenant", "a"), "c"


def everything(client: QdrantClient, name: str) -> dict[Any, Any]:
    records = client.scroll(name, limit=1000, with_vectors=True)[0]
    return {r.id: (r.payload, r.vector) for r in records}


others_only = models.Filter(must=[models.FieldCondition(key="tenant", match=models.MatchValue(value="b"))])
has_others = models.HasIdCondition(has_id=OTHERS)
anything = models.Filter(must_not=[models.HasIdCondition(has_id=[10**9])])
FILTERS = {
    "none": None,
    "the other tenant": others_only,
    "should": models.Filter(should=[others_only, has_others, anything]),
    "min_should": models.Filter(min_should=models.MinShould(conditions=[others_only, anything], min_count=1)),
    "must_not own": models.Filter(must_not=[models.FieldCondition(key="tenant", match=models.MatchValue(value="a"))]),
    "has_id": models.Filter(must=[has_others]),
    "double negation": models.Filter(must_not=[models.Filter(must_not=[has_others])]),
    "plain dict": {"should": [{"key": "tenant", "match": {"value": "b"}}, {"has_id": OTHERS}]},
}


@pytest.mark.parametrize("given_filter", FILTERS.values(), ids=FILTERS.keys())
def test_no_filter_reaches_others(bound: Bound, given_filter: Any) -> None:
    _, tenant, name = bound
    prefetch = models.Prefetch(query=[1.0, 0, 0, 0], using="dense", limit=50)
    nested = models.Prefetch(prefetch=[prefetch], query=models.FusionQuery(fusion=models.Fusion.RRF), limit=50)
    answers: list[Any] = [
        tenant.scroll(name, scroll_filter=given_filter, limit=100)[0],
        tenant.query_points(name, [1.0, 0, 0, 0], using="dense", query_filter=given_filter, limit=100).points,
        tenant.query_points(name, query_filter=given_filter, limit=100).points,
        tenant.query_points(
            name,
            prefetch=[prefetch, nested],
            query=models.FusionQuery(fusion=models.Fusion.DBSF),
            query_filter=given_filter,
            limit=100,
        ).points,
        tenant.query_points(
            name,
            prefetch=prefetch,
            query=models.FormulaQuery(
                formula=models.SumExpression(sum=["$score", others_only, models.MultExpression(mult=[9.0, has_others])])
            ),
            query_filter=given_filter,
            limit=100,
        ).points,
        tenant.query_points(name, models.OrderByQuery(order_by="number"), query_filter=given_filter, limit=100).points,
        tenant.query_points(
            name, models.SampleQuery(sample=models.Sample.RANDOM), query_filter=given_filter, limit=100
        ).points,
        tenant.query_points(
            name,
            models.SparseVector(indices=[0, 1, 2], values=[1.0, 1.0, 1.0]),
            using="words",
            query_filter=given_filter,
            limit=100,
        ).points,
    ]
    if not isinstance(given_filter, dict):
        request = models.QueryRequest(
            query=[1.0, 0, 0, 0], using="dense", filter=given_filter, limit=100, with_payload=True, prefetch=nested
        )
        answers.append(tenant.query_batch_points(name, [request])[0].points)
    groups = tenant.query_points_groups(
        name, "tenant", [1.0, 0, 0, 0], using="dense", query_filter=given_filter, limit=10, group_size=50
    ).groups
    answers.extend(group.hits for group in groups)
    for points in answers:
        assert {p.id for p in points} <= set(OWN)
        assert all((p.payload or {"tenant": "a"})["tenant"] == "a" for p in points)
    assert {g.id for g in groups} <= {"a"}
    assert tenant.count(name, given_filter, exact=False).count <= len(OWN)
    assert {h.value for h in tenant.facet(name, "tenant", given_filter).hits} <= {"a"}
    pairs = tenant.search_matrix_pairs(name, given_filter, using="dense", sample=50, limit=20).pairs
    assert {p.a for p in pairs} | {p.b for p in pairs} <= set(OWN)
    assert set(tenant.search_matrix_offsets(name, given_filter, using="dense", sample=50).ids) <= set(OWN)


def test_reading_by_id(bound: Bound) -> None:
    _, tenant, name = bound
    assert [r.id for r in tenant.retrieve(name, [4, 1, 2, 3])] == [4, 2]
    assert tenant.count(name).count == len(OWN)
    info = tenant.get_collection(name)
    assert info.points_count == len(OWN)
    assert all(index.points == len(OWN) for index in info.payload_schema.values())
    assert tenant.scroll(name, offset=1, limit=1)[0][0].id == 2


EXAMPLES: dict[str, Callable[[Any], Any]] = {
    "nearest": lambda i: i,
    "recommend": lambda i: models.RecommendQuery(recommend=models.RecommendInput(positive=[0, i])),
    "recommend against": lambda i: models.RecommendQuery(recommend=models.RecommendInput(positive=[0], negative=[i])),
    "discover target": lambda i: models.DiscoverQuery(
        discover=models.DiscoverInput(target=i, context=[models.ContextPair(positive=0, negative=2)])
    ),
    "discover context": lambda i: models.DiscoverQuery(
        discover=models.DiscoverInput(target=0, context=[models.ContextPair(positive=2, negative=i)])
    ),
    "context": lambda i: models.ContextQuery(context=models.ContextPair(positive=i, negative=0)),
    "feedback": lambda i: models.RelevanceFeedbackQuery(
        relevance_feedback=models.RelevanceFeedbackInput(
            target=0,
            feedback=[models.FeedbackItem(example=i, score=1.0)],
            strategy=models.NaiveFeedbackStrategy(naive=models.NaiveFeedbackStrategyParams(a=1.0, b=1.0, c=1.0)),
        )
    ),
}


@pytest.mark.parametrize("make", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_others_are_no_examples(bound: Bound, make: Callable[[Any], Any]) -> None:
    """Another tenant's point as an example fails just like a point that does not exist; one's own works."""
    _, tenant, name = bound
    messages = []
    for point_id in (1, 999):
        with pytest.raises(InputError) as error:
            tenant.query_points(name, make(point_id), using="dense")
        messages.append(str(error.value).replace(str(point_id), "?"))
        with pytest.raises(InputError):
            tenant.query_points(
                name,
                prefetch=models.Prefetch(query=make(point_id), using="dense"),
                query=models.FusionQuery(fusion=models.Fusion.RRF),
            )
        with pytest.raises(InputError):
            tenant.query_batch_points(name, [models.QueryRequest(query=make(point_id), using="dense")])
        with pytest.raises(InputError):
            tenant.query_points(
                name, make(point_id), using="dense", lookup_from=models.LookupLocation(collection=name, vector="dense")
            )
    assert messages[0] == messages[1]
    assert {p.id for p in tenant.query_points(name, make(4), using="dense", limit=50).points} <= set(OWN)


def test_lookup_in_groups_is_kept_to_own_points(bound: Bound) -> None:
    client, tenant, name = bound
    client.create_collection("other", models.VectorParams(size=1, distance=models.Distance.DOT))
    client.upsert("other", [models.PointStruct(id=4, vector=[1.0], payload={"tenant": "b", "secret": 1})])
    groups = tenant.query_points_groups(
        name, "number", [1.0, 0, 0, 0], using="dense", limit=50, with_lookup="other"
    ).groups
    assert 4 in {g.id for g in groups}
    assert all(g.lookup is None for g in groups)


def test_word_statistics_are_own(bound: Bound) -> None:
    """Sparse scores do not depend on other tenants' words, so they leak nothing about them."""
    client, tenant, name = bound
    query = models.SparseVector(indices=[0], values=[1.0])

    def scores(params: Any) -> list[float]:
        return [p.score for p in tenant.query_points(name, query, using="words", search_params=params).points]

    probes = (None, models.SearchParams(idf=models.IdfCorpusParams(corpus=others_only)))
    before = [scores(probe) for probe in probes]
    rare = models.SparseVector(indices=[0], values=[1.0])
    client.upsert(
        name, [models.PointStruct(id=1000 + i, vector={"words": rare}, payload={"tenant": "b"}) for i in range(50)]
    )
    assert [scores(probe) for probe in probes] == before
    with pytest.raises(InputError, match="statistics"):
        tenant.query_points(name, models.TextQuery(text="red"), using="word")


WRITES: dict[str, Callable[[QdrantClient, str], Any]] = {
    "delete ids": lambda c, n: c.delete(n, OTHERS),
    "delete filter": lambda c, n: c.delete(n, others_only),
    "delete everything": lambda c, n: c.delete(n, models.Filter()),
    "delete has_id": lambda c, n: c.delete(n, models.FilterSelector(filter=models.Filter(should=[has_others]))),
    "set_payload": lambda c, n: c.set_payload(n, {"secret": "mine"}, OTHERS),
    "set_payload filter": lambda c, n: c.set_payload(n, {"secret": "mine"}, others_only),
    "overwrite_payload": lambda c, n: c.overwrite_payload(n, {"secret": "mine"}, [*OWN, *OTHERS]),
    "delete_payload": lambda c, n: c.delete_payload(n, ["secret"], OTHERS),
    "clear_payload": lambda c, n: c.clear_payload(n, models.Filter(must=[has_others])),
    "update_vectors": lambda c, n: c.update_vectors(n, [models.PointVectors(id=1, vector={"dense": [9.0, 9, 9, 9]})]),
    "delete_vectors": lambda c, n: c.delete_vectors(n, ["dense"], models.Filter()),
    "upsert": lambda c, n: c.upsert(n, [models.PointStruct(id=1, vector={"dense": [9.0, 9, 9, 9]})]),
    "upsert batch": lambda c, n: c.upsert(n, models.Batch(ids=[1], vectors={"dense": [[9.0, 9, 9, 9]]})),
    "upload": lambda c, n: c.upload_points(n, [models.PointStruct(id=3, vector={"dense": [9.0, 9, 9, 9]})]),
    "upsert as the other": lambda c, n: c.upsert(
        n, [models.PointStruct(id=50, vector={"dense": [9.0, 9, 9, 9]}, payload={"tenant": "b"})]
    ),
    "upsert as both": lambda c, n: c.upsert(
        n, [models.PointStruct(id=50, vector={"dense": [9.0, 9, 9, 9]}, payload={"tenant": ["a", "b"]})]
    ),
    "give away": lambda c, n: c.set_payload(n, {"tenant": "b"}, OWN),
    "give away by key": lambda c, n: c.set_payload(n, {"x": 1}, OWN, key="tenant"),
    "give away by quoted key": lambda c, n: c.set_payload(n, {"x": 1}, OWN, key='"tenant"'),
    "give away by index": lambda c, n: c.set_payload(n, {"x": 1}, OWN, key="tenant[0]"),
    "disown": lambda c, n: c.delete_payload(n, ['"tenant"'], OWN),
    "batch": lambda c, n: c.batch_update_points(
        n,
        [
            models.DeleteOperation(delete=models.PointIdsList(points=OTHERS)),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload={"secret": 1}, filter=models.Filter())),
            models.ClearPayloadOperation(clear_payload=models.FilterSelector(filter=others_only)),
            models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"secret": 1}, points=OTHERS)),
            models.DeleteVectorsOperation(
                delete_vectors=models.DeleteVectors(vector=["words"], filter=models.Filter(should=[has_others]))
            ),
        ],
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_no_write_changes_others(bound: Bound, write: Callable[[QdrantClient, str], Any]) -> None:
    client, tenant, name = bound
    before = everything(client, name)
    try:
        write(tenant, name)
    except SituateError as error:
        refused: SituateError | None = error
    else:
        refused = None
    after = everything(client, name)
    assert {i: after.get(i) for i in OTHERS} == {i: before[i] for i in OTHERS}
    # and no point moves to another tenant, or to none
    assert all(payload["tenant"] == "a" for i, (payload, _) in after.items() if i not in OTHERS)
    assert refused is None or {i: after[i] for i in OWN} == {i: before[i] for i in OWN}


@pytest.mark.parametrize("change", ["added", "made anew"])
def test_word_statistics_of_a_later_vector_are_own(edge: EdgeClient, change: str) -> None:
    """A client that searched before the vector existed does not use all tenants' statistics."""
    idf = models.SparseVectorParams(modifier=models.Modifier.IDF)
    edge.create_collection("c", sparse_vectors_config={"plain": models.SparseVectorParams()})
    tenant = bind_tenant(edge, "tenant", "a")
    query = models.SparseVector(indices=[1], values=[1.0])
    tenant.query_points("c", query, using="plain")
    if change == "added":
        sparse = models.SparseVectorConfig(modifier=models.Modifier.IDF)
        edge.create_vector_name("c", "words", models.SparseVectorNameConfig(sparse=sparse))
    else:
        edge.delete_collection("c")
        edge.create_collection("c", sparse_vectors_config={"words": idf})
    tenant.upsert(
        "c",
        [models.PointStruct(id=i, vector={"words": models.SparseVector(indices=[i], values=[1.0])}) for i in range(4)],
    )
    alone = [p.score for p in tenant.query_points("c", query, using="words").points]
    others = models.SparseVector(indices=[1], values=[1.0])
    edge.upsert(
        "c", [models.PointStruct(id=i, vector={"words": others}, payload={"tenant": "b"}) for i in range(100, 200)]
    )
    stage = models.Prefetch(query=query, using="words")
    request = models.QueryRequest(query=query, using="words")
    assert [p.score for p in tenant.query_points("c", query, using="words").points] == alone
    assert [p.score for p in tenant.query_points("c", 1, using="words", prefetch=None).points] == []
    assert [p.score for p in tenant.query_batch_points("c", [request])[0].points] == alone
    fused = tenant.query_points("c", models.FusionQuery(fusion=models.Fusion.DBSF), prefetch=stage).points
    assert [p.id for p in fused] == [1]


def test_own_points_can_be_written(bound: Bound) -> None:
    client, tenant, name = bound
    tenant.upsert(name, [models.PointStruct(id=100, vector={"dense": [1.0, 2, 3, 4]}, payload={"secret": "x"})])
    tenant.upsert(name, [models.PointStruct(id=100, vector={"dense": [1.0, 2, 3, 4]}, payload={"secret": "y"})])
    assert client.retrieve(name, [100])[0].payload == {"secret": "y", "tenant": "a"}
    tenant.set_payload(name, {"more": 1, "tenant": "a"}, [100])
    tenant.set_payload(name, {"inner": 2}, [100], key="deep")
    tenant.delete_payload(name, ["secret"], [100])
    assert client.retrieve(name, [100])[0].payload == {"more": 1, "tenant": "a", "deep": {"inner": 2}}
    tenant.clear_payload(name, [100])
    assert client.retrieve(name, [100])[0].payload == {"tenant": "a"}
    tenant.delete(name, [100])
    assert client.retrieve(name, [100]) == []


def test_a_nested_key(bound: Bound) -> None:
    client, _, name = bound
    tenant = bind_tenant(client, "metadata.owner", 7)
    tenant.upsert(
        name, [models.PointStruct(id=200, vector={"dense": [1.0, 2, 3, 4]}, payload={"metadata": {"source": "web"}})]
    )
    assert client.retrieve(name, [200])[0].payload == {"metadata": {"source": "web", "owner": 7}}
    assert tenant.count(name).count == 1
    tenant.set_payload(name, {"metadata": {"source": "book"}}, [200])
    assert client.retrieve(name, [200])[0].payload == {"metadata": {"source": "book", "owner": 7}}
    for key in ("metadata", "metadata.owner", "metadata[0]", "metadata[]"):
        with pytest.raises(InputError):
            tenant.delete_payload(name, [key], [200])
        with pytest.raises(InputError):
            tenant.set_payload(name, {"owner": 8}, [200], key=key)
    tenant.delete_payload(name, ["metadata.source"], [200])
    assert client.retrieve(name, [200])[0].payload == {"metadata": {"owner": 7}}


@pytest.mark.filterwarnings("ignore:`recreate_collection` method is deprecated")
def test_what_concerns_all_tenants_is_refused(bound: Bound) -> None:
    client, tenant, name = bound
    calls: list[Callable[[], Any]] = [
        lambda: tenant.delete_collection(name),
        lambda: tenant.recreate_collection(name, models.VectorParams(size=1, distance=models.Distance.DOT)),
        lambda: tenant.update_collection(name, metadata={"x": 1}),
        lambda: tenant.create_snapshot(name),
        lambda: tenant.list_snapshots(name),
        lambda: tenant.recover_snapshot(name, "somewhere"),
        lambda: tenant.create_full_snapshot(),
        lambda: tenant.create_payload_index(name, "x", "keyword"),
        lambda: tenant.delete_payload_index(name, "tenant"),
        lambda: tenant.delete_vector_name(name, "dense"),
        lambda: tenant.get_optimizations(name),
        lambda: tenant.update_collection_aliases([]),
        lambda: tenant.cluster_status(),
    ]
    for call in calls:
        with pytest.raises(StorageError):
            call()
    assert client.count(name).count == 20
    tenant.close()
    assert client.count(name).count == 20


@pytest.mark.parametrize(("key", "value"), [("", "a"), ("a..b", "a"), ("a[0]", "a"), ("tenant", True), ("tenant", 1.5)])
def test_wrong_tenants(edge: EdgeClient, key: str, value: Any) -> None:
    with pytest.raises(InputError):
        bind_tenant(edge, key, value)


async def test_async_client(bound: Bound) -> None:
    _, tenant, name = bound
    client = AsyncTenantClient(tenant)
    assert (await client.count(name)).count == len(OWN)
    hits = (await client.query_points(name, [1.0, 0, 0, 0], using="dense", query_filter=others_only)).points
    assert hits == []
    await client.delete(name, models.Filter())
    assert (await client.count(name)).count == 0


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[EdgeClient, TenantClient]]:
    with EdgeClient(auto_optimize=False) as client:
        fill(client, "shared")
        yield client, bind_tenant(client, "tenant", "a")


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(given_filter=some.filters, ids=st.lists(st.sampled_from([*OWN, *OTHERS]), max_size=4))
def test_random_filters(shared: tuple[EdgeClient, TenantClient], given_filter: models.Filter, ids: list[int]) -> None:
    client, tenant = shared
    mixed = models.Filter(should=[given_filter, models.HasIdCondition(has_id=ids)])
    found = {r.id for r in tenant.scroll("shared", scroll_filter=mixed, limit=100)[0]}
    everybodys = {r.id for r in client.scroll("shared", scroll_filter=mixed, limit=100)[0]}
    assert found == everybodys & set(OWN)


@pytest.mark.parametrize("there", [False, True], ids=["fresh", "there"])
def test_one_call_prepares_a_collection(client: QdrantClient, name: str, there: bool) -> None:
    """On a fresh store and on a collection that is there; calling it again changes nothing."""
    vectors = models.VectorParams(size=4, distance=models.Distance.COSINE)
    with pytest.raises(StorageError, match="prepare_for_tenants"):
        bind_tenant(client, "metadata.tenant", "a").create_collection(name, vectors)
    if there:
        client.create_collection(name, vectors)
    for _ in range(2):
        prepare_for_tenants(client, name, "metadata.tenant", vectors_config=vectors)
    info = client.get_collection(name)
    assert info.payload_schema["metadata.tenant"].params.is_tenant
    assert info.config.hnsw_config.m == (16 if there else 0)
    for tenant in "ab":
        bound = bind_tenant(client, "metadata.tenant", tenant)
        bound.upsert(name, [models.PointStruct(id=ord(tenant), vector=[1.0, 0.0, 0.0, 0.0], payload={"text": tenant})])
        assert [p.id for p in bound.query_points(name, [1.0, 0.0, 0.0, 0.0]).points] == [ord(tenant)]
    with pytest.raises(InputError):
        prepare_for_tenants(client, name, "a b")
    client.delete_collection(name)


def test_a_framework_on_a_tenants_client(edge: EdgeClient) -> None:
    """A tenant's client serves the official store, once its collection is prepared."""
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_qdrant import QdrantVectorStore

    prepare_for_tenants(
        edge,
        "c",
        "metadata.tenant",
        vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE),
    )
    stores = {
        tenant: QdrantVectorStore(
            bind_tenant(edge, "metadata.tenant", tenant), "c", embedding=DeterministicFakeEmbedding(size=4)
        )
        for tenant in "ab"
    }
    for tenant, store in stores.items():
        store.add_texts([f"of {tenant}"])
    assert [d.page_content for d in stores["a"].similarity_search("anything")] == ["of a"]
