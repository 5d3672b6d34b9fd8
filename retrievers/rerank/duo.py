"""Every two of the top few passages compared by a model that reads both.

Pradeep et al. 2021, "The Expando-Mono-Duo Design Pattern for Text Ranking with Pretrained Sequence-to-Sequence Models".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

from situate.embedders.pairs.t5 import Duel, DuelScorer, DuoT5Model
from situate.errors import InputError, ModelError
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.concurrency import model_limit
from situate.retrievers.pipeline.steps import note
from situate.retrievers.rerank.ranking import ModelReranker, RerankSettings
from situate.retrievers.types import Hit

if TYPE_CHECKING:
    from situate.embedders.pairs.cross_encoder import PairScores


@checked_parameters
class DuoReranker(ModelReranker):
    """Orders the top few hits by how often, and how surely, each wins against the others (duoT5).

    With ``p(i, j)`` the probability that passage i is better than passage j, a hit's score is the mean over the others
    of ``p(i, j)`` and ``1 - p(j, i)`` (the paper's SYM-SUM, brought to [0, 1]). It compares passages and does not tell
    how good one is: do not put a threshold on it. The number of comparisons grows with the square of ``top``, so this
    is the last stage. Hits beyond ``top`` and hits without text follow in their order.

    Args:
        model: A duoT5's folder or hub id, or a `DuelScorer`.
        top: Only the first so many hits are compared: ``top * (top - 1)`` comparisons.
        context: `Context` fields that are read in front of the passage.
        prior: Share of the score that the hits came with, in [0, 1].
        name: The step's name, under which the score is noted.

    Raises:
        InputError: ``top`` is less than 2, or ``prior`` is not in [0, 1].
    """

    def __init__(
        self,
        model: str | DuelScorer = "castorini/duot5-base-msmarco",
        *,
        top: int = 8,
        context: Sequence[str] = (),
        prior: float = 0.0,
        name: str = "duo",
    ) -> None:
        if top < 2:
            raise InputError(f"top={top}: it takes two to compare")
        self.settings = RerankSettings(name, tuple(context), prior, top)
        self.scorer: DuelScorer = DuoT5Model(model) if isinstance(model, str) else model
        self.name = name
        self._limit = model_limit(self.scorer, 1)

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits, best first. An empty query orders nothing.

        Raises:
            ModelError: The model cannot be used, or gave another number of scores than there are comparisons.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        found, judged, duels = self._duels(query, hits)
        return self._ranked(found, judged, self.scorer.compare(duels)) if duels else found

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank` without blocking the event loop."""
        found, judged, duels = self._duels(query, hits)
        if not duels:
            return found
        async with self._limit.slot():
            return self._ranked(found, judged, await self.scorer.acompare(duels))

    def _duels(self, query: str, hits: Sequence[Hit]) -> tuple[list[Hit], list[Hit], list[Duel]]:
        found, judged = self.settings.judged(query, hits)
        return found, judged, [(query, a, b) for a, b in permutations(self.settings.passages(judged), 2)]

    def _ranked(self, hits: list[Hit], judged: list[Hit], result: PairScores) -> list[Hit]:
        count = len(judged)
        if len(result.scores) != count * (count - 1):
            raise ModelError(
                f"the reranker {self.name!r} gave {len(result.scores)} scores for {count * (count - 1)} comparisons"
            )
        note(comparisons=len(result.scores), tokens=result.tokens, lost_tokens=result.lost_tokens)
        won = [0.0] * count
        for (i, j), p in zip(permutations(range(count), 2), result.scores.tolist(), strict=True):
            won[i] += p
            won[j] += 1 - p
        return self.settings.ranked(hits, judged, [wins / (2 * (count - 1)) for wins in won])
