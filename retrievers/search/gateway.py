"""The one seam between indexing and searching, and storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from situate.batches import in_batches
from situate.embedders.types import Vectors
from situate.retrievers.index.lexical import SparseVector
from situate.retrievers.index.payload import DENSE
from situate.retrievers.pipeline.concurrency import release_gil, serves_a_loop
from situate.retrievers.storage.ids import point_id, point_key

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

    from situate.retrievers.index.compression import Codes
    from situate.retrievers.storage.edge import EdgeClient

#: `point_key` -> score, best first.
Scores: TypeAlias = dict[int, float]
#: A dense vector ``[dimension]``, a multivector ``[rows, dimension]``, or weights of terms.
Query: TypeAlias = Vectors | SparseVector
#: Chunks that MaxSim scores in one request of the embedded engine for an event loop, which waits for each request.
_MAXSIM_AT_ONCE = 16


class Gateway(Protocol):
    """One collection, as searches and the index see it. A point is the number that `point_key` gives.

    Attributes:
        client: The Qdrant client, through which indexing writes and reads by Qdrant's own calls.
        collection: The collection's name.
        embedded: Whether the engine runs in this process: there is no other writer, and a request holds the
            interpreter.
        params: How compressed vectors are searched; None where there are none.
        codes: How dense vectors are searched by their codes; None where there are none.
    """

    client: QdrantClient
    collection: str
    embedded: bool
    params: models.SearchParams | None
    codes: Codes | None

    def dense(self, query: Vectors, limit: int) -> dict[str, Any]:
        """The arguments of a Qdrant query, or of a prefetch, by the dense vectors, that can return ``limit`` points."""
        ...

    def nearest(self, queries: Mapping[str, Query], limit: int, where: models.Filter | None) -> dict[str, Scores]:
        """The points nearest to each query, in one request, by the name of the vector that it is compared with."""
        ...

    def nearest_with(
        self, queries: Mapping[str, Query], limit: int, where: models.Filter | None, key: str
    ) -> tuple[dict[str, Scores], dict[int, Any]]:
        """`nearest`, and the payload's value under ``key`` of each point that was found."""
        ...

    def payloads(self, points: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
        """The payloads of those of the points that exist."""
        ...

    def vectors(self, points: Sequence[int], name: str) -> dict[int, Vectors]:
        """float32 ``[dimension]`` of each of the points that exists: its vector of this name."""
        ...

    def maxsim(self, tokens: Vectors, name: str, points: Sequence[int]) -> Scores:
        """Each point's sum, over the query's token vectors, of the largest similarity to one of its own."""
        ...

    def batch(self, requests: Sequence[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        """Qdrant's answers to several requests at once."""
        ...

    def stored(self, matrix: Vectors) -> Any:
        """A multivector in the form in which the client takes it in an upsert."""
        ...


def gateway(client: QdrantClient, collection: str) -> Gateway:
    """The gateway to a collection of ``client``: through its array calls, where the client has them."""
    from situate.retrievers.storage.edge import EdgeClient

    return EdgeGateway(client, collection) if isinstance(client, EdgeClient) else ClientGateway(client, collection)


class ClientGateway:
    """A `Gateway` by the calls that every Qdrant client has."""

    embedded = False

    def __init__(self, client: QdrantClient, collection: str) -> None:
        self.client = client
        self.collection = collection
        self.params: models.SearchParams | None = None
        self.codes: Codes | None = None

    def dense(self, query: Vectors, limit: int) -> dict[str, Any]:
        if self.codes is None:
            return {"query": query.tolist(), "using": DENSE}
        return self.codes.query(query, limit)

    def nearest(self, queries: Mapping[str, Query], limit: int, where: models.Filter | None) -> dict[str, Scores]:
        answers = self._nearest(queries, limit, where, False)
        return {name: _scores(points) for name, points in zip(queries, answers, strict=True)}

    def nearest_with(
        self, queries: Mapping[str, Query], limit: int, where: models.Filter | None, key: str
    ) -> tuple[dict[str, Scores], dict[int, Any]]:
        answers = self._nearest(queries, limit, where, [key])
        values = {point_key(point.id): (point.payload or {})[key] for points in answers for point in points}
        return {name: _scores(points) for name, points in zip(queries, answers, strict=True)}, values

    def _nearest(
        self, queries: Mapping[str, Query], limit: int, where: models.Filter | None, payload: list[str] | bool
    ) -> list[list[models.ScoredPoint]]:
        from qdrant_client import models

        def compared(name: str, query: Query) -> dict[str, Any]:
            if name == DENSE and self.codes is not None and not isinstance(query, SparseVector):
                return self.codes.query(query, limit, where)
            return {"query": plain(query), "using": name}

        return self.batch(
            [
                models.QueryRequest(
                    **compared(name, query),
                    filter=where,
                    limit=limit,
                    with_payload=payload,
                    params=self.params,
                )
                for name, query in queries.items()
            ]
        )

    def payloads(self, points: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
        ids = [point_id(point) for point in points]
        records = self.client.retrieve(self.collection, ids, with_payload=True, with_vectors=False)
        return {point_key(record.id): record.payload or {} for record in records}

    def vectors(self, points: Sequence[int], name: str) -> dict[int, Vectors]:
        ids = [point_id(point) for point in points]
        records = self.client.retrieve(self.collection, ids, with_payload=False, with_vectors=[name])
        release_gil()
        return {
            point_key(record.id): np.asarray(record.vector[name], dtype=np.float32)
            for record in records
            if isinstance(record.vector, dict)
        }

    def maxsim(self, tokens: Vectors, name: str, points: Sequence[int]) -> Scores:
        if not points:
            return {}
        found = self.client.query_points(
            self.collection,
            query=tokens.tolist(),
            using=name,
            query_filter=among(points),
            limit=len(points),
            with_payload=False,
        )
        return _scores(found.points)

    def batch(self, requests: Sequence[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        answers = self.client.query_batch_points(self.collection, requests)
        release_gil()
        return [answer.points for answer in answers]

    def stored(self, matrix: Vectors) -> Any:
        return matrix.tolist()


class EdgeGateway(ClientGateway):
    """A `Gateway` to the embedded engine: ids and scores without building hits, matrices as arrays."""

    embedded = True
    client: EdgeClient
    #: Chunks in a request where no event loop waits; None for all.
    maxsim_at_once: int | None = None

    def nearest(self, queries: Mapping[str, Query], limit: int, where: models.Filter | None) -> dict[str, Scores]:
        if self.codes is not None and DENSE in queries:
            return super().nearest(queries, limit, where)
        vectors = {name: plain(q) if isinstance(q, SparseVector) else q for name, q in queries.items()}
        scores = self.client.nearest_scores(self.collection, vectors, limit, where, self.params)
        release_gil()
        return scores

    def maxsim(self, tokens: Vectors, name: str, points: Sequence[int]) -> Scores:
        # As an array: a query's ten thousand numbers as Python objects, request by request, take longer than scoring.
        # The engine holds the interpreter, and so blocks the event loop, until a request is answered.
        at_once = _MAXSIM_AT_ONCE if serves_a_loop() else self.maxsim_at_once or max(1, len(points))
        scores: Scores = {}
        for some in in_batches(points, at_once):
            scores |= self.client.nearest_scores(self.collection, {name: tokens}, len(some), among(some))[name]
            release_gil()
        return scores

    def payloads(self, points: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
        return self.client.payloads(self.collection, points)

    def stored(self, matrix: Vectors) -> Any:
        return matrix


def among(points: Sequence[int]) -> models.Filter:
    """These points and no others."""
    from qdrant_client import models

    return models.Filter(must=[models.HasIdCondition(has_id=[point_id(point) for point in points])])


def plain(query: Query) -> Any:
    """A query's vector in the form that goes over a wire."""
    if not isinstance(query, SparseVector):
        return query.tolist()
    from qdrant_client import models

    return models.SparseVector(indices=query.indices.tolist(), values=query.values.tolist())


def _scores(points: Sequence[models.ScoredPoint]) -> Scores:
    return {point_key(point.id): float(point.score) for point in points}
