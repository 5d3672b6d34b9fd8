"""After the model: an engine's sums and maxima of token ranges -> the vectors of spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from situate.embedders.text.reading import ReadPlan, pooled_ranges
from situate.embedders.text.requests import PoolingResult, TokenRange
from situate.embedders.types import Encoded, Pooling, SparseVector, Vectors
from situate.vectors import check_finite, unit

if TYPE_CHECKING:
    from situate.embedders.text.heads import Heads
    from situate.embedders.text.token_heads import TokenHeads


@dataclass(frozen=True)
class SpanOutput:
    """How an encoder finishes pooled token vectors.

    Attributes:
        model: Its name, for messages.
        dtype: The format that it computes in, likewise.
        pooling: How token vectors become one.
        heads: Linear layers after the pooling; None for none.
        dimension: Numbers of a vector that are kept; None: all.
        normalize: Whether vectors get L2 norm 1.
        routing: How many experts' weights stand at the end of a vector.
        routing_weight: Their weight beside the rest, both of norm 1.
        token_heads: Make token vectors, and the weights of words beside them; None: token vectors are finished states.
    """

    model: str
    dtype: str
    pooling: Pooling
    heads: Heads | None
    dimension: int | None
    normalize: bool
    routing: int = 0
    routing_weight: float = 0.0
    token_heads: TokenHeads | None = None

    def encoded(self, plans: Sequence[ReadPlan], result: PoolingResult, token_vectors: bool) -> list[Encoded]:
        """One result per text.

        Raises:
            NonFiniteVectorError: The model computed NaN or infinity.
        """
        ranges = [pooled_ranges(span, self.pooling) for plan in plans for span in plan.spans]
        vectors = self.finished(combined(ranges, result.reduced, self.pooling))
        results: list[Encoded] = []
        row = at = 0
        for plan in plans:
            tokens: list[Vectors] = []
            terms: list[SparseVector] = []
            if token_vectors:
                for span in plan.spans:
                    kept = result.kept[at : at + len(span)]
                    if self.token_heads is None:
                        tokens.append(self._token_vectors(span, kept))
                    else:
                        of_span = self._by_heads(self.token_heads, plan, span, kept)
                        tokens.append(of_span[0])
                        terms.append(of_span[1])
                    at += len(span)
            rows = vectors[row : row + len(plan.spans)]
            made = tuple(tokens) if token_vectors else None
            results.append(Encoded(rows, made, plan.lost_tokens, tuple(terms) if terms else None))
            row += len(plan.spans)
        return results

    def _token_vectors(self, ranges: Sequence[TokenRange], kept: Sequence[Vectors]) -> Vectors:
        if not ranges:
            return np.zeros((0, self.dimension or 0), dtype=np.float32)
        return self.finished(np.concatenate(kept), always=True)

    def _by_heads(
        self, heads: TokenHeads, plan: ReadPlan, ranges: Sequence[TokenRange], kept: Sequence[Vectors]
    ) -> tuple[Vectors, SparseVector]:
        """The token vectors and the weights of words that the model's own heads make of a span's states."""
        skipped = [max(0, heads.leading - each.start) for each in ranges]
        ids = [plan.sequences[p.sequence][p.start + n : p.end] for p, n in zip(ranges, skipped, strict=True)]
        rows = [states[n:] for states, n in zip(kept, skipped, strict=True)]
        if not any(map(len, rows)):
            empty = np.zeros((0, self.dimension or 0), dtype=np.float32)
            return empty, SparseVector(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
        states = np.concatenate(rows)
        check_finite(states, f"model {self.model!r} computed in {self.dtype}")
        return unit(heads.token_vectors(states)), heads.terms(states, np.concatenate(ids))

    def finished(self, vectors: Vectors, always: bool = False) -> Vectors:
        """The model's heads, the Matryoshka cut and the norm, which token vectors always get."""
        if self.routing:
            hidden, experts = unit(vectors[:, : -self.routing]), unit(vectors[:, -self.routing :])
            vectors = np.concatenate([hidden, np.float32(self.routing_weight**0.5) * experts], axis=1)
        if self.heads is not None:
            vectors = self.heads(vectors)
        check_finite(vectors, f"model {self.model!r} computed in {self.dtype}")
        vectors = vectors[:, : self.dimension]
        return unit(vectors) if self.normalize or always else np.ascontiguousarray(vectors)


def combined(ranges: Sequence[Sequence[TokenRange]], reduced: Vectors, pooling: Pooling) -> Vectors:
    """Span vectors out of the ranges' reductions.

    Args:
        ranges: Per span, its ranges.
        reduced: float32 ``[all ranges, hidden]`` in the same order: sums of token vectors, weighted by position where
            pooling is "weighted_mean", or maxima where it is "max".

    Returns:
        float32 ``[spans, hidden]``; zeros for a span without ranges.
    """
    counts = np.array([len(p) for p in ranges], dtype=np.int64)
    lengths: Vectors = np.array([each.end - each.start for p in ranges for each in p], dtype=np.float32)
    if pooling == "mean_sqrt_len":
        # sentence-transformers' "mean_sqrt_len_tokens": the sum over the root of the number of tokens.
        totals = np.array([sum(each.end - each.start for each in p) for p in ranges for _ in p], dtype=np.float32)
        lengths = (lengths / np.sqrt(totals)).astype(np.float32)
    if pooling == "weighted_mean":
        first = np.array([each.weight for p in ranges for each in p], dtype=np.float32)
        lengths = (lengths * (first + (lengths - 1) / 2)).astype(np.float32)
    if not len(counts) or (counts == 1).all():
        return reduced if pooling == "max" or not len(counts) else (reduced / lengths[:, None]).astype(np.float32)
    out = np.zeros((len(ranges), reduced.shape[1]), dtype=np.float32)
    begin = 0
    for row, count in enumerate(counts.tolist()):
        if count:
            rows = reduced[begin : begin + count]
            total = lengths[begin : begin + count].sum()
            out[row] = rows.max(axis=0) if pooling == "max" else rows.sum(axis=0) / total
        begin += count
    return out
