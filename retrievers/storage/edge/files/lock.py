"""The lock that lets one process at a time write an embedded store."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import IO, Any

from situate.errors import StorageError, StoreLockedError
from situate.outside import load_json

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock.holder"


class FolderLock:
    """An exclusive lock on a folder, held by the operating system: it dies with its process, so none goes stale.

    The holder is written beside it, for the message in another process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[Any] | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            StoreLockedError: Another process holds it.
            StorageError: The folder cannot be written.
        """
        import portalocker  # Late: it probes for writable folders when imported, which fails on read-only systems.

        try:
            file = open(self._folder / LOCK_FILE, "a+")  # noqa: SIM115 - held open for as long as the store is
        except OSError as error:
            raise StorageError(
                f"the store {self._folder} cannot be written ({error.strerror}): an embedded store needs a folder that "
                "this process may write; to read a copy elsewhere, restore a snapshot of it there"
            ) from error
        try:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except (portalocker.exceptions.LockException, OSError) as error:
            file.close()
            raise StoreLockedError(
                f"the store {self._folder} is open in another process ({self._holder()}): one process at a time writes "
                "an embedded store. Close it there, or run a Qdrant server and open it with retrievers.connect(url)"
            ) from error
        self._file = file
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        with contextlib.suppress(OSError):  # only for messages: the lock itself is held
            (self._folder / HOLDER_FILE).write_text(json.dumps(holder))

    def release(self) -> None:
        """Releases the lock; does nothing where it is not held."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            (self._folder / HOLDER_FILE).unlink()
        import portalocker

        file, self._file = self._file, None
        # Unlocked explicitly, since closing alone leaves the lock to the copies of the file in forked children.
        portalocker.unlock(file)
        file.close()

    def forget(self) -> None:
        """Closes a forked child's copy of the file, which leaves the lock to the parent alone."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def was_held(self) -> bool:
        """Whether a process once held the lock and has not released it."""
        return (self._folder / HOLDER_FILE).is_file()

    def _holder(self) -> str:
        try:
            holder = load_json((self._folder / HOLDER_FILE).read_bytes(), HOLDER_FILE)
            return f"pid {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "holder unknown"
