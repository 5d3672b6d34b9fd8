"""Vectors: unit length, mean direction, finiteness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from situate.errors import InputError, NonFiniteVectorError

Vectors: TypeAlias = NDArray[np.float32]

#: Norms below this are rounding errors: such a sum of vectors has no direction.
_NO_DIRECTION = 1e-9


def unit(vectors: Vectors) -> Vectors:
    """Vectors with L2 norm 1 along the last axis; a zero vector, which has no direction, stays zero.

    Args:
        vectors: float32 ``[..., dimension]``.

    Returns:
        float32 of the same shape.
    """
    # The norm of one vector is a dot product, the norms of rows are pairwise sums: the last bits differ, and stored
    # vectors depend on them.
    norms = np.linalg.norm(vectors, axis=None if vectors.ndim == 1 else -1, keepdims=True).astype(np.float32)
    found: Vectors = (vectors / np.maximum(norms, np.float32(1e-12))).astype(np.float32, copy=False)
    return found


def direction(vector: NDArray[np.floating[Any]], otherwise: Vectors) -> Vectors:
    """``vector`` with L2 norm 1, or ``otherwise`` where it has no direction.

    Args:
        vector: float64 ``[dimension]``, a sum of vectors that may cancel each other out.
        otherwise: float32 ``[dimension]``.
    """
    norm = float(np.linalg.norm(vector))
    return otherwise if norm < _NO_DIRECTION else (vector / norm).astype(np.float32)


def mean_direction(vectors: Vectors, weights: Sequence[float]) -> Vectors:
    """The weighted mean of ``vectors`` with L2 norm 1, summed in float64.

    Vectors that cancel each other out have no mean direction: the first one, normalised, stands for them.

    Args:
        vectors: float32 ``[vectors, dimension]``.
        weights: One per row, not negative, not all 0.

    Returns:
        float32 ``[dimension]``.

    Raises:
        InputError: The number of weights is not that of the rows, or a weight is negative, or all are 0.
        NonFiniteVectorError: A vector holds NaN or infinity.
    """
    shares = np.asarray(weights, dtype=np.float64)
    if vectors.ndim != 2 or shares.shape != (len(vectors),):
        raise InputError(f"{shares.size} weight(s) for vectors of the shape {vectors.shape}: one weight per row")
    if not len(shares) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.any():
        raise InputError(f"the weights {list(weights)} must be 0 or more, and one of them more than 0")
    check_finite(vectors, "a vector of the mean holds")
    mean = (shares[:, None] * vectors.astype(np.float64)).sum(0) / shares.sum()
    return direction(mean, unit(vectors[0]))


def one_vector(values: ArrayLike, subject: str) -> Vectors:
    """A vector that a caller gives, as float32 ``[dimension]``.

    Args:
        values: Numbers.
        subject: What they are, for messages: "the query's embedding".

    Raises:
        InputError: They are no list of numbers.
        NonFiniteVectorError: One is NaN, infinite, or too large for float32.
    """
    try:
        with np.errstate(over="ignore"):
            vector = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{subject} is no list of numbers ({error})") from None
    if vector.ndim != 1:
        raise InputError(f"{subject} has the shape {vector.shape}: one list of numbers is needed")
    check_finite(vector, f"{subject} holds")
    return vector


def check_finite(values: ArrayLike, subject: str) -> None:
    """Raise where a number is NaN or infinite.

    Args:
        values: Numbers of any shape.
        subject: What holds them, with its verb: "model 'x' computed".

    Raises:
        NonFiniteVectorError: The message begins with ``subject`` and names the first such row.
    """
    finite = np.isfinite(values)
    if finite.all():
        return
    row = f" in row {int(np.argwhere(~finite)[0][0])}" if finite.ndim > 1 else ""
    raise NonFiniteVectorError(
        f"{subject} NaN or infinity{row}: the model's weights or its server are damaged, or the number format is too "
        "small for it (float16 overflows in some models; try dtype='float32')"
    )
