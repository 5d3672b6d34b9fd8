"""Late-chunked nodes on real weights: exact spans, the right vectors, LlamaIndex's conventions."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from llama_index.core import Document
from llama_index.core.node_parser import (
    MarkdownNodeParser,
    NodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    TokenTextSplitter,
)
from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, TextNode

from situate.chunkers import Chunk, Document as SituateDocument, HeadingSituator, TextChunker
from situate.embedders.types import ChunkScheme
from situate.errors import SpanError
from situate.integrations.llama_index import LateChunkingNodeParser, SituateEmbedding
from situate.retrievers.index.documents import EmptyDocumentWarning

HANDBOOK = (
    "# Travel\n\nBook with the travel desk.\n\n## Costs\n\nIt pays up to 180 euros a night. Then the head signs.\n\n"
    "## Trains\n\nIt pays second class. It pays up to 180 euros a night.\n\n# Leave\n\nIt is 30 days.\n"
)
REPEATED = "ha ha. " * 40 + "the end. " + "ha ha. " * 40


def nodes_of(parser: LateChunkingNodeParser, *documents: Document) -> list[TextNode]:
    nodes = parser.get_nodes_from_documents(list(documents))
    assert all(isinstance(node, TextNode) for node in nodes)
    return nodes  # type: ignore[return-value]


def check_spans(document: Document, nodes: Sequence[TextNode]) -> None:
    for node in nodes:
        assert node.start_char_idx is not None
        assert document.text[node.start_char_idx : node.end_char_idx] == node.text
        assert node.ref_doc_id == document.id_
    spans = [(node.start_char_idx or 0, node.end_char_idx or 0) for node in nodes]
    assert spans == sorted(set(spans))


SPLITTERS: dict[str, NodeParser | TextChunker | None] = {
    "default": None,
    "chunker": TextChunker(size=60),
    "sentences": SentenceSplitter(chunk_size=16, chunk_overlap=0),
    "overlapping": SentenceSplitter(chunk_size=24, chunk_overlap=10),
    "tokens": TokenTextSplitter(chunk_size=12, chunk_overlap=4),
    "window": SentenceWindowNodeParser(window_size=1),
    "markdown": MarkdownNodeParser(),
}


@pytest.mark.parametrize("name", SPLITTERS)
@pytest.mark.parametrize("text", [HANDBOOK, REPEATED], ids=["handbook", "repeated"])
def test_spans_are_exact_with_any_splitter(embed_model: SituateEmbedding, name: str, text: str) -> None:
    parser = LateChunkingNodeParser(embed_model=embed_model, splitter=SPLITTERS[name], chunk_size=24)
    document = Document(text=text, id_="d")
    nodes = nodes_of(parser, document)
    check_spans(document, nodes)
    covered = set[int]()
    for node in nodes:
        covered.update(range(node.start_char_idx or 0, node.end_char_idx or 0))
    left_out = "".join(letter for at, letter in enumerate(text) if at not in covered)
    assert not left_out.strip(" \n#")


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab. \n", min_size=1, max_size=200), size=st.integers(4, 20), overlap=st.integers(0, 3))
def test_spans_are_exact_whatever_the_text(embed_model: SituateEmbedding, text: str, size: int, overlap: int) -> None:
    splitter = TokenTextSplitter(chunk_size=size, chunk_overlap=overlap)
    parser = LateChunkingNodeParser(embed_model=embed_model, splitter=splitter)
    document = Document(text=text, id_="d")
    if text.strip():
        check_spans(document, nodes_of(parser, document))


def test_vectors_are_the_schemes(embed_model: SituateEmbedding) -> None:
    scheme = ChunkScheme(late=True, residual=0.3, neighbours=0.2, context=("headings",))
    parser = LateChunkingNodeParser(embed_model=embed_model, chunk_size=24, scheme=scheme)
    documents = [Document(text=HANDBOOK, id_="a"), Document(text=REPEATED, id_="b")]
    nodes = nodes_of(parser, *documents)
    for document in documents:
        own = [node for node in nodes if node.ref_doc_id == document.id_]
        whole = SituateDocument(document.id_, document.text)
        chunks = parser._default_splitter().split(whole)
        wanted = embed_model.embedder.encode_chunks([(whole, chunks)], scheme=scheme)[0].dense
        np.testing.assert_allclose([node.embedding for node in own], wanted, atol=1e-5)
        assert all(type(value) is float for node in own for value in node.embedding or [])
    alone = embed_model.get_text_embedding_batch([node.text for node in nodes])
    assert not np.allclose([node.embedding for node in nodes], alone, atol=1e-2)


def test_metadata_shows_the_context_and_hides_the_stamp(embed_model: SituateEmbedding) -> None:
    parser = LateChunkingNodeParser(embed_model=embed_model, chunk_size=24)
    document = Document(
        text=HANDBOOK, id_="d", metadata={"title": "Handbook", "path": "x.md"}, excluded_llm_metadata_keys=["path"]
    )
    nodes = nodes_of(parser, document)
    costs = next(node for node in nodes if "head signs" in node.text)
    assert costs.metadata["document_context"] == "Travel > Costs"
    assert costs.metadata["title"] == "Handbook"
    shown = costs.get_content(metadata_mode=MetadataMode.EMBED)
    assert "context: Travel > Costs" in shown
    assert "situate" not in shown
    assert "path" not in costs.get_content(metadata_mode=MetadataMode.LLM)
    assert "situate" not in costs.get_content(metadata_mode=MetadataMode.LLM)
    assert document.metadata == {"title": "Handbook", "path": "x.md"}
    assert document.excluded_llm_metadata_keys == ["path"]
    stamp = json.loads(costs.metadata["situate"])
    assert stamp["scheme"] == {"late": True, "context": ["headings"]}
    assert stamp["span"] == [costs.start_char_idx, costs.end_char_idx]
    assert stamp["model"].startswith("sentence-transformers/all-MiniLM-L6-v2@")
    other = nodes_of(parser, Document(text=HANDBOOK + "More.", id_="d", metadata=document.metadata))
    assert json.loads(other[0].metadata["situate"])["doc_hash"] != json.loads(nodes[0].metadata["situate"])["doc_hash"]


def test_ids_are_the_same_each_time(embed_model: SituateEmbedding) -> None:
    for splitter in (None, SentenceSplitter(chunk_size=16, chunk_overlap=0)):
        parser = LateChunkingNodeParser(embed_model=embed_model, splitter=splitter, chunk_size=24)
        first, second = (nodes_of(parser, Document(text=REPEATED, id_="d")) for _ in range(2))
        assert [node.node_id for node in first] == [node.node_id for node in second]
        assert len({node.node_id for node in first}) == len(first)
        elsewhere = nodes_of(parser, Document(text=REPEATED, id_="e"))
        assert not {node.node_id for node in first} & {node.node_id for node in elsewhere}


def numbered(i: int, doc: BaseNode) -> str:
    return f"{doc.node_id}#{i}"


@pytest.mark.parametrize("where", ["parser", "parser with splitter", "splitter"])
def test_id_func_is_respected(embed_model: SituateEmbedding, where: str) -> None:
    splitter = SentenceSplitter(
        chunk_size=16, chunk_overlap=0, **({"id_func": numbered} if where == "splitter" else {})
    )
    parser = LateChunkingNodeParser(
        embed_model=embed_model,
        splitter=None if where == "parser" else splitter,
        chunk_size=24,
        **({} if where == "splitter" else {"id_func": numbered}),
    )
    nodes = nodes_of(parser, Document(text=HANDBOOK, id_="d"))
    assert [node.node_id for node in nodes] == [f"d#{i}" for i in range(len(nodes))]
    assert nodes[1].prev_node is not None
    assert nodes[1].prev_node.node_id == "d#0"


@pytest.mark.parametrize("splitter", [None, SentenceSplitter(chunk_size=16, chunk_overlap=0)])
def test_relationships(embed_model: SituateEmbedding, splitter: Any) -> None:
    documents = [Document(text=HANDBOOK, id_="a", metadata={"k": 1}), Document(text=HANDBOOK, id_="b")]
    parser = LateChunkingNodeParser(embed_model=embed_model, splitter=splitter, chunk_size=24)
    nodes = nodes_of(parser, *documents)
    for document in documents:
        own = [node for node in nodes if node.ref_doc_id == document.id_]
        assert len(own) > 2
        for before, after in pairwise(own):
            assert after.prev_node is not None
            assert after.prev_node.node_id == before.node_id
            assert before.next_node is not None
            assert before.next_node.node_id == after.node_id
        assert own[0].prev_node is None
        assert own[-1].next_node is None
        assert own[0].source_node is not None
        assert own[0].source_node.hash == document.hash
    bare = LateChunkingNodeParser(
        embed_model=embed_model, splitter=splitter, chunk_size=24, include_metadata=False, include_prev_next_rel=False
    )
    for node in nodes_of(bare, *documents):
        assert "k" not in node.metadata
        assert set(node.relationships) == {NodeRelationship.SOURCE}


def test_a_documents_own_vector_is_not_inherited(embed_model: SituateEmbedding) -> None:
    document = Document(text=HANDBOOK, id_="d", embedding=[0.5] * 384)
    for splitter in (None, SentenceSplitter(chunk_size=16, chunk_overlap=0)):
        nodes = nodes_of(LateChunkingNodeParser(embed_model=embed_model, splitter=splitter), document)
        assert all(node.embedding != document.embedding for node in nodes)


def test_nodes_can_be_split_further(embed_model: SituateEmbedding) -> None:
    document = Document(text=HANDBOOK, id_="d")
    sections = SentenceSplitter(chunk_size=40, chunk_overlap=0).get_nodes_from_documents([document])
    assert len(sections) > 1
    nodes = LateChunkingNodeParser(embed_model=embed_model, chunk_size=10).get_nodes_from_documents(sections)  # type: ignore[arg-type]
    assert len(nodes) > len(sections)
    for node in nodes:
        assert isinstance(node, TextNode)
        assert node.ref_doc_id == "d"
        assert document.text[node.start_char_idx : node.end_char_idx] == node.text


class Sentence:
    """A situator that writes the same sentence into every chunk."""

    def situate(self, document: SituateDocument, chunks: Sequence[Chunk]) -> list[Chunk]:
        return [replace(chunk, context=replace(chunk.context, sentence="It is about money.")) for chunk in chunks]

    async def asituate(self, document: SituateDocument, chunks: Sequence[Chunk]) -> list[Chunk]:
        return self.situate(document, chunks)


def test_situators_come_before_the_vectors(embed_model: SituateEmbedding) -> None:
    document = Document(text=HANDBOOK, id_="d")
    common: dict[str, Any] = {
        "embed_model": embed_model,
        "splitter": SentenceSplitter(chunk_size=16, chunk_overlap=0),
        "scheme": ChunkScheme(late=True, context=("headings", "sentence")),
    }
    without = nodes_of(LateChunkingNodeParser(**common), document)
    situated = nodes_of(LateChunkingNodeParser(**common, situators=[Sentence()]), document)
    assert [node.text for node in without] == [node.text for node in situated]
    assert any(node.metadata.get("document_context") == "Travel > Costs" for node in without)
    shown = "Travel > Costs\nIt is about money."
    assert any(node.metadata.get("document_context") == shown for node in situated)
    assert not np.allclose([n.embedding for n in without], [n.embedding for n in situated], atol=1e-3)


class Slow:
    """A splitter and situator that records its thread."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def split(self, document: SituateDocument) -> list[Chunk]:
        self.threads.add(threading.get_ident())
        return TextChunker(size=80).split(document)

    def situate(self, document: SituateDocument, chunks: Sequence[Chunk]) -> list[Chunk]:
        self.threads.add(threading.get_ident())
        return [replace(chunk, context=replace(chunk.context, sentence="A sentence.")) for chunk in chunks]

    async def asituate(self, document: SituateDocument, chunks: Sequence[Chunk]) -> list[Chunk]:
        return await asyncio.to_thread(self.situate, document, chunks)


