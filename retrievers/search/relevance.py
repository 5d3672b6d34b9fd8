"""The relevance of a passage to a query, on one scale for every query of a collection.

A fused score ranks a passage among the candidates of one query: the best of them is near 1 whether or not anything in
the collection answers. Relevance compares with the collection's usual values instead: by how many standard deviations
the passage is more similar to the query than passages are to queries in general, and which share it has of the greatest
BM25 score that the query could reach. It needs no language model and no labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.retrievers.index.lexical import SparseVector
from situate.retrievers.index.payload import BM25, DENSE
from situate.vectors import unit

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder
    from situate.retrievers.config import PipelineConfig
    from situate.retrievers.search.gateway import Gateway

#: Chunks by which a collection is measured, those with the least point ids: ids are hashes, so this draws evenly.
SAMPLE = 500
#: Excerpts of so many of them stand for queries; each has at most so many words and bytes of UTF-8, as questions have.
EXCERPTS, EXCERPT_WORDS, EXCERPT_BYTES = 32, 12, 96
#: One calibration for all collections and models (docs/thresholds.md): standard deviations that the greatest lexical
#: share counts for, the sum at which relevance is .5, and how steeply it rises there.
LEXICAL, MIDDLE, SLOPE = 12.0, 3.4, 2.0
FEW_TERMS = 3
#: The assumed lexical share where a query has no terms, or a collection no BM25.
USUAL_SHARE = 0.12
#: Further excerpts, where a collection holds fewer chunks than are needed.
PASSAGES = (
    "The museum opens at nine and is closed on Mondays.",
    "Knead the dough for ten minutes and let it rise overnight.",
    "The engine warning light comes on when the oil pressure is low.",
    "She was elected mayor of the town in 1987 and served two terms.",
    "Whales migrate to warmer waters to give birth to their calves.",
    "The contract ends at the end of the month unless it is renewed.",
    "Install the package and restart the server to apply the update.",
    "The striker scored twice in the second half of the final.",
    "Volcanic eruptions release ash and sulphur into the atmosphere.",
    "The violin concerto was first performed in Leipzig.",
    "Patients should take the tablets with water before breakfast.",
    "Interest rates rose for the third time this year.",
)


@dataclass(frozen=True)
class Background:
    """The usual similarities and term frequencies of a collection.

    Attributes:
        similarity: Mean similarity of a query to a chunk that it is not about.
        deviation: Standard deviation of the similarity of two chunks.
        chunks: How many chunks there were.
        sampled: How many of them were read.
        frequencies: Term -> number of the chunks read that hold it.
    """

    similarity: float
    deviation: float
    chunks: int
    sampled: int
    frequencies: Mapping[int, int] = field(repr=False)

    @classmethod
    def measure(cls, gateway: Gateway, embedder: Embedder, config: PipelineConfig) -> Background:
        """Read a sample of a collection; the same collection gives the same.

        Costs one request for `SAMPLE` chunks with their vectors, and the embedding of `EXCERPTS` short texts.
        """
        names = [DENSE] if config.lexical is None else [DENSE, BM25]
        records, _ = gateway.client.scroll(
            gateway.collection, limit=SAMPLE, with_payload=["text"], with_vectors=list(names)
        )
        found: list[dict[str, Any]] = [record.vector for record in records if isinstance(record.vector, dict)]
        texts = [str((record.payload or {})["text"]) for record in records]
        rows = np.array([vectors[DENSE] for vectors in found], dtype=np.float32)
        if len(texts) < EXCERPTS:
            more = embedder.embed_documents(list(PASSAGES))
            rows = np.concatenate([rows, more]) if len(rows) else more
            texts += PASSAGES
        excerpts = [excerpt(text) for text in texts[:EXCERPTS]]
        queries = unit(embedder.embed_queries(excerpts))
        return cls(
            similarity=float((queries @ rows.T)[_others(len(queries), len(rows))].mean()),
            deviation=float((unit(rows) @ rows.T)[_others(len(rows), len(rows))].std()) or 1.0,
            chunks=gateway.client.count(gateway.collection, exact=True).count,
            sampled=len(found),
            frequencies=Counter(term for vectors in found if BM25 in vectors for term in vectors[BM25].indices),
        )

    def greatest(self, terms: SparseVector, k: float) -> float:
        """The greatest BM25 score that these terms could reach in one chunk.

        A chunk holds one or two terms by chance more easily than several: a query of fewer than `FEW_TERMS` counts as
        one of so many, of which the others were not found.

        Args:
            terms: The query's.
            k: Saturation of term frequency: a term's weight stays below ``k + 1``.
        """
        scale = self.chunks / self.sampled if self.sampled else 1.0
        idf = 0.0
        for term, weight in zip(terms.indices.tolist(), terms.values.tolist(), strict=True):
            count = min(self.chunks, self.frequencies.get(term, 0) * scale)
            idf += weight * math.log1p((self.chunks - count + 0.5) / (count + 0.5))
        # Of a query that is read in several languages a chunk can match one reading.
        reachable = terms.total / (float(terms.values.sum()) or 1.0)
        return (k + 1) * idf * reachable * max(1.0, FEW_TERMS / max(1.0, terms.total))

    def relevance(self, similarity: float, share: float | None) -> float:
        """The relevance of a chunk to a query, in [0, 1].

        Args:
            similarity: The chunk's to the query.
            share: The chunk's share of the query's greatest BM25 score; None where the query has no terms.
        """
        lexical = USUAL_SHARE if share is None else min(1.0, share)
        evidence = (similarity - self.similarity) / self.deviation + LEXICAL * lexical
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, SLOPE * (evidence - MIDDLE)))))


def excerpt(text: str) -> str:
    """The first words of a chunk."""
    words = " ".join(text.split()[:EXCERPT_WORDS])
    return words.encode(errors="replace")[:EXCERPT_BYTES].decode(errors="ignore")


def _others(rows: int, columns: int) -> Any:
    """Every pair of a row and a column but those of a chunk with itself."""
    return ~np.eye(rows, columns, dtype=bool)
