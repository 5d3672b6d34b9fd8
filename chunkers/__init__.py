"""A document's text -> chunks, and the words that situate them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.chunkers.answer_cache import AnswerCache
    from situate.chunkers.auto import AutoChunker
    from situate.chunkers.cluster import ClusterSemanticChunker
    from situate.chunkers.code import CodeChunker
    from situate.chunkers.dialogue import DialogueChunker
    from situate.chunkers.files import read_documents
    from situate.chunkers.foreign import SplitterChunker
    from situate.chunkers.html import HtmlChunker
    from situate.chunkers.llm import LLMSituator
    from situate.chunkers.markdown import MarkdownChunker
    from situate.chunkers.pruning import PruningChunker, low_value
    from situate.chunkers.questions import QuestionSituator
    from situate.chunkers.semantic import SemanticChunker
    from situate.chunkers.sentence_window import SentenceWindowChunker
    from situate.chunkers.situating_report import SituatingReport
    from situate.chunkers.spans import recover_spans
    from situate.chunkers.structural import HeadingSituator
    from situate.chunkers.text import TextChunker
    from situate.chunkers.tokens import FixedTokenChunker
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
    "ClusterSemanticChunker",
    "CodeChunker",
    "Context",
    "DialogueChunker",
    "Document",
    "FixedTokenChunker",
    "HeadingSituator",
    "HtmlChunker",
    "LLMSituator",
    "MarkdownChunker",
    "Prompt",
    "PruningChunker",
    "QuestionSituator",
    "SemanticChunker",
    "SentenceWindowChunker",
    "SituatingReport",
    "Situator",
    "SplitterChunker",
    "TextChunker",
    "TextGenerator",
    "low_value",
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
        "ClusterSemanticChunker": "cluster",
        "CodeChunker": "code",
        "Context": "types",
        "DialogueChunker": "dialogue",
        "Document": "types",
        "FixedTokenChunker": "tokens",
        "HeadingSituator": "structural",
        "HtmlChunker": "html",
        "LLMSituator": "llm",
        "MarkdownChunker": "markdown",
        "Prompt": "types",
        "PruningChunker": "pruning",
        "QuestionSituator": "questions",
        "SemanticChunker": "semantic",
        "SentenceWindowChunker": "sentence_window",
        "SituatingReport": "situating_report",
        "Situator": "types",
        "SplitterChunker": "foreign",
        "TextChunker": "text",
        "TextGenerator": "types",
        "low_value": "pruning",
        "read_documents": "files",
        "recover_spans": "spans",
    },
)
