"""Data that the engine could not read back is refused before it is written: nesting, layouts without vectors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from situate.errors import InputError
from situate.retrievers.storage.edge import EdgeClient, bind_tenant
from situate.retrievers.storage.edge.translate.filters import MAX_FILTER_DEPTH
from situate.retrievers.storage.edge.translate.points import MAX_PAYLOAD_DEPTH
from tests.conftest import short_of

PARAMS = models.VectorParams(size=4, distance=models.Distance.COSINE)
VECTOR = [1.0, 0.0, 0.0, 0.0]


def objects(depth: int) -> dict[str, Any]:
    """Objects in each other, ``depth`` of them."""
    value: Any = "end"
    for _ in range(depth):
        value = {"in": value}
    assert isinstance(value, dict)
    return value


def lists(depth: int) -> dict[str, Any]:
    value: Any = "end"
    for _ in range(depth - 1):
        value = [value]
    return {"in": value}


def filters(depth: int) -> models.Filter:
    """Filters in each other, ``depth`` of them, of which the innermost finds point 1."""
    here = models.Filter(must=[models.FieldCondition(key="i", match=models.MatchAny(any=[1, 5]))])
    for _ in range(depth - 1):
        here = models.Filter.model_construct(must=None, should=[here], must_not=None, min_should=None)
    return here


def nested(depth: int) -> models.Filter:
    here = models.Filter(must=[models.FieldCondition(key="i", match=models.MatchValue(value=1))])
    for _ in range(depth):
        inner = models.NestedCondition.model_construct(nested=models.Nested.model_construct(key="list", filter=here))
        here = models.Filter.model_construct(must=[inner], should=None, must_not=None, min_should=None)
    return here


def counted(depth: int) -> models.Filter:
    here = models.Filter(must=[models.FieldCondition(key="i", match=models.MatchValue(value=1))])
    for _ in range(depth):
        least = models.MinShould.model_construct(conditions=[here], min_count=1)
        here = models.Filter.model_construct(must=None, should=None, must_not=None, min_should=least)
    return here


def point(payload: dict[str, Any]) -> models.PointStruct:
    return models.PointStruct.model_construct(id=2, vector=VECTOR, payload=payload)


Write = Callable[[QdrantClient, int], Any]
PAYLOADS: dict[str, Write] = {
    "upsert": lambda c, n: c.upsert("c", [point(objects(n))]),
    "upsert lists": lambda c, n: c.upsert("c", [point(lists(n))]),
    "upload": lambda c, n: c.upload_points("c", [point(objects(n))]),
    "set": lambda c, n: c.set_payload("c", objects(n), [1]),
    "set by filter": lambda c, n: c.set_payload("c", objects(n), filters(1)),
    "set under a key": lambda c, n: c.set_payload("c", objects(n - 3), [1], key="a.b.c"),
    "set under a long key": lambda c, n: c.set_payload("c", {"x": 1}, [1], key=".".join("a" * (n - 1))),
    "overwrite": lambda c, n: c.overwrite_payload("c", lists(n), [1]),
}
FILTERS: dict[str, Write] = {
    "set": lambda c, n: c.set_payload("c", {"x": 1}, filters(n)),
    "overwrite": lambda c, n: c.overwrite_payload("c", {"x": 1}, filters(n)),
    "delete": lambda c, n: c.delete("c", filters(n)),
    "clear": lambda c, n: c.clear_payload("c", filters(n)),
    "delete payload": lambda c, n: c.delete_payload("c", ["x"], filters(n)),
    "delete vectors": lambda c, n: c.delete_vectors("c", [""], filters(n)),
    "update filter": lambda c, n: c.upsert("c", [point({})], update_filter=filters(n)),
    "nested": lambda c, n: c.delete("c", nested(n // 2)),
    "counted": lambda c, n: c.delete("c", counted(n * 2 // 3)),
}


def reopened(client: EdgeClient, folder: Path) -> set[Any]:
    """The points that are there after the death of the process: those of a copy of its files as they are."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(client.path, folder)
    with EdgeClient(folder, auto_optimize=False) as again:
        return {record.id for record in again.scroll("c")[0]}


