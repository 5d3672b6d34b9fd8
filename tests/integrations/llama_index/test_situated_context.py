"""Context is written into metadata, document by document, for nodes of any splitter."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import MarkdownNodeParser, SentenceSplitter
from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from situate.chunkers import Chunk, Document as SituateDocument, HeadingSituator
from situate.chunkers.situators.generating import SituatingWarning
from situate.chunkers.situators.sentence import LLMSituator
from situate.integrations.llama_index import LlamaIndexGenerator, SituatedContext
from situate.integrations.llama_index.nodes import to_chunk, to_node

TEXT = (
    "# Travel\n\nBook with the desk.\n\n## Costs\n\nIt pays 180 euros.\n\nThe head signs above that.\n\n"
    "# Leave\n\n30 days.\n"
)


class Recorder:
    """A situator that records its input."""

    def __init__(self) -> None:
        self.seen: list[tuple[SituateDocument, list[Chunk]]] = []
        self.threads: set[int] = set()

    def situate(self, document: SituateDocument, chunks: Sequence[Chunk]) -> list[Chunk]:
        self.seen.append((document, list(chunks)))
        self.threads.add(threading.get_ident())
        return [
            replace(chunk, context=replace(chunk.context, sentence=f"{document.id} {i} of {len(chunks)}"))
            for i, chunk in enumerate(chunks)
        ]

    async def asituate(self, document: SituateDocument, chunks: Sequence[Chunk]) -> list[Chunk]:
        return await asyncio.to_thread(self.situate, document, chunks)


def cut(*documents: Document, size: int = 12) -> list[BaseNode]:
    return list(SentenceSplitter(chunk_size=size, chunk_overlap=0).get_nodes_from_documents(list(documents)))


def test_headings_are_visible_to_both_models() -> None:
    nodes = cut(Document(text=TEXT, id_="d"))
    assert len(nodes) > 2
    SituatedContext(situators=[HeadingSituator()])(nodes)
    costs = next(node for node in nodes if "180" in node.get_content())
    assert costs.metadata["document_context"] == "Travel > Costs"
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert "context: Travel > Costs" in costs.get_content(metadata_mode=mode)
        assert "situate" not in costs.get_content(metadata_mode=mode)


def test_visibility_is_chosen() -> None:
    [node, *_] = cut(Document(text=TEXT, id_="d", excluded_llm_metadata_keys=["document_context", "file"]))
    SituatedContext(situators=[Recorder()], context_key="where", embed=False)([node])
    assert "where: d 0 of 1" in node.get_content(metadata_mode=MetadataMode.LLM)
    assert "where" not in node.get_content(metadata_mode=MetadataMode.EMBED)
    SituatedContext(situators=[Recorder()], context_key="where", llm=False)([node])
    assert "where" not in node.get_content(metadata_mode=MetadataMode.LLM)
    assert "where: d 0 of 1" in node.get_content(metadata_mode=MetadataMode.EMBED)
    assert {"document_context", "file"} < set(node.excluded_llm_metadata_keys)


def test_documents_are_situated_whole_and_apart() -> None:
    first, second = cut(Document(text=TEXT, id_="a")), cut(Document(text="Other. " * 30, id_="b"))
    mixed = [node for pair in zip(first, second, strict=False) for node in pair][::-1]
    recorder = Recorder()
    SituatedContext(situators=[recorder])(mixed)
    assert sorted(document.id for document, _ in recorder.seen) == ["a", "b"]
    for document, chunks in recorder.seen:
        assert all(document.text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
        assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))


@pytest.mark.parametrize("offsets", [True, False])
def test_pages_of_a_file_are_situated_together(offsets: bool) -> None:
    texts = ["# Leave\n\n## Sick leave\n\nTell Ada by nine and", "bring a note.\n\nThe note is kept."]
    known = [{"file_path": "a/handbook.pdf", "page_label": str(number)} for number in (1, 2)]
    pages = [Document(text=text, id_=f"p{n}", metadata=known[n]) for n, text in enumerate(texts)]
    other = Document(text="30 days.", id_="other", metadata={"file_path": "b/days.pdf", "page_label": "1"})

    def situated(**settings: Any) -> tuple[list[BaseNode], Recorder]:
        nodes, recorder = cut(*pages, other, size=24), Recorder()
        for node in nodes if not offsets else []:
            node.start_char_idx = node.end_char_idx = None
        SituatedContext(situators=[recorder, HeadingSituator()], **settings)(nodes)
        return nodes, recorder

    nodes, recorder = situated()
    assert [document.id for document, _ in recorder.seen] == ["a/handbook.pdf", "other"]
    for document, chunks in recorder.seen:
        assert [document.text[chunk.start : chunk.end] for chunk in chunks] == [chunk.text for chunk in chunks]
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert "nine and bring a note." in recorder.seen[0][0].text
    (*_, last, days) = nodes
    assert last.metadata["document_context"].startswith("Leave > Sick leave")
    assert last.ref_doc_id == "p1"
    assert last.metadata["page_label"] == "2"
    assert days.metadata["document_context"] == "other 0 of 1"
    apart, recorder = situated(join_pages=False)
    assert [document.id for document, _ in recorder.seen] == ["p0", "p1", "other"]
    assert "Leave" not in apart[-2].metadata["document_context"]


def test_the_document_store_precedes_the_nodes() -> None:
    document = Document(text=TEXT, id_="d", metadata={"title": "Handbook"})
    store = SimpleDocumentStore()
    store.add_documents([document])
    nodes = [node for node in cut(document) if "180" in node.get_content()]
    without, with_store = Recorder(), Recorder()
    SituatedContext(situators=[without])(nodes)
    SituatedContext(situators=[with_store], docstore=store)(nodes)
    assert with_store.seen[0][0].text == TEXT
    assert without.seen[0][0].text.strip() == nodes[0].get_content()


def test_nodes_without_offsets_and_with_wrong_ones() -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d")}
    loose = [TextNode(text=text, relationships=source) for text in ("one", "two")]
    wrong = [TextNode(text=text, relationships=source, start_char_idx=0, end_char_idx=3) for text in ("one", "two")]
    for nodes in (loose, wrong):
        recorder = Recorder()
        SituatedContext(situators=[recorder])(nodes)
        [(document, chunks)] = recorder.seen
        assert document.text == "one\n\ntwo"
        assert [document.text[chunk.start : chunk.end] for chunk in chunks] == ["one", "two"]
        assert [node.metadata["document_context"] for node in nodes] == ["d 0 of 2", "d 1 of 2"]


def test_situators_build_on_each_other_and_a_second_run_keeps_what_is_there() -> None:
    nodes = cut(Document(text=TEXT, id_="d"))
    SituatedContext(situators=[HeadingSituator(), Recorder()])(nodes)
    costs = next(node for node in nodes if "180" in node.get_content())
    assert costs.metadata["document_context"].startswith("Travel > Costs\nd ")
    SituatedContext(situators=[Recorder()])([costs])
    assert costs.metadata["document_context"] == "Travel > Costs\nd 0 of 1"


async def test_a_language_model_situates(scripted: Any) -> None:
    llm = scripted(lambda prompt: "It speaks of travel costs." if "passage" in prompt else "?")
    transform = SituatedContext(situators=[LLMSituator(LlamaIndexGenerator(llm), backoff=0.0)])
    nodes = cut(Document(text=TEXT, id_="d"))
    await transform.acall(nodes)
    assert {node.metadata["document_context"] for node in nodes} == {"It speaks of travel costs."}
    assert len(llm.prompts) == len(nodes)
    assert threading.get_ident() not in llm.threads
    assert "LLMSituator" in str(transform.to_dict())


def test_a_failing_language_model_gives_a_warning(scripted: Any) -> None:
    def away(prompt: str) -> str:
        raise ConnectionError

    situator = LLMSituator(LlamaIndexGenerator(scripted(away)), backoff=0.0, attempts=1)
    nodes = cut(Document(text=TEXT, id_="d"))
    with pytest.warns(SituatingWarning):
        SituatedContext(situators=[situator])(nodes)
    for node in nodes:
        assert "document_context" not in node.metadata
        assert "situating_failed" in node.metadata
        assert "situating_failed" not in node.get_content(metadata_mode=MetadataMode.LLM)


def test_node_text_and_ids_are_left_alone() -> None:
    nodes = MarkdownNodeParser().get_nodes_from_documents([Document(text=TEXT, id_="d")])
    before = [(node.node_id, node.get_content()) for node in nodes]
    returned = SituatedContext(situators=[HeadingSituator()])(nodes)
    assert [(node.node_id, node.get_content()) for node in returned] == before


async def test_async_does_the_same_off_the_event_loop() -> None:
    recorder = Recorder()
    nodes, again = cut(Document(text=TEXT, id_="d")), cut(Document(text=TEXT, id_="d"))
    await SituatedContext(situators=[recorder]).acall(nodes)
    SituatedContext(situators=[Recorder()])(again)
    assert [node.metadata for node in nodes] == [node.metadata for node in again]
    assert threading.get_ident() not in recorder.threads


def test_in_a_pipeline_with_a_cache() -> None:
    def run(situator: HeadingSituator) -> list[str]:
        pipeline.transformations = [
            SentenceSplitter(chunk_size=12, chunk_overlap=0),
            SituatedContext(situators=[situator]),
        ]
        return [
            str(node.metadata.get("document_context"))
            for node in pipeline.run(documents=[Document(text=TEXT, id_="d")])
        ]

    pipeline = IngestionPipeline(transformations=[])
    with_headings = run(HeadingSituator())
    assert "Travel > Costs" in with_headings
    assert run(HeadingSituator()) == with_headings
    assert run(HeadingSituator(headings=False)) != with_headings, "another configuration is another cache entry"


def test_pickles() -> None:
    again = pickle.loads(pickle.dumps(SituatedContext(situators=[HeadingSituator()], llm=False)))
    assert again.situators == [HeadingSituator()]
    assert again.llm is False


def test_what_is_no_situator_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a situator"):
        SituatedContext(situators=["headings"])
    with pytest.raises(ValueError, match="at least 1"):
        SituatedContext(situators=[])


def test_chunks_and_nodes_convert_into_each_other() -> None:
    document = SituateDocument("d", TEXT, {"title": "Handbook", "year": 2024})
    chunk = Chunk.of(document, 3, 2, 8)
    node = to_node(chunk)
    assert (node.node_id, node.ref_doc_id, node.text, node.start_char_idx, node.end_char_idx) == (
        chunk.id,
        "d",
        "Travel",
        2,
        8,
    )
    assert to_chunk(node, 3) == chunk
