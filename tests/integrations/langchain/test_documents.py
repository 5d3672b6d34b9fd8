"""Documents and chunks survive the conversion to LangChain and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st
from langchain_core.documents import Document as LangChainDocument

from situate.errors import InputError
from situate.integrations._shared.origin import ORIGIN_KEY
from situate.integrations.langchain.documents import (
    RELEVANCE_SCORE,
    START_INDEX,
    assemble,
    chunk_context,
    document_id,
    from_chunk,
    from_document,
    from_result,
    read_origin,
    situated_text,
    to_chunk,
    to_document,
    with_origins,
)
from situate.retrievers.types import Hit
from situate.types import Chunk, Context, Document


@st.composite
def cut_documents(draw: st.DrawFn) -> tuple[Document, list[Chunk]]:
    """A document and sorted spans of it, overlapping or with gaps, as any chunker might cut them."""
    text = draw(st.text(min_size=1, max_size=60))
    bounds = st.integers(0, len(text))
    spans = draw(st.sets(st.tuples(bounds, bounds).filter(lambda span: span[0] < span[1]), min_size=1, max_size=6))
    document = Document("d", text, {"title": "T"})
    context = Context(title="T", headings=("A", "B"))
    return document, [Chunk.of(document, i, start, end, context) for i, (start, end) in enumerate(sorted(spans))]


@given(cut_documents())
def test_chunks_hold_their_document(cut: tuple[Document, list[Chunk]]) -> None:
    document, chunks = cut
    back = [to_chunk(from_chunk(chunk)) for chunk in with_origins(document, chunks)]
    assert assemble(reversed(back)) == document
    for chunk, original in zip(back, chunks, strict=True):
        assert (chunk.id, chunk.text, chunk.start, chunk.end) == (
            original.id,
            original.text,
            original.start,
            original.end,
        )
        assert (chunk.document_id, chunk.context) == ("d", original.context)


@given(cut_documents(), st.data())
def test_missing_chunks_leave_blanks_and_no_shift(cut: tuple[Document, list[Chunk]], data: st.DataObject) -> None:
    document, chunks = cut
    known = data.draw(
        st.lists(st.sampled_from(with_origins(document, chunks)), min_size=1, unique_by=lambda c: c.index)
    )
    text = assemble(known).text
    for chunk in known:
        assert text[chunk.start : chunk.end] == chunk.text
    assert all(there in (" ", real) for there, real in zip(text, document.text, strict=False))


def test_a_chunk_says_where_it_comes_from() -> None:
    document = Document("d", "One. Two.", {"source": "a.md"})
    context = Context(title="Numbers", headings=("Small",))
    first, second = (
        from_chunk(c)
        for c in with_origins(document, [Chunk.of(document, 0, 0, 4, context), Chunk.of(document, 1, 5, 9, context)])
    )
    assert second.metadata["source"] == "a.md"
    assert second.metadata[START_INDEX] == 5
    origin = json.loads(second.metadata[ORIGIN_KEY])
    assert {k: origin[k] for k in ("document_id", "index", "chunks", "start", "end", "before")} == {
        "document_id": "d",
        "index": 1,
        "chunks": 2,
        "start": 5,
        "end": 9,
        "before": " ",
    }
    assert chunk_context(second) == context
    assert situated_text(second) == "Numbers\nSmall\n\nTwo."
    assert situated_text(second, fields=()) == "Two."
    assert first.id != second.id


def test_a_changed_document_changes_the_stamps_of_all_its_chunks() -> None:
    # LangChain's index() hashes metadata: only so does it send all siblings of an edited chunk again.
    before, after = Document("d", "One. Two.", {}), Document("d", "One. 2345", {})
    stamps = [
        [c.metadata[ORIGIN_KEY] for c in with_origins(d, [Chunk.of(d, 0, 0, 4), Chunk.of(d, 1, 5, 9)])]
        for d in (before, after)
    ]
    assert stamps[0][0] != stamps[1][0]
    assert stamps[0][1] != stamps[1][1]


def test_conversions_do_not_share_metadata() -> None:
    given = LangChainDocument(id="x", page_content="text", metadata={"tags": ["a"]})
    document = to_document(given)
    document.metadata["tags"].append("b")
    back = from_document(document)
    back.metadata["tags"].append("c")
    assert given.metadata == {"tags": ["a"]}
    assert document.metadata == {"tags": ["a", "b"]}


def test_ids() -> None:
    plain = LangChainDocument(page_content="text", metadata={"a": 1})
    assert document_id(plain) == document_id(plain.model_copy(deep=True))
    assert document_id(plain) != document_id(LangChainDocument(page_content="text", metadata={"a": 2}))
    assert document_id(LangChainDocument(id="mine", page_content="text")) == "mine"


def test_a_chunk_changed_after_splitting_is_refused() -> None:
    document = Document("d", "One. Two.", {})
    chunk = from_chunk(with_origins(document, [Chunk.of(document, 0, 0, 4)])[0])
    chunk.page_content = "Title\n\nOne."
    with pytest.raises(InputError, match="has 11 characters, but 4 were cut"):
        to_chunk(chunk)


@pytest.mark.parametrize("value", ["not ours", '{"other": 1}', "[]", 7])
def test_a_foreign_value_under_our_key_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="did not write"):
        read_origin({ORIGIN_KEY: value})


def test_a_result_carries_score_and_place() -> None:
    document = Document("d", "One. Two.", {"title": "T"})
    chunk = Chunk.of(document, 1, 5, 9)
    found = from_result(Hit(chunk, 0.5))
    assert found.metadata[RELEVANCE_SCORE] == 0.5
    assert found.metadata[START_INDEX] == 5
    assert chunk_context(found).title == "T"
    assert dict(chunk.metadata) == {"title": "T"}
