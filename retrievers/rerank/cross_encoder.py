"""Reranking by a model that reads query and passage together.

Nogueira and Cho 2019, "Passage Re-ranking with BERT".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from situate.embedders.pairs.cross_encoder import DEFAULT_CROSS_ENCODER, CrossEncoderModel, PairScorer
from situate.errors import ModelError
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.concurrency import model_limit
from situate.retrievers.pipeline.steps import note
from situate.retrievers.rerank.ranking import ModelReranker, RerankSettings
from situate.retrievers.types import Hit

if TYPE_CHECKING:
    from situate.embedders.pairs.cross_encoder import PairScores

#: Queries whose pairs a model in this process is given at once: enough for full batches.
AT_ONCE = 2


@checked_parameters
class CrossEncoderReranker(ModelReranker):
    """Orders hits by a cross-encoder's scores.

    Scores are probabilities in [0, 1] unless the model was built otherwise, so that one threshold holds for every
    query. Hits that repeat a chunk are judged once; hits without text go last.

    Args:
        model: A model's folder or hub id, or a `PairScorer`: a `CrossEncoderModel` with settings of one's own, a
            `MonoT5Model`, a server.
        context: `Context` fields that are read in front of the passage.
        prior: Share of the score that the hits came with, in [0, 1]; then a score says only which hit is better.
        top: Only the first so many hits are judged; None for all.
        name: The step's name, under which the score is noted.

    Raises:
        InputError: ``prior`` is not in [0, 1], or ``top`` is less than 1.
    """

    def __init__(
        self,
        model: str | PairScorer = DEFAULT_CROSS_ENCODER,
        *,
        context: Sequence[str] = (),
        prior: float = 0.0,
        top: int | None = None,
        name: str = "cross_encoder",
    ) -> None:
        self.settings = RerankSettings(name, tuple(context), prior, top)
        self.scorer: PairScorer = CrossEncoderModel(model) if isinstance(model, str) else model
        self.name = name
        self._limit = model_limit(self.scorer, AT_ONCE)

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits, best first. An empty query orders nothing.

        Raises:
            ModelError: The model cannot be used, or gave another number of scores than there are pairs.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        found, judged = self.settings.judged(query, hits)
        return self._ranked(found, judged, self.scorer.score(self._pairs(query, judged))) if judged else found

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank` without blocking the event loop; cancelling it withdraws the pairs that have not run."""
        found, judged = self.settings.judged(query, hits)
        if not judged:
            return found
        async with self._limit.slot():
            return self._ranked(found, judged, await self.scorer.ascore(self._pairs(query, judged)))

    def _pairs(self, query: str, judged: Sequence[Hit]) -> list[tuple[str, str]]:
        return [(query, passage) for passage in self.settings.passages(judged)]

    def _ranked(self, hits: list[Hit], judged: list[Hit], result: PairScores) -> list[Hit]:
        if len(result.scores) != len(judged):
            raise ModelError(f"the reranker {self.name!r} gave {len(result.scores)} scores for {len(judged)} pairs")
        note(
            pairs=len(judged),
            windows=int(result.windows.sum()),
            tokens=result.tokens,
            lost_tokens=result.lost_tokens,
        )
        scores = result.scores.tolist()
        probabilities = getattr(self.scorer, "output", None) == "probability"
        return self.settings.ranked(hits, judged, scores, scores if probabilities else None)
