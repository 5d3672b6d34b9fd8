"""One collection of an embedded store: an Edge shard, opened when it is first used."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge
from qdrant_client import models

from situate.errors import InputError, StorageError, StoreCorruptError
from situate.retrievers.storage.edge.errors import StoreClosedError, engine_error, engine_errors, is_panic
from situate.retrievers.storage.edge.files import checksums, folders
from situate.retrievers.storage.edge.files.space import check_space
from situate.retrievers.storage.edge.optimizer import (
    INDEXING_THRESHOLD_KB,
    OperationLog,
    OptimizerProcess,
    bytes_per_point,
    can_run_beside,
    copy_shard,
)
from situate.retrievers.storage.edge.translate.config import edge_config, vectors_of, without_vectors
from situate.retrievers.storage.edge.translate.points import VectorSchema

#: How often the log is replayed while writes go on, and how short it must be for them to wait for the rest. Many
#: writers may be faster than the replay; then they wait until the rest is replayed.
_REPLAYS, _SHORT_LOG = 20, 4

_Answer = TypeVar("_Answer")


class Collection:
    """A shard and its configuration.

    Reads go straight to the shard. Writes go through `update`, one at a time.

    Args:
        name: The collection's name.
        folder: The shard's folder.
        config: The collection's configuration as it was requested.
        created_at: When it was made, ISO 8601.
        durable: Keep a write-ahead log, which lets writes survive the process.
        sync_writes: Flush every write to disk before it is acknowledged.
        read_only: Refuse writes.
        on_write: Called after every write.

    Attributes:
        name: The collection's name.
        folder: The shard's folder.
        config: The collection's configuration as it was requested.
        schema: The vectors that its points hold.
        created_at: When it was made, ISO 8601.
        changes: Points changed since the shard was last optimised.
        written: When it was last written: seconds of the monotonic clock, 0 for not yet.
        dirty: Whether there are writes that may be in the page cache only.
        lock: Held while the shard is written or replaced.
        optimizing: When the running optimisation began.
        optimized: When optimisations ended, and how long they took (seconds).
        error: The error of the last optimisation.
        started: Set once an optimisation has begun.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        config: models.CreateCollection,
        created_at: str,
        *,
        durable: bool = True,
        sync_writes: bool = False,
        read_only: bool = False,
        on_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.folder = folder
        self._take_over(config)
        self.created_at = created_at
        self.changes = 0
        self.written = 0.0
        self.dirty = False
        self.lock = threading.RLock()
        self.optimizing: dt.datetime | None = None
        self.optimized: list[tuple[dt.datetime, float]] = []
        self.error: str | None = None
        self._durable = durable
        self._sync_writes = sync_writes
        self._read_only = read_only
        self._on_write = on_write
        self._shard: edge.EdgeShard | None = None
        self._closed = False
        self._log: OperationLog | None = None
        self._worker: OptimizerProcess | None = None
        self._one_optimizer = threading.Lock()
        self._optimizations = threading.Condition()
        self.started = threading.Event()

    # -- opening

    def create(self) -> None:
        """Makes the shard's files. A store that does not outlive its process needs no write-ahead log.

        Raises:
            StorageError: The disk has too little room.
        """
        try:
            self.folder.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.folder.parent} cannot be made: {error.strerror}") from error
        check_space(self.folder.parent, 0)
        with engine_errors(f"creating collection {self.name!r}"):
            config = edge_config(self.config, wal=self._durable)
            self._shard = edge.EdgeShard.create(str(self.folder), config)

    @property
    def shard(self) -> edge.EdgeShard:
        """The shard, opened on first use.

        Raises:
            StoreCorruptError: Its files are damaged or missing.
            StorageError: The disk has too little room to open it.
        """
        shard = self._shard
        return shard if shard is not None else self._open()

    def _open(self) -> edge.EdgeShard:
        with self.lock:
            if self._closed:
                raise StoreClosedError(f"collection {self.name!r} was closed: the client that opened it is closed")
            if self._shard is None:
                damage = checksums.damage(self.folder)
                if damage is not None:
                    raise self._corrupt(damage)
                # The engine maps files that it is about to write, larger than it fills them.
                check_space(self.folder, 0, grows=False)
                # From here on the files may change; after a crash the engine's recovery decides.
                checksums.remove(self.folder)
                self._shard = self._load(self.folder, None)
                names = vectors_of(self.folder)
                if names is not None:
                    self._take_over(without_vectors(self.config, names.__contains__))
                info = self._shard.info()
                self.changes = max(0, info.points_count * len(self.schema.sizes) - info.indexed_vectors_count)
            return self._shard

    def opened(self) -> Collection:
        """This collection, once its shard is open and its configuration that of the shard."""
        _ = self.shard
        return self

    def _load(self, folder: Path, config: edge.EdgeConfig | None) -> edge.EdgeShard:
        try:
            return edge.EdgeShard.load(str(folder), config)
        except BaseException as error:
            # The engine raises bare Exception, or a panic that derives from BaseException, for every kind of damage.
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise self._corrupt(str(error)) from error

    def _corrupt(self, damage: str) -> StoreCorruptError:
        return StoreCorruptError(
            f"collection {self.name!r} cannot be opened, its files in {self.folder} are damaged or missing: {damage}. "
            "Other collections of the store are untouched; recover this one from a snapshot (recover_snapshot), or "
            "delete it and index anew"
        )

    # -- writing

    def update(
        self, operations: Sequence[edge.UpdateOperation], points: int = 1, *, grows: bool = True
    ) -> models.UpdateResult:
        """Applies operations in order.

        Args:
            operations: The operations.
            points: About how many points they change; a hint for the optimiser.
            grows: Whether they make the collection larger.

        Raises:
            InputError: The engine refuses an operation; those before it are applied.
            StorageError: The disk is full, or fails, or the store is open for reading only.
        """
        if self._read_only:
            raise StorageError(
                f"collection {self.name!r} is open for reading only (read_only=True): change it in its own store"
            )
        check_space(self.folder, points * self._bytes_per_point * 3 if grows else 0, grows=grows)
        with self.lock:
            shard = self.shard
            self.dirty = True
            if self._log is not None:
                # Noted first: an operation that fails may have changed a part of its points.
                self._log.add(operations, points)
            try:
                for operation in operations:
                    shard.update(operation)
            except BaseException as error:
                raise self._error(error) from error
            if self._sync_writes:
                self.flush()
            self.changes += points
            self.written = time.monotonic()
        self._on_write()
        return models.UpdateResult.model_construct(operation_id=0, status=models.UpdateStatus.COMPLETED)

    def reconfigure(self, config: models.CreateCollection, *, reload: bool) -> None:
        """Adopts ``config``; with ``reload`` the shard's own settings change, too.

        Raises:
            InputError: The engine cannot change a shard that way; it is as it was.
        """
        with self.lock:
            if reload:
                self.stop_optimizing()
                shard = self.shard
                with engine_errors(f"collection {self.name!r}"):
                    shard.flush()
                    shard.close()
                self._shard = None
                try:
                    self._shard = self._load(self.folder, edge_config(config))
                except StoreCorruptError as error:
                    self._shard = self._load(self.folder, None)
                    raise InputError(
                        f"collection {self.name!r} cannot be changed like this: {error.__cause__}. Create a collection "
                        "with the new configuration and copy the points there (scroll, upload_points)"
                    ) from error
                self.changes = max(self.changes, self._shard.info().points_count)
                self.dirty = True
            self._take_over(config)

    def _take_over(self, config: models.CreateCollection) -> None:
        self.config = config
        self.schema = VectorSchema.of(config)
        self._bytes_per_point = bytes_per_point(config.vectors)

    def flush(self) -> None:
        """Flushes the page cache to disk: from here on all writes survive a power failure, too."""
        with self.lock:
            if self._shard is not None and self.dirty:
                with engine_errors(f"flushing collection {self.name!r}"):
                    self._shard.flush()
                self.dirty = False

    def close(self) -> None:
        """Flushes and closes the shard; the collection cannot be used afterwards."""
        with self.lock:
            self._closed = True
            self.stop_optimizing()
            shard, self._shard = self._shard, None
            if shard is not None:
                with engine_errors(f"closing collection {self.name!r}"):
                    try:
                        shard.flush()
                        points = shard.info().points_count
                    finally:
                        shard.close()
                if self._durable:
                    checksums.write(self.folder, points)

    def ask(self, call: Callable[[edge.EdgeShard], _Answer]) -> _Answer:
        """``call(shard)``, with the engine's errors as situate's.

        Raises:
            InputError: The engine refuses the request.
            StoreCorruptError: The shard's files are damaged.
            StorageError: Any other error of the engine.
        """
        shard = self._shard
        try:
            return call(self._open() if shard is None else shard)
        except BaseException as error:
            raise self._error(error) from error

    def _error(self, error: BaseException) -> BaseException:
        """The error to raise for ``error``: a situate error for one of the engine's, any other as it is."""
        if isinstance(error, StorageError | InputError) or not (isinstance(error, Exception) or is_panic(error)):
            return error
        return engine_error(error, f"collection {self.name!r}")

    def info(self) -> Any:
        """The engine's own information on the shard."""
        return self.ask(lambda shard: shard.info())

    def copy_to(self, target: Path) -> None:
        """Copies the shard as it is now, complete and consistent."""
        with self.lock:
            shard = self.shard
            with engine_errors(f"flushing collection {self.name!r}"):
                shard.flush()
            copy_shard(self.folder, target)

    def change_copy(
        self,
        operations: Sequence[edge.UpdateOperation],
        config: models.CreateCollection,
        adopt: Callable[[Path], None],
    ) -> None:
        """Applies operations to a copy, which then takes the shard's place. Reads go on meanwhile.

        Args:
            operations: The operations.
            config: The configuration that follows from them.
            adopt: Makes the store's manifest name the new folder and the configuration.

        Raises:
            InputError: The engine refuses an operation.
            StorageError: The disk has no room for the copy. After an error the collection is as it was.
        """
        target = folders.unfinished(self.folder.parent)
        with self.lock:
            self.stop_optimizing()
            self.copy_to(target)
            try:
                changed = self._load(target, None)
                with engine_errors(f"collection {self.name!r}"):
                    for operation in operations:
                        changed.update(operation)
                    changed.flush()
                    changed.close()
                target = folders.finish(target)
                changed = self._load(target, None)
                adopt(target)
            except BaseException:
                # After any error half a copy must not stay on disk.
                folders.delete(target)
                raise
            old, self.folder, self._shard = self.folder, target, changed
            self.dirty = False
            self._take_over(config)
        folders.delete(old)

    # -- optimising

    @property
    def optimization_due(self) -> bool:
        """Whether enough has changed since the last optimisation to be worth another."""
        return self.changes >= self.due_after

    @property
    def due_after(self) -> int:
        """How many changed points make the engine's optimisers find work; beyond any number where they are off."""
        threshold = INDEXING_THRESHOLD_KB
        if self.config.optimizers_config is not None and self.config.optimizers_config.indexing_threshold is not None:
            threshold = self.config.optimizers_config.indexing_threshold
        if threshold == 0:
            return 1 << 62
        return max(1, threshold * 1024 // bytes_per_point(self.config.vectors))

    def optimize(self, adopt: Callable[[Path], None], changing: AbstractContextManager[Any]) -> bool:
        """Optimises beside the running shard.

        Args:
            adopt: Makes the store's manifest name the new folder; called while writes are blocked.
            changing: The store's lock on its manifest, which is taken before a collection's own.

        Returns:
            Whether there was anything to do.

        Raises:
            StorageError: It failed, or the collection was closed meanwhile; the collection is as it was.
        """
        with self._one_optimizer:
            began = time.monotonic()
            self.optimizing = dt.datetime.now(dt.UTC)
            try:
                changed = self._optimize_beside(adopt, changing) if can_run_beside() else self._optimize_here()
            except StorageError as error:
                self.error = str(error)
                raise
            else:
                self.error = None
                if changed:
                    self.optimized = [*self.optimized[-9:], (self.optimizing, time.monotonic() - began)]
                return changed
            finally:
                self.optimizing = None
                with self._optimizations:
                    self._optimizations.notify_all()

    def wait_optimized(self, timeout: float) -> bool:
        """Waits until an optimisation has ended and none is due.

        Args:
            timeout: Seconds to wait, at most.

        Returns:
            False where the time ran out.
        """
        with self._optimizations:
            return self._optimizations.wait_for(
                lambda: bool(self.optimized) and self.optimizing is None and not self.optimization_due, timeout
            )

    def _optimize_here(self) -> bool:
        with self.lock, engine_errors(f"optimising collection {self.name!r}"):
            changed = self.shard.optimize()
            self.changes = 0
        return changed

    def _optimize_beside(self, adopt: Callable[[Path], None], changing: AbstractContextManager[Any]) -> bool:
        target = folders.unfinished(self.folder.parent)
        with self.lock:
            if self._closed:
                raise StoreClosedError(f"collection {self.name!r} was closed")
            self.copy_to(target)
            log = self._log = OperationLog()
            worker = self._worker = OptimizerProcess()
            seen, self.changes = self.changes, 0
        self.started.set()
        try:
            changed = worker.run(target)
            if changed:
                target = folders.finish(target)
                changed = self._change_places(target, log, adopt, changing)
            return changed
        except BaseException:
            # After any error the changes are still due to be optimised.
            self.changes += seen
            raise
        finally:
            with self.lock:
                self._log = self._worker = None
            if self.folder != target:
                folders.delete(target)

    def _change_places(
        self, target: Path, log: OperationLog, adopt: Callable[[Path], None], changing: AbstractContextManager[Any]
    ) -> bool:
        optimized = self._load(target, None)
        replayed = 0
        with engine_errors(f"optimising collection {self.name!r}"):
            for _ in range(_REPLAYS):
                if len(log.operations) - replayed <= _SHORT_LOG or log.overflow:
                    break
                replayed = _replay(optimized, log, replayed)
            with changing, self.lock:
                if self._closed or self._worker is None or log.overflow:
                    raise StorageError(f"optimising collection {self.name!r} was stopped: too much changed meanwhile")
                _replay(optimized, log, replayed)
                optimized.flush()
                old = self.folder
                adopt(target)
                self.folder, self._shard = target, optimized
                self.dirty = False
        # Readers that took the old shard still hold it; its files can go, since the engine keeps them mapped.
        folders.delete(old)
        return True

    def stop_optimizing(self) -> None:
        """Stops the running optimisation, if there is one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()


def _replay(shard: edge.EdgeShard, log: OperationLog, start: int) -> int:
    """Applies the log from ``start`` on; returns up to where."""
    end = len(log.operations)
    for operation in log.operations[start:end]:
        try:
            shard.update(operation)
        except Exception as error:
            # An error that the caller got at the first application ("no point with id 7") repeats here, and is no
            # failure.
            if not isinstance(engine_error(error, "replaying"), InputError):
                raise
    return end
