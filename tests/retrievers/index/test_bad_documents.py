"""Degenerate documents and chunks, through a whole index of the quality preset."""

from __future__ import annotations

import base64
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time
from enum import Enum
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from situate.chunkers import Chunk, Document, TextChunker
from situate.embedders import ChunkScheme, Embedder
from situate.embedders.models.families import Family
from situate.errors import InputError, SpanError, TruncationWarning
from situate.retrievers import Index, PipelineConfig, Retriever
from situate.retrievers.index.payload import DENSE
from tests.conftest import FULL
from tests.retrievers.index.crash_writer import HashEncoder

RANDOM = random.Random(3)
BAD = {
    "one word": ("Zeppelin", "zeppelin"),
    "only headings": ("# Harbour\n\n## Zeppelin mooring\n\n### Cranes\n", "zeppelin mooring"),
    "right to left": ("שלום לכולם. The zeppelin צפלין leaves at nine. مرحبا بالعالم، كيف الحال؟ ", "zeppelin"),
    "a table": ("| craft | leaves |\n| --- | --- |\n" + "| zeppelin | nine |\n| ferry | ten |\n" * 40, "zeppelin"),
    "code": ("def moor_zeppelin(mast):\n    return mast.lock()\n" * 20, "moor zeppelin"),
    "base64": ("Zeppelin plan: " + base64.b64encode(RANDOM.randbytes(1500)).decode(), "zeppelin plan"),
    "one character": ("Ж", "Ж"),
    "control characters": ("\x00\x07 zeppelin \u202e mast", "zeppelin mast"),
    "emoji alone": ("😀👩‍👧🏳️‍🌈" * 50, "😀"),
}


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture(scope="module")
def index(embedder: Embedder) -> Iterator[Index]:
    with Index(embedder, config=PipelineConfig.quality()) as index:
        index.add([Document("other", "Apples ripen in autumn, and pears keep in a cool cellar.")])
        yield index


@pytest.mark.parametrize("name", BAD)
async def test_an_odd_document_is_indexed_and_found(index: Index, name: str) -> None:
    text, query = BAD[name]
    document = Document(name, text)
    report = await index.aadd([document])
    assert (report.added, report.skipped) == (1, ())
    chunks = index.get_chunks([name])
    assert report.chunks == len(chunks)
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    covered = {at for chunk in chunks for at in range(chunk.start, chunk.end)}
    assert all(character.isspace() for at, character in enumerate(text) if at not in covered)
    assert name in {hit.chunk.document_id for hit in index.search(query, 5)}
    assert index.add([document]).unchanged == 1
    index.delete([name])


def test_a_lone_surrogate_costs_neither_its_document_nor_the_others(index: Index) -> None:
    """Stored as U+FFFD, which is as long, so that spans stay true."""
    documents = [
        Document("surrogate", "# Mast \ud83d\n\nA zeppelin \ud800 at its mast.", {"by\udfff": "A\ud800"}),
        Document("ferry", "The ferry leaves at nine."),
    ]
    assert index.add(documents).added == 2
    assert index.add(documents).unchanged == 2
    for chunk in index.get_chunks(["surrogate"]):
        assert chunk.text == documents[0].text[chunk.start : chunk.end].replace("\ud800", "\ufffd").replace(
            "\ud83d", "\ufffd"
        )
        assert chunk.metadata == {"by\ufffd": "A\ufffd"}
    assert index.search("a zeppelin at its mast")[0].chunk.document_id == "surrogate"
    index.delete(["surrogate", "ferry"])


NO_DOCUMENTS = {
    "a surrogate in the id": (Document("mast \udcff", "A mast."), "lone surrogate"),
    "an empty id": (Document("", "A mast."), "empty id"),
    "a number as the id": (Document(5, "A mast."), "5 as its id"),  # type: ignore[arg-type]
    "no text": (Document("mast", None), "a NoneType as its text"),  # type: ignore[arg-type]
    "bytes as the text": (Document("mast", b"A mast."), "a bytes as its text"),  # type: ignore[arg-type]
    "no metadata": (Document("mast", "A mast.", None), "a NoneType as its metadata"),  # type: ignore[arg-type]
    "a string": ("A mast.", "a str is no Document"),
}


