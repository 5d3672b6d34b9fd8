"""Pages of a document through both frameworks: parsers, splitters, retrievers, stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import Document as LlamaIndexDocument

from situate.integrations import langchain, llama_index

FIRST, SECOND = (
    "# Boilers\n\nThe boiler is serviced twice a year, in May and in October.\n\n",
    "## Pumps\n\nA pump hums.",
)
TEXT = f"{FIRST}{SECOND}"
METADATA = {"page_starts": [0, len(FIRST)], "pages": 2, "format": "markdown"}
WHERE = [(1, [1, 1], [0, len(FIRST) - 2]), (2, [2, 2], [0, len(SECOND)])]


@pytest.fixture(scope="module")
def embed_model() -> llama_index.SituateEmbedding:
    return llama_index.SituateEmbedding(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def embeddings(embed_model: llama_index.SituateEmbedding) -> langchain.SituateEmbeddings:
    return langchain.SituateEmbeddings.from_embedder(embed_model.embedder)


def where(metadatas: list[dict[str, Any]]) -> list[Any]:
    assert all("page_starts" not in metadata for metadata in metadatas)
    return sorted((metadata["page"], metadata["pages"], metadata["page_span"]) for metadata in metadatas)


def test_llama_index_nodes_tell_their_pages(embed_model: llama_index.SituateEmbedding) -> None:
    document = LlamaIndexDocument(id_="d", text=TEXT, metadata=dict(METADATA))
    parser = llama_index.LateChunkingNodeParser(embed_model=embed_model)
    assert where([node.metadata for node in parser.get_nodes_from_documents([document])]) == WHERE
    retriever = llama_index.SituateRetriever.from_documents([document], embed_model=embed_model, path=":memory:")
    assert where([found.node.metadata for found in retriever.retrieve("boiler pump")]) == WHERE


Through = Callable[[langchain.SituateEmbeddings, LangChainDocument], tuple[Any, list[LangChainDocument]]]


def _store(embeddings: langchain.SituateEmbeddings, document: LangChainDocument) -> tuple[Any, list[LangChainDocument]]:
    store = langchain.SituateVectorStore(
        embeddings, path=":memory:", splitter=langchain.SituateTextSplitter(embeddings)
    )
    store.add_documents([document])
    return store, store.similarity_search("boiler pump")


def _index(embeddings: langchain.SituateEmbeddings, document: LangChainDocument) -> tuple[Any, list[LangChainDocument]]:
    index = langchain.SituateDocumentIndex(embeddings=embeddings, path=":memory:")
    index.upsert([document])
    return index, index.invoke("boiler pump")


@pytest.mark.parametrize("through", [_store, _index])
def test_langchain_passages_tell_their_pages(embeddings: langchain.SituateEmbeddings, through: Through) -> None:
    document = LangChainDocument(id="d", page_content=TEXT, metadata=dict(METADATA))
    holder, found = through(embeddings, document)
    assert where([passage.metadata for passage in found]) == WHERE
    if isinstance(holder, langchain.SituateDocumentIndex):
        assert holder.get(["d"]) == [document]
    split = langchain.SituateTextSplitter(embeddings).split_documents([document])
    assert where([passage.metadata for passage in split]) == WHERE
