"""Requests to an engine and its results: token ranges of sequences, and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from situate.embedders.text.tokenizer import Ids
from situate.embedders.types import Vectors

Reduction: TypeAlias = Literal["sum", "weighted", "max"]


@dataclass(frozen=True, slots=True)
class TokenRange:
    """Tokens ``[start, end)`` of one sequence; ``weight`` is that of the first in a weighted mean (then +1 each)."""

    sequence: int
    start: int
    end: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class PoolingRequest:
    """Sequences to run, and the token vectors of them that are pooled.

    Attributes:
        sequences: Token ids of each pass over the model.
        segments: int64 ``[segments, 4]``: sequence, first token, one past the last token, weight of the first.
        reduction: How a segment's token vectors are reduced: their sum, their sum weighted by position, their maximum.
        kept: int64 ``[kept, 3]``: sequence, first token, one past the last token, of token vectors to return.
    """

    sequences: Sequence[Ids]
    segments: NDArray[np.int64]
    reduction: Reduction
    kept: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PoolingResult:
    """The answer to a `PoolingRequest`.

    Attributes:
        reduced: float32 ``[segments, hidden]``.
        kept: Per row of ``PoolingRequest.kept``, float32 ``[tokens, hidden]``.
    """

    reduced: Vectors
    kept: list[Vectors]
