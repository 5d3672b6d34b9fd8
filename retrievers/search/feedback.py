"""Pseudo-relevance feedback without a language model: the first hits say what the query meant (Rocchio 1971)."""

from __future__ import annotations

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.vectors import check_finite, direction


def rocchio(
    query: Vectors,
    relevant: Vectors,
    irrelevant: Vectors | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.3,
    gamma: float = 0.15,
) -> Vectors:
    """``normalise(alpha * query + beta * mean(relevant) - gamma * mean(irrelevant))``.

    As vector feedback for dense retrieval: Li et al. 2021, "Pseudo Relevance Feedback with Deep Language Models and
    Dense Retrievers". `PipelineConfig.feedback` does it inside of an index.

    Args:
        query: float32 ``[dimension]``, L2-normalised.
        relevant: float32 ``[passages, dimension]``: those found first; none leaves them out.
        irrelevant: float32 ``[passages, dimension]``: those known to be wrong; None leaves them out.
        alpha: Weight of the query.
        beta: Weight of what is relevant.
        gamma: Weight of what is not.

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