async def test_async_does_the_same_and_the_event_loop_goes_on(embed_model: SituateEmbedding, ticking: Any) -> None:
    part = Slow()
    parser = LateChunkingNodeParser(embed_model=embed_model, splitter=part, situators=[part])
    documents = [Document(text=HANDBOOK * 3, id_=f"d{i}") for i in range(20)]
    nodes, ticks = await ticking(parser.acall(documents))
    assert ticks > 10
    assert threading.get_ident() not in part.threads
    wanted = parser(documents)
    assert [node.node_id for node in nodes] == [node.node_id for node in wanted]
    assert [node.metadata for node in nodes] == [node.metadata for node in wanted]
    np.testing.assert_allclose([n.embedding for n in nodes], [n.embedding for n in wanted], atol=1e-5)


def test_many_documents_and_a_progress_bar(embed_model: SituateEmbedding, capsys: pytest.CaptureFixture[str]) -> None:
    parser = LateChunkingNodeParser(embed_model=embed_model)
    documents = [Document(text=f"Document {i}.", id_=str(i)) for i in range(130)]
    nodes = parser.get_nodes_from_documents(documents, show_progress=True)
    assert [node.ref_doc_id for node in nodes] == [document.id_ for document in documents]
    assert "Late chunking" in capsys.readouterr().err


