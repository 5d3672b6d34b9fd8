"""Reranking by a model that reads query and passage together.

Nogueira and Cho 2019, "Passage Re-ranking with BERT".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from situate.embedders.pairs.cross_encoder import DEFAULT_CROSS_ENCODER, CrossEncoderModel, PairScorer
from situate.errors import ModelError
from situate.retrievers.pipeline.concurrency import model_limit
from situate.retrievers.pipeline.steps import note
from situate.retrievers.rerank.ranking import distinct, has_text, passage, reranked
from situate.retrievers.types import Hit

if TYPE_CHECKING:
    from situate.embedders.pairs.cross_encoder import PairScores

#: Queries whose pairs a model in this process is given at once: enough for full batches.
AT_ONCE = 2


class CrossEncoderReranker:
    """Orders hits by a cross-encoder's scores.

    Scores are probabilities in [0, 1] unless the model was built otherwise, so that one threshold holds for every
    query. Hits that repeat a chunk are judged once; hits without text go last.

    Args:
        model: A model's folder or hub id, or a `PairScorer`: a `CrossEncoderModel` with settings of one's own, a
            `MonoT5Model`, a server.
        context: `Context` fields that are read in front of the passage.
        name: The step's name, under which the score is noted.
    """

    def __init__(
        self,
        model: str | PairScorer = DEFAULT_CROSS_ENCODER,
        *,
        context: Sequence[str] = (),
        name: str = "cross_encoder",
    ) -> None:
        self.scorer: PairScorer = CrossEncoderModel(model) if isinstance(model, str) else model
        self.context = tuple(context)
        self.name = name
        self._limit = model_limit(self.scorer, AT_ONCE)

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits, best first. An empty query orders nothing.

        Raises:
            ModelError: The model cannot be used, or gave another number of scores than there are pairs.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        hits, pairs = self._pairs(query, hits)
        return self._ranked(hits, pairs, self.scorer.score(pairs)) if pairs else hits

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank` without blocking the event loop; cancelling it takes back what has not run."""
        hits, pairs = self._pairs(query, hits)
        if not pairs:
            return hits
        async with self._limit.slot():
            return self._ranked(hits, pairs, await self.scorer.ascore(pairs))

    def _pairs(self, query: str, hits: Sequence[Hit]) -> tuple[list[Hit], list[tuple[str, str]]]:
        found = distinct(hits)
        if not query.strip():
            return found, []
        return found, [(query, passage(hit, self.context)) for hit in found if has_text(hit)]

    def _ranked(self, hits: list[Hit], pairs: list[tuple[str, str]], result: PairScores) -> list[Hit]:
        if len(result.scores) != len(pairs):
            raise ModelError(f"the reranker {self.name!r} gave {len(result.scores)} scores for {len(pairs)} pairs")
        note(
            pairs=len(pairs),
            windows=int(result.windows.sum()),
            tokens=result.tokens,
            lost_tokens=result.lost_tokens,
        )
        scores = iter(result.scores.tolist())
        return reranked(self.name, hits, [next(scores) if has_text(hit) else None for hit in hits])
