"""A SQLite file that threads and processes share."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from situate.batches import in_batches
from situate.errors import DiskFullError, StorageError, StoreCorruptError

#: SQLite takes 999 parameters in every build.
_PARAMETERS = 500


@dataclass(frozen=True)
class SqliteFile:
    """A SQLite database that is opened for each use: no handle leaks, crosses a fork or needs to be closed.

    A new file is readable by its owner alone, as are SQLite's own files beside it; the mode of a file that exists
    stays as it is. Its folder is made where it is missing.

    Attributes:
        path: The file.
        schema: Statements that make the tables where they are missing.
        name: What the file is, for messages: "cache of answers".
        remedy: What to do about a damaged file, for messages.
    """

    path: Path
    schema: tuple[str, ...]
    name: str
    remedy: str

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction, committed at the end and rolled back after an error.

        Raises:
            DiskFullError: The disk has no room.
            StorageError: The file cannot be opened or written.
            StoreCorruptError: The file is no SQLite database or is damaged.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDONLY | os.O_CREAT, 0o600))
            with closing(sqlite3.connect(self.path, timeout=60)) as connection, connection:
                for statement in self.schema:
                    connection.execute(statement)
                yield connection
        except (OSError, sqlite3.OperationalError) as error:
            if _is_full(error):
                raise DiskFullError(
                    f"the disk of the {self.name} {str(self.path)!r} is full. Nothing was written; make room for it"
                ) from error
            raise StorageError(
                f"the {self.name} {str(self.path)!r} cannot be used ({error}): is its folder writable, is there room, "
                "and does no other process hold it for minutes?"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreCorruptError(
                f"{str(self.path)!r} is no {self.name} or is damaged ({error}): {self.remedy}"
            ) from error

    def rows(self, connection: sqlite3.Connection, select: str, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The rows of ``select`` whose column ``key`` is among ``keys``."""
        for some in in_batches(keys, _PARAMETERS):
            marks = ",".join("?" * len(some))
            yield from connection.execute(f"{select} WHERE key IN ({marks})", some)


def _is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error.sqlite_errorcode == sqlite3.SQLITE_FULL