def test_documents_without_text_are_skipped_with_a_warning(embed_model: SituateEmbedding) -> None:
    parser = LateChunkingNodeParser(embed_model=embed_model)
    documents = [Document(text=" \n", id_="a"), Document(text="Text.", id_="b"), Document(text="", id_="c")]
    with pytest.warns(EmptyDocumentWarning, match="2 of 3"):
        nodes = parser.get_nodes_from_documents(documents)
    assert [node.ref_doc_id for node in nodes] == ["b"]


class Rewriting(SentenceSplitter):
    """A splitter that does not return the document's own words."""

    def split_text(self, text: str) -> list[str]:
        return [text.upper()]

    def split_text_metadata_aware(self, text: str, metadata_str: str) -> list[str]:
        return self.split_text(text)


def test_a_lone_surrogate_costs_no_document(embed_model: SituateEmbedding) -> None:
    given = [Document(text="One.", id_="a"), Document(text="A ferry \ud83d leaves.", id_="b")]
    nodes = LateChunkingNodeParser(embed_model=embed_model).get_nodes_from_documents(given)
    assert [(node.ref_doc_id, node.get_content()) for node in nodes] == [("a", "One."), ("b", "A ferry \ufffd leaves.")]
    assert given[1].text == "A ferry \ud83d leaves."
    assert all(node.hash for node in nodes)


