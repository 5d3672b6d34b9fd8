"""An embedded store: a folder of collections, open once per process."""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import qdrant_edge as edge
from pydantic import ValidationError
from qdrant_client import models

from situate.errors import InputError, StorageError, StoreCorruptError
from situate.retrievers.storage.edge.collection import Collection
from situate.retrievers.storage.edge.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    StoreClosedError,
)
from situate.retrievers.storage.edge.files import folders, snapshots
from situate.retrievers.storage.edge.files.folders import COLLECTIONS
from situate.retrievers.storage.edge.files.lock import FolderLock
from situate.retrievers.storage.edge.files.manifest import MANIFEST_FILE, CollectionEntry, Manifest
from situate.retrievers.storage.edge.files.temporary import temporary_folder
from situate.retrievers.storage.edge.maintenance import Maintenance

MEMORY = ":memory:"

# The stores that this process has open, by real path. The one piece of state that modules share: the engine lets a
# folder be open once per process, so clients of the same path must find each other.
_open_stores: dict[str, Store] = {}
# Reentrant: the garbage collector may close a forgotten client at any moment, also while another is being opened.
_registry_lock = threading.RLock()


@dataclass(frozen=True)
class StoreOptions:
    """How an embedded store is run.

    Attributes:
        auto_optimize: Build HNSW graphs and remove deleted points in the background. Without it only `optimize` does.
        sync_writes: Flush every write to disk before it is acknowledged, so that it survives a power failure, too.
            Without it an acknowledged write survives the death of the process, and a power failure after five seconds.
        read_only: Refuse to change anything.
    """

    auto_optimize: bool = True
    sync_writes: bool = False
    read_only: bool = False


