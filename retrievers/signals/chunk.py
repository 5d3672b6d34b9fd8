"""The two signals of every hybrid search: a chunk's dense vector and its BM25 terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from situate.embedders.types import ChunkScheme
from situate.retrievers.index.compression import CompressionKind
from situate.retrievers.signals.base import Batch, Signal, Value, Values

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.index.lexical import LexicalEncoder
    from situate.retrievers.search.query_vectors import QueryVectors


@dataclass(frozen=True)
class ChunkVector(Signal):
    """The dense vectors of the index's embedder.

    Attributes:
        scheme: How chunks become vectors.
    """

    kind = "chunk"
    compressible = get_args(CompressionKind)
    scheme: ChunkScheme

    def stored(self) -> Mapping[str, Any]:
        """The scheme; the embedder's fingerprint is the collection's own."""
        return self.scheme.stored()

    def params(self, dimension: int, distance: models.Distance) -> models.VectorParams:
        """A dense vector, compared as the model was trained."""
        from qdrant_client import models

        return models.VectorParams(size=dimension, distance=distance)

    def encode(self, batch: Batch) -> Values:
        """The batch's own."""
        return batch.dense

    def query(self, vectors: QueryVectors) -> Value:
        """The query's dense vector."""
        return vectors.dense


@dataclass(frozen=True)
class ChunkTerms(Signal):
    """The BM25 terms of each chunk.

    Attributes:
        encoder: Makes terms of texts.
    """

    kind = "chunk"
    encoder: LexicalEncoder

    def stored(self) -> Mapping[str, Any]:
        """The scheme."""
        return self.encoder.scheme.stored()

    def params(self, dimension: int, distance: models.Distance) -> models.SparseVectorParams:
        """A sparse vector whose terms Qdrant weighs by their inverse document frequency."""
        from qdrant_client import models

        return models.SparseVectorParams(modifier=models.Modifier.IDF)

    def encode(self, batch: Batch) -> Values:
        """A BM25 vector per chunk, its neighbours' mixed in."""
        return [
            self.encoder.encode_chunks(chunks, language)
            for (_, chunks), language in zip(batch.items, self.languages(batch), strict=True)
        ]

    def languages(self, batch: Batch) -> list[str]:
        """How each document is read, as `LexicalEncoder.language_of` says."""
        return batch.once(
            ("languages", self.encoder.scheme.language),
            lambda: [self.encoder.language_of(chunks) for _, chunks in batch.items],
        )

    def query(self, vectors: QueryVectors) -> Value | None:
        """The query's terms; None where it has none."""
        terms = vectors.lexical
        return terms if terms is not None and len(terms.indices) else None
