"""`EdgeClient`: a `QdrantClient` whose data lives in this process."""

from __future__ import annotations

import os
from types import TracebackType

from qdrant_client import QdrantClient

from situate.retrievers.edge.backend import EdgeBackend
from situate.retrievers.edge.store import MEMORY, open_store


class EdgeClient(QdrantClient):
    """A `QdrantClient` over Qdrant Edge, Qdrant's own engine in this process.

    Usable wherever a `QdrantClient` is. Clients of the same path in one process share one store; another process gets
    a `StoreLockedError`.

    Args:
        path: The store's folder, made where it is missing; ":memory:" for a temporary store of this client's own,
            removed when the last client of it is closed.

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

    def __init__(self, path: str | os.PathLike[str] = MEMORY) -> None:
        # The base class wires up inference of Document models and the like; its in-memory backend costs nothing and
        # is replaced.
        super().__init__(location=MEMORY)
        self._init_options = {"path": str(path)}
        self._client = EdgeBackend(open_store(path))

    @property
    def path(self) -> str:
        """The store's folder."""
        return str(self._client.store.folder)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._client.closed

    def __enter__(self) -> EdgeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
