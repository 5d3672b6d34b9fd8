"""Rows of tables as sentences, in the chunks that hold them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from situate.chunkers import Context, Document, MarkdownChunker, RowSituator
from situate.embedders import ChunkScheme, Embedder
from situate.errors import InputError
from situate.integrations._shared.pages import cut_document, joined

TABLE = "# Limits\n\n| Town | Limit | |\n| --- | --- | --- |\n" + "".join(
    f"| Town {n} | {n} euros | note \\| {n} |\n" for n in range(12)
)


def test_each_chunk_has_the_sentences_of_its_own_rows() -> None:
    document = Document("d", f"{TABLE}\nAll in euros.", {"format": "markdown"})
    plain = MarkdownChunker(120).split(document)
    chunks = RowSituator().situate(document, plain)
    assert len(chunks) > 3
    assert [sentence for chunk in chunks for sentence in chunk.context.rows] == [
        f"Town is Town {n}, Limit is {n} euros, note | {n}." for n in range(12)
    ]
    for chunk in chunks:
        assert len(chunk.context.rows) == chunk.text.count("| Town ") - chunk.text.count("| Town |")
    assert [(chunk.id, chunk.text) for chunk in chunks] == [(chunk.id, chunk.text) for chunk in plain]
    assert asyncio.run(RowSituator().asituate(document, plain)) == chunks
    assert Context.from_dict(chunks[0].context.to_dict()) == chunks[0].context


def test_the_sentences_are_bounded_and_no_table_changes_nothing() -> None:
    document = Document("d", TABLE, {"format": "markdown"})
    [chunk] = RowSituator(characters=90).situate(document, MarkdownChunker(10_000).split(document))
    assert len(chunk.context.rows) == 2
    bare = Document("b", "# Limits\n\nNone | here.")
    chunks = MarkdownChunker().split(bare)
    assert RowSituator().situate(bare, chunks) == chunks
    assert "rows" not in chunks[0].context.to_dict()
    with pytest.raises(InputError, match="characters=0"):
        RowSituator(characters=0)


def test_dense_vectors_read_them_where_the_scheme_asks_for_it() -> None:
    embedder = Embedder(device="cpu", dtype="float32")
    document = Document("d", "| Town | Limit |\n| --- | --- |\n| Rome | 210 euros |\n| Oslo | 260 euros |")
    plain = MarkdownChunker().split(document)
    chunks = RowSituator().situate(document, plain)
    scheme = ChunkScheme(context=("headings", "rows"), pool_context=True)

    def vector(chunks: list, scheme: ChunkScheme) -> np.ndarray:
        return embedder.encode_chunks([(document, chunks)], scheme=scheme)[0].dense[0]

    read = embedder.embed_documents(
        [f"Town is Rome, Limit is 210 euros.\nTown is Oslo, Limit is 260 euros.\n{document.text}"]
    )
    np.testing.assert_allclose(vector(chunks, scheme), read[0], atol=1e-6)
    np.testing.assert_array_equal(vector(chunks, ChunkScheme()), vector(plain, ChunkScheme()))


def test_a_table_over_two_pages_keeps_its_columns() -> None:
    pages = ["# Limits\n\n| Town | Limit |\n| --- | --- |\n| Rome | 210 |", "| Oslo | 260 |\n\nAll in euros."]
    known = [{"source": "f", "page": n, "format": "markdown"} for n in (1, 2)]
    file = joined([Document("p", text, metadata) for text, metadata in zip(pages, known, strict=True)])
    first, second = cut_document(file, MarkdownChunker(60))
    assert (first.context.columns, second.context.columns) == ((), ("Town", "Limit"))
    assert RowSituator().situate(file, [first, second])[1].context.rows == ("Town is Oslo, Limit is 260.",)
