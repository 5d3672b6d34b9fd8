"""Fusion of several rankings into one, and feedback: a query's vector moved towards its first hits.

Hybrid search fuses the scores of its stages with `blend`; `rrf`, `minmax` and `dbsf` fuse rankings of hits that no
single Qdrant query can fuse, of several stores or of several queries.

**Ties** are broken in one way everywhere, so that the same input gives the same order: candidates of one collection by
point id (`best`), hits by document, place in it and chunk id (`in_order`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.retrievers.types import Hit
from situate.vectors import check_finite, direction

K = TypeVar("K", bound=Hashable)
#: The scores of one ranking, best first -> each hit's contribution.
Scale: TypeAlias = Callable[[Sequence[float]], Sequence[float]]
_ALIKE = 1e-12


def rrf(rankings: Sequence[Sequence[Hit]], *, weights: Sequence[float] | None = None, k: int = 60) -> list[Hit]:
    """Reciprocal rank fusion (Cormack et al. 2009): ``sum(weight / (k + rank))``, ranks from 1.

    Only places count, so rankings whose scores cannot be compared can be fused.

    Args:
        rankings: Each best first. A chunk that a ranking repeats counts at its first rank.
        weights: One per ranking; None for 1 each.
        k: Damps the lead of the first ranks; 60 in the paper.

    Returns:
        New hits, best first. ``scores`` of all rankings are kept.

    Raises:
        InputError: ``k`` or a weight is negative, or there is not one weight per ranking.
    """
    if k < 0:
        raise InputError(f"k={k} must be 0 or more")
    return _fused(rankings, weights, lambda scores: [1 / (k + 1 + place) for place in range(len(scores))])


def minmax(rankings: Sequence[Sequence[Hit]], *, weights: Sequence[float] | None = None) -> list[Hit]:
    """The weighted sum of the rankings' scores, each stretched to [0, 1] by `stretched`.

    Args:
        rankings: As in `rrf`.
        weights: One per ranking; None for 1 each.

    Raises:
        InputError: A weight is negative, or there is not one per ranking.
        NonFiniteVectorError: A score is NaN or infinite.
    """
    return _fused(rankings, weights, stretched)


def dbsf(rankings: Sequence[Sequence[Hit]], *, weights: Sequence[float] | None = None) -> list[Hit]:
    """Distribution-based score fusion, as in Qdrant: scores mapped so that mean - 3 sigma is 0 and mean + 3 sigma is 1.

    Sigma is that of a sample (n - 1). A ranking whose scores are all alike gives each of its hits 0.5, as in Qdrant.

    Args:
        rankings: As in `rrf`.
        weights: One per ranking; None for 1 each.

    Raises:
        InputError: A weight is negative, or there is not one per ranking.
        NonFiniteVectorError: A score is NaN or infinite.
    """

    def mapped(scores: Sequence[float]) -> Sequence[float]:
        values = np.array(scores, dtype=np.float64)
        sigma = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        if sigma < _ALIKE:
            return [0.5] * len(values)
        low = values.mean() - 3 * sigma
        out: list[float] = ((values - low) / (6 * sigma)).tolist()
        return out

    return _fused(rankings, weights, mapped)


def stretched(scores: Sequence[float]) -> list[float]:
    """Scores brought to [0, 1] by the least and the greatest of them (min-max); all alike give 1.

    Equal scores still count as found; a hit that a ranking lacks contributes 0.
    """
    least, greatest = min(scores), max(scores)
    span = greatest - least
    return [1.0] * len(scores) if span < _ALIKE else [(score - least) / span for score in scores]


def blend(
    stages: Sequence[Mapping[K, float]], weights: Sequence[float] | None = None, scale: Scale = stretched
) -> dict[K, float]:
    """The weighted sum of the stages' scores, each stage's scaled by itself; a point that a stage did not find gets 0
    from it.

    Args:
        stages: Per stage, its points and their scores, best first.
        weights: One per stage; None for their mean.
        scale: Maps the scores of one stage to a common scale.
    """
    total: dict[K, float] = {}
    shares = weights if weights is not None else [1 / len(stages)] * len(stages)
    for scores, share in zip(stages, shares, strict=True):
        if scores:
            for key, part in zip(scores, scale(list(scores.values())), strict=True):
                total[key] = total.get(key, 0.0) + share * part
    return total


def best(scores: Mapping[int, float], k: int) -> list[int]:
    """The ``k`` points with the highest scores; ties by the point's number."""
    return sorted(scores, key=lambda point: (-scores[point], point))[:k]


