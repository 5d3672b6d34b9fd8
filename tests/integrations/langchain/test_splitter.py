"""`SituateTextSplitter` is a LangChain splitter whose chunks have their origin."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.documents import Document
from langchain_text_splitters import TextSplitter
from pydantic import ValidationError

from situate.chunkers import TextChunker
from situate.errors import InputError
from situate.integrations.langchain import SituateEmbeddings, SituateTextSplitter, chunk_context
from situate.integrations.langchain.documents import assemble, to_chunk


def test_documents_are_cut_by_the_models_tokens(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    assert isinstance(splitter, TextSplitter)
    before = [document.model_copy(deep=True) for document in handbook]
    chunks = splitter.split_documents(handbook)
    assert handbook == before
    assert len(chunks) > 6
    tokenizer = embeddings.embedder.tokenizer
    for chunk in chunks:
        whole = next(d for d in handbook if d.metadata["source"] == chunk.metadata["source"])
        start = chunk.metadata["start_index"]
        assert whole.page_content[start : start + len(chunk.page_content)] == chunk.page_content
        assert len(tokenizer.encode(chunk.page_content, add_special_tokens=False).ids) <= 24


def test_headings_and_title_situate_chunks(splitter: SituateTextSplitter, handbook: list[Document]) -> None:
    chunks = splitter.split_documents(handbook)
    weeks = next(chunk for chunk in chunks if "sixteen weeks" in chunk.page_content)
    assert chunk_context(weeks).title == "Leave"
    assert chunk_context(weeks).headings[-1] == "Parents"


def test_chunks_hold_the_whole_document(splitter: SituateTextSplitter, handbook: list[Document]) -> None:
    chunks = [to_chunk(chunk) for chunk in splitter.split_documents(handbook[:1])]
    assert assemble(chunks).text == handbook[0].page_content


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            ["# A\n", "## B\n", "word ", "aX ", "\n\n", "\r\n", "\x00", "🙂", "é", "東京", "|a|b|\n", "- x\n", " \t"]
        )
        | st.text(max_size=8),
        max_size=40,
    ).map("".join)
)
def test_any_text_can_be_put_together_again(splitter: SituateTextSplitter, text: str) -> None:
    try:
        document = Document(id="x", page_content=text)
    except ValidationError:  # LangChain itself takes no lone surrogates
        return
    chunks = splitter.split_documents([document])
    assert bool(chunks) == bool(text.strip())
    for chunk in chunks:
        start = chunk.metadata["start_index"]
        assert text[start : start + len(chunk.page_content)] == chunk.page_content
    if chunks:
        assert assemble([to_chunk(chunk) for chunk in chunks]).text == text


def test_ids_are_stable_and_differ(splitter: SituateTextSplitter, handbook: list[Document]) -> None:
    first, second = splitter.split_documents(handbook), splitter.split_documents(handbook)
    assert [c.id for c in first] == [c.id for c in second]
    assert len({c.id for c in first}) == len(first)


async def test_every_entry_point_cuts_alike(splitter: SituateTextSplitter, handbook: list[Document]) -> None:
    document = handbook[0].model_copy(update={"id": None})
    chunks = splitter.split_documents([document])
    assert splitter.split_text(document.page_content) == [chunk.page_content for chunk in chunks]
    assert splitter.create_documents([document.page_content], [document.metadata]) == chunks
    assert splitter.transform_documents([document]) == chunks
    assert await splitter.atransform_documents([document]) == chunks


def test_empty_documents_have_no_chunks(splitter: SituateTextSplitter) -> None:
    assert splitter.split_text("") == []
    assert splitter.split_documents([Document(page_content=" \n")]) == []


def test_any_chunker(handbook: list[Document]) -> None:
    splitter = SituateTextSplitter.from_chunker(TextChunker(size=50))
    assert max(len(text) for text in splitter.split_text(handbook[0].page_content)) <= 50


def test_a_tokenizer_of_transformers(embeddings: SituateEmbeddings, minilm_path: str, handbook: list[Document]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm_path)
    theirs = SituateTextSplitter.from_huggingface_tokenizer(tokenizer, chunk_size=24)
    ours = SituateTextSplitter(embeddings, chunk_size=24)
    text = handbook[0].page_content
    assert theirs.split_text(text) == ours.split_text(text)


def test_pickles_as_its_configuration(splitter: SituateTextSplitter, handbook: list[Document]) -> None:
    chunks = splitter.split_documents(handbook)  # the tokenizer is loaded now
    data = pickle.dumps(splitter)
    assert len(data) < 4096
    assert pickle.loads(data).split_documents(handbook) == chunks


def test_bad_settings(embeddings: SituateEmbeddings) -> None:
    with pytest.raises(InputError, match="either embeddings"):
        SituateTextSplitter()
    with pytest.raises(InputError, match="either embeddings"):
        SituateTextSplitter(embeddings, chunker=TextChunker())
    with pytest.raises(InputError, match="chunk_size=0"):
        SituateTextSplitter(embeddings, chunk_size=0)
    with pytest.raises(InputError, match="chunk_overlap=10"):
        SituateTextSplitter(embeddings, chunk_size=10, chunk_overlap=10)
    with pytest.raises(InputError, match="embedding model's tokens"):
        SituateTextSplitter.from_tiktoken_encoder("gpt2")
    with pytest.raises(InputError, match="1 metadatas for 2 texts"):
        SituateTextSplitter(embeddings).create_documents(["a", "b"], [{}])
