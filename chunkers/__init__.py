"""A document's text -> chunks, and the words that situate them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.chunkers.auto import AutoChunker
    from situate.chunkers.files import read_documents
    from situate.chunkers.markdown import MarkdownChunker
    from situate.chunkers.spans import recover_spans
    from situate.chunkers.structural import HeadingSituator
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
    "AutoChunker",
    "Chunk",
    "Chunker",
    "Context",
    "Document",
    "HeadingSituator",
    "MarkdownChunker",
    "Prompt",
    "Situator",
    "TextChunker",
    "TextGenerator",
    "read_documents",
    "recover_spans",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AutoChunker": "auto",
        "Chunk": "types",
        "Chunker": "types",
        "Context": "types",
        "Document": "types",
        "HeadingSituator": "structural",
        "MarkdownChunker": "markdown",
        "Prompt": "types",
        "Situator": "types",
        "TextChunker": "text",
        "TextGenerator": "types",
        "read_documents": "files",
        "recover_spans": "spans",
    },
)
