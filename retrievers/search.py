"""Hybrid search as one Qdrant query: prefetch dense and BM25, fuse, MaxSim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from situate.chunkers.errors import InputError, NonFiniteVectorError
from situate.embedders.types import Vectors
from situate.retrievers.config import Feedback, PipelineConfig
from situate.retrievers.lexical import SparseVector
from situate.retrievers.payload import BM25, DENSE, STATE, TOKENS, to_chunk
from situate.retrievers.types import Hit

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

#: Metadata conditions (key -> value, or a list of which any may match), or a filter of Qdrant's own.
FilterLike: TypeAlias = "Mapping[str, Any] | models.Filter"


@dataclass(frozen=True)
class QueryVectors:
    """A query as vectors.

    Attributes:
        dense: float32 ``[dimension]``, L2-normalised.
        lexical: BM25 terms; None leaves BM25 out.
        tokens: float32 ``[tokens, dimension]`` for the MaxSim stage; None leaves it out.
    """

    dense: Vectors
    lexical: SparseVector | None = None
    tokens: Vectors | None = None

    def __post_init__(self) -> None:
        for name, vector in (("dense", self.dense), ("tokens", self.tokens)):
            if vector is not None and not np.isfinite(vector).all():
                raise NonFiniteVectorError(
                    f"the query's {name} vector holds NaN or infinity: look at the model's dtype (float16 overflows "
                    "in some models; use bfloat16 or float32)"
                )


def to_filter(conditions: FilterLike | None) -> models.Filter | None:
    """A Qdrant filter from ``{"key": value}`` over a document's metadata; Qdrant's own filters pass unchanged.

    A list of values means that any of them may match.

    Raises:
        InputError: A value is neither text, number, truth value nor a list of texts or integers.
    """
    if conditions is None:
        return None
    from qdrant_client import models

    if isinstance(conditions, models.Filter):
        return conditions
    must: list[models.Condition] = []
    for key, value in conditions.items():
        match: models.Match | None = None
        span: models.Range | None = None
        if isinstance(value, bool | str | int):
            match = models.MatchValue(value=value)
        elif isinstance(value, float):
            span = models.Range(gte=value, lte=value)
        elif isinstance(value, list | tuple | set | frozenset) and all(
            isinstance(v, str | int) and not isinstance(v, bool) for v in value
        ):
            match = models.MatchAny(any=list(value))
        else:
            raise InputError(
                f"the filter on {key!r} has the value {value!r}: give text, a number, a truth value, a list of texts "
                "or integers, or a qdrant_client.models.Filter"
            )
        must.append(models.FieldCondition(key=f"metadata.{key}", match=match, range=span))
    return models.Filter(must=must)


class HybridSearch:
    """Searches one collection by a `PipelineConfig`.

    Everything is one Qdrant query: dense and BM25 candidates are fused, and where token vectors are stored the best
    are scored by MaxSim and fused with what they had. Feedback costs a second query, because it needs the vectors
    that the first one found.

    Args:
        client: Any Qdrant client.
        collection: The collection's name.
        config: What is stored and how it is used.
    """

    def __init__(self, client: QdrantClient, collection: str, config: PipelineConfig) -> None:
        self.client = client
        self.collection = collection
        self.config = config

    def search(self, vectors: QueryVectors, k: int, conditions: FilterLike | None = None) -> list[Hit]:
        """The best ``k`` chunks, best first; ties are broken by document and place.

        Raises:
            InputError: ``k`` is less than 1, or the filter cannot be read.
        """
        where = to_filter(conditions)
        feedback = self.config.feedback
        if feedback is not None:
            vectors = self._moved(vectors, feedback, where)
        points = self._points(self._query(vectors, k, final=True), k, where)
        return _newest(points)[:k]

    def _moved(self, vectors: QueryVectors, feedback: Feedback, where: models.Filter | None) -> QueryVectors:
        """The query's dense vector moved towards what the fused ranking found first (Rocchio)."""
        found = self._points(self._query(vectors, feedback.top), feedback.top, where, with_vectors=True)
        dense = [point.vector[DENSE] for point in found if isinstance(point.vector, dict)]
        if not dense:
            return vectors
        moved = vectors.dense + feedback.beta * np.mean(np.asarray(dense, dtype=np.float32), axis=0)
        return replace(vectors, dense=(moved / np.linalg.norm(moved)).astype(np.float32))

    def _query(self, vectors: QueryVectors, k: int, final: bool = False) -> dict[str, Any]:
        """The arguments of one Qdrant query that can return ``k`` hits."""
        from qdrant_client import models

        prefetch = max(k, self.config.prefetch)
        dense = vectors.dense.tolist()
        if vectors.lexical is None or self.config.lexical is None or not len(vectors.lexical.indices):
            fused: dict[str, Any] = {"query": dense, "using": DENSE}
        else:
            lexical = models.SparseVector(
                indices=vectors.lexical.indices.tolist(), values=vectors.lexical.values.tolist()
            )
            fused = {
                "prefetch": [
                    models.Prefetch(query=dense, using=DENSE, limit=prefetch),
                    models.Prefetch(query=lexical, using=BM25, limit=prefetch),
                ],
                "query": self._fusion(),
            }
        if not final or vectors.tokens is None or self.config.token_vectors is None:
            return fused
        # MaxSim orders the best of the fused ranking; its scores and theirs are then fused half and half.
        depth = max(k, self.config.maxsim_depth)
        first = models.Prefetch(**fused, limit=depth)
        second = models.Prefetch(prefetch=first, query=vectors.tokens.tolist(), using=TOKENS, limit=depth)
        return {"prefetch": [first, second], "query": models.FusionQuery(fusion=models.Fusion.DBSF)}

    def _fusion(self) -> models.FusionQuery | models.RrfQuery:
        from qdrant_client import models

        if self.config.fusion == "rrf":
            return models.RrfQuery(rrf=models.Rrf(k=self.config.rrf_k))
        return models.FusionQuery(fusion=models.Fusion.DBSF)

    def _points(
        self, query: dict[str, Any], limit: int, where: models.Filter | None, with_vectors: bool = False
    ) -> Sequence[models.ScoredPoint]:
        return self.client.query_points(
            self.collection,
            **_filtered(query, where),
            limit=limit,
            with_payload=True,
            with_vectors=[DENSE] if with_vectors else False,
        ).points


