"""BM25 vectors of chunks and queries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from situate.retrievers.config import LexicalScheme
from situate.retrievers.index.terms import normalised
from situate.types import Chunk

if TYPE_CHECKING:
    import qdrant_edge

# The borders of the words inside one identifier: fooBar, HTTPServer, snake_case, kebab-case, dotted.path.
_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_.\-/]+")
_IDENTIFIER = re.compile(r"\b\w*(?:[a-z0-9][A-Z]|[A-Z]{2}[a-z]|_)\w*\b")


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Weights of the terms of a text.

    Attributes:
        indices: int64 ``[terms]``, ascending: hashes of terms.
        values: float32 ``[terms]``, positive.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.float32]


def identifier_words(text: str) -> str:
    """The words inside the camelCase and snake_case identifiers of ``text``, separated by spaces.

    >>> identifier_words("call parseHTTPHeader or load_all")
    'parse HTTP Header load all'
    """
    words: list[str] = []
    for identifier in _IDENTIFIER.findall(text):
        parts = [part for part in _JOINT.split(identifier) if part]
        if len(parts) > 1:
            words += parts
    return " ".join(words)


class LexicalEncoder:
    """BM25 vectors by a `LexicalScheme`. Qdrant multiplies by the inverse document frequency (modifier "idf")."""

    def __init__(self, scheme: LexicalScheme) -> None:
        self.scheme = scheme

    @cached_property
    def _bm25(self) -> qdrant_edge.Bm25:
        import qdrant_edge

        config = partial(qdrant_edge.Bm25Config, k=self.scheme.k, b=self.scheme.b, avg_len=self.scheme.average_length)
        try:
            return qdrant_edge.Bm25(config(language=self.scheme.language))
        except ValueError:
            # "none", or a language without stop words and stemmer: its words are indexed as they are.
            plain = config(stopwords=qdrant_edge.StopwordsSet(), stemmer=qdrant_edge.DisabledStemmer())
            return qdrant_edge.Bm25(plain)

    def __getstate__(self) -> dict[str, LexicalScheme]:
        return {"scheme": self.scheme}

    def encode_query(self, text: str, more: Sequence[tuple[float, str]] = ()) -> SparseVector:
        """Weight 1 for each distinct term of the query; no terms where all of them are stop words.

        Args:
            text: The query.
            more: Weights and texts whose terms are added (a hypothetical document's, another wording's).
        """
        query = _from_edge(self._bm25.embed_query(self._prepared(text)))
        if not more:
            return query
        others = [(weight, _from_edge(self._bm25.embed_query(self._prepared(other)))) for weight, other in more]
        return _mixed([(1.0, query), *others])

    def encode_chunks(self, chunks: Sequence[Chunk]) -> list[SparseVector]:
        """One vector per chunk of one document, in the document's order, neighbours mixed in."""
        vectors = [_from_edge(self._bm25.embed_document(self._prepared(self.text_of(chunk)))) for chunk in chunks]
        share = self.scheme.neighbours
        if not share:
            return vectors
        return [
            _mixed([(1.0, vector), *((share, vectors[j]) for j in (i - 1, i + 1) if 0 <= j < len(vectors))])
            for i, vector in enumerate(vectors)
        ]

    def text_of(self, chunk: Chunk) -> str:
        """The text that is indexed for a chunk: its context, then its own."""
        context = chunk.context.render(self.scheme.context)
        return f"{context}\n{chunk.text}" if context else chunk.text

    def _prepared(self, text: str) -> str:
        # The Rust library takes UTF-8 only, and a lone surrogate has none.
        text = text.encode("utf-8", errors="replace").decode("utf-8")
        if self.scheme.split_identifiers and (words := identifier_words(text)):
            text = f"{text}\n{words}"
        return text if text.isascii() or self.scheme.terms == 1 else normalised(text)


def _from_edge(vector: qdrant_edge.SparseVector) -> SparseVector:
    indices = np.asarray(vector.indices, dtype=np.int64)
    values = np.asarray(vector.values, dtype=np.float32)
    order = np.argsort(indices)
    return SparseVector(indices[order], values[order])


def _mixed(parts: Sequence[tuple[float, SparseVector]]) -> SparseVector:
    indices, places = np.unique(np.concatenate([vector.indices for _, vector in parts]), return_inverse=True)
    weighted = np.concatenate([weight * vector.values for weight, vector in parts])
    values = np.bincount(places, weights=weighted, minlength=len(indices)).astype(np.float32)
    return SparseVector(indices, values)
