"""Vectors in Qdrant, and the query pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.cache import SemanticCache as SemanticCache
    from situate.retrievers.calibration import calibrate as calibrate
    from situate.retrievers.config import (
        DocumentSignals as DocumentSignals,
        Feedback as Feedback,
        LexicalScheme as LexicalScheme,
        PipelineConfig as PipelineConfig,
    )
    from situate.retrievers.expand.hyde import Hyde as Hyde, HydeSettings as HydeSettings
    from situate.retrievers.expand.multihop import MultiHop as MultiHop
    from situate.retrievers.expand.rewriting import (
        ConversationalQuery as ConversationalQuery,
        MultiQuery as MultiQuery,
        StepBack as StepBack,
        Turn as Turn,
    )
    from situate.retrievers.highlight.attribution import Attribution as Attribution
    from situate.retrievers.highlight.highlighter import Highlighter as Highlighter
    from situate.retrievers.index.documents import IndexReport as IndexReport
    from situate.retrievers.index.index import Index as Index
    from situate.retrievers.index.question_filter import QuestionFilter as QuestionFilter
    from situate.retrievers.marks import Highlight as Highlight, Mark as Mark
    from situate.retrievers.pipeline.steps import StepPolicy as StepPolicy
    from situate.retrievers.retriever import Retriever as Retriever, RetrieverSettings as RetrieverSettings
    from situate.retrievers.search.boosts import PayloadScore as PayloadScore, Recency as Recency
    from situate.retrievers.search.fusion import rocchio as rocchio
    from situate.retrievers.search.geometry import Hubness as Hubness, Whitening as Whitening
    from situate.retrievers.search.query_vectors import QueryVectors as QueryVectors
    from situate.retrievers.storage.connect import (
        Location as Location,
        connect as connect,
        connect_async as connect_async,
    )
    from situate.retrievers.types import (
        Hit as Hit,
        InstructedReranker as InstructedReranker,
        IterativeExpander as IterativeExpander,
        QueryExpander as QueryExpander,
        QueryText as QueryText,
        Reranker as Reranker,
        SearchResult as SearchResult,
        Step as Step,
    )
    from situate.retrievers.where import Where as Where

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.retrievers.cache": ("SemanticCache",),
        "situate.retrievers.calibration": ("calibrate",),
        "situate.retrievers.config": (
            "DocumentSignals",
            "Feedback",
            "LexicalScheme",
            "PipelineConfig",
        ),
        "situate.retrievers.expand.hyde": ("Hyde", "HydeSettings"),
        "situate.retrievers.expand.multihop": ("MultiHop",),
        "situate.retrievers.expand.rewriting": (
            "ConversationalQuery",
            "MultiQuery",
            "StepBack",
            "Turn",
        ),
        "situate.retrievers.highlight.attribution": ("Attribution",),
        "situate.retrievers.highlight.highlighter": ("Highlighter",),
        "situate.retrievers.index.documents": ("IndexReport",),
        "situate.retrievers.index.index": ("Index",),
        "situate.retrievers.index.question_filter": ("QuestionFilter",),
        "situate.retrievers.marks": ("Highlight", "Mark"),
        "situate.retrievers.pipeline.steps": ("StepPolicy",),
        "situate.retrievers.retriever": ("Retriever", "RetrieverSettings"),
        "situate.retrievers.search.boosts": (
            "PayloadScore",
            "Recency",
        ),
        "situate.retrievers.search.fusion": ("rocchio",),
        "situate.retrievers.search.geometry": ("Hubness", "Whitening"),
        "situate.retrievers.search.query_vectors": ("QueryVectors",),
        "situate.retrievers.storage.connect": ("Location", "connect", "connect_async"),
        "situate.retrievers.types": (
            "Hit",
            "InstructedReranker",
            "IterativeExpander",
            "QueryExpander",
            "QueryText",
            "Reranker",
            "SearchResult",
            "Step",
        ),
        "situate.retrievers.where": ("Where",),
    },
)
