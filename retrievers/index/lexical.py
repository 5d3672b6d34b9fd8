"""BM25 vectors of chunks and queries."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from situate.retrievers.config import LexicalScheme
from situate.retrievers.index.languages import ENGLISH, NONE, STEMMED, detected, reading_of, weights
from situate.retrievers.index.terms import ngrams, normalised, syllables
from situate.types import Chunk

if TYPE_CHECKING:
    import qdrant_edge

# The borders of the words inside one identifier: fooBar, HTTPServer, snake_case, kebab-case, dotted.path.
_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_.\-/]+")
_IDENTIFIER = re.compile(r"\b\w*(?:[a-z0-9][A-Z]|[A-Z]{2}[a-z]|_)\w*\b")
_WORD = re.compile(r"[^\W_]+")
#: Characters of each of a document's first, middle and last chunk, by which its language is told.
_EXCERPT = 600
#: The share of a query's greatest score that its n-grams give to texts about something else.
_CHANCE = 0.05
#: N-grams in a text, for each of its words; about, in the languages that are written with spaces.
_NGRAMS_PER_WORD = 4


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Weights of the terms of a text.

    Attributes:
        indices: int64 ``[terms]``, ascending: hashes of terms.
        values: float32 ``[terms]``, positive.
        words: Of a query, the sum of the weights that one text can match; None for that of ``values``. It is less where
            the query is read in several languages: a text is written in one.
        chance: Of a query, the share of its greatest score that texts about something else reach: n-grams are in many
            words.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.float32]
    words: float | None = None
    chance: float = 0.0

    @property
    def total(self) -> float:
        """The sum of the weights that one text can match."""
        return float(self.values.sum()) if self.words is None else self.words


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
        self._readings: dict[str, _Reading] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"scheme": self.scheme, "_readings": {}}

    @property
    def _among(self) -> tuple[str, ...]:
        """The languages that the scheme names; none where all are possible."""
        language = self.scheme.language
        return () if language == "auto" else (language,) if isinstance(language, str) else language

    def _reading(self, name: str) -> _Reading:
        if name not in self._readings:
            self._readings[name] = _Reading(self.scheme, name)
        return self._readings[name]

    def language_of(self, chunks: Sequence[Chunk]) -> str:
        """The reading of a document, by its first, middle and last chunk: a language's name, or "ngrams"."""
        if self.scheme.terms < 3:
            return str(self.scheme.language)
        if len({reading_of(name) for name in self._among}) == 1:
            return reading_of(self._among[0])
        places = dict.fromkeys((0, len(chunks) // 2, len(chunks) - 1)) if chunks else ()
        return detected("\n".join(chunks[i].text[:_EXCERPT] for i in places), self._among)

    def encode_query(
        self, text: str, more: Sequence[tuple[float, str]] = (), languages: Collection[str] = ()
    ) -> SparseVector:
        """The distinct terms of the query; no terms where all of them are stop words.

        A word weighs 1: its term, where that is all, or half for it and half for its n-grams together. Where several
        languages are probable, these are multiplied by how probable each is (`languages.weights`), and a term has its
        greatest weight.

        Args:
            text: The query.
            more: Weights and texts whose terms are added (a hypothetical document's, another wording's).
            languages: With ``language="auto"``, the readings of the collection's documents (`language_of`), of which
                the query's are chosen; without any, it is read as its own language says.
        """
        query = self._query(text, languages)
        if not more:
            return query
        others = [(1.0, query), *((weight, self._query(other, languages)) for weight, other in more)]
        return _mixed(others, sum(weight * vector.total for weight, vector in others))

    def encode_chunks(self, chunks: Sequence[Chunk], language: str | None = None) -> list[SparseVector]:
        """One vector per chunk of one document, in the document's order.

        Neighbours are mixed in where the document is read without n-grams: with theirs the vectors would be more than
        twice as large, and find less.

        Args:
            chunks: The chunks.
            language: The document's, as `language_of` says; None: that of these chunks.
        """
        reading = self._reading(self.language_of(chunks) if language is None else language)
        vectors = [reading.document(self._prepared(self.text_of(chunk))) for chunk in chunks]
        share = self.scheme.neighbours
        if not share or reading.ngrams is not None:
            return vectors
        return [
            _mixed([(1.0, vector), *((share, vectors[j]) for j in (i - 1, i + 1) if 0 <= j < len(vectors))])
            for i, vector in enumerate(vectors)
        ]

    def text_of(self, chunk: Chunk) -> str:
        """The text that is indexed for a chunk: its context, then its own."""
        context = chunk.context.render(self.scheme.context)
        return f"{context}\n{chunk.text}" if context else chunk.text

    def _query(self, text: str, languages: Collection[str]) -> SparseVector:
        prepared = self._prepared(text)
        if self.scheme.terms < 3:
            return self._reading(str(self.scheme.language)).query(prepared)
        among = {reading_of(name) for name in self._among} or languages or {detected(text)}
        readings = [(weight, self._reading(name).query(prepared)) for name, weight in weights(text, among).items()]
        if len(readings) == 1:
            return readings[0][1]
        return _widest([replace(query, values=np.float32(weight) * query.values) for weight, query in readings])

    def _prepared(self, text: str) -> str:
        # The Rust library takes UTF-8 only, and a lone surrogate has none.
        text = text.encode("utf-8", errors="replace").decode("utf-8")
        if self.scheme.split_identifiers and (words := identifier_words(text)):
            text = f"{text}\n{words}"
        if text.isascii() or self.scheme.terms == 1:
            return text
        # Turkish \u0130 in small letters is i with a dot of its own.
        return normalised(text if self.scheme.terms == 2 else text.replace("\u0130", "I"))


class _Reading:
    """One way to read text as terms: with a language's stop words and stemmer, with n-grams, with both or neither."""

    def __init__(self, scheme: LexicalScheme, name: str) -> None:
        import qdrant_edge

        config = partial(qdrant_edge.Bm25Config, k=scheme.k, b=scheme.b)
        plain = partial(config, stopwords=qdrant_edge.StopwordsSet(), stemmer=qdrant_edge.DisabledStemmer())
        length = scheme.average_length
        self.ngrams: qdrant_edge.Bm25 | None = None
        if scheme.terms < 3:
            try:
                self._words = qdrant_edge.Bm25(config(avg_len=length, language=name))
            except ValueError:
                # "none", or a language without stop words and stemmer: its words are indexed as they are.
                self._words = qdrant_edge.Bm25(plain(avg_len=length))
            return
        by_name = config(avg_len=length, language=name) if name in STEMMED else plain(avg_len=length)
        self._words = qdrant_edge.Bm25(by_name)
        if name not in (ENGLISH, NONE):
            self.ngrams = qdrant_edge.Bm25(plain(avg_len=_NGRAMS_PER_WORD * length))

    def document(self, text: str) -> SparseVector:
        words = _from_edge(self._words.embed_document(text))
        if self.ngrams is None:
            return words
        joined = " ".join(" ".join(ngrams(word)) for word in _WORD.findall(text.lower()))
        both = _widest([words, _from_edge(self.ngrams.embed_document(joined))])
        return SparseVector(both.indices, both.values)

    def query(self, text: str) -> SparseVector:
        if self.ngrams is None:
            return _from_edge(self._words.embed_query(text))
        found: dict[int, float] = {}
        chance = 0.0
        # Korean writes particles with their noun: a text has a noun of two syllables as a word, or as a pair of
        # syllables of a longer word, and matches either.
        pairs = 0
        for word in set(_WORD.findall(text.lower())):
            # A stop word has no term, and so no n-grams either.
            if terms := self._words.embed_query(word).indices:
                pair = syllables(word)
                pairs += bool(pair)
                parts = self.ngrams.embed_query(pair or " ".join(ngrams(word))).indices
                chance = _CHANCE if parts else chance
                for indices, weight in ((terms, 0.5 if parts and not pair else 1.0), (parts, 0.5)):
                    for index in indices:
                        found[index] = max(weight / len(indices), found.get(index, 0.0))
        order = sorted(found)
        values = np.array([found[index] for index in order], dtype=np.float32)
        words = float(values.sum()) - pairs / 2 if pairs else None
        return SparseVector(np.array(order, dtype=np.int64), values, words, chance)


def _from_edge(vector: qdrant_edge.SparseVector) -> SparseVector:
    indices = np.asarray(vector.indices, dtype=np.int64)
    values = np.asarray(vector.values, dtype=np.float32)
    order = np.argsort(indices)
    return SparseVector(indices[order], values[order])


def _widest(parts: Sequence[SparseVector]) -> SparseVector:
    """The terms of all, each with its greatest weight."""
    indices, places = np.unique(np.concatenate([vector.indices for vector in parts]), return_inverse=True)
    values = np.zeros(len(indices), dtype=np.float32)
    np.maximum.at(values, places, np.concatenate([vector.values for vector in parts]))
    return SparseVector(indices, values, max(v.total for v in parts), max(v.chance for v in parts))


def _mixed(parts: Sequence[tuple[float, SparseVector]], words: float | None = None) -> SparseVector:
    indices, places = np.unique(np.concatenate([vector.indices for _, vector in parts]), return_inverse=True)
    weighted = np.concatenate([weight * vector.values for weight, vector in parts])
    values = np.bincount(places, weights=weighted, minlength=len(indices)).astype(np.float32)
    return SparseVector(indices, values, words, max(vector.chance for _, vector in parts))
