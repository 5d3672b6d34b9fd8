"""Vectors and Qdrant, and the way of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.boosts import PayloadScore, Recency
    from situate.retrievers.cache import SemanticCache
    from situate.retrievers.calibration import calibrate
    from situate.retrievers.config import DocumentSignals, Feedback, LexicalScheme, PipelineConfig
    from situate.retrievers.feedback import rocchio
    from situate.retrievers.hyde import Hyde
    from situate.retrievers.incoming import IndexReport
    from situate.retrievers.index import Index
    from situate.retrievers.opening import Location, open, open_async, open_async_client, open_client
    from situate.retrievers.pipeline import Retriever
    from situate.retrievers.question_filter import QuestionFilter
    from situate.retrievers.rewriting import ConversationalQuery, MultiQuery, StepBack, Turn
    from situate.retrievers.search import QueryVectors
    from situate.retrievers.steps import StepPolicy
    from situate.retrievers.types import Hit, QueryExpander, QueryText, Reranker, SearchResult, Step

__all__ = [
    "ConversationalQuery",
    "DocumentSignals",
    "Feedback",
    "Hit",
    "Hyde",
    "Index",
    "IndexReport",
    "LexicalScheme",
    "Location",
    "MultiQuery",
    "PayloadScore",
    "PipelineConfig",
    "QueryExpander",
    "QueryText",
    "QueryVectors",
    "QuestionFilter",
    "Recency",
    "Reranker",
    "Retriever",
    "SearchResult",
    "SemanticCache",
    "Step",
    "StepBack",
    "StepPolicy",
    "Turn",
    "calibrate",
    "open",
    "open_async",
    "open_async_client",
    "open_client",
    "rocchio",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ConversationalQuery": "rewriting",
        "Hyde": "hyde",
        "MultiQuery": "rewriting",
        "SemanticCache": "cache",
        "StepBack": "rewriting",
        "StepPolicy": "steps",
        "Turn": "rewriting",
        "calibrate": "calibration",
        "rocchio": "feedback",
        "DocumentSignals": "config",
        "Feedback": "config",
        "Hit": "types",
        "Index": "index",
        "IndexReport": "incoming",
        "LexicalScheme": "config",
        "PayloadScore": "boosts",
        "PipelineConfig": "config",
        "Recency": "boosts",
        "QueryExpander": "types",
        "QueryText": "types",
        "QueryVectors": "search",
        "QuestionFilter": "question_filter",
        "Reranker": "types",
        "Retriever": "pipeline",
        "SearchResult": "types",
        "Step": "types",
        "Location": "opening",
        "open": "opening",
        "open_async": "opening",
        "open_async_client": "opening",
        "open_client": "opening",
    },
)