class Store:
    """A folder of shards with one lock, one manifest and many users. Get one with `open_store`.

    Raises:
        StoreLockedError: Another process has the folder open.
        StoreCorruptError: The manifest is damaged, or missing while collections are there.
        StorageError: The folder cannot be written, or a newer situate wrote it.
    """

    def __init__(self, folder: Path, options: StoreOptions, *, temporary: bool) -> None:
        self.folder = folder
        self.options = options
        self.temporary = temporary
        self._pid = os.getpid()
        self._users = 0
        self._closed = False
        self._changing = threading.RLock()
        self._maintenance = Maintenance(
            lambda: list(self._collections.values()), self.optimize, auto_optimize=options.auto_optimize
        )
        self._lock = FolderLock(folder)
        self._lock.acquire()
        try:
            self._manifest = self._contents()
            self._collections = {name: self._collection(name, e) for name, e in self._manifest.collections.items()}
            self._sweep()
        except BaseException:
            # After any error a store that did not open must not stay locked.
            self._lock.release()
            raise

    def _collection(self, name: str, entry: CollectionEntry) -> Collection:
        try:
            config = models.CreateCollection(**entry.config)
        except ValidationError as error:
            raise StorageError(
                f"{self.folder / MANIFEST_FILE} has settings of collection {name!r} that this qdrant-client does not "
                f"know ({error}): upgrade qdrant-client, or restore the file from a backup"
            ) from error
        return Collection(
            name,
            self.folder / COLLECTIONS / entry.folder,
            config,
            entry.created_at,
            durable=not self.temporary,
            sync_writes=self.options.sync_writes,
            read_only=self.options.read_only,
            on_write=self._maintenance.notify,
        )

    def _contents(self) -> Manifest:
        """The manifest; a new store gets an empty one first, so that every store has one.

        Raises:
            StoreCorruptError: Collections are there and the manifest is not.
        """
        if (self.folder / MANIFEST_FILE).exists():
            manifest = Manifest.load(self.folder)
            located = folders.located(self.folder, manifest.collections)
            if located != manifest.collections:
                manifest = Manifest(located, manifest.aliases)
                manifest.save(self.folder)
            return manifest
        collections = folders.count(self.folder)
        if collections:
            raise StoreCorruptError(
                f"{self.folder / MANIFEST_FILE} is missing, and there are {collections} collections in "
                f"{self.folder / COLLECTIONS}, untouched: restore the file from a backup or a snapshot, or move the "
                "folder away to start anew"
            )
        manifest = Manifest()
        manifest.save(self.folder)
        return manifest

    def _sweep(self) -> None:
        """Removes what a crash left of a deletion, an unfinished collection or a snapshot."""
        folders.sweep(self.folder, self._manifest.collections)
        for scratch in (self.folder / snapshots.SNAPSHOTS).rglob(f"*{snapshots.SCRATCH}"):
            shutil.rmtree(scratch, ignore_errors=True)

    def _check(self) -> None:
        if self._closed:
            raise StoreClosedError(f"the store {self.folder} was closed; open a new client")
        if os.getpid() != self._pid:
            raise StorageError(
                f"the store {self.folder} was opened by process {self._pid} and this is its fork {os.getpid()}: "
                "an embedded store serves one process. Open a Qdrant server for several (retrievers.connect(url))"
            )

    def check_writable(self) -> None:
        """Raises where the store is closed, or open for reading only."""
        self._check()
        if self.options.read_only:
            raise StorageError(f"the store {self.folder} is open for reading only (read_only=True)")

    # -- collections

    def collection(self, name: str) -> Collection:
        """The collection of that name or alias.

        Raises:
            CollectionNotFoundError: There is none.
        """
        if self._closed or os.getpid() != self._pid:
            self._check()
        found = self._collections.get(name)
        if found is None:
            found = self._collections.get(self._manifest.aliases.get(name, ""))
        if found is None:
            raise CollectionNotFoundError(f"Not found: Collection {name} not found in the store {self.folder}")
        return found

    def collections(self) -> list[Collection]:
        """All collections, oldest first."""
        self._check()
        return list(self._collections.values())

    @property
    def aliases(self) -> dict[str, str]:
        """Alias -> collection name."""
        self._check()
        return dict(self._manifest.aliases)

    def create(self, name: str, config: models.CreateCollection) -> Collection:
        """Makes a collection.

        Raises:
            CollectionExistsError: A collection or an alias has that name.
        """
        with self._changing:
            self.check_writable()
            if name in self._collections:
                raise CollectionExistsError(f"Collection {name} already exists")
            if name in self._manifest.aliases:
                raise CollectionExistsError(f"Alias {name} already exists")
            entry = CollectionEntry(
                folder=uuid4().hex,
                config=_dumped(config),
                created_at=dt.datetime.now(dt.UTC).isoformat(),
            )
            collection = self._collection(name, entry)
            try:
                collection.create()
                folders.label(collection.folder, name, entry.created_at)
                self._save(collections={**self._manifest.collections, name: entry})
            except BaseException:
                # After any error half a collection must not stay on disk.
                collection.close()
                folders.delete(collection.folder)
                raise
            self._collections[name] = collection
            return collection

    def delete(self, name: str) -> bool:
        """Removes a collection and its aliases; False where there is none."""
        with self._changing:
            self.check_writable()
            if name not in self._collections:
                return False
            self._save(
                collections={n: e for n, e in self._manifest.collections.items() if n != name},
                aliases={alias: n for alias, n in self._manifest.aliases.items() if n != name},
            )
            collection = self._collections.pop(name)
            collection.close()
            folders.delete(collection.folder)
            return True

    def reconfigure(self, collection: Collection, config: models.CreateCollection, *, reload: bool = False) -> None:
        """Gives a collection another configuration."""
        with self._changing, collection.lock:
            self.check_writable()
            collection.reconfigure(config, reload=reload)
            entry = self._manifest.collections[collection.name]
            changed = replace(entry, config=_dumped(config))
            self._save(collections={**self._manifest.collections, collection.name: changed})

    def change_vectors(
        self, collection: Collection, config: models.CreateCollection, operations: Sequence[edge.UpdateOperation]
    ) -> models.UpdateResult:
        """Applies operations that add or remove vectors, and the configuration that follows from them.

        The engine changes file after file, and cannot open a shard after a crash in between; nor can it replay a log of
        points with other vectors. So a copy is changed, which then replaces the collection's shard, with the new
        configuration. A store that does not outlive its process is changed as it is.
        """
        with self._changing, collection.lock:
            self.check_writable()
            if self.temporary:
                collection.update(operations, 0)
                self.reconfigure(collection, config)
            else:
                collection.change_copy(operations, config, lambda folder: self._move(collection.name, folder, config))
            return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)

    def optimize(self, collection: Collection) -> bool:
        """Optimises a collection beside its running shard; False where nothing was to do."""

        return collection.optimize(lambda folder: self._move(collection.name, folder), self._changing)

    def _move(self, name: str, folder: Path, config: models.CreateCollection | None = None) -> None:
        """Makes the manifest name another folder for a collection, with its configuration, and labels it."""
        entry = self._manifest.collections[name]
        moved = replace(entry, folder=folder.name, config=entry.config if config is None else _dumped(config))
        folders.label(folder, name, entry.created_at)
        self._save(collections={**self._manifest.collections, name: moved})
        folders.unlabel(folder.parent / entry.folder)

    def pack(self, target: Path, names: list[str]) -> None:
        """Writes a snapshot of the named collections and their aliases."""
        self._check()
        chosen = {name: (self._collections[name], self._manifest.collections[name]) for name in names}
        aliases = {alias: name for alias, name in self._manifest.aliases.items() if name in chosen}
        snapshots.pack(target, chosen, aliases)

    def recover(self, name: str, snapshot: Path) -> None:
        """Replaces a collection by the only one in a snapshot, or makes it.

        Raises:
            InputError: The snapshot holds no collection or several.
            StoreCorruptError: It is damaged, or none of an embedded store.
            StorageError: A newer situate wrote it, or this store is closed or open for reading only.

        After an error the collection is as it was.
        """
        with self._changing:
            self.check_writable()
            scratch = folders.unfinished(self.folder / COLLECTIONS)
            try:
                scratch.mkdir(parents=True)
                entries = snapshots.unpack(snapshot, scratch).collections
                if len(entries) != 1:
                    raise InputError(
                        f"{snapshot} holds {len(entries)} collections ({', '.join(entries)}): a snapshot of a whole "
                        "store is opened as a store (EdgeClient(snapshot, read_only=True))"
                    )
                entry = next(iter(entries.values()))
                entry = replace(entry, folder=uuid4().hex)
                (scratch / COLLECTIONS / next(iter(entries.values())).folder).rename(
                    self.folder / COLLECTIONS / entry.folder
                )
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            recovered = self._collection(name, entry)
            try:
                recovered.info()
                folders.label(recovered.folder, name, entry.created_at)
                self._save(collections={**self._manifest.collections, name: entry})
            except BaseException:
                # After any error half a recovery must not stay on disk.
                recovered.close()
                folders.delete(recovered.folder)
                raise
            replaced = self._collections.get(name)
            self._collections[name] = recovered
            if replaced is not None:
                replaced.close()
                folders.delete(replaced.folder)

    def change_aliases(self, aliases: dict[str, str]) -> None:
        """Replaces all aliases."""
        with self._changing:
            self.check_writable()
            self._save(aliases=aliases)

    def _save(
        self, collections: dict[str, CollectionEntry] | None = None, aliases: dict[str, str] | None = None
    ) -> None:
        """Writes the manifest first and adopts it then, so a failed write changes nothing."""
        manifest = Manifest(
            self._manifest.collections if collections is None else collections,
            self._manifest.aliases if aliases is None else aliases,
        )
        manifest.save(self.folder)
        self._manifest = manifest

    # -- users

    def release(self) -> None:
        """Removes one user; the last one closes the store."""
        if self._closed:
            return  # at exit this module's globals may be gone already
        with _registry_lock:
            self._users -= 1
            if self._users == 0:
                self._close()

    def close(self) -> None:
        """Closes the store for all of its users."""
        with _registry_lock:
            self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _open_stores.pop(str(self.folder), None)
        if os.getpid() != self._pid:
            return  # a fork: files and lock belong to the parent
        # All are closed, even if one fails: a shard must not stay open once the lock is released.
        with contextlib.ExitStack() as closing:
            if self.temporary:
                closing.callback(shutil.rmtree, self.folder, ignore_errors=True)
            closing.callback(self._lock.release)
            for collection in self._collections.values():
                collection.stop_optimizing()
                closing.callback(collection.close)
            closing.callback(self._maintenance.stop)

    def disown(self) -> None:
        """In a forked child: leaves the lock to the parent alone, even if the child outlives it."""
        self._lock.forget()

    def _retain(self) -> Store:
        self._users += 1
        return self

    def share(self) -> Store:
        """This store with one more user; each user has to `release` it."""
        with _registry_lock:
            self._check()
            return self._retain()


