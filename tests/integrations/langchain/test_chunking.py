"""LangChain's splitters as situate's chunkers."""

from __future__ import annotations

from langchain_text_splitters import CharacterTextSplitter, RecursiveCharacterTextSplitter

from situate.integrations.langchain import LangChainChunker
from situate.integrations.langchain.documents import assemble
from situate.integrations.langchain.splitter import OriginChunker
from situate.types import Chunker, Document


def test_spans_are_exact_where_the_text_repeats_itself() -> None:
    text = "ab aX cd aX ef aX"
    chunker = LangChainChunker(CharacterTextSplitter(separator=" ", chunk_size=5, chunk_overlap=2))
    assert isinstance(chunker, Chunker)
    chunks = chunker.split(Document("d", text))
    assert [chunk.text for chunk in chunks] == ["ab aX", "aX cd", "cd aX", "aX ef", "ef aX"]
    assert [chunk.start for chunk in chunks] == [0, 3, 6, 9, 12]


def test_chunks_with_origins_of_a_foreign_splitter_hold_the_document() -> None:
    text = "First paragraph.\n\nSecond  one, with  spaces.\n\n\nThird."
    document = Document("d", text, {"source": "a.md"})
    splitter = RecursiveCharacterTextSplitter(chunk_size=20, chunk_overlap=0)
    chunks = OriginChunker(LangChainChunker(splitter)).split(document)
    assert len(chunks) > 2
    assert assemble(chunks) == document


def test_fingerprints_tell_settings_apart() -> None:
    def fingerprint(size: int) -> object:
        splitter = RecursiveCharacterTextSplitter(chunk_size=size, chunk_overlap=0)
        return OriginChunker(LangChainChunker(splitter)).fingerprint()

    assert fingerprint(20) == fingerprint(20)
    assert fingerprint(20) != fingerprint(30)
