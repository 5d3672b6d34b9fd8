"""Vectors beside a chunk's own: its document's, and those of the questions that it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.embedders.types import Vectors
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.lexical import LexicalEncoder, SparseVector
from situate.retrievers.index.payload import DOCUMENT, DOCUMENT_BM25, QUESTIONS
from situate.retrievers.search.gateway import plain
from situate.types import Chunk, Document
from situate.vectors import unit

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.embedders.embedder import Embedder
    from situate.retrievers.search.gateway import Gateway, Query, Scores
    from situate.retrievers.search.query_vectors import QueryVectors


@dataclass(frozen=True)
class Signals:
    """Further vectors of one document's chunks.

    Attributes:
        document: float32 ``[dimension]``, L2-normalised: the mean of the chunks' vectors. Stored with the first chunk.
        terms: The whole document's BM25 vector. Stored with the first chunk.
        questions: Per chunk, float32 ``[questions, dimension]``; chunks without questions have none.
    """

    document: Vectors | None = None
    terms: SparseVector | None = None
    questions: Sequence[Vectors] = ()

    def of_chunk(self, place: int, gateway: Gateway) -> dict[str, Any]:
        """The named vectors of the chunk at this place, as the store takes them."""
        vectors: dict[str, Any] = {}
        if place == 0 and self.document is not None:
            vectors[DOCUMENT] = plain(self.document)
        if place == 0 and self.terms is not None:
            vectors[DOCUMENT_BM25] = plain(self.terms)
        if self.questions and len(self.questions[place]):
            vectors[QUESTIONS] = gateway.stored(self.questions[place])
        return vectors


class SignalEncoder:
    """Makes the `Signals` of a configuration.

    Args:
        embedder: Embeds questions as queries, which they are compared with.
        config: The configuration.
    """

    def __init__(self, embedder: Embedder, config: PipelineConfig) -> None:
        self.embedder = embedder
        self.config = config
        self._lexical: LexicalEncoder | None = None
        signals, lexical = config.document, config.lexical
        if signals is not None and signals.lexical and lexical is not None:
            whole = replace(lexical, average_length=signals.average_length, neighbours=0.0)
            self._lexical = LexicalEncoder(whole)

    def encode(self, items: Sequence[tuple[Document, Sequence[Chunk]]], dense: Sequence[Vectors]) -> list[Signals]:
        """One per document.

        Args:
            items: Documents and their chunks, in order.
            dense: Per document, float32 ``[chunks, dimension]``.
        """
        questions = self._questions([chunks for _, chunks in items]) if self.config.questions else [()] * len(items)
        signals = self.config.document
        return [
            Signals(
                document=unit(rows.mean(axis=0, dtype=np.float32)) if signals is not None and signals.dense else None,
                terms=self._terms(document, chunks) if self._lexical is not None else None,
                questions=own_questions,
            )
            for (document, chunks), rows, own_questions in zip(items, dense, questions, strict=True)
        ]

    def _terms(self, document: Document, chunks: Sequence[Chunk]) -> SparseVector:
        assert self._lexical is not None
        whole = Chunk.of(document, 0, 0, len(document.text), replace(chunks[0].context, headings=(), questions=()))
        return self._lexical.encode_chunks([whole])[0]

    def _questions(self, groups: Sequence[Sequence[Chunk]]) -> list[tuple[Vectors, ...]]:
        texts = [question for chunks in groups for chunk in chunks for question in chunk.context.questions]
        rows = self.embedder.embed_queries(texts) if texts else np.zeros((0, self.embedder.dimension), dtype=np.float32)
        at = 0
        made: list[tuple[Vectors, ...]] = []
        for chunks in groups:
            own: list[Vectors] = []
            for chunk in chunks:
                count = len(chunk.context.questions)
                own.append(rows[at : at + count])
                at += count
            made.append(tuple(own))
        return made


def vector_params(config: PipelineConfig, dimension: int, distance: models.Distance) -> dict[str, models.VectorParams]:
    """The collection's further dense vectors, compared as the chunks' own are."""
    from qdrant_client import models

    params: dict[str, models.VectorParams] = {}
    if config.document is not None and config.document.dense:
        # It only scores the documents of candidates: a graph over them would not be used.
        params[DOCUMENT] = models.VectorParams(
            size=dimension, distance=distance, hnsw_config=models.HnswConfigDiff(m=0)
        )
    if config.questions:
        params[QUESTIONS] = models.VectorParams(
            size=dimension,
            distance=distance,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
        )
    return params


def sparse_params(config: PipelineConfig) -> dict[str, models.SparseVectorParams]:
    """The collection's further sparse vectors; how rare a term is, is counted over documents."""
    from qdrant_client import models

    if config.document is None or not config.document.lexical:
        return {}
    return {DOCUMENT_BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)}


def document_scores(
    gateway: Gateway, config: PipelineConfig, vectors: QueryVectors, versions: Mapping[int, str]
) -> dict[str, Scores]:
    """Each candidate's score for its document, by signal, from one request.

    Args:
        gateway: The collection.
        config: Says which signals there are.
        vectors: The query's.
        versions: Candidate point -> hash of the version of the document that it belongs to.
    """
    from qdrant_client import models

    assert config.document is not None
    queries: dict[str, Query] = {}
    if config.document.dense:
        queries[DOCUMENT] = vectors.dense
    if config.document.lexical and vectors.lexical is not None:
        queries[DOCUMENT_BM25] = vectors.lexical
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