@pytest.mark.parametrize("name", NO_DOCUMENTS)
def test_what_is_no_document_is_named_and_costs_no_other(index: Index, name: str) -> None:
    bad, message = NO_DOCUMENTS[name]
    with pytest.raises(InputError, match=message):
        index.add([Document("one", "A crane."), bad, Document("two", "A ferry.")])  # type: ignore[list-item]
    assert {"one", "two"} < set(index.document_ids())
    index.delete(["one", "two"])


async def test_one_id_is_no_list_of_its_characters(index: Index) -> None:
    """`delete("12")` would delete the documents "1" and "2"."""
    index.add([Document("1", "A crane."), Document("2", "A ferry.")])
    for wrong, said in (("12", "document_ids='12' is no list"), ([5], "the document id 5 is a int"), (None, "no list")):
        for call in (index.delete, index.get_chunks):
            with pytest.raises(InputError, match=said):
                call(wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=said):
            await index.adelete(wrong)  # type: ignore[arg-type]
    index.delete(["\ud800"])  # no document can have this id
    assert {"1", "2"} < set(index.document_ids())
    index.delete(["1", "2"])


@pytest.mark.parametrize("wrong", [Document("1", "A crane."), "A crane.", None])
async def test_one_document_is_no_list_of_documents(index: Index, wrong: Any) -> None:
    said = f"documents is a {type(wrong).__name__}: give a list"
    with pytest.raises(InputError, match=said):
        index.add(wrong)
    with pytest.raises(InputError, match=said):
        await index.aadd(wrong)


def test_a_chunk_that_cannot_be_stored_costs_no_other_document(index: Index) -> None:
    items = [
        (document, TextChunker(50).split(document)) for document in (Document("a", "A mast."), Document("b", "B."))
    ]
    items[0][1][0] = replace(items[0][1][0], metadata={"k": object()})
    with pytest.raises(InputError, match=r"document 'a' cannot be stored: metadata\['k'\] is a object"):
        index.add_chunks(items)
    assert "b" in index.document_ids()
    assert "a" not in index.document_ids()
    index.delete(["b"])


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True])
def test_a_number_of_hits_that_is_none_is_refused(index: Index, k: int) -> None:
    with pytest.raises(InputError, match="k must be a whole number, 1 or more"):
        index.search("mast", k)


def test_as_many_hits_as_a_store_can_count_are_all_and_more_are_refused(index: Index) -> None:
    assert len(index.search("mast", sys.maxsize)) == index.count()
    with pytest.raises(InputError, match="k has more than 63 bits"):
        index.search("mast", 2**70)


@pytest.mark.parametrize("query", [None, 5, b"mast", ["mast"]])
async def test_a_query_that_is_no_text_is_refused_by_name(index: Index, query: Any) -> None:
    retriever = Retriever(index)
    for search in (index.search, retriever.retrieve):
        with pytest.raises(InputError, match=f"the query is a {type(query).__name__}"):
            search(query)
    for asearch in (index.asearch, retriever.aretrieve):
        with pytest.raises(InputError, match=f"the query is a {type(query).__name__}"):
            await asearch(query)


class Colour(Enum):
    RED = "red"


STORABLE = {
    "datetime": (datetime(2024, 5, 1, 12, tzinfo=UTC), "2024-05-01T12:00:00+00:00"),
    "date": (date(2024, 5, 1), "2024-05-01"),
    "time": (time(9, 30), "09:30:00"),
    "uuid": (UUID(int=7), str(UUID(int=7))),
    "path": (PurePosixPath("a/b.txt"), "a/b.txt"),
    "numpy integer": (np.int32(3), 3),
    "numpy float": (np.float32(0.5), 0.5),
    "numpy truth": (np.True_, True),
    "numpy array": (np.arange(3), [0, 1, 2]),
    "enum": (Colour.RED, "red"),
    "pandas' time": (np.datetime64("2024-05-01T12:00:00.123456789"), "2024-05-01T12:00:00.123456"),
    "times of a column": (np.array(["2024-05-01"], dtype="M8[ns]"), ["2024-05-01T00:00:00"]),
    "no time": (np.datetime64("NaT", "ns"), None),
    "nested": ({"at": [date(2024, 5, 1)], "by": {1: (None, True)}}, {"at": ["2024-05-01"], "by": {"1": [None, True]}}),
    "greatest": (2**63 - 1, 2**63 - 1),
}
DEEP: list[object] = []
for _ in range(5000):
    DEEP = [DEEP]
