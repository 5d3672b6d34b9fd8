"""Learned sparse vectors beside BM25, or in its place (SPLADE, Formal et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from situate.embedders.library.sparse import SparseEmbedder, SparseVector as Weights
from situate.errors import InputError
from situate.retrievers.index.lexical import SparseVector
from situate.retrievers.signals.base import Batch, Signal, Value, Values, model_of, situated

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.query_vectors import QueryVectors, WrittenQuery


@dataclass(frozen=True)
class Sparse(Signal):
    """The vectors of a model that weighs the words of its vocabulary.

    Attributes:
        model: A `SparseEmbedder`, or a model's name.
        max_active: Most numbers of a chunk's vector that are kept, the largest (static pruning of postings, Lassance et
            al. 2023); None for all. Queries stay whole.
        query_by: "model": the model embeds queries; an inference-free one by its table. "tokens": a query is its own
            tokens, counted, and no network reads it (uniCOIL, DeepImpact and TILDEv2 score documents alone).
        context: `Context` fields in front of a chunk's text.
        options: Further arguments of `SparseEmbedder`, where ``model`` is a name.

    Raises:
        InputError: ``max_active`` is less than 1, ``query_by`` is neither, or ``model`` is no sparse embedder.
    """

    kind = "sparse"
    model: SparseEmbedder | str
    max_active: int | None = None
    query_by: Literal["model", "tokens"] = "model"
    context: tuple[str, ...] = ("title", "headings")
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_active is not None and self.max_active < 1:
            raise InputError(f"max_active={self.max_active} of {self.name!r}: keep at least 1, or None for all")
        if self.query_by not in ("model", "tokens"):
            raise InputError(f'query_by={self.query_by!r} of {self.name!r}: "model" or "tokens"')
        _ = self.embedder

    @cached_property
    def embedder(self) -> SparseEmbedder:
        """The model; loaded by the first text."""
        return model_of(SparseEmbedder, self.model, self.options, SparseEmbedder)

    def stored(self) -> Mapping[str, Any]:
        """The model's fingerprint, and what is embedded and kept."""
        return {"encoder": self.embedder.fingerprint, "max_active": self.max_active, "context": list(self.context)}

    def params(self, dimension: int, distance: models.Distance) -> models.SparseVectorParams:
        """A sparse vector; the model has learned how rare a word is."""
        from qdrant_client import models

        return models.SparseVectorParams()

    def encode(self, batch: Batch) -> Values:
        """A vector per chunk; a chunk without any active word has none."""
        rows = self.embedder.embed_documents([situated(chunk, self.context) for chunk in batch.chunks])
        return batch.of_documents([_converted(self._pruned(row)) for row in rows])

    def ask(self, queries: Sequence[WrittenQuery], vectors: Sequence[QueryVectors]) -> Sequence[Value]:
        """A vector per question."""
        texts = [query.question for query in queries]
        embedder = self.embedder
        rows = embedder.embed_queries(texts) if self.query_by == "model" else embedder.count_tokens(texts)
        return [SparseVector(row.indices, row.values) for row in rows]

    def query(self, vectors: QueryVectors) -> Value | None:
        """The question's vector; None where no word is active."""
        weights = vectors.further.get(self.name)
        return weights if isinstance(weights, SparseVector) and len(weights.indices) else None

    def _pruned(self, row: Weights) -> Weights:
        if self.max_active is None or len(row.values) <= self.max_active:
            return row
        # Of equal weights the word with the smaller id stays, in every run.
        kept = np.sort(np.argsort(-row.values, kind="stable")[: self.max_active])
        return Weights(row.indices[kept], row.values[kept])


def _converted(row: Weights) -> SparseVector | None:
    return SparseVector(row.indices, row.values) if len(row.indices) else None
