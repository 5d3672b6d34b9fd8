"""Single chunks by id: found, deleted, and brought back by indexing their document again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from situate.chunkers import Chunk, Document, TextChunker
from situate.embedders import Embedder
from situate.retrievers.index.chunk_access import delete_chunks, find_chunks, nearest_with_vectors
from situate.retrievers.index.index import Index

DOCUMENTS = [
    Document("cats", "Cats sleep for most of the day. They hunt at night. Some of them swim.", {"kind": "animal"}),
    Document("bread", "Sourdough rises slowly. Wild yeast is slow. Bakers wait.", {"kind": "food"}),
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32")


@pytest.fixture
def index(embedder: Embedder) -> Iterator[Index]:
    with Index(embedder, chunker=TextChunker(size=32)) as index:
        index.add(DOCUMENTS)
        yield index


def chunks_of(index: Index, document_id: str) -> list[Chunk]:
    return index.get_chunks([document_id])


def test_chunks_come_in_the_order_of_their_ids(index: Index) -> None:
    ids = [chunk.id for chunk in index.get_chunks(["bread", "cats"])]
    assert len(ids) >= 4
    assert [chunk.id for chunk in find_chunks(index, [ids[2], "missing", ids[0], ids[2]])] == [ids[2], ids[0]]
    assert find_chunks(index, []) == []


@pytest.mark.parametrize("place", [0, 1, -1])
def test_deleting_one_leaves_the_others(index: Index, place: int) -> None:
    before = chunks_of(index, "cats")
    doomed = before[place]
    assert delete_chunks(index, [doomed.id, "missing"]) == 1
    left = chunks_of(index, "cats")
    assert [chunk.id for chunk in left] == [chunk.id for chunk in before if chunk.id != doomed.id]
    assert [chunk.index for chunk in left] == list(range(len(left)))
    assert index.document_ids() == ["bread", "cats"]
    assert doomed.id not in {hit.chunk.id for hit in index.search(doomed.text, 20)}

    report = index.add(DOCUMENTS)
    assert (report.replaced, report.unchanged) == (1, 1)
    assert chunks_of(index, "cats") == before


def test_deleting_all_of_a_document(index: Index) -> None:
    ids = [chunk.id for chunk in chunks_of(index, "cats")]
    assert delete_chunks(index, ids) == len(ids)
    assert index.document_ids() == ["bread"]
    assert delete_chunks(index, ids) == 0
    assert delete_chunks(index, []) == 0
    assert index.add(DOCUMENTS).added == 1


def test_nearest_chunks_bring_their_vectors(index: Index, embedder: Embedder) -> None:
    query = embedder.embed_queries(["When do cats hunt?"])[0]
    found = nearest_with_vectors(index, query, 3)
    cosines = [float(vector @ query) for _, vector in found]
    assert cosines == sorted(cosines, reverse=True)
    assert "hunt" in found[0][0].text
    for _, vector in found:
        np.testing.assert_allclose(np.linalg.norm(vector), 1.0, atol=1e-5)
    assert {chunk.document_id for chunk, _ in nearest_with_vectors(index, query, 9, {"kind": "food"})} == {"bread"}
