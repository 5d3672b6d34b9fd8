"""The embedded backend: `qdrant_client`'s interface over Edge shards."""

from __future__ import annotations

import importlib.metadata
from typing import Any, NoReturn

from qdrant_client import models
from qdrant_client.conversions import common_types as types

from situate.retrievers.storage.edge.backend.collections import CollectionsBackend
from situate.retrievers.storage.edge.backend.points import PointsBackend
from situate.retrievers.storage.edge.backend.search import SearchBackend
from situate.retrievers.storage.edge.backend.snapshots import SnapshotsBackend
from situate.retrievers.storage.edge.errors import ClusterOnlyError, StoreClosedError
from situate.retrievers.storage.edge.store import Store


def _cluster_only(operation: str) -> Any:
    def refuse(self: EdgeBackend, *args: Any, **kwargs: Any) -> NoReturn:
        raise ClusterOnlyError.of(operation)

    refuse.__name__ = refuse.__qualname__ = operation
    refuse.__doc__ = "Raises ClusterOnlyError."
    return refuse


class EdgeBackend(CollectionsBackend, PointsBackend, SearchBackend, SnapshotsBackend):
    """Everything that a Qdrant server does in one node, in this process.

    Args:
        store: The store to serve; released by `close`.

    Attributes:
        folder: The store's folder, also after `close`.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.folder = store.folder
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self, **kwargs: Any) -> None:
        """Releases the store; the last user's close flushes and closes its files."""
        self._closed = True
        store = vars(self).pop("store", None)
        if store is not None:
            store.release()

    def __getattr__(self, name: str) -> NoReturn:
        if name == "store":
            raise StoreClosedError(f"this client of the store {self.folder} was closed; open a new one")
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def info(self) -> types.VersionInfo:
        return models.VersionInfo(
            title="qdrant edge (embedded)", version=importlib.metadata.version("qdrant-edge-py"), commit=None
        )

    cluster_collection_update = _cluster_only("cluster_collection_update")
    cluster_status = _cluster_only("cluster_status")
    cluster_telemetry = _cluster_only("cluster_telemetry")
    collection_cluster_info = _cluster_only("collection_cluster_info")
    create_shard_key = _cluster_only("create_shard_key")
    delete_shard_key = _cluster_only("delete_shard_key")
    list_shard_keys = _cluster_only("list_shard_keys")
    recover_current_peer = _cluster_only("recover_current_peer")
    remove_peer = _cluster_only("remove_peer")
