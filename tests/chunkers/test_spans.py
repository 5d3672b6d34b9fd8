"""Spans of foreign pieces, and chunks from spans."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, strategies as st

from situate.chunkers import Document
from situate.chunkers.spans import base_context, chunks_from_spans, recover_spans, trimmed
from situate.errors import SpanError


def cut(text: str, size: int, overlap: int) -> list[tuple[int, int]]:
    """Fixed windows: the reference for the recovered spans."""
    spans, start = [], 0
    while start < len(text):
        end = min(len(text), start + size)
        spans.append((start, end))
        if end == len(text):
            break
        start = end - overlap
    return spans


@given(st.text(alphabet="abc \n", min_size=1, max_size=80), st.integers(1, 9))
@example("a  ", 2)
def test_pieces_without_overlap_are_placed_exactly_even_where_text_repeats(text: str, size: int) -> None:
    spans = cut(text, size, 0)
    assert recover_spans(text, [text[s:e] for s, e in spans]) == spans


@given(st.text(alphabet="ab \n", min_size=1, max_size=80), st.integers(2, 12), st.data())
def test_overlapping_pieces_of_a_repetitive_text_hold_their_text_and_order(
    text: str, size: int, data: st.DataObject
) -> None:
    spans = cut(text, size, data.draw(st.integers(0, size - 1)))
    pieces = [text[s:e] for s, e in spans]
    found = recover_spans(text, pieces)
    assert [text[s:e] for s, e in found] == pieces
    assert all(a[0] < b[0] for a, b in pairwise(found))
    covered = {i for s, e in found for i in range(s, e)}
    assert {i for i, c in enumerate(text) if not c.isspace()} <= covered


@given(st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=6), min_size=1, max_size=40), st.data())
def test_stripped_pieces_are_placed(words: list[str], data: st.DataObject) -> None:
    text = "".join(word + data.draw(st.sampled_from([" ", "\n\n", "\r\n", "\t "])) for word in words)
    size = data.draw(st.integers(3, 30))
    spans = [trimmed(text, s, e) for s, e in cut(text, size, 0)]
    spans = [(s, e) for s, e in spans if s < e]
    assert recover_spans(text, [text[s:e] for s, e in spans]) == spans


def test_a_repeated_piece_is_not_taken_for_its_first_occurrence() -> None:
    text = "x aX, then b, then aX"
    assert recover_spans(text, ["x aX,", "then b,", "then", "aX"]) == [(0, 5), (6, 13), (14, 18), (19, 21)]


def test_an_even_overlap_is_preferred_in_periodic_text() -> None:
    text = "ab" * 20
    spans = cut(text, 10, 4)
    assert recover_spans(text, [text[s:e] for s, e in spans]) == spans


def test_rewritten_white_space_is_seen_through() -> None:
    text = "one\r\n  two\tthree four"
    assert recover_spans(text, ["one two", "three four"]) == [(0, 10), (11, 21)]


def test_dropped_separators_and_headings_may_lie_between_pieces() -> None:
    text = "# Title\n\nalpha\n---\nbeta\n---\nalpha"
    assert recover_spans(text, ["alpha", "beta", "alpha"]) == [(9, 14), (19, 23), (28, 33)]


@pytest.mark.parametrize(
    ("pieces", "number"),
    [(["alpha", "gamma"], 1), (["beta", "alpha"], 1), (["alpha", ""], 1), (["alpha", "alpha"], 1), (["  zeta  "], 0)],
)
def test_the_first_piece_that_is_not_there_is_named(pieces: list[str], number: int) -> None:
    with pytest.raises(SpanError, match=f"piece {number}"):
        recover_spans("alpha beta", pieces)


def test_a_long_text_of_one_word_stays_affordable() -> None:
    text = "word " * 10_000
    spans = cut(text, 1000, 200)
    found = recover_spans(text, [text[s:e] for s, e in spans])
    assert len(found) == len(spans)


def test_no_pieces_no_spans() -> None:
    assert recover_spans("abc", []) == []


@pytest.mark.parametrize(
    "spans",
    [[(0, 3), (0, 3)], [(4, 6), (0, 3)], [(0, 99)], [(-1, 2)], [(3, 2)], [(2, 2)]],
)
def test_spans_that_cannot_be_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(SpanError, match="'doc'"):
        chunks_from_spans(Document("doc", "abc def"), spans)


def test_overlap_can_be_refused() -> None:
    document = Document("doc", "abc def")
    assert [chunk.text for chunk in chunks_from_spans(document, [(0, 5), (3, 7)])] == ["abc d", " def"]
    with pytest.raises(SpanError, match="span 1"):
        chunks_from_spans(document, [(0, 5), (3, 7)], overlap=False)


def test_metadata_situates() -> None:
    metadata = {"title": "T", "path": "a/b.md", "date": 2024, "speaker": "", "other": ["x"]}
    context = base_context(Document("d", "x", metadata))
    assert (context.title, context.path, context.date, context.speaker) == ("T", "a/b.md", "2024", None)


@pytest.mark.parametrize("unit", ["same line\n", "word word\n\n", "字"])
@pytest.mark.parametrize(("size", "overlap"), [(100, 20), (100, 50), (60, 7)])
def test_overlapping_pieces_of_one_repeated_line_cover_the_text(unit: str, size: int, overlap: int) -> None:
    text = unit * 200
    starts = range(0, max(1, len(text) - overlap), size - overlap)
    for pieces in ([text[at : at + size] for at in starts], [text[at : at + size].strip() for at in starts]):
        spans = recover_spans(text, pieces)
        assert [text[start:end] for start, end in spans] == pieces
        covered = {place for start, end in spans for place in range(start, end)}
        assert not [at for at, sign in enumerate(text) if at not in covered and not sign.isspace()]
