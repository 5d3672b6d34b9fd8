"""Scores and payloads by the numbers of points' ids."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import models

from situate.errors import InputError, NonFiniteVectorError
from situate.retrievers.storage.edge import CollectionNotFoundError, EdgeClient
from situate.retrievers.storage.ids import point_id, point_key

PARAMS = models.VectorParams(size=4, distance=models.Distance.COSINE)


def test_scores_alone(edge: EdgeClient) -> None:
    """For each kind of vector the results of a whole query, and the payloads of the numbers."""
    multi = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    several = {"d": PARAMS, "m": PARAMS.model_copy(update={"multivector_config": multi})}
    edge.create_collection("c", several, sparse_vectors_config={"s": models.SparseVectorParams()})
    rng = np.random.default_rng(7)
    points = [
        models.PointStruct(
            id=n if n % 2 else str(UUID(int=n)),
            vector={
                "d": rng.normal(size=4).tolist(),
                "m": rng.normal(size=(2, 4)).tolist(),
                "s": models.SparseVector(indices=[n % 3, 7], values=[1.0, float(n)]),
            },
            payload={"n": n, "even": n % 2 == 0},
        )
        for n in range(1, 13)
    ]
    edge.upsert("c", points)
    asked: dict[str, Any] = {
        "d": np.array([1, 0, 0, 0], dtype=np.float32),
        "m": np.array([[0, 1, 0, 0], [0, 0, 1, 0]], dtype=np.float32),
        "s": models.SparseVector(indices=[1, 7], values=[1.0, 2.0]),
    }
    even = models.Filter(must=[models.FieldCondition(key="even", match=models.MatchValue(value=True))])
    for where, limit in ((None, 20), (None, 3), (even, 20)):
        found = edge.nearest_scores("c", asked, limit, where)
        for name, query in asked.items():
            query = query.tolist() if isinstance(query, np.ndarray) else query
            wanted = edge.query_points("c", query, using=name, limit=limit, query_filter=where).points
            assert wanted
            assert [(point_id(key), score) for key, score in found[name].items()] == [(p.id, p.score) for p in wanted]
    keys = [point_key(point.id) for point in points]
    assert edge.payloads("c", [*keys, point_key(99)]) == {
        key: point.payload for key, point in zip(keys, points, strict=True)
    }
    with pytest.raises(InputError, match="limit"):
        edge.nearest_scores("c", asked, 0)
    with pytest.raises(InputError, match="has 3 values"):
        edge.nearest_scores("c", {"d": np.ones(3, dtype=np.float32)}, 1)
    with pytest.raises(NonFiniteVectorError):
        edge.nearest_scores("c", {"d": np.full(4, np.nan, dtype=np.float32)}, 1)
    for call in (lambda: edge.nearest_scores("nowhere", asked, 1), lambda: edge.payloads("nowhere", keys)):
        with pytest.raises(CollectionNotFoundError, match="nowhere"):
            call()


def test_scores_of_a_number_and_of_the_uuid_of_that_number(edge: EdgeClient) -> None:
    edge.create_collection("c", PARAMS)
    ids: list[int | str] = [0, 5, 2**64 - 1, *(str(UUID(int=n)) for n in (0, 5, 2**64 - 1, 2**128 - 1))]
    edge.upsert("c", [models.PointStruct(id=i, vector=[1.0, 0.0, 0.0, 0.0]) for i in ids])
    found = edge.nearest_scores("c", {"": [1.0, 0.0, 0.0, 0.0]}, 10)
    assert {point_id(key) for key in found[""]} == set(ids)
    for given in ids:
        assert point_id(point_key(given)) == given
        assert isinstance(given, int) or point_key(UUID(given)) == point_key(given)


def test_every_spelling_of_a_uuid_is_the_same_point(edge: EdgeClient) -> None:
    edge.create_collection("c", PARAMS)
    written = "0f8fad5b-d9cb-469f-a165-70867728950e"
    edge.upsert("c", [models.PointStruct(id=written.upper(), vector=[1.0, 0.0, 0.0, 0.0])])
    for spelling in (written, written.replace("-", ""), f"{{{written}}}", f"urn:uuid:{written}", UUID(written)):
        assert [record.id for record in edge.retrieve("c", [spelling])] == [written]
    for other in (f"{written}\n", written[:-1], f"{written}0", written.replace("0f8", "0g8")):
        with pytest.raises(InputError, match="point id"):
            edge.retrieve("c", [other])
