"""LangChain's index() keeps store and record manager in step: nothing twice, nothing stale, no late vector stale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index

from situate.embedders.types import ChunkScheme, Vectors
from situate.integrations.langchain import SituateEmbeddings, SituateTextSplitter, SituateVectorStore
from situate.retrievers.config import PipelineConfig

LATE = PipelineConfig(dense=ChunkScheme(late=True, residual=0.0, neighbours=0.35))


def contents(store: SituateVectorStore) -> dict[str, Vectors]:
    """Text -> vector of everything that can be found."""
    records, _ = store.index.client.scroll(store.index.collection, limit=1000, with_payload=True, with_vectors=True)
    assert len({(record.payload or {})["text"] for record in records}) == len(records)
    return {
        (record.payload or {})["text"]: np.asarray(record.vector["dense"], dtype=np.float32)
        for record in records
        if isinstance(record.vector, dict)
    }


def assert_alike(got: dict[str, Vectors], expected: dict[str, Vectors]) -> None:
    assert got.keys() == expected.keys()
    for text, vector in expected.items():
        np.testing.assert_allclose(got[text], vector, atol=1e-5)


@pytest.fixture
def records() -> InMemoryRecordManager:
    return InMemoryRecordManager("handbook")


def edited(documents: list[Document]) -> list[Document]:
    """The same documents with one word of the first one changed, near its end."""
    text = documents[0].page_content.replace("people team", "office team")
    assert text != documents[0].page_content
    return [documents[0].model_copy(update={"page_content": text}), *documents[1:]]


@pytest.mark.parametrize(("cleanup", "ids"), [("incremental", "own ids"), ("full", "no ids")])
async def test_chunks_at_the_borders_of_batches(
    embeddings: SituateEmbeddings,
    splitter: SituateTextSplitter,
    handbook: list[Document],
    records: InMemoryRecordManager,
    cleanup: Any,
    ids: str,
) -> None:
    if ids == "no ids":
        handbook = [document.model_copy(update={"id": None}) for document in handbook]
    store = SituateVectorStore(embeddings, config=LATE)
    settings: dict[str, Any] = {
        "batch_size": 2,
        "cleanup": cleanup,
        "source_id_key": "source",
        "key_encoder": "sha256",
    }
    chunks = splitter.split_documents(handbook)
    assert len(chunks) % 2 or len(splitter.split_documents(handbook[:1])) % 2, "no batch is cut through a document"
    done = index(chunks, records, store, **settings)
    assert done["num_added"] == len(chunks)
    reference = SituateVectorStore.from_documents(handbook, embeddings, splitter=splitter, config=LATE)
    assert_alike(contents(store), contents(reference))

    again = await aindex(chunks, records, store, **settings)
    if cleanup == "full":
        assert again == {"num_added": 0, "num_updated": 0, "num_skipped": len(chunks), "num_deleted": 0}
    # Incremental cleanup deletes chunks that later batches of the same source add again (LangChain documents this): a
    # hard test of changing chunks of one document.
    assert_alike(contents(store), contents(reference))

    # One word changes, and with it the vectors of all chunks of that document.
    changed = edited(handbook)
    of_first = len(splitter.split_documents(changed[:1]))
    done = await aindex(splitter.split_documents(changed), records, store, **settings)
    if cleanup == "full":
        assert (done["num_added"], done["num_skipped"]) == (of_first, len(chunks) - of_first)
        assert done["num_deleted"] == of_first
    new_reference = SituateVectorStore.from_documents(changed, embeddings, splitter=splitter, config=LATE)
    assert_alike(contents(store), contents(new_reference))
    first = next(text for text in contents(reference) if "sixteen weeks" in text)
    assert np.abs(contents(store)[first] - contents(reference)[first]).max() > 1e-4
    for opened in (store, reference, new_reference):
        opened.close()


async def test_whole_documents(
    embeddings: SituateEmbeddings,
    splitter: SituateTextSplitter,
    handbook: list[Document],
    records: InMemoryRecordManager,
) -> None:
    store = SituateVectorStore(embeddings, splitter=splitter, config=LATE)
    settings: dict[str, Any] = {"cleanup": "full", "key_encoder": "sha256"}
    assert index(handbook, records, store, **settings)["num_added"] == 2
    assert (await aindex(handbook, records, store, **settings))["num_skipped"] == 2
    changed = edited(handbook)
    done = index(changed, records, store, **settings)
    assert (done["num_added"], done["num_deleted"]) == (1, 1)
    reference = SituateVectorStore.from_documents(changed, embeddings, splitter=splitter, config=LATE)
    assert_alike(contents(store), contents(reference))
    assert index(changed[1:], records, store, **settings)["num_deleted"] == 1
    assert {document.metadata["source"] for document in store.similarity_search("weeks", k=20)} == {"travel.md"}
    store.close()
    reference.close()


async def test_passages(embeddings: SituateEmbeddings, records: InMemoryRecordManager) -> None:
    store = SituateVectorStore(embeddings)
    passages = [Document(page_content=f"passage {n}", metadata={"source": f"{n % 2}.md"}) for n in range(5)]
    settings: dict[str, Any] = {"cleanup": "incremental", "source_id_key": "source", "key_encoder": "sha256"}
    assert index(passages + passages[:2], records, store, **settings)["num_added"] == 5
    passages[0] = passages[0].model_copy(update={"page_content": "passage zero"})
    done = await aindex(passages, records, store, **settings)
    assert (done["num_added"], done["num_deleted"], done["num_skipped"]) == (1, 1, 4)
    assert sorted(contents(store)) == sorted(passage.page_content for passage in passages)
    store.close()
