"""The maintenance thread of an embedded store: it flushes writes and optimises changed collections."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from situate.errors import SituateError
from situate.retrievers.storage.edge.collection import Collection

logger = logging.getLogger(__name__)

#: Seconds after a write until it is flushed to disk, as on a server.
FLUSH_AFTER = 5.0
#: Seconds without a write after which a collection counts as idle and is optimised.
IDLE_AFTER = 1.0
#: Seconds after which it is optimised although writes go on.
BUSY_AFTER = 10.0


class Maintenance:
    """Maintains a store's collections from the first write on. It sleeps where nothing is due.

    Args:
        collections: The store's collections, now.
        optimize: Optimises one of them.
        auto_optimize: Whether to optimise in the background.
    """

    def __init__(
        self,
        collections: Callable[[], list[Collection]],
        optimize: Callable[[Collection], bool],
        *,
        auto_optimize: bool,
    ) -> None:
        self._collections = collections
        self._optimize = optimize
        self._auto_optimize = auto_optimize
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._resting: dict[str, int] = {}
        self._due_since: dict[str, float] = {}

    def notify(self) -> None:
        """Notes that something was written."""
        if not self._wake.is_set():
            self._wake.set()
        if self._thread is None:
            with self._guard:
                if self._thread is None and not self._stopping:
                    # A daemon: the store is closed at exit by its own hook, which stops this thread first.
                    self._thread = threading.Thread(target=self._run, name="situate-edge-maintenance", daemon=True)
                    self._thread.start()

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        with self._guard:
            self._stopping = True
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            while not self._stopping:
                pause = self._turn()
                if pause is None:
                    break
                self._wake.wait(pause)
                self._wake.clear()

    def _turn(self) -> float | None:
        """Runs what is due; returns the seconds until the next task, None for none."""
        pauses: list[float] = []
        for collection in self._collections():
            if self._stopping:
                return None
            now = time.monotonic()
            age = now - collection.written
            try:
                if self._auto_optimize and self._due(collection):
                    waited = now - self._due_since.setdefault(collection.folder.name, now)
                    if age >= IDLE_AFTER or waited >= BUSY_AFTER:
                        if not self._optimize(collection):
                            self._rest(collection)
                        self._due_since.pop(collection.folder.name, None)
                        continue
                    pauses.append(min(IDLE_AFTER - age, BUSY_AFTER - waited))
                if collection.dirty:
                    if age >= FLUSH_AFTER:
                        collection.flush()
                    else:
                        pauses.append(FLUSH_AFTER - age)
            except SituateError as error:
                # No caller could catch it. Data is safe without either; the next write tries again.
                logger.warning("maintenance of collection %r: %s", collection.name, error)
                self._rest(collection)
        return max(min(pauses), 0.01) if pauses else None

    def _due(self, collection: Collection) -> bool:
        return collection.optimization_due and collection.changes > self._resting.get(collection.folder.name, 0)

    def _rest(self, collection: Collection) -> None:
        """Postpones a collection that had nothing to do or failed, until as much again has changed."""
        self._resting[collection.folder.name] = max(collection.changes, collection.due_after) * 2
