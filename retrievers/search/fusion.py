"""Several rankings made one, for results that no single Qdrant query can fuse: of several stores, of several queries.

Where all of it lies in one collection, let Qdrant fuse (`PipelineConfig.fusion`): it is one request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from situate.errors import InputError
from situate.retrievers.types import Hit
from situate.vectors import check_finite

Scores: TypeAlias = NDArray[np.float64]


def rrf(rankings: Sequence[Sequence[Hit]], *, weights: Sequence[float] | None = None, k: int = 60) -> list[Hit]:
    """Reciprocal rank fusion (Cormack et al. 2009): ``sum(weight / (k + rank))``, ranks from 1.

    Only places count, so rankings whose scores cannot be compared can be fused.

    Args:
        rankings: Each best first. A chunk that a ranking repeats counts where it stands first.
        weights: One per ranking; None for 1 each.
        k: How little the first places stand out; 60 in the paper.

    Returns:
        New hits, best first; ties by document and place in it. ``scores`` of all rankings are kept.

    Raises:
        InputError: ``k`` or a weight makes no sense.
    """
    if k < 0:
        raise InputError(f"k={k} must be 0 or more")
    return _fused(rankings, weights, lambda scores: 1 / (k + 1 + np.arange(len(scores), dtype=np.float64)))


def relative_score(rankings: Sequence[Sequence[Hit]], *, weights: Sequence[float] | None = None) -> list[Hit]:
    """The weighted sum of scores, stretched to [0, 1] in each ranking by its lowest and highest.

    A ranking whose scores are all alike gives each of its hits 0.5.

    Args:
        rankings: As in `rrf`.
        weights: One per ranking; None for 1 each.

    Raises:
        InputError: A weight makes no sense.
        NonFiniteVectorError: A score is NaN or infinite.
    """

    def stretched(scores: Scores) -> Scores:
        low, high = scores.min(), scores.max()
        return np.full(len(scores), 0.5) if high - low < 1e-12 else (scores - low) / (high - low)

    return _fused(rankings, weights, stretched)


def dbsf(rankings: Sequence[Sequence[Hit]], *, weights: Sequence[float] | None = None) -> list[Hit]:
    """Distribution-based score fusion, as in Qdrant: scores mapped so that mean - 3 sigma is 0 and mean + 3 sigma is 1.

    Sigma is that of a sample (n - 1). A ranking whose scores are all alike gives each of its hits 0.5.

    Args:
        rankings: As in `rrf`.
        weights: One per ranking; None for 1 each.

    Raises:
        InputError: A weight makes no sense.
        NonFiniteVectorError: A score is NaN or infinite.
    """

    def mapped(scores: Scores) -> Scores:
        sigma = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
        if sigma < 1e-12:
            return np.full(len(scores), 0.5)
        low = scores.mean() - 3 * sigma
        out: Scores = (scores - low) / (6 * sigma)
        return out

    return _fused(rankings, weights, mapped)


def _fused(
    rankings: Sequence[Sequence[Hit]], weights: Sequence[float] | None, share: Callable[[Scores], Scores]
) -> list[Hit]:
    shares = [1.0] * len(rankings) if weights is None else list(weights)
    if len(shares) != len(rankings):
        raise InputError(f"{len(shares)} weights for {len(rankings)} rankings: one each")
    if not all(math.isfinite(weight) and weight >= 0 for weight in shares):
        raise InputError(f"the weights {shares} must be 0 or more")
    totals: dict[str, list[float]] = {}
    chosen: dict[str, Hit] = {}
    for ranking, weight in zip(rankings, shares, strict=True):
        hits: dict[str, Hit] = {}
        for hit in ranking:
            hits.setdefault(hit.chunk.id, hit)
        if not hits:
            continue
        scores = np.array([hit.score for hit in hits.values()], dtype=np.float64)
        check_finite(scores, "a ranking holds a score that is")
        for (name, hit), part in zip(hits.items(), share(scores).tolist(), strict=True):
            totals.setdefault(name, []).append(weight * part)
            known = chosen.get(name)
            chosen[name] = hit if known is None else Hit(known.chunk, known.score, {**hit.scores, **known.scores})
    # fsum: the sum must not depend on the order in which the rankings came
    fused = [hit.rescored("fused", math.fsum(totals[name])) for name, hit in chosen.items()]
    return sorted(fused, key=lambda hit: (-hit.score, hit.chunk.document_id, hit.chunk.index, hit.chunk.id))
