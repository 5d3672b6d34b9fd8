"""Answers of a language model, kept across runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from situate.parameters import checked_parameters
from situate.sqlite_file import SqliteFile
from situate.types import Prompt

_SCHEMA = ("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID",)


@checked_parameters
class AnswerCache:
    """A SQLite file of answers by model and prompt. Safe for threads and for several processes; pickles as its path.

    A new file is readable by its owner alone: answers quote the documents.

    Args:
        path: The file; its folder is made where it is missing.

    Raises:
        StoreCorruptError: On use, where the file is no SQLite database or damaged.
        StorageError: On use, where the file cannot be opened or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = SqliteFile(self.path, _SCHEMA, "cache of answers", "move it away; its answers are requested anew")

    def __repr__(self) -> str:
        return f"AnswerCache({str(self.path)!r})"

    @staticmethod
    def key(model: str, prompt: Prompt) -> str:
        """SHA-256 (hex) of the model's name and the whole prompt; injective: each part with its length."""
        digest = hashlib.sha256()
        for part in (model, prompt.system, prompt.prefix, prompt.text):
            data = part.encode(errors="surrogatepass")
            digest.update(f"{len(data)}:".encode())
            digest.update(data)
        return digest.hexdigest()

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """The answers that are there, by key."""
        with self._file.open() as connection:
            return dict(self._file.rows(connection, "SELECT key, answer FROM answers", keys))

    def put(self, answers: Mapping[str, str]) -> None:
        """Keep answers; one that is there already is replaced."""
        with self._file.open() as connection:
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", answers.items())

    def __len__(self) -> int:
        with self._file.open() as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
