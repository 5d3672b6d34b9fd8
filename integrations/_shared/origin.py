"""Where a chunk comes from: the value that both frameworks keep in a chunk's metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from situate.types import Context

#: The one metadata key that situate adds to a chunk. Its value is text (JSON), because several vector stores take only
#: flat metadata.
ORIGIN_KEY = "situate"
#: The metadata key under which prompts and models read a chunk's context.
CONTEXT_KEY = "document_context"
#: The metadata key of a document or node for the skipped optional steps of its query.
DEGRADED_KEY = "situate_degraded"
#: The metadata key of a found passage for its place: `Where.to_dict`.
WHERE_KEY = "situate_where"
#: The metadata key of a found passage for the spans that match the query: a list of start, end, score, text.
HIGHLIGHT_KEY = "situate_highlight"
#: The metadata key of a found passage for the question, its answer and the proposition that match the query.
MATCHED_KEY = "situate_matched"


@dataclass(frozen=True)
class ChunkOrigin:
    """Where a chunk comes from, what situates it, and which vector it carries.

    Attributes:
        document_id: The document's id.
        document_hash: SHA-256 (hex) of the document: a changed document changes the origins of all its chunks,
            because all their late vectors are stale.
        index: The chunk's place among the document's chunks, from 0.
        chunks: How many chunks the document has.
        start: First character in the document's text.
        end: One past the last character.
        before: The document's text between the chunk before and this one (usually white space).
        after: What follows the last chunk.
        own: The document's own ``start_index`` in a list, where its metadata has one.
        pages: The document's own metadata under the keys that tell pages; with its first chunk alone.
        context: What situates the chunk.
        shown_as: The metadata key under which models read the context; "" where they do not.
        model: The encoder of the vector that the chunk carries; "" where the vector is not situate's.
        scheme: The `ChunkScheme` fields of that vector that differ from the default.
        text: Digest of the text that the vector was made of.
    """

    document_id: str = ""
    document_hash: str = ""
    index: int = 0
    chunks: int = 0
    start: int = 0
    end: int = 0
    before: str = ""
    after: str = ""
    own: Sequence[Any] = ()
    pages: Mapping[str, Any] = field(default_factory=dict)
    context: Context = field(default_factory=Context)
    shown_as: str = ""
    model: str = ""
    scheme: Mapping[str, Any] | None = None
    text: str = ""


def digest(text: str) -> str:
    """SHA-256 (hex) of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
