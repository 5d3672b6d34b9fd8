"""Reranking by a model that reads query and passage together.

Nogueira and Cho 2019, "Passage Re-ranking with BERT". Sentence by sentence: Akkalyoncu Yilmaz et al. 2019,
"Applying BERT to Document Retrieval with Birch".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from situate.chunkers.statements import statement_spans
from situate.embedders.pairs.cross_encoder import DEFAULT_CROSS_ENCODER, CrossEncoderModel, PairScorer
from situate.errors import InputError, ModelError
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
    query. Hits that repeat a chunk are judged once; hits without text go last. A model that knows how sure its scores
    are (`QueryLikelihoodModel`) has that noted under the step's name and ":spread".

    Args:
        model: A model's folder or hub id, or a `PairScorer`: a `CrossEncoderModel` with settings of one's own, a
            `MonoT5Model`, a `QueryLikelihoodModel`, a server.
        context: `Context` fields that are read in front of the passage.
        prior: Share of the score that the hits came with, in [0, 1]; then a score says only which hit is better.
        sentences: Judge a passage's sentences one by one; its score is the mean of its best so many. For models that
            were trained on single sentences, and passages of which one sentence answers. None: the passage as a whole.
        top: Only the first so many hits are judged; None for all.
        name: The step's name, under which the score is noted.

    Raises:
        InputError: ``prior`` is not in [0, 1], or ``sentences`` or ``top`` is less than 1.
    """

    def __init__(
        self,
        model: str | PairScorer = DEFAULT_CROSS_ENCODER,
        *,
        context: Sequence[str] = (),
        prior: float = 0.0,
        sentences: int | None = None,
        top: int | None = None,
        name: str = "cross_encoder",
    ) -> None:
        if sentences is not None and sentences < 1:
            raise InputError(f"sentences={sentences} must be 1 or more, or None for the passage as a whole")
        self.settings = RerankSettings(name, tuple(context), prior, top)
        self.scorer: PairScorer = CrossEncoderModel(model) if isinstance(model, str) else model
        self.sentences = sentences
        self.name = name
        self._limit = model_limit(self.scorer, AT_ONCE)

    def instructed(self, instruction: str) -> CrossEncoderReranker:
        """The same reranker for a query with this task, where its model takes one (Qwen3-Reranker, say)."""
        if not isinstance(self.scorer, CrossEncoderModel):
            return self
        again = copy.copy(self)
        again.scorer = self.scorer.instructed(instruction)
        return again

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits, best first. An empty query orders nothing.

        Raises:
            ModelError: The model cannot be used, or gave another number of scores than there are pairs.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        found, judged = self.settings.judged(query, hits)
        if not judged:
            return found
        read = self._read(judged)
        return self._ranked(found, judged, read, self.scorer.score(_pairs(query, read)))

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank` without blocking the event loop; cancelling it withdraws the pairs that have not run."""
        found, judged = self.settings.judged(query, hits)
        if not judged:
            return found
        read = self._read(judged)
        async with self._limit.slot():
            return self._ranked(found, judged, read, await self.scorer.ascore(_pairs(query, read)))

    def _read(self, judged: Sequence[Hit]) -> list[list[str]]:
        """Per hit the texts that are scored: the passage, or its sentences."""
        if self.sentences is None:
            return [[passage] for passage in self.settings.passages(judged)]
        texts = [[hit.chunk.text[slice(*span)] for span in statement_spans(hit.chunk.text)] for hit in judged]
        before = [hit.chunk.context.render(self.settings.context) if self.settings.context else "" for hit in judged]
        return [
            [f"{context}\n{text}" if context else text for text in own or [hit.chunk.text]]
            for hit, context, own in zip(judged, before, texts, strict=True)
        ]

    def _ranked(self, hits: list[Hit], judged: list[Hit], read: list[list[str]], result: PairScores) -> list[Hit]:
        pairs = sum(map(len, read))
        if len(result.scores) != pairs:
            raise ModelError(f"the reranker {self.name!r} gave {len(result.scores)} scores for {pairs} pairs")
        note(pairs=pairs, windows=int(result.windows.sum()), tokens=result.tokens, lost_tokens=result.lost_tokens)
        each = iter(result.scores.tolist())
        scores = [_mean_of_best([next(each) for _ in texts], self.sentences or 1) for texts in read]
        probabilities = getattr(self.scorer, "output", None) == "probability"
        if result.spread is not None and self.sentences is None:
            judged = [
                replace(hit, scores={**hit.scores, f"{self.name}:spread": float(spread)})
                for hit, spread in zip(judged, result.spread, strict=True)
            ]
        return self.settings.ranked(hits, judged, scores, scores if probabilities else None)


def _pairs(query: str, read: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    return [(query, text) for texts in read for text in texts]


def _mean_of_best(scores: list[float], count: int) -> float:
    best = sorted(scores, reverse=True)[:count]
    return sum(best) / len(best)