UNSTORABLE = {
    "too long": (2**70, rf"metadata\['k'\] is {2**70}, and integers have at most 64 bits"),
    "not finite": (float("nan"), r"metadata\['k'\] is nan"),
    "bytes": (b"abc", r"metadata\['k'\] is a bytes"),
    "an object": ([object()], r"metadata\['k'\]\[0\] is a object"),
    "nanoseconds": (np.timedelta64(3, "ns"), r"metadata\['k'\] is a timedelta"),
    "keys that become one": (dict.fromkeys(map(chr, (0xD800, 0xD801))), "differ by lone surrogates alone"),
    "keys of several types": ({1: 2, "a": 3}, "keys of several types"),
    "too deep": (DEEP, "deeper than 100 objects and lists"),
}


@pytest.mark.parametrize("name", STORABLE)
def test_what_metadata_usually_holds_is_stored_as_json(index: Index, name: str) -> None:
    value, stored = STORABLE[name]
    document = Document("typed", "A mast and a crane.", {"k": value})
    index.add([document])
    (chunk,) = index.get_chunks(["typed"])
    assert chunk.metadata == {"k": stored}
    assert type(chunk.metadata["k"]) is type(stored)
    assert index.add([document]).unchanged == 1
    index.delete(["typed"])


@pytest.mark.parametrize("name", UNSTORABLE)
def test_what_cannot_be_stored_is_named_and_costs_no_other_document(index: Index, name: str) -> None:
    value, message = UNSTORABLE[name]
    bad = Document("bad", "A mast.", {"k": value})
    with pytest.raises(InputError, match=message) as raised:
        index.add([Document("one", "A crane."), bad, Document("two", "A ferry.")])
    assert "document 'bad'" in str(raised.value)
    assert {"one", "two"} < set(index.document_ids())
    assert "bad" not in index.document_ids()
    index.delete(["one", "two"])


def test_token_vectors_that_would_score_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="uint8"):
        PipelineConfig(token_vectors="uint8")  # type: ignore[arg-type]


def test_one_endless_line_loses_nothing() -> None:
    size = 10_000_000 if FULL else 100_000
    text = ("zeppelin " * (size // 9)) + "end"
    served = Embedder("nobody/served-model", encoder=HashEncoder(), family=Family("served", "the test"))
    with Index(served, chunker=TextChunker(size=2000)) as index:
        assert index.add([Document("line", text)]).added == 1
        chunks = index.get_chunks(["line"])
    assert max(len(chunk.text) for chunk in chunks) <= 2000
    assert "".join(chunk.text.replace(" ", "") for chunk in chunks) == text.replace(" ", "")


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(0, 4), (10, 10_000)], "chunk 1 of 2"),
        ([(0, 4), (5, 2)], "chunk 1 of 2"),
        ([(-8, -4)], "chunk 0 of 1"),
        ([(5, 9), (0, 4), (5, 9)], r"chunk 2 of 3 \(.*\) of document 'd' is there twice"),
    ],
    ids=["out of range", "reversed", "negative", "duplicate"],
)
def test_the_first_foreign_span_that_cannot_be_is_named(index: Index, spans: list[tuple[int, int]], said: str) -> None:
    document = Document("d", "Some words of a document that somebody else cut.")
    chunks = [
        replace(Chunk.of(document, 0, 0, 4), id=f"{a}-{b}", start=a, end=b, text=document.text[a:b]) for a, b in spans
    ]
    with pytest.raises(SpanError, match=said):
        index.add_chunks([(document, chunks)])
    assert "d" not in index.document_ids()


def test_unsorted_and_overlapping_foreign_spans_are_put_in_order(index: Index) -> None:
    document = Document("d", "Some words of a document that somebody else cut.")
    spans = [(16, 30), (0, 10), (5, 24)]
    index.add_chunks([(document, [Chunk.of(document, 9, *span) for span in spans])])
    assert [(chunk.index, chunk.start, chunk.end) for chunk in index.get_chunks(["d"])] == [
        (place, *span) for place, span in enumerate(sorted(spans))
    ]
    index.delete(["d"])


