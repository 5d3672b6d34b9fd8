"""A document's text -> chunks, and the words that situate them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.chunkers.markdown import MarkdownChunker
    from situate.chunkers.spans import recover_spans
    from situate.chunkers.text import TextChunker
    from situate.chunkers.types import (
        Chunk,
        Chunker,
        Context,
        Document,
        Prompt,
        Situator,
        TextGenerator,
    )

__all__ = [
    "Chunk",
    "Chunker",
    "Context",
    "Document",
    "MarkdownChunker",
    "Prompt",
    "Situator",
    "TextChunker",
    "TextGenerator",
    "recover_spans",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Chunk": "types",
        "Chunker": "types",
        "Context": "types",
        "Document": "types",
        "MarkdownChunker": "markdown",
        "Prompt": "types",
        "Situator": "types",
        "TextChunker": "text",
        "TextGenerator": "types",
        "recover_spans": "spans",
    },
)