def in_order(hits: Sequence[Hit]) -> list[Hit]:
    """The hits, highest score first; ties by document, place in it and chunk id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.document_id, hit.chunk.index, hit.chunk.id))


def rocchio(
    query: Vectors,
    relevant: Vectors,
    irrelevant: Vectors | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.3,
    gamma: float = 0.15,
) -> Vectors:
    """``normalise(alpha * query + beta * mean(relevant) - gamma * mean(irrelevant))`` (Rocchio 1971).

    Pseudo-relevance feedback without a language model: the first hits show what the query means. On vectors of dense
    retrieval: Li et al. 2021, "Pseudo Relevance Feedback with Deep Language Models and Dense Retrievers".
    `PipelineConfig.feedback` applies it inside of an index.

    Args:
        query: float32 ``[dimension]``, L2-normalised.
        relevant: float32 ``[passages, dimension]``: the first hits; no rows leave them out.
        irrelevant: float32 ``[passages, dimension]``: those known to be wrong; None leaves them out.
        alpha: Weight of the query.
        beta: Weight of the relevant passages.
        gamma: Weight of the irrelevant ones.

    Returns:
        float32 ``[dimension]``, L2-normalised. The query itself where the sum has no direction.

    Raises:
        InputError: Shapes differ or a weight is negative.
        NonFiniteVectorError: A vector holds NaN or infinity.
    """
    if min(alpha, beta, gamma) < 0:
        raise InputError(f"alpha={alpha}, beta={beta} and gamma={gamma} must be 0 or more")
    moved = alpha * query.astype(np.float64)
    for vectors, weight in ((relevant, beta), (irrelevant, -gamma)):
        if vectors is None or not len(vectors):
            continue
        if vectors.ndim != 2 or vectors.shape[1:] != query.shape:
            raise InputError(f"passages of the shape {vectors.shape} for a query of the shape {query.shape}")
        moved = moved + weight * vectors.astype(np.float64).mean(0)
    check_finite(moved, "a vector for feedback holds")
    return direction(moved, query)


def _joined(known: Hit, again: Hit) -> Hit:
    """A hit of two rankings, with the greater of their relevances."""
    relevance = max((r for r in (known.relevance, again.relevance) if r is not None), default=None)
    scores, matched = {**again.scores, **known.scores}, {**again.matched, **known.matched}
    return replace(known, scores=scores, relevance=relevance, matched=matched)


def _fused(rankings: Sequence[Sequence[Hit]], weights: Sequence[float] | None, scale: Scale) -> list[Hit]:
    shares = [1.0] * len(rankings) if weights is None else list(weights)
    if len(shares) != len(rankings):
        raise InputError(f"{len(shares)} weights for {len(rankings)} rankings: one each")
    if not all(math.isfinite(weight) and weight >= 0 for weight in shares):
        raise InputError(f"the weights {shares} must be 0 or more")
    found: dict[str, Hit] = {}
    stages: list[dict[str, float]] = []
    for ranking in rankings:
        scores: dict[str, float] = {}
        for hit in ranking:
            name = hit.chunk.id
            if name in scores:
                continue
            scores[name] = hit.score
            known = found.get(name)
            found[name] = hit if known is None else _joined(known, hit)
        check_finite(list(scores.values()), "a ranking holds a score that is")
        stages.append(scores)
    # fsum: the sum must not depend on the order in which the rankings are given.
    parts = [blend([scores], [share], scale) for scores, share in zip(stages, shares, strict=True)]
    totals = {name: math.fsum(part[name] for part in parts if name in part) for name in found}
    return in_order([hit.rescored("fused", totals[name]) for name, hit in found.items()])
