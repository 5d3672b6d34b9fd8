"""The list of documents: their names, sizes and states."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from situate.app.web.settings import Place
from situate.sqlite_file import SqliteFile

State: TypeAlias = Literal["waiting", "reading", "indexing", "ready", "failed"]
#: The name of the list's file in the folder of an application.
RECORDS = "documents.sqlite"
#: States that end by themselves.
PASSING = ("waiting", "reading", "indexing")

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS collections (tenant TEXT, name TEXT, PRIMARY KEY (tenant, name))",
    "CREATE TABLE IF NOT EXISTS documents (tenant TEXT, collection TEXT, id TEXT, file TEXT, bytes INTEGER, "
    "added REAL, state TEXT, detail TEXT, characters INTEGER, pages INTEGER, chunks INTEGER, "
    "PRIMARY KEY (tenant, collection, id))",
)


@dataclass(frozen=True)
class Record:
    """A document that was uploaded.

    Attributes:
        id: The document's id in the index: the name of its file.
        file: The file's name in the folder of its collection; chosen by the application, never by a caller.
        bytes: The file's size.
        added: When it was uploaded, in seconds since the epoch.
        state: "waiting", "reading", "indexing", "ready" or "failed".
        detail: Why it failed.
        characters: Characters of its text.
        pages: Its pages, where the file has any.
        chunks: Passages in the index.
    """

    id: str
    file: str = ""
    bytes: int = 0
    added: float = 0.0
    state: State = "ready"
    detail: str = ""
    characters: int = 0
    pages: int = 0
    chunks: int = 0

    def to_dict(self) -> dict[str, Any]:
        """What callers see of it, as JSON values."""
        values = asdict(self)
        del values["file"]
        return values


class Records:
    """Collections and documents of all tenants, in one SQLite file. Every call names whose they are.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        remedy = "put it back from a backup, or delete it: documents stay in the index, the list of them is lost"
        self._file = SqliteFile(path, _SCHEMA, "list of documents", remedy)

    def collections(self, tenant: str) -> list[str]:
        """The names of a tenant's collections, sorted."""
        with self._file.open() as connection:
            rows = connection.execute("SELECT name FROM collections WHERE tenant = ? ORDER BY name", (tenant,))
            return [name for (name,) in rows]

    def add_collection(self, place: Place) -> None:
        """Note a collection; one that is known stays as it is."""
        with self._file.open() as connection:
            connection.execute("INSERT OR IGNORE INTO collections VALUES (?, ?)", (place.tenant, place.collection))

    def drop_collection(self, place: Place) -> None:
        """Forget a collection and its documents."""
        with self._file.open() as connection:
            key = (place.tenant, place.collection)
            connection.execute("DELETE FROM collections WHERE tenant = ? AND name = ?", key)
            connection.execute("DELETE FROM documents WHERE tenant = ? AND collection = ?", key)

    def documents(self, place: Place) -> list[Record]:
        """The documents of a collection, by name."""
        with self._rows() as connection:
            found = connection.execute(
                "SELECT * FROM documents WHERE tenant = ? AND collection = ? ORDER BY id",
                (place.tenant, place.collection),
            )
            return [_record(row) for row in found]

    def document(self, place: Place, document_id: str) -> Record | None:
        """One document; None where there is none of that id."""
        with self._rows() as connection:
            found = connection.execute(
                "SELECT * FROM documents WHERE tenant = ? AND collection = ? AND id = ?",
                (place.tenant, place.collection, document_id),
            ).fetchone()
            return None if found is None else _record(found)

    def unfinished(self) -> list[tuple[Place, Record]]:
        """Documents of all tenants whose reading was not finished, the oldest first."""
        with self._rows() as connection:
            rows = connection.execute("SELECT * FROM documents WHERE state IN (?, ?, ?) ORDER BY added", PASSING)
            return [(Place(row["tenant"], row["collection"]), _record(row)) for row in rows]

    def put(self, place: Place, record: Record) -> Record:
        """Store a document's record in place of an earlier one."""
        record = record if record.added else replace(record, added=time.time())
        values = (place.tenant, place.collection, *asdict(record).values())
        with self._file.open() as connection:
            connection.execute(f"INSERT OR REPLACE INTO documents VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
        return record

    def change(self, place: Place, record: Record, **changes: Any) -> Record | None:
        """Change a document's record; None where it was deleted or uploaded again in the meantime."""
        sets = ", ".join(f"{name} = ?" for name in changes)
        with self._file.open() as connection:
            done = connection.execute(
                f"UPDATE documents SET {sets} WHERE tenant = ? AND collection = ? AND id = ? AND added = ?",  # noqa: S608
                (*changes.values(), place.tenant, place.collection, record.id, record.added),
            )
            return replace(record, **changes) if done.rowcount else None

    def remove(self, place: Place, document_id: str) -> None:
        """Forget a document."""
        with self._file.open() as connection:
            connection.execute(
                "DELETE FROM documents WHERE tenant = ? AND collection = ? AND id = ?",
                (place.tenant, place.collection, document_id),
            )

    @contextmanager
    def _rows(self) -> Iterator[sqlite3.Connection]:
        with self._file.open() as connection:
            connection.row_factory = sqlite3.Row
            yield connection


def _record(row: sqlite3.Row) -> Record:
    return Record(**{name: row[name] for name in Record.__dataclass_fields__})
