"""Answers of a language model, kept across runs."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from situate.errors import StorageError, StoreCorruptError
from situate.types import Prompt

_SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
#: SQLite takes 999 parameters in every build.
_AT_ONCE = 500


class AnswerCache:
    """A SQLite file of answers by model and prompt. Safe for threads and for several processes; pickles as its path.

    Args:
        path: The file; its folder is made where it is missing.

    Raises:
        StoreCorruptError: On use, where the file is no SQLite database or damaged.
        StorageError: On use, where the file cannot be opened or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._ready = False

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"AnswerCache({str(self.path)!r})"

    @staticmethod
    def key(model: str, prompt: Prompt) -> str:
        """SHA-256 (hex) of the model's name and the whole prompt; injective, as every part stands with its length."""
        digest = hashlib.sha256()
        for part in (model, prompt.system, prompt.prefix, prompt.text):
            data = part.encode(errors="surrogatepass")
            digest.update(f"{len(data)}:".encode())
            digest.update(data)
        return digest.hexdigest()

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """The answers that are there, by key."""
        found: dict[str, str] = {}
        with self._lock, closing(self._open()) as connection:
            for at in range(0, len(keys), _AT_ONCE):
                some = keys[at : at + _AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, answer FROM answers WHERE key IN ({marks})"  # noqa: S608 - question marks alone
                found.update(self._run(connection, query, some))
        return found

    def put(self, answers: Mapping[str, str]) -> None:
        """Keep answers; one that is there already is replaced."""
        with self._lock, closing(self._open()) as connection, connection:
            for key, answer in answers.items():
                self._run(connection, "INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, answer))

    def __len__(self) -> int:
        with self._lock, closing(self._open()) as connection:
            return int(self._run(connection, "SELECT count(*) FROM answers", ())[0][0])

    def _open(self) -> sqlite3.Connection:
        # Opened per call: a look-up beside a call of a language model costs nothing, and no handle is left to leak,
        # to cross a fork or to be closed.
        if not self._ready:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60)
        if not self._ready:
            try:
                self._run(connection, _SCHEMA, ())
            except BaseException:
                # Whatever went wrong, the connection is not handed out and must not stay open.
                connection.close()
                raise
            self._ready = True
        return connection

    def _run(self, connection: sqlite3.Connection, query: str, values: Sequence[str]) -> list[tuple[str, str]]:
        try:
            return connection.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"the cache of answers {str(self.path)!r} cannot be used ({error}): is its folder writable, and no "
                "other process holding it for minutes?"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreCorruptError(
                f"{str(self.path)!r} is no cache of answers or is damaged ({error}): move it away, and what it held is "
                "asked again"
            ) from error
