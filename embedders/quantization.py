"""Smaller output vectors: one byte per number, calibrated, or one bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.parameters import checked_parameters


@checked_parameters
@dataclass(frozen=True)
class Int8Quantizer:
    """One signed byte per number, by the range that each dimension had in a calibration sample.

    A quarter of the space; the order of hits hardly changes if the sample is like the corpus. Numbers outside the range
    are clipped, which is why `fit` leaves out the rarest ones: a single outlier would coarsen all others.

    Attributes:
        low: float32 ``[dimension]``: the value of -128.
        high: float32 ``[dimension]``: the value of 127.
    """

    low: Vectors
    high: Vectors

    @classmethod
    def fit(cls, sample: Vectors, quantile: float = 0.999) -> Int8Quantizer:
        """Calibrated on ``sample``.

        Args:
            sample: float32 ``[vectors, dimension]``, some thousands of the corpus's own vectors.
            quantile: Share of each dimension's numbers that the range has to hold.

        Raises:
            InputError: There are fewer than two vectors, a number is not finite, or ``quantile`` is not in (0.5, 1].
        """
        if not 0.5 < quantile <= 1.0:
            raise InputError(f"quantile is {quantile}: it is a share above 0.5, at most 1")
        if sample.ndim != 2 or len(sample) < 2:
            raise InputError(f"the calibration sample has the shape {sample.shape}: two or more vectors are needed")
        _check(sample, sample.shape[1])
        low, high = np.quantile(sample, [1 - quantile, quantile], axis=0).astype(np.float32)
        # A dimension that never changes still needs a width to divide by.
        return cls(low, np.maximum(high, low + np.maximum(np.abs(low), 1) * np.float32(1e-6)))

    def encode(self, vectors: Vectors) -> NDArray[np.int8]:
        """int8 ``[vectors, dimension]``.

        Raises:
            InputError: The vectors have another length than the sample, or a number is not finite.
        """
        _check(vectors, len(self.low))
        steps = np.rint((vectors - self.low) * (255 / (self.high - self.low)))
        codes: NDArray[np.int8] = (np.clip(steps, 0, 255) - 128).astype(np.int8)
        return codes

    def decode(self, codes: NDArray[np.int8]) -> Vectors:
        """float32 ``[vectors, dimension]``: the middles of the codes' ranges."""
        values: Vectors = ((codes.astype(np.float32) + 128) * ((self.high - self.low) / 255) + self.low).astype(
            np.float32
        )
        return values


def binarize(vectors: Vectors, threshold: Vectors | None = None) -> NDArray[np.uint8]:
    """One bit per number: whether it is above the threshold (0, or a calibration sample's medians).

    A thirty-second of the space, compared by Hamming distance; search for more candidates than needed and score those
    again with whole vectors. Models with 1,024 dimensions and more bear it well.

    Args:
        vectors: float32 ``[vectors, dimension]``.
        threshold: float32 ``[dimension]``, or None for 0.

    Returns:
        uint8 ``[vectors, ceil(dimension / 8)]``, the first dimension in the highest bit.

    Raises:
        InputError: A number is not finite.
    """
    _check(vectors, vectors.shape[1])
    return np.packbits(vectors > (0 if threshold is None else threshold), axis=1)


def hamming_similarity(queries: NDArray[np.uint8], documents: NDArray[np.uint8]) -> NDArray[np.int64]:
    """int64 ``[queries, documents]``: the bits in which two binarised vectors agree."""
    differing = np.bitwise_count(queries[:, None, :] ^ documents[None, :, :]).sum(axis=-1, dtype=np.int64)
    agreeing: NDArray[np.int64] = queries.shape[1] * 8 - differing
    return agreeing


def _check(vectors: Vectors, dimension: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise InputError(f"the vectors have the shape {vectors.shape}, but {dimension} numbers each are expected")
    if not np.isfinite(vectors).all():
        raise InputError("a vector holds NaN or infinity: it cannot be quantised")
