"""A query's texts -> the vectors that it is searched with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from situate.chunkers.errors import InputError
from situate.embedders.types import Vectors
from situate.retrievers.hyde import mean_vector
from situate.retrievers.lexical import LexicalEncoder, SparseVector
from situate.retrievers.search import QueryVectors
from situate.retrievers.types import QueryText

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder


class QueryEncoder:
    """Embeds the texts of a query, each in its role, and weighs their terms.

    The dense vector is the weighted mean of the texts in the roles "query" and "document"; BM25 takes the terms of
    those in the roles "query" and "lexical", by their weights; MaxSim takes the first "query" text.

    Args:
        embedder: Makes the vectors.
        lexical: Makes the BM25 vector; None for none.
        token_vectors: Whether token vectors are made.
    """

    def __init__(self, embedder: Embedder, lexical: LexicalEncoder | None, token_vectors: bool) -> None:
        self.embedder = embedder
        self.lexical = lexical
        self.token_vectors = token_vectors

    def encode(self, query: str, texts: Sequence[QueryText], dense: Vectors | None = None) -> QueryVectors:
        """The vectors of a query.

        Args:
            query: What was asked.
            texts: What to search with.
            dense: float32 ``[dimension]``, in place of the texts' mean.

        Raises:
            InputError: A role is unknown, or no text with a vector has a weight.
        """
        check_texts(texts)
        tokens = self.embedder.embed_query_tokens([asked(query, texts)])[0] if self.token_vectors else None
        if dense is None:
            embed = {"query": self.embedder.embed_queries, "document": self.embedder.embed_documents}
            dense = _mean(texts, {role: embed[role](written) for role, written in _by_role(texts).items()})
        return QueryVectors(unit(dense), self._terms(query, texts), tokens)

    async def aencode(self, query: str, texts: Sequence[QueryText], dense: Vectors | None = None) -> QueryVectors:
        """`encode` without blocking the event loop."""
        check_texts(texts)
        tokens = (await self.embedder.aembed_query_tokens([asked(query, texts)]))[0] if self.token_vectors else None
        if dense is None:
            embed = {"query": self.embedder.aembed_queries, "document": self.embedder.aembed_documents}
            dense = _mean(texts, {role: await embed[role](written) for role, written in _by_role(texts).items()})
        return QueryVectors(unit(dense), self._terms(query, texts), tokens)

    def _terms(self, query: str, texts: Sequence[QueryText]) -> SparseVector | None:
        if self.lexical is None:
            return None
        first = asked(query, texts)
        more = [(t.weight, t.text) for t in texts if t.role != "document" and t.weight and t.text != first]
        return self.lexical.encode_query(first, more)


def asked(query: str, texts: Sequence[QueryText]) -> str:
    """The question as it is put to BM25, MaxSim and rerankers: the first text in the role of a query."""
    return next((text.text for text in texts if text.role == "query"), query)


def check_texts(texts: Sequence[QueryText]) -> None:
    """Raises an `InputError` where there is nothing to search with."""
    if unknown := {text.role for text in texts} - {"query", "document", "lexical"}:
        raise InputError(
            f"unknown roles {sorted(unknown)}: a text is searched with as 'query', as 'document' or as 'lexical'"
        )
    if not any(text.weight > 0 for text in texts if text.role != "lexical"):
        raise InputError("the texts to search with need one query or document with a weight of more than 0")


def unit(vector: Vectors) -> Vectors:
    """The vector with L2 norm 1; the zero vector, which has no direction, as it is."""
    vector = np.asarray(vector, dtype=np.float32)
    norm = float(np.linalg.norm(vector))
    return vector / np.float32(norm) if norm else vector


def _by_role(texts: Sequence[QueryText]) -> dict[str, list[str]]:
    written: dict[str, list[str]] = {}
    for text in texts:
        if text.role != "lexical":
            written.setdefault(text.role, []).append(text.text)
    return written


def _mean(texts: Sequence[QueryText], by_role: Mapping[str, Vectors]) -> Vectors:
    rows = {role: iter(vectors) for role, vectors in by_role.items()}
    embedded = [text for text in texts if text.role != "lexical"]
    return mean_vector(np.array([next(rows[text.role]) for text in embedded]), [text.weight for text in embedded])
