"""A chunk as a Qdrant point, and back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np

from situate.errors import InputError
from situate.types import Chunk, Context, stable_id

DENSE = "dense"
#: The projections of the dense vectors, where `PipelineConfig.compression` asks for them.
CODES = "dense_pca"
BM25 = "bm25"
TOKENS = "tokens"
#: Vectors of the whole document, with its first chunk alone, and of the questions that a chunk answers.
DOCUMENT = "document"
DOCUMENT_BM25 = "document_bm25"
QUESTIONS = "questions"

#: A point whose document is being written carries ``state: "writing"``.
STATE = "state"
WRITING = "writing"
#: Payload keys that the index itself filters on.
INDEXED_KEYS = ("document_id", "chunk_id", "document_hash", STATE)
#: Levels of nested objects and lists in a document's metadata: deeper ones could not be read back.
MAX_METADATA_DEPTH = 100
_SURROGATE = re.compile("[\ud800-\udfff]")


def point_id(chunk_id: str, document_hash: str) -> str:
    """The id of a chunk's point: a new version of a document never overwrites a point of the old one."""
    return stable_id("point", chunk_id, document_hash)


def to_payload(chunk: Chunk, document_hash: str, chunks: int, version: int) -> dict[str, Any]:
    """The payload of a chunk's point, marked as being written.

    Args:
        chunk: The chunk.
        document_hash: Identifies this version of the document.
        chunks: How many chunks this version has: a version with fewer points is incomplete.
        version: Nanoseconds since the epoch; the newer of two versions wins.

    Raises:
        InputError: As for `stored_metadata`.
    """
    return {
        "document_id": chunk.document_id,
        "chunk_id": chunk.id,
        "index": chunk.index,
        "start": chunk.start,
        "end": chunk.end,
        "text": stored_text(chunk.text),
        "context": _stored(chunk.context.to_dict(), "context", 1),
        "metadata": stored_metadata(chunk.document_id, chunk.metadata),
        "document_hash": document_hash,
        "chunks": chunks,
        "version": version,
        STATE: WRITING,
    }


def stored_text(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which no store can hold: as long as before."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def plain_value(value: Any) -> Any:
    """A value of metadata, or of a filter on it, as one of Python's that JSON has, where it has such a form."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, np.generic | np.ndarray):
        # Times in units finer than Python's, such as pandas' nanoseconds, would come out as whole numbers.
        fine = value.dtype.name.endswith(("64[ns]", "64[ps]", "64[fs]", "64[as]"))
        value = (value.astype(f"{value.dtype.kind}8[us]") if fine else value).tolist()
    if isinstance(value, date | time):
        return None if value != value else value.isoformat()  # pandas' NaT is a date that equals none
    return str(value) if isinstance(value, UUID | PurePath) else value


def stored_metadata(document_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A document's metadata as JSON values, alike for every store.

    Dates and times become ISO 8601 text, UUIDs and paths text, numpy's scalars and arrays numbers and lists, members of
    an `Enum` their values, tuples lists; a lone surrogate becomes U+FFFD.

    Raises:
        InputError: A value is none of these nor of JSON's, is not finite, has more than 64 bits, or lies deeper than
            `MAX_METADATA_DEPTH`; the message names the document and the key.
    """
    try:
        stored: dict[str, Any] = _stored(metadata, "metadata", 1)
    except InputError as error:
        raise InputError(f"metadata of document {document_id!r} cannot be stored: {error}") from None
    return stored


def _stored(value: Any, place: str, depth: int) -> Any:
    value = plain_value(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return stored_text(str.__str__(value))
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InputError(f"{place} is {value}, and integers have at most 64 bits: give it as text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{place} is {value}, which JSON cannot express: leave it out, or give None")
        return float(value)
    if not isinstance(value, Mapping | list | tuple):
        raise InputError(
            f"{place} is a {type(value).__name__}: use JSON values (strings, finite numbers, booleans, None, lists, "
            "dictionaries with string keys), dates, UUIDs, paths or numpy's numbers"
        )
    if depth > MAX_METADATA_DEPTH:
        raise InputError(
            f"{place[:60]}... lies deeper than {MAX_METADATA_DEPTH} objects and lists: flatten it, or store it as one "
            "JSON text"
        )
    if isinstance(value, Mapping):
        if len({str if isinstance(key, str) else type(key) for key in value}) > 1:
            raise InputError(f"{place} has keys of several types: make all of them text")
        stored = {_key(key, place): _stored(item, f"{place}[{key!r}]", depth + 1) for key, item in value.items()}
        if len(stored) < len(value):
            raise InputError(f"{place} has keys that differ by lone surrogates alone, which no store can hold")
        return stored
    return [_stored(item, f"{place}[{number}]", depth + 1) for number, item in enumerate(value)]


def _key(key: Any, place: str) -> str:
    if isinstance(key, str):
        return stored_text(str.__str__(key))
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    raise InputError(f"{place} has the key {key!r}: a key is text")


def to_chunk(payload: Mapping[str, Any]) -> Chunk:
    """The chunk that `to_payload` wrote."""
    return Chunk(
        id=payload["chunk_id"],
        document_id=payload["document_id"],
        index=payload["index"],
        text=payload["text"],
        start=payload["start"],
        end=payload["end"],
        context=Context.from_dict(payload.get("context") or {}),
        metadata=payload.get("metadata") or {},
    )
