"""What happens before and after the model: texts -> readings -> work, pooled segments -> vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from situate.embedders.local.scheduler import Done, Reduction, Work
from situate.embedders.text.pooling import Part, Reading, ReadingRules, combined, pooled_parts, read
from situate.embedders.text.tokenizer import Ids, TextTokenizer
from situate.embedders.types import Encoded, Pooling, SpanText, Vectors
from situate.vectors import check_finite, unit

if TYPE_CHECKING:
    from situate.embedders.text.heads import Heads

_REDUCTIONS: dict[str, Reduction] = {"weighted_mean": "weighted", "max": "max"}


def readings_of(
    inputs: Sequence[SpanText], tokenizer: TextTokenizer, rules: ReadingRules, first: int = 0
) -> list[Reading]:
    """How each text is read.

    Args:
        inputs: Texts and their spans.
        tokenizer: The model's.
        rules: What the encoder decides for all of them.
        first: The place of the first text in the caller's list, for messages.

    Raises:
        SpanError: A span is empty, reversed or outside its text.
        OverflowLimitError: A text is too long and ``on_overflow="raise"``, or its window is too wide for the model.
    """
    offsets = any(item.spans is not None or item.prefix or item.suffix for item in inputs)
    if any(item.apart for item in inputs):
        tokens = [tokenizer.tokenize_apart(item.text, item.prefix, item.suffix) for item in inputs]
    else:
        tokens = tokenizer.tokenize([item.text for item in inputs], offsets=offsets)
    return [
        read(item, text, tokenizer, rules, first + i) for i, (item, text) in enumerate(zip(inputs, tokens, strict=True))
    ]


def work_of(readings: Sequence[Reading], pooling: Pooling, token_vectors: bool) -> Work:
    """What a scheduler is asked for these texts; what is there several times is read once."""
    sequences: list[Ids] = []
    places: dict[bytes, int] = {}
    segments: list[tuple[int, int, int, int]] = []
    kept: list[tuple[int, int, int]] = []
    for reading in readings:
        at: list[int] = []
        for ids in reading.sequences:
            at.append(places.setdefault(ids.tobytes(), len(sequences)))
            if at[-1] == len(sequences):
                sequences.append(ids)
        for parts in reading.spans:
            segments += [(at[p.sequence], p.start, p.end, p.weight) for p in pooled_parts(parts, pooling)]
            if token_vectors:
                kept += [(at[p.sequence], p.start, p.end) for p in parts]
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
        dimension: Numbers of a vector that are kept; None: all.
        normalize: Whether vectors get L2 norm 1.
    """

    model: str
    dtype: str
    pooling: Pooling
    heads: Heads
    dimension: int | None
    normalize: bool

    def encoded(self, readings: Sequence[Reading], done: Done, token_vectors: bool) -> list[Encoded]:
        """One result per text.

        Raises:
            NonFiniteVectorError: The model computed NaN or infinity.
        """
        parts = [pooled_parts(span, self.pooling) for reading in readings for span in reading.spans]
        vectors = self.finished(combined(parts, done.reduced, self.pooling))
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
            return np.zeros((0, self.dimension or 0), dtype=np.float32)
        return self.finished(np.concatenate(kept), always=True)

    def finished(self, vectors: Vectors, always: bool = False) -> Vectors:
        """The model's heads, the Matryoshka cut and the norm, which token vectors always get."""
        vectors = self.heads(vectors)
        check_finite(vectors, f"model {self.model!r} computed in {self.dtype}")
        vectors = vectors[:, : self.dimension]
        return unit(vectors) if self.normalize or always else np.ascontiguousarray(vectors)