def test_a_chunk_longer_than_the_window_is_read_whole_in_the_late_pass() -> None:
    embedder = Embedder(on_overflow="warn")
    text = " ".join(f"Sentence {i} is about apples and pears." for i in range(40)) + " The zeppelin leaves at nine."
    config = PipelineConfig(dense=ChunkScheme(late=True), lexical=None)
    chunker = TextChunker(size=100_000)
    with Index(embedder, chunker=chunker, config=config) as index, pytest.warns(TruncationWarning):
        assert index.add([Document("long", text)]).chunks == 1
    # Its late half depends on its last words, before which the chunk alone was cut.
    changed = text.replace("zeppelin leaves at nine", "volcano sleeps for ages")
    vectors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        for words in (text, changed):
            document = Document("long", words)
            chunk = Chunk.of(document, 0, 0, len(words))
            made = [
                embedder.encode_chunks([(document, [chunk])], scheme=ChunkScheme(late=True, residual=weight))[0].dense
                for weight in (0.0, 1.0)
            ]
            vectors.append(made)
    assert not np.allclose(vectors[0][0], vectors[1][0], atol=1e-3)
    assert np.allclose(vectors[0][1], vectors[1][1], atol=1e-4)


def stored(index: Index) -> dict[str, np.ndarray]:
    records, _ = index.client.scroll(index.collection, limit=100, with_vectors=True)
    return {r.payload["text"]: np.array(r.vector[DENSE]) for r in records}  # type: ignore[index, call-overload]


def test_an_edit_anywhere_embeds_the_whole_document_again(embedder: Embedder) -> None:
    sentences = [f"Sentence number {i} is about the harbour. " for i in range(6)]
    before = Document("d", "".join(sentences))
    after = Document("d", "".join(["A zeppelin crashed into the old mast. ", *sentences[1:]]))
    chunker = TextChunker(size=45)
    with Index(embedder, chunker=chunker, config=PipelineConfig(dense=ChunkScheme(late=True))) as index:
        index.add([before])
        old = stored(index)
        assert index.add([after]).replaced == 1
        new = stored(index)
        index.delete(["d"])
        index.add([after])
        afresh = stored(index)
    same = set(old) & set(new)
    assert len(same) == 5
    # Every late vector is new, also those of chunks whose words stayed, and as if the document were new.
    assert all(not np.allclose(old[text], new[text], atol=1e-4) for text in same)
    assert all(np.allclose(afresh[text], new[text], atol=1e-4) for text in new)


def test_part_of_a_documents_chunks_gets_the_vectors_of_the_whole(embedder: Embedder) -> None:
    document = Document("d", " ".join(f"Sentence number {i} is about the harbour." for i in range(8)))
    chunks = TextChunker(size=60).split(document)
    config = PipelineConfig(dense=ChunkScheme(late=True), lexical=None)
    with Index(embedder, config=config) as index:
        index.add_chunks([(document, chunks)])
        whole = stored(index)
        # The document then has exactly the given chunks.
        assert index.add_chunks([(document, chunks[2:4])]).replaced == 1
        part = stored(index)
    assert set(part) == {chunk.text for chunk in chunks[2:4]}
    assert all(np.allclose(whole[text], part[text], atol=1e-4) for text in part)


@pytest.mark.parametrize("apart", [1, 70])
def test_two_different_documents_with_one_id_are_an_error_that_names_it(embedder: Embedder, apart: int) -> None:
    """In one batch as across batches; the same document twice is one document."""
    others = [Document(f"other {i}", f"Zeppelin number {i}.") for i in range(apart)]
    with Index(embedder, config=PipelineConfig.plain()) as index:
        with pytest.raises(InputError, match="two different documents of one call have the id 'a'"):
            index.add([Document("a", "A mast."), *others, Document("a", "A crane.")])
        assert index.add([Document("b", "A mast."), Document("b", "A mast.")]).added == 1
        document = Document("c", "A mast and a crane.")
        cut = [Chunk.of(document, 0, 0, 6)], [Chunk.of(document, 0, 7, 19)]
        with pytest.raises(InputError, match="id 'c'"):
            index.add_chunks([(document, chunks) for chunks in cut])
