"""Users' documents: metadata of their own, pages, HTML, other libraries' splitters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import (
    HierarchicalNodeParser,
    HTMLNodeParser,
    JSONNodeParser,
    MarkdownNodeParser,
    SentenceSplitter,
    get_leaf_nodes,
)
from llama_index.core.retrievers import AutoMergingRetriever
from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from situate.chunkers import HeadingSituator, LLMSituator, MarkdownChunker
from situate.chunkers.situators.generating import SituatingWarning
from situate.errors import InputError
from situate.integrations.llama_index import (
    LateChunkingNodeParser,
    LateInteractionRerank,
    LlamaIndexGenerator,
    SituatedContext,
    SituateEmbedding,
    SituateRetriever,
    SituateVectorStore,
)

HANDBOOK = (
    "# Travel\n\nBook with the travel desk in the main hall.\n\n## Costs\n\nIt pays up to 180 euros a night. "
    "Above that, the head of the department signs.\n\n# Leave\n\nThere are 30 days of leave in a year.\n"
)


def where(key: str, value: Any) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator.EQ)])


# -- the model -------------------------------------------------------------------------------------------------------


def test_the_default_model_is_the_one_that_settings_name(
    embed_model: SituateEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_embed_model", embed_model)
    assert LateChunkingNodeParser().embed_model.embedder is embed_model.embedder
    assert LateInteractionRerank().embed_model.embedder is embed_model.embedder
    assert SituateRetriever.from_documents([Document(text="x")]).index.embedder is embed_model.embedder


@pytest.mark.parametrize("make", [LateChunkingNodeParser, LateInteractionRerank])
def test_a_model_of_another_class_in_settings_is_refused(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(embed_dim=3))
    with pytest.raises(InputError, match=r"MockEmbedding.*embed_model=SituateEmbedding"):
        make()
    with pytest.raises(InputError, match="MockEmbedding"):
        SituateRetriever.from_documents([Document(text="x")])


# -- metadata --------------------------------------------------------------------------------------------------------


def test_a_context_of_the_users_stays_and_is_found(embed_model: SituateEmbedding) -> None:
    document = Document(id_="d", text=HANDBOOK, metadata={"context": "legal department", "document_id": "A-1"})
    parser = LateChunkingNodeParser(embed_model=embed_model, chunk_size=24)
    nodes = parser.get_nodes_from_documents([document])
    assert {node.metadata["context"] for node in nodes} == {"legal department"}
    assert any("context: Travel > Costs" in node.get_content(MetadataMode.LLM) for node in nodes)
    store = SituateVectorStore()
    index = VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embed_model
    )
    retriever = SituateRetriever.from_documents([document], embed_model=embed_model)
    for key, value in document.metadata.items():
        assert index.as_retriever(filters=where(key, value)).retrieve("costs"), key
        assert not index.as_retriever(filters=where(key, "other")).retrieve("costs"), key
        retriever.filters = where(key, value)
        assert retriever.retrieve("costs"), key


@pytest.mark.parametrize("key", ["document_id", "doc_id", "ref_doc_id", "text", "_node_type", "id_", "chunk_id"])
def test_filters_on_names_that_frameworks_use(embed_model: SituateEmbedding, key: str) -> None:
    nodes = [TextNode(id_=name, text=name, metadata={key: name}, embedding=[1.0, 0.0]) for name in ("a", "b")]
    store = SituateVectorStore()
    store.add(nodes)
    assert [node.node_id for node in store.get_nodes(filters=where(key, "b"))] == ["b"]
    assert store.get_nodes(["a"])[0].metadata == {key: "a"}
    documents = [Document(id_=name, text=f"text {name}", metadata={key: name}) for name in ("a", "b")]
    retriever = SituateRetriever.from_documents(documents, embed_model=embed_model, filters=where(key, "b"))
    assert [found.node.ref_doc_id for found in retriever.retrieve("text")] == ["b"]


def test_without_such_metadata_the_documents_id_is_filtered_as_llama_index_does(embed_model: SituateEmbedding) -> None:
    nodes = LateChunkingNodeParser(embed_model=embed_model)(
        [Document(id_="d", text="One."), Document(id_="e", text="Two.")]
    )
    store = SituateVectorStore()
    store.add(nodes)
    assert [node.ref_doc_id for node in store.get_nodes(filters=where("doc_id", "e"))] == ["e"]


@pytest.mark.parametrize("key", ["document_context", "situate"])
def test_a_collision_is_an_error(embed_model: SituateEmbedding, key: str) -> None:
    document = Document(id_="d", text=HANDBOOK, metadata={key: "mine"})
    with pytest.raises(InputError, match=key):
        LateChunkingNodeParser(embed_model=embed_model, chunk_size=24)([document])
    with pytest.raises(InputError, match=key):
        SituateRetriever.from_documents([document], embed_model=embed_model)
    nodes = SentenceSplitter(chunk_size=40, chunk_overlap=0)([document])
    with pytest.raises(InputError, match=key):
        SituatedContext(situators=[HeadingSituator()])(nodes)
    with pytest.raises(InputError, match="title"):
        LateChunkingNodeParser(embed_model=embed_model, context_key="title")(
            [Document(text=HANDBOOK, metadata={"title": "Handbook"})]
        )


def test_a_path_beside_a_file_path_comes_back(embed_model: SituateEmbedding) -> None:
    metadata = {"path": "a.md", "file_path": "a.md", "date": "2024", "creation_date": "2023"}
    retriever = SituateRetriever.from_documents([Document(text="Hello.", metadata=metadata)], embed_model=embed_model)
    [found] = retriever.retrieve("hello")
    assert metadata.items() <= found.node.metadata.items()


# -- headings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "splitter",
    [SentenceSplitter(chunk_size=24, chunk_overlap=0), MarkdownNodeParser(), MarkdownChunker(120)],
    ids=["sentences", "markdown", "chunker"],
)
def test_headings_are_the_documents_whatever_splits_it(embed_model: SituateEmbedding, splitter: Any) -> None:
    nodes = LateChunkingNodeParser(embed_model=embed_model, splitter=splitter)([Document(id_="d", text=HANDBOOK)])
    above = {node.text: node.metadata.get("document_context") for node in nodes if isinstance(node, TextNode)}
    assert [context for text, context in above.items() if "head of the department" in text] == ["Travel > Costs"]
    assert [context for text, context in above.items() if "30 days" in text] == ["Leave"]


def test_the_markdown_parsers_own_path_is_read() -> None:
    nodes = MarkdownNodeParser()([Document(text=HANDBOOK)])
    for node in nodes:
        node.metadata.pop("document_context", None)
    alone = [node for node in nodes if "180 euros" in node.get_content()]
    SituatedContext(situators=[HeadingSituator(headings=False)])(alone)
    assert alone[0].metadata["document_context"] == "Travel"


# -- pages -----------------------------------------------------------------------------------------------------------


def pages() -> list[Document]:
    texts = [
        "# Boilers\n\nBoilers are checked each year. The inspector is named Ada Quint.",
        "She signs the report. It is kept for ten years.\n\n## Costs\n\nA check costs 90 euros.",
        "Repairs are charged apart.",
    ]
    return [
        Document(
            text=text, metadata={"page_label": str(number), "file_name": "boilers.pdf", "file_path": "/x/boilers.pdf"}
        )
        for number, text in enumerate(texts, 1)
    ]


def test_pages_of_a_file_are_read_together(embed_model: SituateEmbedding) -> None:
    parser = LateChunkingNodeParser(embed_model=embed_model, chunk_size=24)
    together = pages()
    nodes = [node for node in parser(together) if isinstance(node, TextNode)]
    by_id = {page.node_id: page for page in together}
    for node in nodes:
        page = by_id[node.ref_doc_id or ""]
        assert node.metadata["page_label"] == page.metadata["page_label"]
        assert page.text[node.start_char_idx : node.end_char_idx] == node.text
    [signs] = [node for node in nodes if "She signs" in node.text]
    [apart] = [node for node in nodes if "Repairs" in node.text]
    assert signs.metadata["document_context"] == "Boilers"
    assert apart.metadata["document_context"] == "Boilers > Costs"
    [alone] = [node for page in pages()[1:2] for node in parser([page]) if "She signs" in node.get_content()]
    assert not np.allclose(signs.embedding, alone.embedding, atol=1e-3), "the page before is read with it"


def test_an_index_holds_a_file_as_one_document(embed_model: SituateEmbedding) -> None:
    retriever = SituateRetriever.from_documents(pages(), embed_model=embed_model, similarity_top_k=9)
    assert retriever.index.document_ids() == ["/x/boilers.pdf"]
    texts = {page.metadata["page_label"]: page.text for page in pages()}
    found = retriever.retrieve("Who signs the report?")
    for hit in found:
        start, end = hit.node.metadata["page_span"]
        assert texts[hit.node.metadata["page_label"]][start:end] == hit.node.get_content()
    retriever.filters = where("page_label", "2")
    assert {hit.node.metadata["page_label"] for hit in retriever.retrieve("report")} == {"2"}
    assert retriever.refresh_ref_docs(pages()) == [False] * 3
    changed = pages()
    changed[2] = Document(text="Repairs are free.", metadata=changed[2].metadata)
    assert retriever.refresh_ref_docs(changed) == [True] * 3
    retriever.delete_ref_doc("/x/boilers.pdf")
    assert retriever.index.count() == 0


# -- HTML, JSON, levels ----------------------------------------------------------------------------------------------

PAGE = (
    "<!DOCTYPE html><html><head><title>Handbook</title></head><body><h1>Travel</h1><h2>Costs</h2>"
    "<p>It pays <b>180 euros</b> a night.</p><script>var x = 1;</script></body></html>"
)


@pytest.mark.parametrize("splitter", [None, SentenceSplitter(chunk_size=64, chunk_overlap=0)], ids=["own", "sentences"])
def test_html_from_a_loader_is_read_as_its_words(embed_model: SituateEmbedding, splitter: Any) -> None:
    nodes = LateChunkingNodeParser(embed_model=embed_model, splitter=splitter)([Document(id_="p", text=PAGE)])
    [costs] = [node for node in nodes if "180 euros" in node.get_content()]
    assert "<" not in costs.get_content()
    assert "var x" not in "".join(node.get_content() for node in nodes)
    assert costs.metadata["document_context"] == "Travel > Costs"
    [found] = SituateRetriever.from_documents([Document(text=PAGE)], embed_model=embed_model).retrieve("euros")
    assert "<" not in found.node.get_content()
    assert found.node.metadata["title"] == "Handbook"


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        (HTMLNodeParser(), PAGE.replace("<h1>", "<p>").replace("</h1>", "</p>")),
        (JSONNodeParser(), '[{"place": "Travel", "costs": 180}, {"place": "Leave", "days": 30}]'),
    ],
    ids=["html", "json"],
)
def test_parsers_that_rewrite_their_document(embed_model: SituateEmbedding, parser: Any, text: str) -> None:
    plain = [node.get_content() for node in parser.get_nodes_from_documents([Document(text=text)])]
    nodes = LateChunkingNodeParser(embed_model=embed_model, splitter=parser)([Document(text=text)])
    assert [node.get_content() for node in nodes] == plain
    assert all(node.embedding and node.start_char_idx is None for node in nodes if isinstance(node, TextNode))


def test_every_level_of_a_hierarchy_is_embedded_and_merges(embed_model: SituateEmbedding) -> None:
    splitter = HierarchicalNodeParser.from_defaults(chunk_sizes=[64, 24], chunk_overlap=4)
    parser = LateChunkingNodeParser(embed_model=embed_model, splitter=splitter)
    document = Document(id_="d", text=HANDBOOK * 2)
    nodes = parser.get_nodes_from_documents([document])
    assert len({node.node_id for node in nodes}) == len(nodes)
    assert [node.node_id for node in parser.get_nodes_from_documents([document])] == [node.node_id for node in nodes]
    by_id = {node.node_id: node for node in nodes}
    levels: dict[bool, list[BaseNode]] = {}
    for node in nodes:
        assert isinstance(node, TextNode)
        assert node.embedding
        assert document.text[node.start_char_idx : node.end_char_idx] == node.text
        for child in node.child_nodes or []:
            assert by_id[child.node_id].parent_node.node_id == node.node_id  # type: ignore[union-attr]
        for name in (NodeRelationship.PREVIOUS, NodeRelationship.NEXT):
            if name in node.relationships:
                beside = by_id[node.relationships[name].node_id]  # type: ignore[union-attr]
                assert (beside.parent_node is None) == (node.parent_node is None)
        levels.setdefault(node.parent_node is None, []).append(node)
    leaves = get_leaf_nodes(list(nodes))
    assert 0 < len(leaves) < len(nodes)
    assert len(levels[True]) > 1
    storage = StorageContext.from_defaults()
    storage.docstore.add_documents(nodes)
    index = VectorStoreIndex(leaves, storage_context=storage, embed_model=embed_model)
    merging = AutoMergingRetriever(index.as_retriever(similarity_top_k=len(leaves)), storage, simple_ratio_thresh=0.5)
    merged = merging.retrieve("What may a hotel cost?")
    assert any(found.node.node_id in {node.node_id for node in levels[True]} for found in merged)


# -- events and caches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_late_chunking_is_counted(embed_model: SituateEmbedding, events: Any, asynchronous: bool) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    parser = LateChunkingNodeParser(embed_model=embed_model, chunk_size=24, callback_manager=CallbackManager([counter]))
    document = Document(text=HANDBOOK)
    nodes = await parser.acall([document]) if asynchronous else parser([document])
    assert counter.total_embedding_token_count == sum(len(node.get_content().split()) for node in nodes)
    assert len(events.of("EmbeddingStartEvent")) == len(events.of("EmbeddingEndEvent")) == 1
    assert events.of("EmbeddingEndEvent")[0].chunks == [node.get_content() for node in nodes]


def scripted_context(scripted: Any, answer: Any, **fields: Any) -> SituatedContext:
    generator = LlamaIndexGenerator(scripted(answer), **fields)
    return SituatedContext(situators=[LLMSituator(generator, attempts=1, backoff=0.0)])


def context_of(nodes: Sequence[BaseNode]) -> list[Any]:
    return [node.metadata.get("document_context") for node in nodes]


def test_a_pipelines_cache_tells_language_models_apart(scripted: Any) -> None:
    pipeline = IngestionPipeline(transformations=[])

    def run(answer: str, **fields: Any) -> list[Any]:
        pipeline.transformations = [scripted_context(scripted, lambda prompt: answer, **fields)]
        return context_of(pipeline.run(documents=[Document(id_="d", text="It pays 180 euros.")]))

    assert run("It is about hotels.") == ["It is about hotels."]
    assert run("It is about trains.") == ["It is about hotels."], "the same model with the same settings"
    assert run("It is about trains.", temperature=0.1) == ["It is about trains."]


def test_what_failed_is_not_taken_from_a_pipelines_cache(scripted: Any) -> None:
    down = True

    def answer(prompt: str) -> str:
        if down:
            raise ConnectionError("away")
        return "It is about hotels."

    pipeline = IngestionPipeline(transformations=[scripted_context(scripted, answer)])

    def run() -> list[Any]:
        return context_of(pipeline.run(documents=[Document(id_="d", text="It pays 180 euros.")]))

    with pytest.warns(SituatingWarning):
        assert run() == [None]
    down = False
    assert run() == ["It is about hotels."]


def test_configurations_come_back_or_say_why_not(embed_model: SituateEmbedding, scripted: Any) -> None:
    splitter = SentenceSplitter(chunk_size=64, chunk_overlap=0)
    for parser in (
        LateChunkingNodeParser(embed_model=embed_model, splitter=splitter, situators=[HeadingSituator(previous=0)]),
        LateChunkingNodeParser(embed_model=embed_model, splitter=MarkdownChunker(200)),
    ):
        again = LateChunkingNodeParser.from_dict(parser.to_dict())
        assert again.to_dict() == parser.to_dict()
        document = Document(id_="d", text=HANDBOOK)
        assert [node.get_content() for node in again([document])] == [node.get_content() for node in parser([document])]
    context = SituatedContext(situators=[HeadingSituator(previous=10)])
    assert SituatedContext.from_dict(context.to_dict()).situators == context.situators
    with pytest.raises(ValueError, match="holds a model or a tokenizer"):
        SituatedContext.from_dict(scripted_context(scripted, lambda prompt: "x").to_dict())
