"""What goes to the scheduler and what comes back: readings -> work, pooled segments -> vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from situate.chunkers.errors import NonFiniteVectorError
from situate.embedders._pooling import Part, Reading, combined, normalised, pooled_parts
from situate.embedders._scheduler import Done, Reduction, Work
from situate.embedders.types import Encoded, Pooling, Vectors

if TYPE_CHECKING:
    from situate.embedders._heads import Heads

_REDUCTIONS: dict[str, Reduction] = {"weighted_mean": "weighted", "max": "max"}


def work_of(readings: Sequence[Reading], pooling: Pooling, token_vectors: bool) -> Work:
    """What a scheduler is asked for these texts."""
    sequences = [ids for reading in readings for ids in reading.sequences]
    segments: list[tuple[int, int, int, int]] = []
    kept: list[tuple[int, int, int]] = []
    first = 0
    for reading in readings:
        for parts in reading.spans:
            segments += [(first + p.sequence, p.start, p.end, p.weight) for p in pooled_parts(parts, pooling)]
            if token_vectors:
                kept += [(first + p.sequence, p.start, p.end) for p in parts]
        first += len(reading.sequences)
    return Work(
        sequences=sequences,
        segments=np.array(segments, dtype=np.int64).reshape(-1, 4),
        reduction=_REDUCTIONS.get(pooling, "sum"),
        kept=np.array(kept, dtype=np.int64).reshape(-1, 3),
    )


@dataclass(frozen=True)
class SpanOutput:
    """What an encoder makes of pooled token vectors.

    Attributes:
        model: Its name, for messages.
        dtype: The format that it computes in, likewise.
        pooling: How token vectors become one.
        heads: Linear layers behind the pooling.
        dimension: Numbers of a vector that are kept.
        normalize: Whether vectors get L2 norm 1.
    """

    model: str
    dtype: str
    pooling: Pooling
    heads: Heads
    dimension: int
    normalize: bool

    def encoded(self, readings: Sequence[Reading], done: Done, token_vectors: bool) -> list[Encoded]:
        """One result per text.

        Raises:
            NonFiniteVectorError: The model computed NaN or infinity.
        """
        parts = [pooled_parts(span, self.pooling) for reading in readings for span in reading.spans]
        vectors = self._finished(combined(parts, done.reduced, self.pooling), self.normalize)
        results: list[Encoded] = []
        row = at = 0
        for reading in readings:
            tokens: list[Vectors] = []
            if token_vectors:
                for span in reading.spans:
                    tokens.append(self._token_vectors(span, done.kept[at : at + len(span)]))
                    at += len(span)
            rows = vectors[row : row + len(reading.spans)]
            results.append(Encoded(rows, tuple(tokens) if token_vectors else None, reading.lost_tokens))
            row += len(reading.spans)
        return results

    def _token_vectors(self, parts: Sequence[Part], kept: Sequence[Vectors]) -> Vectors:
        if not parts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return self._finished(np.concatenate(kept), True)

    def _finished(self, vectors: Vectors, normalize: bool) -> Vectors:
        """The model's heads, the Matryoshka cut and the norm."""
        vectors = self.heads(vectors)
        if not np.isfinite(vectors).all():
            raise NonFiniteVectorError(
                f"model {self.model!r} computed NaN or infinity in {self.dtype}: its weights are damaged or the "
                "format's range is too small for it; try dtype='float32'"
            )
        vectors = vectors[:, : self.dimension]
        return normalised(vectors) if normalize else np.ascontiguousarray(vectors)
