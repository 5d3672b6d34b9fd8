"""A document's own scores, in those of its chunks (DAPR, Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.parameters import checked_parameters
from situate.retrievers.signals.base import Batch, Signal, Value, Values
from situate.retrievers.signals.chunk import ChunkTerms
from situate.types import Chunk
from situate.vectors import unit

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.gateway import Gateway, Scores
    from situate.retrievers.search.query_vectors import QueryVectors


@checked_parameters
@dataclass(frozen=True)
class DocumentVector(Signal):
    """The mean of the vectors of a document's chunks, stored with the first of them."""

    kind = "document"
    stage = "document"

    def stored(self) -> Mapping[str, Any]:
        """Nothing beside the chunks' vectors decides it."""
        return {}

    def params(self, dimension: int, distance: models.Distance) -> models.VectorParams:
        """A dense vector without a graph: it only scores the documents of candidates."""
        from qdrant_client import models

        return models.VectorParams(size=dimension, distance=distance, hnsw_config=models.HnswConfigDiff(m=0))

    def encode(self, batch: Batch) -> Values:
        """The first chunk's value, of each document."""
        return [
            [unit(rows.mean(axis=0, dtype=np.float32)), *[None] * (len(rows) - 1)] if len(rows) else []
            for rows in batch.dense
        ]

    def query(self, vectors: QueryVectors) -> Value:
        """The query's dense vector."""
        return vectors.dense


@dataclass(frozen=True)
class DocumentTerms(ChunkTerms):
    """The BM25 terms of the whole document, stored with its first chunk; rarity is counted over documents."""

    kind = "document_terms"
    stage = "document"

    def encode(self, batch: Batch) -> Values:
        """The first chunk's value, of each document."""
        made: list[list[Value | None]] = []
        for (document, chunks), language in zip(batch.items, self.languages(batch), strict=True):
            whole = Chunk.of(document, 0, 0, len(document.text), replace(chunks[0].context, headings=(), questions=()))
            made.append([self.encoder.encode_chunks([whole], language)[0], *[None] * (len(chunks) - 1)])
        return made


def document_scores(
    gateway: Gateway, signals: Sequence[Signal], vectors: QueryVectors, versions: Mapping[int, str]
) -> dict[str, Scores]:
    """Each candidate's score for its document, by signal, from one request.

    Args:
        gateway: The collection.
        signals: Those of documents.
        vectors: The query's.
        versions: Candidate point -> hash of the version of the document that it belongs to.
    """
    from qdrant_client import models

    queries = {signal.name: query for signal in signals if (query := signal.query(vectors)) is not None}
    hashes = sorted(set(versions.values()))
    if not queries or not hashes:
        return {}
    where = models.Filter(must=[models.FieldCondition(key="document_hash", match=models.MatchAny(any=hashes))])
    found, owners = gateway.nearest_with(queries, len(hashes), where, "document_hash")
    by_version = {name: {owners[point]: score for point, score in scores.items()} for name, scores in found.items()}
    return {
        name: {point: known[version] for point, version in versions.items() if version in known}
        for name, known in by_version.items()
    }
