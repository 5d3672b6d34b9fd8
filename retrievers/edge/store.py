"""An embedded store: a folder of collections, open once per process."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

from qdrant_client import models

from situate.chunkers.errors import StorageError
from situate.retrievers.edge.collection import Collection
from situate.retrievers.edge.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    StoreClosedError,
)
from situate.retrievers.edge.lock import FolderLock
from situate.retrievers.edge.manifest import CollectionEntry, Manifest

MEMORY = ":memory:"
COLLECTIONS = "collections"

# The stores that this process has open, by real path. The one piece of state that modules share: the engine lets a
# folder be open once per process, so clients of the same path must find each other.
_open_stores: dict[str, Store] = {}
_registry_lock = threading.Lock()


class Store:
    """A folder of shards with one lock, one manifest and many users. Get one with `open_store`."""

    def __init__(self, folder: Path, *, temporary: bool) -> None:
        self.folder = folder
        self.temporary = temporary
        self._pid = os.getpid()
        self._users = 0
        self._closed = False
        self._changing = threading.RLock()
        self._lock = FolderLock(folder)
        self._lock.acquire()
        try:
            self._manifest = Manifest.load(folder)
            self._collections = {name: self._collection(name, e) for name, e in self._manifest.collections.items()}
            self._sweep()
        except BaseException:
            self._lock.release()
            raise

    def _collection(self, name: str, entry: CollectionEntry) -> Collection:
        config = models.CreateCollection(**entry.config)
        return Collection(name, self.folder / COLLECTIONS / entry.folder, config, entry.created_at)

    def _sweep(self) -> None:
        """Removes folders that no collection owns: what a crash left of a deletion or a half-made collection."""
        owned = {entry.folder for entry in self._manifest.collections.values()}
        parent = self.folder / COLLECTIONS
        for folder in parent.iterdir() if parent.is_dir() else ():
            if folder.name not in owned:
                shutil.rmtree(folder, ignore_errors=True)

    def _check(self) -> None:
        if self._closed:
            raise StoreClosedError(f"the store {self.folder} was closed; open a new client")
        if os.getpid() != self._pid:
            raise StorageError(
                f"the store {self.folder} was opened by process {self._pid} and this is its fork {os.getpid()}: "
                "an embedded store serves one process. Open a Qdrant server for several (open_client(url))"
            )

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
            raise CollectionNotFoundError(f"Collection {name} not found in the store {self.folder}")
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
            self._check()
            if name in self._collections:
                raise CollectionExistsError(f"Collection {name} already exists")
            if name in self._manifest.aliases:
                raise CollectionExistsError(f"Alias {name} already exists")
            entry = CollectionEntry(
                folder=uuid4().hex,
                config=config.model_dump(mode="json", exclude_none=True),
                created_at=dt.datetime.now(dt.UTC).isoformat(),
            )
            collection = self._collection(name, entry)
            collection.folder.parent.mkdir(exist_ok=True)
            try:
                collection.create()
                self._save(collections={**self._manifest.collections, name: entry})
            except BaseException:
                collection.close()
                shutil.rmtree(collection.folder, ignore_errors=True)
                raise
            self._collections[name] = collection
            return collection

    def delete(self, name: str) -> bool:
        """Removes a collection and its aliases; False where there is none."""
        with self._changing:
            self._check()
            if name not in self._collections:
                return False
            self._save(
                collections={n: e for n, e in self._manifest.collections.items() if n != name},
                aliases={alias: n for alias, n in self._manifest.aliases.items() if n != name},
            )
            collection = self._collections.pop(name)
            collection.close()
            shutil.rmtree(collection.folder, ignore_errors=True)
            return True

    def reconfigure(self, collection: Collection, config: models.CreateCollection, *, reload: bool = False) -> None:
        """Gives a collection another configuration."""
        with self._changing, collection.lock:
            self._check()
            collection.reconfigure(config, reload=reload)
            entry = self._manifest.collections[collection.name]
            changed = CollectionEntry(entry.folder, config.model_dump(mode="json", exclude_none=True), entry.created_at)
            self._save(collections={**self._manifest.collections, collection.name: changed})

    def change_aliases(self, aliases: dict[str, str]) -> None:
        """Replaces all aliases."""
        with self._changing:
            self._check()
            self._save(aliases=aliases)

    def _save(
        self, collections: dict[str, CollectionEntry] | None = None, aliases: dict[str, str] | None = None
    ) -> None:
        """Writes the manifest first and takes it over then, so a failed write changes nothing."""
        manifest = Manifest(
            self._manifest.collections if collections is None else collections,
            self._manifest.aliases if aliases is None else aliases,
        )
        manifest.save(self.folder)
        self._manifest = manifest

    # -- users

    def release(self) -> None:
        """One user less; the last one closes the store."""
        with _registry_lock:
            self._users -= 1
            if self._users > 0 or self._closed:
                return
            self._closed = True
            _open_stores.pop(str(self.folder), None)
            if os.getpid() != self._pid:
                return  # a fork: files and lock belong to the parent
            try:
                for collection in self._collections.values():
                    collection.close()
            finally:
                self._lock.release()
                if self.temporary:
                    shutil.rmtree(self.folder, ignore_errors=True)

    def _retain(self) -> Store:
        self._users += 1
        return self

    def share(self) -> Store:
        """This store with one user more, who has to `release` it, too."""
        with _registry_lock:
            self._check()
            return self._retain()


def open_store(path: str | os.PathLike[str] = MEMORY, **options: Any) -> Store:
    """The store at ``path``, shared with whoever has it open in this process. `Store.release` gives it back.

    Args:
        path: A folder, made where it is missing; ":memory:" for a temporary one of one's own, in RAM where the system
            offers that.

    Raises:
        StoreLockedError: Another process has it open.
        StorageError: The folder cannot be written.
    """
    with _registry_lock:
        if str(path) == MEMORY:
            folder = Path(tempfile.mkdtemp(prefix="situate-", dir=_memory_folder())).resolve()
            store = Store(folder, temporary=True)
            _open_stores[str(folder)] = store
            return store._retain()
        folder = Path(path).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the store {folder} cannot be made: {error}") from error
        folder = folder.resolve()
        found = _open_stores.get(str(folder))
        if found is not None and found._pid == os.getpid():
            return found._retain()
        store = Store(folder, temporary=False)
        _open_stores[str(folder)] = store
        return store._retain()


def _memory_folder() -> str | None:
    shared = "/dev/shm"  # noqa: S108 - the RAM disk itself; mkdtemp makes a private folder in it
    return shared if os.path.isdir(shared) and os.access(shared, os.W_OK) else None
