"""What embedding servers answer, made arrays and checked."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import ServerError
from situate.vectors import check_finite


def decoded(embedding: Any) -> Any:
    """A vector, whether it came as numbers or as base64 of little-endian float32."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    return embedding


def as_matrix(rows: Any) -> Vectors:
    """float32 ``[rows, dimension]``; a ValueError where the rows are no numbers or of unequal length."""
    matrix = np.asarray(rows, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"expected rows of numbers, got an array of shape {matrix.shape}")
    return matrix


def checked(matrix: Vectors, known: int | None, url: str) -> int:
    """The vectors' length, which has to stay what it was."""
    check_finite(matrix, f"{url} answered")
    if known is not None and matrix.shape[1] != known:
        raise ServerError(f"{url} answered vectors of {matrix.shape[1]} numbers, before they had {known}")
    return int(matrix.shape[1])


def nonsense(url: str, path: str, error: Exception) -> ServerError:
    """The error for an answer that is not of the interface's form."""
    return ServerError(
        f"{url}/{path} answered in a form that is not its interface's ({type(error).__name__}: {error}): is this "
        "the right kind of server?"
    )