@pytest.mark.parametrize(
    ("bound", "limit", "writes"),
    short_of(
        [
            (False, MAX_PAYLOAD_DEPTH, PAYLOADS),
            (True, MAX_PAYLOAD_DEPTH, PAYLOADS),
            (False, MAX_FILTER_DEPTH // 2, FILTERS),
            (True, MAX_FILTER_DEPTH // 2, FILTERS),
        ],
        3,
    ),
)
def test_nesting(tmp_path: Path, limit: int, writes: dict[str, Write], bound: bool) -> None:
    """Up to the limit it survives the process; beyond it, it is refused by its limit and nothing is written."""
    with EdgeClient(tmp_path / "store", auto_optimize=False) as client:
        client.create_collection("c", PARAMS)
        user = bind_tenant(client, "tenant", "a") if bound else client
        first = models.PointStruct(id=1, vector=VECTOR, payload={"i": 1, "list": [{"i": 1}]})
        user.upsert("c", [first, models.PointStruct(id=3, vector=VECTOR, payload={"i": 3})])
        for name, write in writes.items():
            for depth in (limit + 3, 4 * limit, 2000):
                with pytest.raises(InputError, match="nested"):
                    write(user, depth)
            write(user, limit - 2)
            assert 3 in reopened(client, tmp_path / "copy"), name
            assert client.scroll("c")[0], name
            user.upsert("c", [first])
        assert {record.id for record in client.scroll("c")[0]} == reopened(client, tmp_path / "copy")


def test_one_deep_point_costs_no_other(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "store") as client:
        client.create_collection("c", PARAMS)
        client.upsert("c", [models.PointStruct(id=1, vector=VECTOR)])
        with pytest.raises(InputError, match=f"point 2: .* {MAX_PAYLOAD_DEPTH} "):
            client.upsert("c", [point(objects(MAX_PAYLOAD_DEPTH + 1))])
        client.upsert("c", [models.PointStruct(id=3, vector=VECTOR)])
        assert reopened(client, tmp_path / "copy") == {1, 3}
    with EdgeClient(tmp_path / "store") as client:
        assert client.count("c").count == 2


# -- vectors that come and go


def test_a_collection_without_vectors(client: QdrantClient, name: str) -> None:
    client.create_collection(name)
    client.upsert(name, [models.PointStruct(id=i, vector={}, payload={"i": i}) for i in range(100)])
    client.upsert(name, [models.PointStruct(id=0, vector=[], payload={"i": 0})])
    assert client.count(name).count == 100
    assert client.get_collection(name).config.params.vectors in ({}, None)
    assert client.get_collection(name).config.params.sparse_vectors in ({}, None)
    record = client.retrieve(name, [3], with_vectors=True)[0]
    assert (record.payload, record.vector) == ({"i": 3}, {})
    where = models.Filter(must=[models.FieldCondition(key="i", range=models.Range(lt=3))])
    assert {p.id for p in client.query_points(name, query_filter=where).points} == {0, 1, 2}
    with pytest.raises(Exception, match=r"situate-no-vectors|ot existing vector name|no vector named"):
        client.query_points(name, [1.0])
    client.delete_collection(name)


def test_a_collection_without_vectors_is_kept(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "store", auto_optimize=False) as edge:
        edge.create_collection("c", optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1))
        edge.upsert("c", [models.PointStruct(id=i, vector={}, payload={"i": i}) for i in range(100)])
        edge.update_collection("c", hnsw_config=models.HnswConfigDiff(m=8))
        edge.optimize("c")
        edge.create_vector_name(
            "c", "late", models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=4, distance="Cosine"))
        )
        edge.update_vectors("c", [models.PointVectors(id=7, vector={"late": VECTOR})])
        edge.update_collection("c", hnsw_config=models.HnswConfigDiff(m=12))
    with EdgeClient(tmp_path / "store") as edge:
        assert edge.count("c").count == 100
        assert [p.id for p in edge.query_points("c", VECTOR, using="late").points] == [7]
        assert edge.retrieve("c", [8], with_vectors=True)[0].vector == {}


@pytest.mark.parametrize("optimised", [False, True], ids=["appended", "optimised"])
@pytest.mark.parametrize("end", ["closed", "killed"])
def test_the_last_vector_is_deleted(tmp_path: Path, end: str, optimised: bool) -> None:
    """Points live on without vectors, through a clean close and through the death of the process."""
    with EdgeClient(tmp_path / "store", auto_optimize=False) as edge:
        edge.create_collection("c", {"a": PARAMS}, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1))
        edge.upsert("c", [models.PointStruct(id=i, vector={"a": VECTOR}, payload={"i": i}) for i in range(100)])
        if optimised:
            edge.optimize("c")
        edge.delete_vector_name("c", "a")
        assert edge.count("c").count == 100
        if end == "killed":
            assert len(reopened(edge, tmp_path / "copy")) == 10  # a page
    with EdgeClient(tmp_path / ("copy" if end == "killed" else "store")) as edge:
        assert {r.id for r in edge.scroll("c", limit=1000)[0]} == set(range(100))
        edge.upsert("c", [models.PointStruct(id=100, vector={}, payload={})])
        assert edge.count("c").count == 101


