"""BM25 vectors: terms, neighbours, identifiers."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from situate.chunkers import Chunk, Context, Document
from situate.retrievers.config import LexicalScheme
from situate.retrievers.index.lexical import LexicalEncoder, SparseVector, identifier_words

BARE = LexicalScheme(context=(), neighbours=0.0, split_identifiers=False)


def dot(left: SparseVector, right: SparseVector) -> float:
    _, a, b = np.intersect1d(left.indices, right.indices, return_indices=True)
    return float(left.values[a] @ right.values[b])


def chunks(*texts: str, headings: tuple[str, ...] = ()) -> list[Chunk]:
    document = Document("d", " ".join(texts), {"title": "Handbook"})
    places = np.cumsum([0, *(len(text) + 1 for text in texts)])
    return [
        Chunk.of(document, i, start, start + len(text), Context(title="Handbook", headings=headings))
        for i, (start, text) in enumerate(zip(places.tolist(), texts, strict=False))
    ]


def test_a_term_is_weighted_as_bm25_says() -> None:
    scheme = LexicalScheme(context=(), neighbours=0.0, k=1.5, b=0.5, average_length=4, language="none")
    encoder = LexicalEncoder(scheme)
    vector = encoder.encode_chunks(chunks("apple apple pear"))[0]
    length = 3 / 4
    expected = 2 * (1.5 + 1) / (2 + 1.5 * (1 - 0.5 + 0.5 * length))
    assert dot(encoder.encode_query("apple"), vector) == pytest.approx(expected, rel=1e-5)


def test_neighbours_mix_scores_exactly() -> None:
    texts = ("apples are red", "pears are green", "plums are blue and apples fall")
    alone, mixed = LexicalEncoder(BARE), LexicalEncoder(LexicalScheme(context=(), neighbours=0.4))
    query = alone.encode_query("apples and green pears")
    scores = [dot(query, vector) for vector in alone.encode_chunks(chunks(*texts))]
    expected = [scores[0] + 0.4 * scores[1], scores[1] + 0.4 * (scores[0] + scores[2]), scores[2] + 0.4 * scores[1]]
    assert [dot(query, vector) for vector in mixed.encode_chunks(chunks(*texts))] == pytest.approx(expected, rel=1e-5)


def test_context_is_searched_with_the_text() -> None:
    encoder = LexicalEncoder(LexicalScheme(neighbours=0.0))
    vector = encoder.encode_chunks(chunks("It is due by noon.", headings=("Expenses",)))[0]
    assert dot(encoder.encode_query("handbook expenses"), vector) > 0
    assert (
        dot(LexicalEncoder(BARE).encode_query("expenses"), LexicalEncoder(BARE).encode_chunks(chunks("noon"))[0]) == 0
    )


def test_words_inside_identifiers_are_found() -> None:
    assert identifier_words("call parseHTTPHeader or load_all, then stop") == "parse HTTP Header load all"
    encoder = LexicalEncoder(LexicalScheme(neighbours=0.0))
    vector = encoder.encode_chunks(chunks("def parseHTTPHeader(raw_bytes): ..."))[0]
    assert dot(encoder.encode_query("header bytes"), vector) > 0


def test_more_texts_add_their_terms_by_weight() -> None:
    encoder = LexicalEncoder(BARE)
    vector = encoder.encode_chunks(chunks("cats and dogs"))[0]
    cats, dogs = dot(encoder.encode_query("cats"), vector), dot(encoder.encode_query("dogs"), vector)
    assert dot(encoder.encode_query("cats", [(0.5, "dogs")]), vector) == pytest.approx(cats + 0.5 * dogs)


def test_stop_words_alone_leave_no_terms() -> None:
    assert len(LexicalEncoder(BARE).encode_query("what is it that they are").indices) == 0
    assert len(LexicalEncoder(LexicalScheme(language="none")).encode_query("what is it").indices) == 3


def test_odd_texts_and_pickling() -> None:
    encoder = pickle.loads(pickle.dumps(LexicalEncoder(LexicalScheme())))
    for text in ("\ud800 lone", "nul\0byte", "🙂", "ÀÉÎ", "x" * 100_000):
        vector = encoder.encode_query(text)
        assert np.all(np.diff(vector.indices) > 0)
        assert all(math.isfinite(value) for value in vector.values)
