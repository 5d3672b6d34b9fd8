"""Scores spread among passages that are alike.

Diaz 2005, "Regularizing Ad Hoc Retrieval Scores"; Zhou et al. 2003, "Ranking on Data Manifolds". HybRank (Zhang et al.
2023, "Hybrid and Collaborative Passage Reranking") trains a model on the same likenesses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.concurrency import model_limit
from situate.retrievers.pipeline.steps import note
from situate.retrievers.rerank.mmr import DenseEmbedder
from situate.retrievers.rerank.ranking import ModelReranker, RerankSettings
from situate.retrievers.search.fusion import stretched
from situate.retrievers.types import Hit
from situate.vectors import check_finite


@checked_parameters
class DiffusionReranker(ModelReranker):
    """Orders hits by their scores and those of the hits that are most like them. Nothing is trained.

    A hit whose nearest neighbours among the hits score high rises, an isolated one falls. The scores, stretched to
    [0, 1], are those at which each is ``1 - share`` times its own earlier score plus ``share`` times the mean of its
    neighbours', each times its cosine. They compare the hits of one query.

    Args:
        embedder: Its cosines measure likeness.
        share: Share of the neighbours, in [0, 1).
        neighbours: How many of the nearest hits count.
        context: `Context` fields that are read in front of the passage.
        top: Only the first so many hits take part; None for all.
        name: The step's name, under which the score is noted.

    Raises:
        InputError: ``share`` is not in [0, 1), or ``neighbours`` or ``top`` is less than 1.
    """

    def __init__(
        self,
        embedder: DenseEmbedder,
        *,
        share: float = 0.3,
        neighbours: int = 3,
        context: Sequence[str] = (),
        top: int | None = None,
        name: str = "diffusion",
    ) -> None:
        if not 0 <= share < 1:
            raise InputError(f"share={share} must be 0 or more and less than 1")
        if neighbours < 1:
            raise InputError(f"neighbours={neighbours} must be 1 or more")
        self.settings = RerankSettings(name, tuple(context), top=top)
        self.embedder = embedder
        self.share = share
        self.neighbours = neighbours
        self.name = name
        self._limit = model_limit(embedder, 1)

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits, best first. The query is not read: the hits' scores stand for it.

        Raises:
            NonFiniteVectorError: A vector or a score holds NaN or infinity.
        """
        found, judged = self.settings.judged(query, hits)
        if not judged:
            return found
        return self._ranked(found, judged, self.embedder.embed_documents(self.settings.passages(judged)))

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank` without blocking the event loop."""
        found, judged = self.settings.judged(query, hits)
        if not judged:
            return found
        async with self._limit.slot():
            vectors = await self.embedder.aembed_documents(self.settings.passages(judged))
            return await self._limit.in_thread(lambda: self._ranked(found, judged, vectors))

    def _ranked(self, hits: list[Hit], judged: list[Hit], vectors: Vectors) -> list[Hit]:
        note(passages=len(judged))
        scores = np.array(stretched([hit.score for hit in judged]))
        return self.settings.ranked(hits, judged, diffused(scores, vectors, self.share, self.neighbours).tolist())


def diffused(scores: NDArray[np.float64], vectors: Vectors, share: float, neighbours: int) -> NDArray[np.float64]:
    """The solution of ``x = (1 - share) * scores + share * W x``.

    A row of ``W`` holds the cosines with the row's nearest neighbours, divided by how many they are: a passage that is
    like no other gets little of their scores. Negative cosines count as 0.

    Args:
        scores: float64 ``[passages]``.
        vectors: float32 ``[passages, dimension]``, L2-normalised.
        share: Less than 1.
        neighbours: How many in each row.

    Returns:
        float64 ``[passages]``.

    Raises:
        NonFiniteVectorError: A vector or a score holds NaN or infinity.
    """
    check_finite(vectors, "a passage's vector holds")
    check_finite(scores, "a score is")
    alike = np.maximum(vectors @ vectors.T, 0).astype(np.float64)
    np.fill_diagonal(alike, 0)
    kept = min(neighbours, len(scores) - 1)
    farther = np.argsort(-alike, axis=1, kind="stable")[:, kept:]
    np.put_along_axis(alike, farther, 0, axis=1)
    weights = alike / max(1, kept)
    solution: NDArray[np.float64] = np.linalg.solve(np.eye(len(scores)) - share * weights, (1 - share) * scores)
    return solution