def test_a_vector_name_is_given_to_another_size(tmp_path: Path) -> None:
    """Within moments of writes that a log would have to replay; the process dies after each step."""

    def dense(size: int) -> models.DenseVectorNameConfig:
        return models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=size, distance=models.Distance.COSINE))

    words = models.SparseVector(indices=[1], values=[1.0])
    with EdgeClient(tmp_path / "store", auto_optimize=False) as edge:
        edge.create_collection("c", {"a": PARAMS})
        edge.upsert("c", [models.PointStruct(id=i, vector={"a": VECTOR}) for i in range(5)])
        steps: list[Callable[[], Any]] = [
            lambda: edge.delete_vector_name("c", "a"),
            lambda: edge.create_vector_name("c", "a", dense(2)),
            lambda: edge.upsert("c", [models.PointStruct(id=5, vector={"a": [1.0, 2.0]})]),
            lambda: edge.delete_vector_name("c", "a"),
            lambda: edge.create_vector_name("c", "a", dense(3)),
            lambda: edge.create_vector_name(
                "c", "s", models.SparseVectorNameConfig(sparse=models.SparseVectorConfig())
            ),
            lambda: edge.delete_vector_name("c", "a"),
            lambda: edge.upsert("c", [models.PointStruct(id=6, vector={"s": words})]),
            lambda: edge.delete_vector_name("c", "s"),
        ]
        for place, step in enumerate(steps):
            step()
            assert reopened(edge, tmp_path / "copy") == set(range(5 + (place > 1) + (place > 6))), place


def test_killed_between_the_engine_and_the_manifest(tmp_path: Path) -> None:
    """With either `store.json`, a vector that the engine deleted is gone, and one that it made is made again."""
    manifest = tmp_path / "store" / "store.json"
    small, smaller = (
        models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=size, distance=models.Distance.COSINE))
        for size in (3, 2)
    )
    with EdgeClient(tmp_path / "store") as edge:
        edge.create_collection("c", {"a": PARAMS, "b": PARAMS})
        edge.upsert("c", [models.PointStruct(id=1, vector={"a": VECTOR, "b": VECTOR})])
        before = manifest.read_text()
        edge.delete_vector_name("c", "a")
        without = manifest.read_text()
    manifest.write_text(before)
    with EdgeClient(tmp_path / "store") as edge:
        assert list(edge.get_collection("c").config.params.vectors or ()) == ["b"]
        with pytest.raises(InputError, match="'a'"):
            edge.upsert("c", [models.PointStruct(id=2, vector={"a": VECTOR})])
    manifest.write_text(before)
    with EdgeClient(tmp_path / "store") as edge:
        edge.create_vector_name("c", "a", smaller)
        edge.upsert("c", [models.PointStruct(id=2, vector={"a": [1.0, 0.0]})])
    manifest.write_text(without)
    with EdgeClient(tmp_path / "store") as edge:
        edge.create_vector_name("c", "a", small)
        edge.upsert("c", [models.PointStruct(id=3, vector={"a": [1.0, 0.0, 0.0]})])
        assert edge.count("c").count == 3
        assert edge.query_points("c", VECTOR, using="b").points[0].id == 1


def test_a_modifier_cannot_change(edge: EdgeClient) -> None:
    """The error names the cause, and the collection is as it was."""
    edge.create_collection("c", sparse_vectors_config={"s": models.SparseVectorParams()})
    edge.upsert("c", [models.PointStruct(id=1, vector={"s": models.SparseVector(indices=[1], values=[1.0])})])
    with pytest.raises(InputError, match="modifier"):
        edge.update_collection("c", sparse_vectors_config={"s": models.SparseVectorParams(modifier="idf")})
    assert edge.count("c").count == 1
    params = edge.get_collection("c").config.params.sparse_vectors
    assert params is not None
    assert params["s"].modifier is None
    assert edge.query_points("c", models.SparseVector(indices=[1], values=[1.0]), using="s").points[0].score == 1.0
