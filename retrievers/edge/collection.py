"""One collection of an embedded store: an Edge shard, opened when it is first used."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from situate.chunkers.errors import StoreCorruptError
from situate.retrievers.edge.errors import StoreClosedError, engine_errors
from situate.retrievers.edge.translate_config import edge_config
from situate.retrievers.edge.translate_points import VectorSchema


class Collection:
    """A shard and its configuration.

    Reads go straight to the shard. Writes go through `update`, one at a time.

    Attributes:
        name: The collection's name.
        folder: The shard's folder.
        config: The collection's configuration as it was asked for.
        schema: The vectors that its points hold.
        changes: Points changed since the shard was last optimised.
    """

    def __init__(self, name: str, folder: Path, config: models.CreateCollection, created_at: str) -> None:
        self.name = name
        self.folder = folder
        self.config = config
        self.schema = VectorSchema.of(config)
        self.created_at = created_at
        self.changes = 0
        self.lock = threading.RLock()
        self._shard: edge.EdgeShard | None = None
        self._closed = False
        self._dirty = False

    def create(self) -> None:
        """Makes the shard's files."""
        with engine_errors(f"creating collection {self.name!r}"):
            self._shard = edge.EdgeShard.create(str(self.folder), edge_config(self.config))

    @property
    def shard(self) -> edge.EdgeShard:
        """The shard, opened on first use.

        Raises:
            StoreCorruptError: Its files are damaged or missing.
        """
        shard = self._shard
        return shard if shard is not None else self._open()

    def _open(self) -> edge.EdgeShard:
        with self.lock:
            if self._closed:
                raise StoreClosedError(f"collection {self.name!r} was closed: the client that opened it is closed")
            if self._shard is None:
                self._shard = self._load(None)
            return self._shard

    def _load(self, config: edge.EdgeConfig | None) -> edge.EdgeShard:
        try:
            return edge.EdgeShard.load(str(self.folder), config)
        except BaseException as error:
            # The engine raises bare Exception, or a panic that derives from BaseException, for every kind of damage.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise StoreCorruptError(
                f"collection {self.name!r} cannot be opened, its files in {self.folder} are damaged or missing: "
                f"{error}. Other collections of the store are untouched; recover this one from a snapshot "
                "(recover_snapshot) or delete and index it anew"
            ) from error

    def update(self, operations: Sequence[edge.UpdateOperation], points: int = 1) -> None:
        """Applies operations in order.

        Args:
            operations: The operations.
            points: About how many points they change; a hint for the optimiser.
        """
        with self.lock, engine_errors(f"collection {self.name!r}"):
            shard = self.shard
            self._dirty = True
            for operation in operations:
                shard.update(operation)
            self.changes += points

    def reconfigure(self, config: models.CreateCollection, *, reload: bool) -> None:
        """Takes ``config`` over; with ``reload`` the shard's own settings change, too."""
        with self.lock:
            if reload:
                self.shard.flush()
                self.shard.close()
                self._shard = None
                self._shard = self._load(edge_config(config))
            self.config = config
            self.schema = VectorSchema.of(config)

    def flush(self) -> None:
        """Writes to disk what is still in the page cache only."""
        with self.lock:
            if self._shard is not None and self._dirty:
                with engine_errors(f"flushing collection {self.name!r}"):
                    self._shard.flush()
                self._dirty = False

    def close(self) -> None:
        """Flushes and closes the shard; the collection cannot be used afterwards."""
        with self.lock:
            self._closed = True
            shard, self._shard = self._shard, None
            if shard is not None:
                with engine_errors(f"closing collection {self.name!r}"):
                    shard.close()

    def info(self) -> Any:
        """The engine's own account of the shard."""
        with engine_errors(f"collection {self.name!r}"):
            return self.shard.info()
