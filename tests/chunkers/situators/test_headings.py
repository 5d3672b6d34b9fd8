"""Sentences, AutoChunker and HeadingSituator."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given

from situate.chunkers import AutoChunker, Document, HeadingSituator, MarkdownChunker, Situator, TextChunker
from situate.chunkers.sentences import last_sentence, sentence_spans
from situate.chunkers.spans import chunks_from_spans
from tests.chunkers.conftest import TEXTS


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Ask Dr. Lee or J. Doe, e.g. at 9.30. Then go.", ["Ask Dr. Lee or J. Doe, e.g. at 9.30.", "Then go."]),
        ('He said "no." She left... Then?', ['He said "no."', "She left...", "Then?"]),
        ("Pens, paper etc. Nothing else.", ["Pens, paper etc.", "Nothing else."]),
        ("今天很好。明天呢？好！", ["今天很好。", "明天呢？", "好！"]),
        ("A title\n\nA text\r\n\r\nmore", ["A title", "A text", "more"]),
        ("", []),
        (" \n ", []),
    ],
)  # fmt: skip
def test_sentences_end_where_a_reader_says(text: str, sentences: list[str]) -> None:
    assert [text[s:e] for s, e in sentence_spans(text)] == sentences


@given(TEXTS)
def test_sentences_leave_out_white_space_alone(text: str) -> None:
    spans = sentence_spans(text)
    assert "".join("".join(text[s:e].split()) for s, e in spans) == "".join(text.split())
    assert all(text[s:e] == text[s:e].strip() != "" for s, e in spans)


def test_the_last_sentence_is_clamped_at_a_word() -> None:
    assert last_sentence("One two. Three four. ", 0, 21) == "Three four."
    assert last_sentence("One two. Three four. ", 0, 21, limit=7) == "four."
    assert last_sentence("   ", 0, 3) is None


TEXT = """# Leave

Preface. Read this first.

## Sick leave

Tell her by nine. It must be approved within two days.

## Parental leave

It is paid in full.
"""


def test_a_foreign_chunk_is_situated() -> None:
    document = Document("leave.md", TEXT, {"path": "leave.md", "date": "2024-01-01"})
    places = [TEXT.index(words) for words in ("Preface", "Tell", "It must", "## Parental")]
    spans = list(zip(places, [*places[1:], len(TEXT)], strict=True))
    chunks = HeadingSituator().situate(document, chunks_from_spans(document, spans))
    assert [chunk.context.to_dict() for chunk in chunks] == [
        {"title": "Leave", "headings": ["Leave"], "path": "leave.md", "date": "2024-01-01"},
        {"title": "Leave", "headings": ["Leave", "Sick leave"], "path": "leave.md", "date": "2024-01-01"},
        {
            "title": "Leave",
            "headings": ["Leave", "Sick leave"],
            "path": "leave.md",
            "date": "2024-01-01",
            "previous": "Tell her by nine.",
        },
        # The sentence before belongs to another section: it would mislead.
        {"title": "Leave", "headings": ["Leave", "Parental leave"], "path": "leave.md", "date": "2024-01-01"},
    ]
    assert [(chunk.id, chunk.text) for chunk in chunks] == [
        (chunk.id, chunk.text) for chunk in chunks_from_spans(document, spans)
    ]


def test_the_situator_keeps_what_the_chunker_wrote() -> None:
    document = Document("d", TEXT, {"title": "Own title"})
    chunks = MarkdownChunker(60).split(document)
    situated = HeadingSituator(previous=0).situate(document, chunks)
    assert situated == chunks


def test_parts_can_be_turned_off() -> None:
    document = Document("d", TEXT)
    chunks = TextChunker(60).split(document)
    plain = HeadingSituator(headings=False, title_from_heading=False, previous=0).situate(document, chunks)
    assert plain == chunks


async def test_the_async_twin_does_the_same() -> None:
    document = Document("d", TEXT)
    chunks = TextChunker(60).split(document)
    situator = HeadingSituator()
    assert isinstance(situator, Situator)
    assert await situator.asituate(document, chunks) == situator.situate(document, chunks)
    assert pickle.loads(pickle.dumps(situator)) == situator
    assert situator.situate(document, []) == []


@given(TEXTS)
def test_situating_never_changes_ids_texts_and_spans(text: str) -> None:
    document = Document("d", text)
    chunks = TextChunker(9, overlap=3).split(document)
    situated = HeadingSituator().situate(document, chunks)
    assert [(c.id, c.text, c.start, c.end) for c in situated] == [(c.id, c.text, c.start, c.end) for c in chunks]


@pytest.mark.parametrize(
    ("document", "markdown"),
    [
        (Document("a.md", "plain words"), True),
        (Document("a.txt", "# Heading\n\ntext"), False),
        (Document("a", "x", {"path": "b/C.MD"}), True),
        (Document("a", "# Heading\n\ntext"), True),
        (Document("a", "text\n\n## Heading\n\ntext"), True),
        (Document("a", "# Heading\n\ntext", {"format": "text"}), False),
        (Document("a", "text", {"format": "markdown"}), True),
        (Document("a.py", "# a comment\nx = 1\n\n# another\ny = 2\n"), False),
        (Document("a", "no headings\n=== here ==="), False),
    ],
)
def test_the_kind_of_a_document_decides(document: Document, markdown: bool) -> None:
    kind = MarkdownChunker if markdown else TextChunker
    assert AutoChunker(20, 5).split(document) == kind(20, 5).split(document)


def test_the_choice_matters() -> None:
    document = Document("a.md", "# A\n\nOne.\n\n# B\n\nTwo.")
    assert [chunk.context.headings for chunk in AutoChunker(100).split(document)] == [("A",), ("B",)]
