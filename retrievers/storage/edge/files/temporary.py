"""Folders of temporary stores: in RAM where the system offers that, and removed even after their process was killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from situate.errors import StorageError
from situate.retrievers.storage.edge.files.lock import FolderLock

#: The prefix of their names, and the file that distinguishes one from a user's store beside them.
_PREFIX, _MARK = "situate-", ".temporary"
#: Free room that makes a RAM disk worth using.
_RAM_DISK_BYTES = 1 << 30


def temporary_folder(*, in_memory: bool) -> Path:
    """A new folder for a temporary store. Folders that killed processes of this user left are removed first.

    Args:
        in_memory: Prefer the RAM disk.

    Raises:
        StorageError: It cannot be made.
    """
    parent = _ram_disk() if in_memory else tempfile.gettempdir()
    _sweep(Path(parent))
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
        (folder / _MARK).touch()
    except OSError as error:
        raise StorageError(f"a temporary store cannot be made in {parent}: {error.strerror}") from error
    return folder


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            own = not folder.is_symlink() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())
            lock = FolderLock(folder)
            if own and (folder / _MARK).is_file() and lock.was_held():
                lock.acquire()
                shutil.rmtree(folder, ignore_errors=True)
                lock.forget()
        except (StorageError, OSError):
            continue  # in use, or gone meanwhile


def _ram_disk() -> str:
    """The RAM disk, where there is one of some size (a container's is 64 MB by default), else the system's choice."""
    shared = "/dev/shm"  # noqa: S108 - the RAM disk itself; mkdtemp makes a private folder in it
    if os.path.isdir(shared) and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free >= _RAM_DISK_BYTES:
        return shared
    return tempfile.gettempdir()
