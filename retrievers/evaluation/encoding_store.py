"""Encoded texts, kept on disk across runs of a comparison."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np

from situate.embedders.types import Encoded, SpanText
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.sqlite_file import SqliteFile

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS encoded (key TEXT PRIMARY KEY, used INTEGER NOT NULL, size INTEGER NOT NULL, "
    "data BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_use ON encoded (used, size)",
)


@checked_parameters
class EncodingStore:
    """A SQLite file of encoded texts, bounded: those read least recently are deleted first.

    Vectors are kept as they are, float32; token vectors as float16, in which an index stores them too. Safe for
    threads and for several processes.

    Args:
        path: The file; its folder is made where it is missing.
        max_bytes: Bytes of arrays that are kept, at most.

    Raises:
        InputError: ``max_bytes`` is less than 1.
        StorageError: On use, where the file cannot be opened or written.
        StoreCorruptError: On use, where the file is damaged or no such store.
    """

    def __init__(self, path: str | Path, max_bytes: int = 4 * 2**30) -> None:
        if max_bytes < 1:
            raise InputError(f"max_bytes={max_bytes}: the store needs room for at least 1 byte")
        self.path = Path(path)
        self.max_bytes = max_bytes
        self._file = SqliteFile(self.path, _SCHEMA, "store of encoded texts", "delete it; its texts are encoded again")

    def __repr__(self) -> str:
        return f"EncodingStore({str(self.path)!r}, max_bytes={self.max_bytes})"

    @staticmethod
    def key(fingerprint: Mapping[str, Any], text: SpanText, token_vectors: bool) -> str:
        """SHA-256 (hex) of what decides the vectors: the encoder's fingerprint, the text with its spans, the kind."""
        values = astuple(text)
        # Fields that came later count where they are set, so that what was stored before them is still found.
        unset = [field.default for field in fields(text)]
        while len(values) > 7 and values[-1] == unset[len(values) - 1]:
            values = values[:-1]
        parts = [fingerprint, values, token_vectors]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def get(self, keys: Sequence[str]) -> dict[str, Encoded]:
        """The stored texts, by key."""
        with self._file.open() as connection:
            found = dict(self._file.rows(connection, "SELECT key, data FROM encoded", keys))
            now = time.time_ns()
            connection.executemany("UPDATE encoded SET used = ? WHERE key = ?", [(now, key) for key in found])
        return {key: _read(data) for key, data in found.items()}

    def put(self, encoded: Mapping[str, Encoded]) -> None:
        """Keep encoded texts, and delete those read least recently where there is no more room."""
        now = time.time_ns()
        rows = [(key, now, len(data), data) for key, data in ((key, _written(one)) for key, one in encoded.items())]
        with self._file.open() as connection:
            connection.executemany("INSERT OR REPLACE INTO encoded VALUES (?, ?, ?, ?)", rows)
            excess = _size(connection) - self.max_bytes
            oldest = connection.execute("SELECT key, size FROM encoded ORDER BY used, key") if excess > 0 else ()
            doomed: list[tuple[str]] = []
            for key, size in oldest:
                if excess <= 0:
                    break
                doomed.append((key,))
                excess -= size
            connection.executemany("DELETE FROM encoded WHERE key = ?", doomed)

    def size(self) -> int:
        """Bytes of arrays that are kept."""
        with self._file.open() as connection:
            return _size(connection)


def _size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(sum(size), 0) FROM encoded").fetchone()[0])


def rounded(encoded: Encoded) -> Encoded:
    """As read from a store, so that a first run and a second one have the same numbers."""
    if encoded.tokens is None:
        return encoded
    tokens = tuple(matrix.astype(np.float16).astype(np.float32) for matrix in encoded.tokens)
    return Encoded(encoded.vectors, tokens, encoded.lost_tokens)


def _written(encoded: Encoded) -> bytes:
    arrays: dict[str, Any] = {"vectors": encoded.vectors, "lost": np.int64(encoded.lost_tokens)}
    if encoded.tokens is not None:
        arrays["lengths"] = np.array([len(matrix) for matrix in encoded.tokens], dtype=np.int64)
        if encoded.tokens:
            arrays["tokens"] = np.concatenate(encoded.tokens).astype(np.float16)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _read(data: bytes) -> Encoded:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        tokens = None
        if "lengths" in arrays:
            rows = arrays["tokens"].astype(np.float32) if "tokens" in arrays else np.zeros((0, 0), dtype=np.float32)
            tokens = tuple(np.split(rows, np.cumsum(arrays["lengths"])[:-1])) if len(arrays["lengths"]) else ()
        return Encoded(arrays["vectors"], tokens, int(arrays["lost"]))
