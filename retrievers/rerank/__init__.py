"""Rerankers: one verb, ``rerank(query, hits) -> hits``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.rerank.aggregate import ByDocument
    from situate.retrievers.rerank.cross_encoder import CrossEncoderReranker
    from situate.retrievers.rerank.duo import DuoReranker
    from situate.retrievers.rerank.late_interaction import LateInteractionReranker, StoredTokens, maxsim
    from situate.retrievers.rerank.llm import ListwiseReranker, PairwiseReranker, PointwiseReranker
    from situate.retrievers.rerank.mmr import Mmr
    from situate.retrievers.rerank.stages import Stage, Stages

__all__ = [
    "ByDocument",
    "CrossEncoderReranker",
    "DuoReranker",
    "LateInteractionReranker",
    "ListwiseReranker",
    "Mmr",
    "PairwiseReranker",
    "PointwiseReranker",
    "Stage",
    "Stages",
    "StoredTokens",
    "maxsim",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ByDocument": "aggregate",
        "CrossEncoderReranker": "cross_encoder",
        "DuoReranker": "duo",
        "LateInteractionReranker": "late_interaction",
        "ListwiseReranker": "llm",
        "Mmr": "mmr",
        "PairwiseReranker": "llm",
        "PointwiseReranker": "llm",
        "Stage": "stages",
        "Stages": "stages",
        "StoredTokens": "late_interaction",
        "maxsim": "late_interaction",
    },
)
