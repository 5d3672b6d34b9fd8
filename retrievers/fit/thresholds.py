"""The relevance below which a hit does not answer, of questions with and without an answer in the collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from situate.retrievers.calibration import Labelled, calibrate
from situate.retrievers.config import PipelineConfig
from situate.retrievers.evaluation.comparison import Interval
from situate.retrievers.fit.questions import Question
from situate.retrievers.search.hybrid import HybridSearch
from situate.types import Chunk

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.fit.corpus import Probe

#: What suits most collections (docs/thresholds.md), and what a fitted one has to beat.
USUAL = 0.5
#: Questions of each half that are asked, at most, and that have to have an answer.
_ASKED, _FEWEST = 150, 30


@dataclass(frozen=True)
class Threshold:
    """A relevance threshold, measured on the questions that were held back.

    Attributes:
        value: The threshold: ``Retriever(threshold=...)``.
        kept: The share of questions with an answer whose best hit is kept.
        refused: The share of questions without one whose best hit is left out.
        gained: How many more of both kinds are told right than by `USUAL`, each kind half, in [-1, 1].
    """

    value: float
    kept: float
    refused: float
    gained: Interval

    @property
    def used(self) -> bool:
        """Whether it is better than `USUAL` beyond chance."""
        return self.gained.low > 0


def fitted_threshold(
    probe: Probe, config: PipelineConfig, choosing: Sequence[int], judging: Sequence[int]
) -> Threshold | None:
    """The threshold that tells best hits that answer from those of questions that only other documents could answer.

    Each question is asked twice, once without the documents that answer it: its best hit then answers nothing.

    Args:
        probe: The index and its questions.
        config: How it is searched.
        choosing: The numbers of the questions that choose the threshold.
        judging: Of those that measure it.

    Returns:
        The threshold; None where there are too few questions.
    """
    chosen, judged = (best_hits(probe, config, numbers[:_ASKED]) for numbers in (choosing, judging))
    if (
        min(sum(each.relevant is kind for each in some) for some in (chosen, judged) for kind in (True, False))
        < _FEWEST
    ):
        return None
    value = calibrate(chosen, resamples=1).threshold
    scores, answers = np.array([each.score for each in judged]), np.array([each.relevant for each in judged])
    right, usual = ((scores >= threshold) == answers for threshold in (value, USUAL))
    balance = np.where(answers, 0.5 / answers.mean(), 0.5 / (1 - answers.mean()))
    gained = Interval.of(balance * (right.astype(np.float64) - usual))
    return Threshold(value, float(right[answers].mean()), float(right[~answers].mean()), gained)


def best_hits(probe: Probe, config: PipelineConfig, numbers: Sequence[int]) -> list[Labelled]:
    """The relevance of each question's best hit, where it answers, and of its best hit in the other documents."""
    search = HybridSearch(probe.index.gateway, config, probe.index.background, probe.index.geometry)
    found: list[Labelled] = []
    for number in numbers:
        question, vectors = probe.questions[number], probe.vectors[number]
        best = next(iter(search.search(vectors, 1)), None)
        if best is not None and best.relevance is not None and _answers(question, best.chunk):
            found.append(Labelled(best.relevance, True, str(number)))
        other = next(iter(search.search(vectors, 1, _elsewhere(question))), None)
        if other is not None and other.relevance is not None:
            found.append(Labelled(other.relevance, False, str(number)))
    return found


def _answers(question: Question, chunk: Chunk) -> bool:
    if chunk.document_id != question.document_id:
        return chunk.document_id in question.others
    return not question.spans or any(chunk.start < end and start < chunk.end for start, end in question.spans)


def _elsewhere(question: Question) -> models.Filter:
    """The documents that do not answer."""
    from qdrant_client import models

    ids = models.MatchAny(any=[question.document_id, *sorted(question.others)])
    return models.Filter(must_not=[models.FieldCondition(key="document_id", match=ids)])
