"""An encoder whose vectors lie around one direction, as those of E5 do (mean cosine .8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from situate.embedders.types import Encoded, SpanEncoder, SpanText
from situate.vectors import unit


class Crowded:
    """Another encoder with its vectors moved into one direction, and normalised again.

    Args:
        real: The other.
        shift: How far, in lengths of a vector.
    """

    def __init__(self, real: SpanEncoder, shift: float = 1.5) -> None:
        self.real, self.shift = real, shift
        self.dimension = real.dimension

    def _moved(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        towards = np.full(self.dimension, self.shift * self.dimension**-0.5, dtype=np.float32)
        return [replace(each, vectors=unit(each.vectors + towards)) for each in encoded]

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        return self._moved(self.real.encode(inputs, token_vectors=token_vectors))

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        return self._moved(await self.real.aencode(inputs, token_vectors=token_vectors))
