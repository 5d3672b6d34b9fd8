"""Rerankers: one verb, ``rerank(query, hits) -> hits``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.rerank.aggregate import ByDocument as ByDocument
    from situate.retrievers.rerank.by_page import ByPage as ByPage
    from situate.retrievers.rerank.cross_encoder import CrossEncoderReranker as CrossEncoderReranker
    from situate.retrievers.rerank.diffusion import DiffusionReranker as DiffusionReranker
    from situate.retrievers.rerank.duo import DuoReranker as DuoReranker
    from situate.retrievers.rerank.late_interaction import (
        LateInteractionReranker as LateInteractionReranker,
        StoredTokens as StoredTokens,
        maxsim as maxsim,
    )
    from situate.retrievers.rerank.links import LinkReranker as LinkReranker
    from situate.retrievers.rerank.llm import (
        ListwiseReranker as ListwiseReranker,
        PairwiseReranker as PairwiseReranker,
        PointwiseReranker as PointwiseReranker,
    )
    from situate.retrievers.rerank.mmr import Mmr as Mmr
    from situate.retrievers.rerank.optional import OptionalReranker as OptionalReranker
    from situate.retrievers.rerank.stages import Stage as Stage, Stages as Stages

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.retrievers.rerank.aggregate": ("ByDocument",),
        "situate.retrievers.rerank.by_page": ("ByPage",),
        "situate.retrievers.rerank.cross_encoder": ("CrossEncoderReranker",),
        "situate.retrievers.rerank.diffusion": ("DiffusionReranker",),
        "situate.retrievers.rerank.duo": ("DuoReranker",),
        "situate.retrievers.rerank.late_interaction": (
            "LateInteractionReranker",
            "StoredTokens",
            "maxsim",
        ),
        "situate.retrievers.rerank.llm": (
            "ListwiseReranker",
            "PairwiseReranker",
            "PointwiseReranker",
        ),
        "situate.retrievers.rerank.links": ("LinkReranker",),
        "situate.retrievers.rerank.mmr": ("Mmr",),
        "situate.retrievers.rerank.optional": ("OptionalReranker",),
        "situate.retrievers.rerank.stages": (
            "Stage",
            "Stages",
        ),
    },
)
