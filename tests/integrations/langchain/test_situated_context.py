"""Situators over LangChain documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from langchain_core.documents import Document
from langchain_text_splitters import RecursiveCharacterTextSplitter

from situate.chunkers.situators.headings import HeadingSituator
from situate.errors import InputError
from situate.integrations.langchain import (
    LangChainChunker,
    SituatedContextTransformer,
    SituateEmbeddings,
    SituateTextSplitter,
    SituateVectorStore,
    chunk_context,
)
from situate.types import Chunk, Document as SituateDocument


@dataclass(frozen=True)
class Counting:
    """Writes how many characters the document has: wrong where it gets a chunk alone."""

    def situate(self, document: SituateDocument, chunks: Sequence[Chunk]) -> list[Chunk]:
        sentence = f"Part of {len(document.text)} characters, {len(chunks)} chunks."
        return [replace(chunk, context=replace(chunk.context, sentence=sentence)) for chunk in chunks]

    async def asituate(self, document: SituateDocument, chunks: Sequence[Chunk]) -> list[Chunk]:
        return self.situate(document, chunks)


@pytest.fixture
def chunks(handbook: list[Document]) -> list[Document]:
    """Cut by a splitter without headings, and shuffled."""
    foreign = LangChainChunker(RecursiveCharacterTextSplitter(chunk_size=80, chunk_overlap=0))
    chunks = SituateTextSplitter(chunker=foreign).split_documents(handbook)
    return chunks[::2] + chunks[1::2]


async def test_situators_see_the_whole_document(chunks: list[Document], handbook: list[Document]) -> None:
    before = [chunk.model_copy(deep=True) for chunk in chunks]
    transformer = SituatedContextTransformer([HeadingSituator(), Counting()])
    situated = transformer.transform_documents(chunks)
    assert chunks == before
    assert await transformer.atransform_documents(chunks) == situated
    for given, chunk in zip(chunks, situated, strict=True):
        assert (chunk.id, chunk.page_content) == (given.id, given.page_content)
        document = next(d for d in handbook if d.metadata["source"] == chunk.metadata["source"])
        count = sum(other.metadata["source"] == document.metadata["source"] for other in chunks)
        sentence = f"Part of {len(document.page_content)} characters, {count} chunks."
        assert chunk_context(chunk).sentence == sentence
    weeks = next(chunk for chunk in situated if "sixteen weeks" in chunk.page_content)
    assert chunk_context(weeks).headings[-1] == "Parents"


def test_context_reaches_the_store(chunks: list[Document], embeddings: SituateEmbeddings) -> None:
    situated = SituatedContextTransformer([HeadingSituator()]).transform_documents(chunks)
    store = SituateVectorStore.from_documents(list(situated), embeddings)
    found = store.get_by_ids([str(chunk.id) for chunk in situated])
    assert found == situated
    store.close()


def test_the_store_runs_situators_itself(
    handbook: list[Document], chunks: list[Document], embeddings: SituateEmbeddings
) -> None:
    from_whole = SituateVectorStore(
        embeddings, splitter=RecursiveCharacterTextSplitter(chunk_size=80, chunk_overlap=0), situators=[Counting()]
    )
    from_whole.add_documents(handbook)
    from_chunks = SituateVectorStore(embeddings, situators=[Counting()])
    from_chunks.add_documents(chunks)
    ids = [str(chunk.id) for chunk in chunks]
    found = from_chunks.get_by_ids(ids)
    assert found == from_whole.get_by_ids(ids)
    assert all(str(chunk_context(chunk).sentence).startswith("Part of") for chunk in found)
    from_whole.close()
    from_chunks.close()


def test_into_the_text(chunks: list[Document]) -> None:
    transformer = SituatedContextTransformer([HeadingSituator()], into="text", fields=("title", "headings"))
    weeks = next(d for d in transformer.transform_documents(chunks) if "sixteen weeks" in d.page_content)
    assert weeks.page_content.startswith("Leave\nParents\n\n") or weeks.page_content.startswith("Leave > Parents\n\n")
    assert weeks.metadata == {"title": "Leave", "source": "leave.md"}


def test_a_document_that_was_not_split_is_its_own_chunk() -> None:
    (whole,) = SituatedContextTransformer([Counting()]).transform_documents(
        [Document(id="x", page_content="text", metadata={"start_index": 7})]
    )
    assert chunk_context(whole).sentence == "Part of 4 characters, 1 chunks."
    assert whole.id == "x"


def test_nothing_in_nothing_out() -> None:
    assert SituatedContextTransformer([Counting()]).transform_documents([]) == []


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="into='prompt'"):
        SituatedContextTransformer([], into="prompt")  # type: ignore[arg-type]
