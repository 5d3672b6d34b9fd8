"""`EdgeClient`: a `QdrantClient` whose data lives in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import qdrant_edge as edge
from qdrant_client import QdrantClient, models
from qdrant_client.embed.type_inspector import Inspector

from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.storage.edge.backend.edge import EdgeBackend
from situate.retrievers.storage.edge.store import MEMORY, StoreOptions, open_store
from situate.retrievers.storage.edge.translate.filters import edge_filter
from situate.retrievers.storage.edge.translate.points import QUERY, checked_vector
from situate.retrievers.storage.edge.translate.queries import edge_search_params
from situate.retrievers.storage.ids import point_id, point_key

_PLAIN = (list, models.SparseVector)


class PlainVectorInspector(Inspector):
    """qdrant-client's search for texts that fastembed should embed, with a short cut for plain vectors.

    The original looks through the schema of every point, which costs a third of what storing it does.
    """

    def inspect(self, points: Any) -> bool:
        """Whether anything in ``points`` needs inference."""
        if type(points) is list and all(map(_is_plain, points)):
            return False
        if type(points) is models.NearestQuery and type(points.nearest) in _PLAIN:
            return False
        return super().inspect(points)


class ShallowQueries:
    """Overrides qdrant-client's class: queries of a batch are copied without their vectors and filters.

    The original copies each request deeply, number by number, to change one field of it.
    """

    def _resolve_query_request(self, query: models.QueryRequest) -> models.QueryRequest:
        resolve: Callable[[Any], Any] = getattr(self, "_resolve_query")  # noqa: B009 - of the class that follows
        return query.model_copy(update={"query": resolve(query.query)})


def _is_plain(point: Any) -> bool:
    if type(point) is not models.PointStruct and type(point) is not models.PointVectors:
        return False
    vector = point.vector
    if type(vector) is dict:
        return all(type(value) in _PLAIN for value in vector.values())
    return type(vector) is list


def _client_of(path: str, options: dict[str, bool]) -> EdgeClient:
    return EdgeClient(path, **options)


@checked_parameters
class EdgeClient(ShallowQueries, QdrantClient):
    """A `QdrantClient` over Qdrant Edge, Qdrant's own engine in this process.

    Usable wherever a `QdrantClient` is. Clients of the same path in one process share one store; another process gets
    a `StoreLockedError`.

    Args:
        path: The store's folder, made where it is missing; ":memory:" for a temporary store of this client's own,
            removed when the last client of it is closed.
        auto_optimize: Build HNSW graphs and remove deleted points in the background, once enough has changed and
            nothing was written for a second. Without it, only `optimize` does.
        sync_writes: Flush every write to disk before it is acknowledged, so that it survives a power failure, too.
            Without it an acknowledged write survives the death of the process, and a power failure after five seconds.
        read_only: Open a snapshot file, or the newest full snapshot in a store's folder, beside the store's writer. It
            is unpacked into a temporary folder and cannot be changed.

    A store that is open in this process already keeps the options that it was opened with. Unlike on a server, payloads
    are read into the operating system's page cache when a collection is opened; one made with `on_disk_payload=True`
    leaves them on disk.

    Raises:
        StoreLockedError: Another process has the store open.
        StorageError: The folder cannot be written.

    Example:
        >>> from qdrant_client import models
        >>> with EdgeClient(":memory:") as client:
        ...     _ = client.create_collection("notes", models.VectorParams(size=2, distance=models.Distance.COSINE))
        ...     _ = client.upsert("notes", [models.PointStruct(id=1, vector=[1.0, 0.0], payload={"title": "one"})])
        ...     client.query_points("notes", [1.0, 0.1]).points[0].payload
        {'title': 'one'}
    """

    _client: EdgeBackend

    def __init__(
        self,
        path: str | os.PathLike[str] = MEMORY,
        *,
        auto_optimize: bool = True,
        sync_writes: bool = False,
        read_only: bool = False,
    ) -> None:
        # The base class sets up inference of Document models; its in-memory backend costs nothing and is replaced.
        super().__init__(location=MEMORY)
        self._inference_inspector = PlainVectorInspector(self._inference_inspector.parser)
        self._options = {"auto_optimize": auto_optimize, "sync_writes": sync_writes, "read_only": read_only}
        self._init_options = {"path": str(path), **self._options}
        self._client = EdgeBackend(open_store(path, StoreOptions(**self._options)))

    @property
    def path(self) -> str:
        """The store's folder."""
        return str(self._client.folder)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._client.closed

    def nearest_scores(
        self,
        collection_name: str,
        vectors: Mapping[str, Any],
        limit: int,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
    ) -> dict[str, dict[int, float]]:
        """The points nearest to each of several vectors, in one request: by the vector's name, id -> score, best first.

        Building a hundred hits takes as long as finding them, and fusing rankings needs no more of them than this.
        Ids are numbers, `situate.retrievers.storage.ids.point_key`'s; `payloads` takes them.

        Args:
            collection_name: The collection.
            vectors: Vector name -> float32 ``[size]`` (of a multivector ``[rows, size]``), a list, or a sparse vector.
            limit: Most points for each.
            query_filter: Which points are considered.
            search_params: As in `query_points`, for each of the vectors.

        Raises:
            CollectionNotFoundError: There is no such collection.
            InputError: A vector is of the wrong size or not finite, or ``limit`` is less than 1.
        """
        if limit < 1:
            raise InputError(f"limit value {limit} is invalid. Must be 1 or larger.")
        collection = self._client.store.collection(collection_name)
        schema, where = collection.schema, None if query_filter is None else edge_filter(query_filter)
        params = edge_search_params(search_params)
        requests = [
            edge.QueryRequest(
                limit=limit,
                offset=None,
                query=edge.Query.Nearest(checked_vector(vector, name, schema, QUERY), using=name),
                prefetches=None,
                with_vector=False,
                with_payload=False,
                filter=where,
                score_threshold=None,
                params=params,
            )
            for name, vector in vectors.items()
        ]
        answers = collection.ask(lambda shard: shard.query_batch(edge.QueryBatchRequest(requests)))
        return {
            name: {point_key(point.id): point.score for point in found}
            for name, found in zip(vectors, answers, strict=True)
        }

    def payloads(self, collection_name: str, points: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The payloads of points by the numbers of their ids, as `nearest_scores` gives them; those that are there.

        Raises:
            CollectionNotFoundError: There is no such collection.
        """
        ids: list[Any] = [point_id(point) for point in points]
        found = self._client.store.collection(collection_name).ask(lambda shard: shard.retrieve(ids, True, False))
        return {point_key(point.id): point.payload or {} for point in found}

    def optimize(self, collection_name: str | None = None) -> bool:
        """Builds HNSW graphs and removes deleted points now, and waits for it. Reads and writes go on meanwhile.

        Args:
            collection_name: The collection; all where None.

        Returns:
            Whether there was anything to do.

        Raises:
            StorageError: It failed; the collection is as it was.
        """
        return self._client.optimize(collection_name)

    def __reduce__(self) -> tuple[Any, ...]:
        # As its configuration: a copy of the same path in this process shares the store. A temporary store
        # belongs to its client alone, so its copy is a new, empty one.
        return _client_of, (self._init_options["path"], self._options)

    def __enter__(self) -> EdgeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