def open_store(path: str | os.PathLike[str] = MEMORY, options: StoreOptions | None = None) -> Store:
    """The store at ``path``, shared with the clients that have it open in this process. `Store.release` gives it back.

    Args:
        path: A folder, made where it is missing; ":memory:" for a temporary one of one's own, in RAM where the system
            offers that.
        options: The options; None for the defaults. A store that is open already keeps the options it has.

    Raises:
        StoreLockedError: Another process has it open.
        StorageError: The folder cannot be written.
    """
    options = StoreOptions() if options is None else options
    with _registry_lock:
        if str(path) == MEMORY:
            return _open_temporary(options, None)
        if options.read_only:
            return _open_temporary(options, _snapshot_to_read(Path(path).expanduser()))
        folder = Path(path).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the store {folder} cannot be made: {error}") from error
        folder = folder.resolve()
        found = _open_stores.get(str(folder))
        if found is not None and not found._closed and found._pid == os.getpid():
            return found._retain()
        store = Store(folder, options, temporary=False)
        _open_stores[str(folder)] = store
        return store._retain()


def _dumped(config: models.CreateCollection) -> dict[str, Any]:
    """The configuration as JSON values; nulls are left out but for those of the caller's own metadata."""
    values = config.model_dump(mode="json", exclude_none=True)
    if config.metadata is not None:
        values["metadata"] = config.metadata
    return values


def _open_temporary(options: StoreOptions, snapshot: Path | None) -> Store:
    folder = temporary_folder(in_memory=snapshot is None)
    try:
        if snapshot is not None:
            snapshots.unpack(snapshot, folder)
        store = Store(folder, options, temporary=True)
    except BaseException:
        # After any error the temporary copy is removed.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _open_stores[str(folder)] = store
    return store._retain()


def _snapshot_to_read(path: Path) -> Path:
    """The snapshot file that ``path`` is, or the newest full one in the store that it is."""
    if path.is_file():
        return path
    found = snapshots.listed(path / snapshots.SNAPSHOTS)
    if not found:
        raise StorageError(
            f"{path} has no snapshot to read: a store can be read beside its writer as of a snapshot only, which the "
            "writer makes with create_full_snapshot()"
        )
    return found[-1]


def _after_fork() -> None:
    """In a forked child: its parent's stores are not its own, and a lock that another thread held is held for ever."""
    global _registry_lock
    _registry_lock = threading.RLock()
    for store in _open_stores.values():
        store.disown()
    _open_stores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _close_all() -> None:
    """Closes what was left open, so that nothing is left to recover and temporary folders are gone."""
    for store in list(_open_stores.values()):
        store.close()
