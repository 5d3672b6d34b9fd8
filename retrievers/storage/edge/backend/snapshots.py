"""Snapshots and the optimiser's state of an embedded store."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from uuid import uuid4

from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from situate.errors import InputError
from situate.retrievers.storage.edge.collection import Collection
from situate.retrievers.storage.edge.errors import ClusterOnlyError, CollectionNotFoundError
from situate.retrievers.storage.edge.files import snapshots
from situate.retrievers.storage.edge.store import Store


class SnapshotsBackend(QdrantBase):
    """The part of the interface that is about snapshots and optimisations. The one shard has the id 0."""

    store: Store

    def _folder(self, collection_name: str) -> Path:
        return self.store.folder / snapshots.SNAPSHOTS / self.store.collection(collection_name).name

    # -- of a collection

    def create_snapshot(self, collection_name: str, **kwargs: Any) -> types.SnapshotDescription:
        collection = self.store.collection(collection_name)
        file = self._folder(collection_name) / snapshots.new_name(collection.name)
        self.store.pack(file, [collection.name])
        return snapshots.describe(file, checksum=True)

    def list_snapshots(self, collection_name: str, **kwargs: Any) -> list[types.SnapshotDescription]:
        return [snapshots.describe(file) for file in snapshots.listed(self._folder(collection_name))]

    def delete_snapshot(self, collection_name: str, snapshot_name: str, **kwargs: Any) -> bool:
        snapshots.named(self._folder(collection_name), snapshot_name).unlink()
        return True

    def recover_snapshot(
        self,
        collection_name: str,
        location: str,
        api_key: str | None = None,
        checksum: str | None = None,
        priority: types.SnapshotPriority | None = None,
        **kwargs: Any,
    ) -> bool:
        """Replaces the collection by the one in the snapshot, or makes it."""
        try:
            own = self._folder(collection_name) / location
        except CollectionNotFoundError:
            own = Path(location)
        place = str(own) if Path(location).name == location and own.is_file() else location
        folder = self.store.folder / snapshots.SNAPSHOTS
        file = snapshots.fetch(place, folder, api_key, checksum)
        try:
            self.store.recover(collection_name, file)
        finally:
            if file.parent == folder and file.name.startswith("download-"):
                file.unlink(missing_ok=True)
        return True

    # -- of the one shard

    def list_shard_snapshots(
        self, collection_name: str, shard_id: int, **kwargs: Any
    ) -> list[types.SnapshotDescription]:
        _check_shard(shard_id)
        return self.list_snapshots(collection_name)

    def create_shard_snapshot(self, collection_name: str, shard_id: int, **kwargs: Any) -> types.SnapshotDescription:
        _check_shard(shard_id)
        return self.create_snapshot(collection_name)

    def delete_shard_snapshot(self, collection_name: str, shard_id: int, snapshot_name: str, **kwargs: Any) -> bool:
        _check_shard(shard_id)
        return self.delete_snapshot(collection_name, snapshot_name)

    def recover_shard_snapshot(self, collection_name: str, shard_id: int, location: str, **kwargs: Any) -> bool:
        _check_shard(shard_id)
        return self.recover_snapshot(collection_name, location, **kwargs)

    # -- of the whole store

    def create_full_snapshot(self, **kwargs: Any) -> types.SnapshotDescription:
        file = self.store.folder / snapshots.SNAPSHOTS / snapshots.new_name("full")
        self.store.pack(file, [collection.name for collection in self.store.collections()])
        return snapshots.describe(file, checksum=True)

    def list_full_snapshots(self, **kwargs: Any) -> list[types.SnapshotDescription]:
        return [snapshots.describe(file) for file in snapshots.listed(self.store.folder / snapshots.SNAPSHOTS)]

    def delete_full_snapshot(self, snapshot_name: str, **kwargs: Any) -> bool:
        snapshots.named(self.store.folder / snapshots.SNAPSHOTS, snapshot_name).unlink()
        return True

    # -- optimisations

    def optimize(self, collection_name: str | None = None) -> bool:
        """Builds HNSW graphs and removes deleted points now, beside the running collection, and waits for it.

        Args:
            collection_name: The collection; all where None.

        Returns:
            Whether there was anything to do.
        """
        self.store.check_writable()
        names = [c.name for c in self.store.collections()] if collection_name is None else [collection_name]
        changed = [self.store.optimize(self.store.collection(name)) for name in names]
        return any(changed)

    def get_optimizations(self, collection_name: str, **kwargs: Any) -> types.OptimizationsResponse:
        collection = self.store.collection(collection_name)
        info = collection.info()
        running = collection.optimizing
        due = collection.optimization_due and running is None
        return models.OptimizationsResponse(
            summary=models.OptimizationsSummary(
                queued_optimizations=int(due),
                queued_segments=info.segments_count if due else 0,
                queued_points=collection.changes if due else 0,
                idle_segments=0 if due or running is not None else info.segments_count,
            ),
            running=[] if running is None else [_optimization(collection, running, None)],
            completed=[_optimization(collection, began, seconds) for began, seconds in collection.optimized],
        )


def _optimization(collection: Collection, began: dt.datetime, seconds: float | None) -> models.Optimization:
    done = seconds is not None
    return models.Optimization(
        uuid=uuid4(),
        optimizer="indexing",
        status=models.TrackerStatusOneOf.DONE if done else models.TrackerStatusOneOf.OPTIMIZING,
        segments=[],
        progress=models.ProgressTree(
            name=collection.name,
            started_at=began,
            finished_at=None if seconds is None else began + dt.timedelta(seconds=seconds),
            duration_sec=seconds,
        ),
    )


def _check_shard(shard_id: int) -> None:
    if shard_id != 0:
        raise (
            ClusterOnlyError.of(f"shard {shard_id}") if shard_id > 0 else InputError(f"no shard has the id {shard_id}")
        )