def _filtered(query: dict[str, Any], where: models.Filter | None) -> dict[str, Any]:
    """The query with the filter on every prefetch and on itself: a fused query filters only its candidates."""
    if where is None:
        return query

    def narrowed(prefetch: models.Prefetch) -> models.Prefetch:
        inner = prefetch.prefetch
        if inner is None:
            return prefetch.model_copy(update={"filter": where})
        several = inner if isinstance(inner, list) else [inner]
        return prefetch.model_copy(update={"prefetch": [narrowed(p) for p in several]})

    if "prefetch" in query:
        return {**query, "prefetch": [narrowed(p) for p in query["prefetch"]]}
    return {**query, "query_filter": where}


def _newest(points: Sequence[models.ScoredPoint]) -> list[Hit]:
    """Hits of the points, each document in one version: the newest that is complete."""
    payloads = [point.payload or {} for point in points]
    chosen: dict[str, tuple[bool, int]] = {}
    for payload in payloads:
        name = payload["document_id"]
        chosen[name] = max(chosen.get(name, (False, 0)), _standing(payload))
    hits = [
        Hit(to_chunk(payload), float(point.score), {"search": float(point.score)})
        for point, payload in zip(points, payloads, strict=True)
        if _standing(payload) == chosen[payload["document_id"]]
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.document_id, hit.chunk.index))


def _standing(payload: Mapping[str, Any]) -> tuple[bool, int]:
    """Orders versions of a document: complete ones before those in writing, then by age."""
    return payload.get(STATE) is None, payload["version"]
