"""`SituateDocumentIndex` passes LangChain's document index suites; its unit is the document."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import DocumentIndex, InMemoryRecordManager, aindex, index
from langchain_tests.integration_tests.indexer import AsyncDocumentIndexTestSuite, DocumentIndexerTestSuite
from langchain_text_splitters import RecursiveCharacterTextSplitter

from situate.errors import InputError
from situate.integrations.langchain import SituateDocumentIndex, SituateEmbeddings, SituateTextSplitter
from situate.retrievers.index.documents import EmptyDocumentWarning


class TestStandard(DocumentIndexerTestSuite):
    @pytest.fixture
    def index(self, embeddings: SituateEmbeddings) -> Iterator[DocumentIndex]:  # type: ignore[override]
        opened = SituateDocumentIndex(embeddings=embeddings)
        yield opened
        opened.close()


class TestStandardAsync(AsyncDocumentIndexTestSuite):
    @pytest.fixture
    async def index(self, embeddings: SituateEmbeddings) -> AsyncIterator[DocumentIndex]:  # type: ignore[override]
        opened = SituateDocumentIndex(embeddings=embeddings)
        yield opened
        opened.close()


@pytest.fixture
def documents(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> Iterator[SituateDocumentIndex]:
    opened = SituateDocumentIndex(embeddings=embeddings, splitter=splitter, k=3)
    assert opened.upsert(handbook) == {"succeeded": ["leave", "travel"], "failed": []}
    yield opened
    opened.close()


async def test_documents_come_back_whole(documents: SituateDocumentIndex, handbook: list[Document]) -> None:
    assert documents.index.count() > 6
    assert documents.get(["travel", "missing", "leave"]) == handbook[::-1]
    assert await documents.aget(["leave"]) == handbook[:1]


def test_metadata_of_the_documents_own_comes_back(embeddings: SituateEmbeddings) -> None:
    opened = SituateDocumentIndex(
        embeddings=embeddings, splitter=RecursiveCharacterTextSplitter(chunk_size=20, chunk_overlap=0)
    )
    document = Document(id="x", page_content="\n One two three. \n\n Four five six. \n", metadata={"start_index": 5})
    opened.upsert([document])
    assert opened.get(["x"]) == [document]
    opened.close()


async def test_searches_find_passages(documents: SituateDocumentIndex) -> None:
    passages = documents.invoke("How much may a hotel cost?")
    assert len(passages) == 3
    assert "120 euros" in passages[0].page_content
    assert passages[0].metadata["source"] == "travel.md"
    assert await documents.ainvoke("How much may a hotel cost?", k=1) == passages[:1]
    assert {p.metadata["title"] for p in documents.invoke("weeks", filter={"title": "Leave"})} == {"Leave"}


async def test_a_changed_document_replaces_the_earlier_one(
    documents: SituateDocumentIndex, handbook: list[Document]
) -> None:
    changed = handbook[1].model_copy(update={"page_content": "# Travel\n\nStay at home."})
    before = documents.index.count()
    await documents.aupsert([changed])
    assert documents.get(["travel"]) == [changed]
    assert documents.index.count() < before
    assert not any("120 euros" in passage.page_content for passage in documents.invoke("hotel", k=20))


async def test_deleting(documents: SituateDocumentIndex) -> None:
    assert documents.delete(["travel", "missing", "travel"]) == {
        "succeeded": ["travel"],
        "num_deleted": 1,
        "failed": [],
        "num_failed": 0,
    }
    assert {p.metadata["source"] for p in documents.invoke("euros")} == {"leave.md"}
    assert (await documents.adelete(["leave"]))["num_deleted"] == 1
    assert documents.index.count() == 0


async def test_the_indexing_api(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    opened = SituateDocumentIndex(embeddings=embeddings, splitter=splitter)
    records = InMemoryRecordManager("handbook")
    settings: dict[str, Any] = {"cleanup": "incremental", "source_id_key": "source", "key_encoder": "sha256"}
    assert index(handbook, records, opened, **settings)["num_added"] == 2
    assert (await aindex(handbook, records, opened, **settings))["num_skipped"] == 2
    changed = handbook[0].model_copy(update={"page_content": "# Leave\n\nTake as much as you like."})
    done = await aindex([changed, handbook[1]], records, opened, **settings)
    assert (done["num_added"], done["num_skipped"], done["num_deleted"]) == (1, 1, 1)
    texts = [document.page_content for document in opened.get(opened.index.document_ids())]
    assert sorted(texts) == sorted([changed.page_content, handbook[1].page_content])
    opened.close()


async def test_bad_input(
    documents: SituateDocumentIndex, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    with pytest.warns(EmptyDocumentWarning):
        response = await documents.aupsert([Document(id="empty", page_content=" "), Document(id="x", page_content="x")])
    assert response == {"succeeded": ["x"], "failed": ["empty"]}
    with pytest.raises(InputError, match="already split"):
        documents.upsert(splitter.split_documents(handbook))
    with pytest.raises(TypeError, match="batch"):
        documents.upsert(handbook, batch=3)


def test_a_store_on_disk_is_there_again(
    embeddings: SituateEmbeddings, handbook: list[Document], tmp_path: Path
) -> None:
    first = SituateDocumentIndex(embeddings=embeddings, path=tmp_path / "store")
    first.upsert(handbook)
    first.close()
    again = SituateDocumentIndex(embeddings=embeddings, path=tmp_path / "store")
    assert again.get(["leave", "travel"]) == handbook
    again.close()


def test_pickles_as_its_configuration(embeddings: SituateEmbeddings, handbook: list[Document], tmp_path: Path) -> None:
    opened = SituateDocumentIndex(embeddings=embeddings, path=tmp_path / "store")
    opened.upsert(handbook)
    opened.close()
    again = pickle.loads(pickle.dumps(opened))
    assert again.get(["leave"]) == handbook[:1]
    again.close()