def test_a_splitter_that_rewrites_is_refused(embed_model: SituateEmbedding) -> None:
    parser = LateChunkingNodeParser(embed_model=embed_model, splitter=Rewriting())
    with pytest.raises(SpanError, match="rewrote"):
        parser.get_nodes_from_documents([Document(text=HANDBOOK, id_="d")])
    with pytest.raises(ValueError, match="neither"):
        LateChunkingNodeParser(embed_model=embed_model, splitter="sentences")
    with pytest.raises(ValueError, match="is not a situator"):
        LateChunkingNodeParser(embed_model=embed_model, situators=[TextChunker()])


def test_pickles_as_its_configuration(embed_model: SituateEmbedding) -> None:
    parser = LateChunkingNodeParser(
        embed_model=embed_model, splitter=SentenceSplitter(chunk_size=16, chunk_overlap=0), id_func=numbered
    )
    document = Document(text=HANDBOOK, id_="d")
    before = nodes_of(parser, document)
    again, model = pickle.loads(pickle.dumps([parser, embed_model]))
    assert again.embed_model is model, "shared before, shared after"
    assert again.to_dict() == parser.to_dict()
    after = nodes_of(again, document)
    assert [node.metadata for node in after] == [node.metadata for node in before]
    np.testing.assert_allclose([n.embedding for n in after], [n.embedding for n in before], atol=1e-5)


def test_parsers_that_differ_look_different(embed_model: SituateEmbedding) -> None:
    # An ingestion pipeline's cache keys entries by to_dict.
    def made(**settings: Any) -> str:
        return json.dumps(LateChunkingNodeParser(**{"embed_model": embed_model, **settings}).to_dict(), sort_keys=True)

    variants = [
        made(),
        made(chunk_size=100),
        made(scheme=ChunkScheme()),
        made(splitter=TextChunker(size=50)),
        made(splitter=TextChunker(size=60)),
        made(splitter=SentenceSplitter(chunk_size=300)),
        made(splitter=SentenceSplitter(chunk_size=290)),
        made(situators=[HeadingSituator()]),
        made(embed_model=SituateEmbedding(document_instruction="passage: ")),
    ]
    assert len(set(variants)) == len(variants)
    assert made() == made()
