"""Which spans of a text cover what is asked for: greedy matching of token vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.vectors import check_finite


def best_matches(targets: Vectors, spans: Sequence[Vectors]) -> Vectors:
    """Per span and target token, the largest cosine with one of the span's tokens.

    Args:
        targets: float32 ``[targets, dimension]``, rows L2-normalised.
        spans: float32 ``[tokens, dimension]`` each, likewise; a span without tokens matches with -1.

    Returns:
        float32 ``[spans, targets]``.

    Raises:
        InputError: Dimensions differ.
        NonFiniteVectorError: A vector holds NaN or infinity.
    """
    found: Vectors = np.full((len(spans), len(targets)), -1.0, dtype=np.float32)
    filled = [i for i, tokens in enumerate(spans) if len(tokens)]
    if not filled or not len(targets):
        return found
    if any(spans[i].shape[1] != targets.shape[1] for i in filled):
        raise InputError(
            f"token vectors of {targets.shape[1]} numbers are compared with such of "
            f"{sorted({spans[i].shape[1] for i in filled})}: they come from different models"
        )
    starts = np.cumsum([0, *(len(spans[i]) for i in filled[:-1])])
    found[filled] = np.maximum.reduceat(np.concatenate([spans[i] for i in filled]) @ targets.T, starts, axis=0)
    check_finite(found, "a product of token vectors is")
    return found


def covering(matches: Vectors, at_most: int, gain: float) -> list[int]:
    """The spans that together match the targets best, chosen greedily.

    The first is the one with the largest mean over the targets (MaxSim); each further one raises the mean of the best
    matches so far by the most, and by ``gain`` at least.

    Args:
        matches: float32 ``[spans, targets]``, of `best_matches`.
        at_most: How many spans, at most.
        gain: What a further span must add to the mean.

    Returns:
        Rows of ``matches``, in the order of the choice; ties go to the earlier one.
    """
    chosen: list[int] = []
    if not matches.size:
        return chosen
    covered = np.full(matches.shape[1], -np.inf, dtype=np.float32)
    while len(chosen) < at_most:
        means = np.maximum(matches, covered).mean(axis=1)
        best = int(np.argmax(means))
        if chosen and means[best] - covered.mean() < gain:
            break
        chosen.append(best)
        covered = np.maximum(covered, matches[best])
    return chosen
