"""Learned sparse vectors beside BM25, or in its place (SPLADE, Formal et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from situate.embedders.library.sparse import SparseEmbedder
from situate.embedders.types import SparseVector as Weights
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.index.lexical import SparseVector
from situate.retrievers.signals.base import Batch, Signal, Value, Values, model_of, situated

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.embedders.embedder import Embedder
    from situate.retrievers.search.query_vectors import QueryVectors, WrittenQuery


@checked_parameters
@dataclass(frozen=True)
class Sparse(Signal):
    """The vectors of a model that weighs the words of its vocabulary.

    Attributes:
        model: A `SparseEmbedder`, or a model's name; None for the index's own embedder, whose ``token_heads`` weigh
            words in the dense vector's pass.
        max_active: Most numbers of a chunk's vector that are kept, the largest (static pruning of postings, Lassance et
            al. 2023); None for all. Queries stay whole.
        query_by: "model": the model embeds queries; an inference-free one by its table. "tokens": a query is its own
            tokens, counted, and no network reads it (uniCOIL, DeepImpact and TILDEv2 score documents alone).
        context: `Context` fields in front of a chunk's text, for a model of its own.
        options: Further arguments of `SparseEmbedder`, where ``model`` is a name.

    Raises:
        InputError: ``max_active`` is less than 1, ``query_by`` is neither, or ``model`` is no sparse embedder.
    """

    kind = "sparse"
    model: SparseEmbedder | str | None = None
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
        if self.model is None and self.query_by != "model":
            raise InputError(f"query_by={self.query_by!r} of {self.name!r} is for a model of its own: give one")
        _ = self.embedder

    @cached_property
    def embedder(self) -> SparseEmbedder | None:
        """The model; loaded by the first text. None for the index's own."""
        return None if self.model is None else model_of(SparseEmbedder, self.model, self.options, SparseEmbedder)

    @property
    def needs_tokens(self) -> bool:
        """Whether the index's embedder makes them."""
        return self.embedder is None

    def check(self, embedder: Embedder) -> None:
        """Without a model, the index's embedder needs its own head."""
        if self.embedder is None and not embedder.token_heads:
            raise InputError(
                f"the {self.name!r} signal needs model='...', because {embedder!r} has no head that weighs words; "
                "or give the index an Embedder(..., token_heads=True) of a model that has one (BGE-M3)"
            )

    def stored(self) -> Mapping[str, Any]:
        """The model's fingerprint, and what is embedded and kept."""
        if self.embedder is None:
            return {"encoder": None, "max_active": self.max_active}
        return {"encoder": self.embedder.fingerprint, "max_active": self.max_active, "context": list(self.context)}

    def params(self, dimension: int, distance: models.Distance) -> models.SparseVectorParams:
        """A sparse vector; the model has learned how rare a word is."""
        from qdrant_client import models

        return models.SparseVectorParams()

    def encode(self, batch: Batch) -> Values:
        """A vector per chunk; a chunk without any active word has none."""
        embedder = self.embedder
        if embedder is None:
            assert batch.terms is not None  # as `check` has seen
            rows = [row for chunks in batch.terms for row in chunks]
        else:
            rows = embedder.embed_documents([situated(chunk, self.context) for chunk in batch.chunks])
        return batch.of_documents([_converted(self._pruned(row)) for row in rows])

    def ask(
        self, queries: Sequence[WrittenQuery], vectors: Sequence[QueryVectors], embedder: Embedder
    ) -> Sequence[Value] | None:
        """A vector per question, by a model of its own."""
        texts = [query.question for query in queries]
        if self.embedder is None:
            return None
        rows = self.embedder.embed_queries(texts) if self.query_by == "model" else self.embedder.count_tokens(texts)
        return [SparseVector(row.indices, row.values) for row in rows]

    def query(self, vectors: QueryVectors) -> Value | None:
        """The question's vector; None where no word is active."""
        weights = vectors.terms if self.embedder is None else vectors.further.get(self.name)
        return weights if isinstance(weights, SparseVector) and len(weights.indices) else None

    def _pruned(self, row: Weights) -> Weights:
        if self.max_active is None or len(row.values) <= self.max_active:
            return row
        # Of equal weights the word with the smaller id stays, in every run.
        kept = np.sort(np.argsort(-row.values, kind="stable")[: self.max_active])
        return Weights(row.indices[kept], row.values[kept])


def _converted(row: Weights) -> SparseVector | None:
    return SparseVector(row.indices, row.values) if len(row.indices) else None
