"""A document's text -> chunks, and the words that situate them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.chunkers.answer_cache import AnswerCache
    from situate.chunkers.auto import AutoChunker
    from situate.chunkers.files import read_documents
    from situate.chunkers.generating import SituatingReport
    from situate.chunkers.llm import LLMSituator
    from situate.chunkers.markdown import MarkdownChunker
    from situate.chunkers.questions import QuestionSituator
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
    "AnswerCache",
    "AutoChunker",
    "Chunk",
    "Chunker",
    "Context",
    "Document",
    "HeadingSituator",
    "LLMSituator",
    "MarkdownChunker",
    "Prompt",
    "QuestionSituator",
    "SituatingReport",
    "Situator",
    "TextChunker",
    "TextGenerator",
    "read_documents",
    "recover_spans",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AnswerCache": "answer_cache",
        "AutoChunker": "auto",
        "Chunk": "types",
        "Chunker": "types",
        "Context": "types",
        "Document": "types",
        "HeadingSituator": "structural",
        "LLMSituator": "llm",
        "MarkdownChunker": "markdown",
        "Prompt": "types",
        "QuestionSituator": "questions",
        "SituatingReport": "generating",
        "Situator": "types",
        "TextChunker": "text",
        "TextGenerator": "types",
        "read_documents": "files",
        "recover_spans": "spans",
    },
)
