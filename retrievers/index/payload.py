"""A chunk as a Qdrant point, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from situate.errors import InputError
from situate.types import Chunk, Context, stable_id

DENSE = "dense"
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
        InputError: The metadata holds a value that JSON cannot express.
    """
    try:
        # One pass through JSON also turns tuples into lists, so that every backend returns the same metadata.
        metadata = json.loads(json.dumps(dict(chunk.metadata), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"metadata of document {chunk.document_id!r} cannot be stored ({error}): "
            "use JSON values (strings, finite numbers, booleans, None, lists, dictionaries with string keys)"
        ) from error
    return {
        "document_id": chunk.document_id,
        "chunk_id": chunk.id,
        "index": chunk.index,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "context": chunk.context.to_dict(),
        "metadata": metadata,
        "document_hash": document_hash,
        "chunks": chunks,
        "version": version,
        STATE: WRITING,
    }


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
