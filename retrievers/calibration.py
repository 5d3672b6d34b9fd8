"""When to return nothing: a score threshold from a few labelled queries, with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from situate.errors import InputError

Goal: TypeAlias = Literal["f1", "precision", "recall"]


@dataclass(frozen=True)
class Labelled:
    """A scored hit (or the best hit of a query), labelled by whether it answers.

    Attributes:
        score: The final score, of the same pipeline that the threshold is for.
        relevant: Whether it answers.
        query: The query that it is a hit of. The bootstrap draws whole queries, because the hits of one are not
            independent.
    """

    score: float
    relevant: bool
    query: str = ""


@dataclass(frozen=True)
class Calibration:
    """A threshold and its effect on the labelled data.

    Attributes:
        threshold: Keep hits that score this or more.
        interval: The threshold's bootstrap confidence interval (percentiles). Wide: label more queries.
        precision: Share of kept hits that are relevant; 1 where none is kept.
        recall: Share of relevant hits that are kept.
        f1: Their harmonic mean.
        precision_interval: Bootstrap interval of the precision at this threshold.
        recall_interval: Bootstrap interval of the recall at this threshold.
        confidence: What the intervals cover, 0.95 say.
    """

    threshold: float
    interval: tuple[float, float]
    precision: float
    recall: float
    f1: float
    precision_interval: tuple[float, float]
    recall_interval: tuple[float, float]
    confidence: float


def calibrate(
    labelled: Sequence[Labelled],
    *,
    goal: Goal = "f1",
    at_least: float | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Calibration:
    """The threshold that serves ``goal`` best on labelled hits, with bootstrap confidence intervals (Efron 1979).

    Candidates are the midpoints between neighbouring scores, so that the threshold does not equal a score of the data.
    Ties go to the lower threshold, which keeps more.

    Args:
        labelled: Scored hits; both kinds are needed.
        goal: "f1"; "precision": the lowest threshold with precision ``at_least``; "recall": the highest with recall
            ``at_least``.
        at_least: What precision or recall must reach, in (0, 1].
        resamples: Bootstrap samples.
        confidence: What the intervals cover.
        seed: Of the bootstrap: the same data give the same intervals.

    Raises:
        InputError: Only one kind is labelled, a score is not finite, an argument makes no sense, or no threshold
            reaches ``at_least``.
    """
    if goal not in ("f1", "precision", "recall"):
        raise InputError(f"goal={goal!r} is not one of 'f1', 'precision', 'recall'")
    if (goal == "f1") != (at_least is None):
        raise InputError('at_least belongs to the goals "precision" and "recall", which need it, and not to "f1"')
    if at_least is not None and not 0 < at_least <= 1:
        raise InputError(f"at_least={at_least} must be more than 0 and at most 1")
    if resamples < 1 or not 0 < confidence < 1:
        raise InputError(f"resamples={resamples} must be 1 or more, and confidence={confidence} between 0 and 1")
    scores = np.array([hit.score for hit in labelled], dtype=np.float64)
    relevant = np.array([hit.relevant for hit in labelled], dtype=bool)
    if not np.isfinite(scores).all():
        raise InputError("a labelled score is NaN or infinite: leave hits out that no reranker could judge")
    if not relevant.any() or relevant.all():
        raise InputError(
            f"{int(relevant.sum())} of {len(labelled)} labelled hits are relevant: a threshold needs both kinds"
        )
    threshold = _threshold(scores, relevant, goal, at_least)
    if threshold is None:
        raise InputError(f"no threshold reaches a {goal} of {at_least} on {len(labelled)} hits: ask for less")
    precision, recall = _measures(scores, relevant, threshold)

    # a hit without a query counts as a query of its own
    names = np.unique([hit.query or f"\0{i}" for i, hit in enumerate(labelled)], return_inverse=True)[1]
    members = [np.flatnonzero(names == i) for i in range(names.max() + 1)]
    rng = np.random.default_rng(seed)
    thresholds: list[float] = []
    precisions: list[float] = []
    recalls: list[float] = []
    for _ in range(resamples):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if not relevant[rows].any() or relevant[rows].all():
            continue
        drawn = _threshold(scores[rows], relevant[rows], goal, at_least)
        if drawn is not None:
            thresholds.append(drawn)
        p, r = _measures(scores[rows], relevant[rows], threshold)
        precisions.append(p)
        recalls.append(r)

    def interval(values: list[float], around: float) -> tuple[float, float]:
        if not values:
            return (around, around)
        low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    return Calibration(
        threshold=threshold,
        interval=interval(thresholds, threshold),
        precision=precision,
        recall=recall,
        f1=_f1(precision, recall),
        precision_interval=interval(precisions, precision),
        recall_interval=interval(recalls, recall),
        confidence=confidence,
    )


def _threshold(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_], goal: Goal, at_least: float | None
) -> float | None:
    """The best threshold; None if none reaches ``at_least``."""
    order = np.argsort(-scores, kind="stable")
    values = scores[order]
    kept = np.arange(1, len(values) + 1)
    right = np.cumsum(relevant[order])
    # a threshold keeps all hits of one score or none of them
    last = np.append(values[:-1] != values[1:], True)
    values, kept, right = values[last], kept[last], right[last]
    precision, recall = right / kept, right / right[-1]
    if goal == "f1":
        value = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = int(np.flatnonzero(value >= value.max() - 1e-12)[-1])
    else:
        enough = np.flatnonzero((precision if goal == "precision" else recall) >= (at_least or 0) - 1e-12)
        if not len(enough):
            return None
        best = int(enough[-1] if goal == "precision" else enough[0])
    below = values[best + 1] if best + 1 < len(values) else math.nan
    return float(values[best]) if math.isnan(below) else float((values[best] + below) / 2)


def _measures(scores: NDArray[np.float64], relevant: NDArray[np.bool_], threshold: float) -> tuple[float, float]:
    kept = scores >= threshold
    right = float((kept & relevant).sum())
    return right / kept.sum() if kept.any() else 1.0, right / relevant.sum()


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
