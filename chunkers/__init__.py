"""A document's text -> chunks, and the words that situate them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.chunkers.auto import AutoChunker as AutoChunker
    from situate.chunkers.code import CodeChunker as CodeChunker
    from situate.chunkers.dialogue import DialogueChunker as DialogueChunker
    from situate.chunkers.html import HtmlChunker as HtmlChunker
    from situate.chunkers.markdown import MarkdownChunker as MarkdownChunker
    from situate.chunkers.pruning import (
        PruningChunker as PruningChunker,
        PruningReport as PruningReport,
        low_value as low_value,
    )
    from situate.chunkers.readers.files import read_documents as read_documents
    from situate.chunkers.semantic import (
        ClusterSemanticChunker as ClusterSemanticChunker,
        SemanticChunker as SemanticChunker,
    )
    from situate.chunkers.sentence_window import SentenceWindowChunker as SentenceWindowChunker
    from situate.chunkers.situators.answer_cache import AnswerCache as AnswerCache
    from situate.chunkers.situators.headings import HeadingSituator as HeadingSituator
    from situate.chunkers.situators.keyphrases import KeyphraseSituator as KeyphraseSituator
    from situate.chunkers.situators.propositions import PropositionSituator as PropositionSituator
    from situate.chunkers.situators.questions import QuestionSituator as QuestionSituator
    from situate.chunkers.situators.report import SituatingReport as SituatingReport
    from situate.chunkers.situators.rows import RowSituator as RowSituator
    from situate.chunkers.situators.sentence import LLMSituator as LLMSituator
    from situate.chunkers.spans import recover_spans as recover_spans
    from situate.chunkers.text import (
        FixedTokenChunker as FixedTokenChunker,
        SplitterChunker as SplitterChunker,
        TextChunker as TextChunker,
    )
    from situate.chunkers.topics import TopicChunker as TopicChunker
    from situate.types import (
        Chunk as Chunk,
        Chunker as Chunker,
        Context as Context,
        Document as Document,
        Prompt as Prompt,
        Proposition as Proposition,
        Situator as Situator,
        StreamingGenerator as StreamingGenerator,
        TextGenerator as TextGenerator,
    )

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.chunkers.auto": ("AutoChunker",),
        "situate.chunkers.code": ("CodeChunker",),
        "situate.chunkers.dialogue": ("DialogueChunker",),
        "situate.chunkers.html": ("HtmlChunker",),
        "situate.chunkers.markdown": ("MarkdownChunker",),
        "situate.chunkers.pruning": (
            "PruningChunker",
            "PruningReport",
            "low_value",
        ),
        "situate.chunkers.readers.files": ("read_documents",),
        "situate.chunkers.semantic": (
            "ClusterSemanticChunker",
            "SemanticChunker",
        ),
        "situate.chunkers.sentence_window": ("SentenceWindowChunker",),
        "situate.chunkers.situators.answer_cache": ("AnswerCache",),
        "situate.chunkers.situators.headings": ("HeadingSituator",),
        "situate.chunkers.situators.keyphrases": ("KeyphraseSituator",),
        "situate.chunkers.situators.propositions": ("PropositionSituator",),
        "situate.chunkers.situators.questions": ("QuestionSituator",),
        "situate.chunkers.situators.rows": ("RowSituator",),
        "situate.chunkers.situators.report": ("SituatingReport",),
        "situate.chunkers.situators.sentence": ("LLMSituator",),
        "situate.chunkers.spans": ("recover_spans",),
        "situate.chunkers.text": (
            "FixedTokenChunker",
            "SplitterChunker",
            "TextChunker",
        ),
        "situate.chunkers.topics": ("TopicChunker",),
        "situate.types": (
            "Chunk",
            "Chunker",
            "Context",
            "Document",
            "Prompt",
            "Proposition",
            "Situator",
            "StreamingGenerator",
            "TextGenerator",
        ),
    },
)
