"""Pages of a document through both frameworks: parsers, splitters, retrievers, stores."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core import SimpleDirectoryReader
from llama_index.core.schema import Document as LlamaIndexDocument, MetadataMode

from situate.chunkers import Context, read_documents
from situate.integrations import langchain, llama_index
from situate.integrations.llama_index.nodes import read_origin
from tests.pdfs import report

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "report.pdf").write_bytes(report())
    (folder / "note.txt").write_text("A note.", encoding="utf-8")
    return folder


PAGES = {
    "1 Maintenance": {1}, "1.1 Valves": {1, 2}, "2 The Boiler House": {2}, "3 Inspections": {3, 4}, "4 Outlook": {5},
}  # fmt: skip


def pages_of(chunks: Iterable[tuple[Context, Mapping[str, Any]]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for context, metadata in chunks:
        found.setdefault(context.headings[-1], set()).update(metadata["pages"])
    return found


def test_a_pdf_comes_through_llama_index(folder: Path, embed_model: llama_index.SituateEmbedding) -> None:
    reader = llama_index.SituateReader(password="open sesame")
    assert "sesame" not in repr(reader) + str(reader.to_dict())
    documents = SimpleDirectoryReader(str(folder), file_extractor={".pdf": reader}).load_data()
    (document,) = [document for document in documents if document.metadata["file_name"] == "report.pdf"]
    (expected,) = [found for found in read_documents(folder) if found.id == "report.pdf"]
    assert document.text == expected.text
    assert document.metadata["page_starts"] == expected.metadata["page_starts"]
    assert "page_starts" not in document.get_content(metadata_mode=MetadataMode.LLM)
    (again,) = pickle.loads(pickle.dumps(reader)).load_data(folder / "report.pdf")
    assert (again.id_, again.text) == ((folder / "report.pdf").as_posix(), expected.text)
    assert {found.id_ for found in reader.load_data(folder)} == {again.id_, (folder / "note.txt").as_posix()}
    nodes = llama_index.LateChunkingNodeParser(embed_model=embed_model).get_nodes_from_documents([document])
    origins = [read_origin(node) for node in nodes]
    assert pages_of((o.context, n.metadata) for o, n in zip(origins, nodes, strict=True) if o is not None) == PAGES


def test_a_pdf_comes_through_langchain(folder: Path, embeddings: langchain.SituateEmbeddings) -> None:
    documents = {document.metadata["source"]: document for document in langchain.SituateLoader(folder).load()}
    source = (folder / "report.pdf").as_posix()
    assert set(documents) == {source, (folder / "note.txt").as_posix()}
    document = documents[source]
    (expected,) = [found for found in read_documents(folder) if found.id == "report.pdf"]
    assert (document.id, document.page_content) == (source, expected.text)
    assert langchain.SituateLoader(source).load() == [document]
    chunks = langchain.SituateTextSplitter(embeddings).split_documents([document])
    assert pages_of((langchain.chunk_context(chunk), chunk.metadata) for chunk in chunks) == PAGES
