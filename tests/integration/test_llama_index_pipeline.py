"""Whole LlamaIndex applications: ingestion with cache and docstore, indexes, stores, worker processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore

from situate.errors import IncompatibleIndexError
from situate.integrations.llama_index import LateChunkingNodeParser, SituateEmbedding, SituateVectorStore
from situate.retrievers.storage.edge import AsyncEdgeClient, EdgeClient

TEXTS = {
    "travel": "# Travel\n\nBook with the travel desk.\n\n## Costs\n\nIt pays up to 180 euros. Then the head signs.",
    "leave": "# Leave\n\nEverybody has 30 days.\n\n## Sick leave\n\nIt needs a doctor's note from the third day on.",
    "lunch": "# Canteen\n\nLunch is served at noon.\n\n## Guests\n\nThey eat free with a voucher from the front desk.",
}
QUERY = "What may a hotel cost?"


def documents(**changed: str) -> list[Document]:
    return [Document(text=text, id_=name, metadata={"name": name}) for name, text in {**TEXTS, **changed}.items()]


class Embedded(BaseEventHandler):
    """Every text that an embedding model got by itself, and not within its document."""

    _texts: list[str] = PrivateAttr(default_factory=list)
    _late: bool = PrivateAttr(default=False)

    @classmethod
    def class_name(cls) -> str:
        return "Embedded"

    def handle(self, event: Any, **kwargs: Any) -> None:
        if event.class_name() == "EmbeddingStartEvent":
            self._late = event.model_dict.get("late_chunking", False)
        elif event.class_name() == "EmbeddingEndEvent" and not self._late:
            self._texts += event.chunks

    @property
    def texts(self) -> list[str]:
        return self._texts


@pytest.fixture
def embedded() -> Iterator[Embedded]:
    handler, dispatcher = Embedded(), get_dispatcher()
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


@pytest.fixture(scope="module")
def model() -> SituateEmbedding:
    return SituateEmbedding(device="cpu", dtype="float32")


@pytest.fixture
def parser(model: SituateEmbedding) -> LateChunkingNodeParser:
    return LateChunkingNodeParser(embed_model=model, chunk_size=24)


class Counting(LateChunkingNodeParser):
    """A parser that counts the documents it was given."""

    _seen: list[str] = PrivateAttr(default_factory=list)

    def _parse_nodes(self, nodes: Any, show_progress: bool = False, **kwargs: Any) -> Any:
        self._seen += [node.node_id for node in nodes]
        return super()._parse_nodes(nodes, show_progress, **kwargs)

    @property
    def seen(self) -> list[str]:
        return self._seen


def test_an_index_does_not_embed_again(
    model: SituateEmbedding, parser: LateChunkingNodeParser, embedded: Embedded
) -> None:
    index = VectorStoreIndex.from_documents(documents(), transformations=[parser], embed_model=model)
    assert embedded.texts == []
    found = index.as_retriever(similarity_top_k=2).retrieve(QUERY)
    assert found[0].node.ref_doc_id == "travel"
    assert found[0].node.metadata["document_context"] == "Travel > Costs"
    assert embedded.texts == [QUERY]
    late = {node.node_id: node.embedding for node in parser(documents())}
    for hit in found:
        vector = np.array(late[hit.node.node_id])
        assert hit.score == pytest.approx(float(vector @ model.get_query_embedding(QUERY)), abs=1e-5)


def test_documents_are_inserted_and_deleted(model: SituateEmbedding, parser: LateChunkingNodeParser) -> None:
    store = SituateVectorStore()
    index = VectorStoreIndex.from_documents(
        documents(),
        transformations=[parser],
        embed_model=model,
        storage_context=StorageContext.from_defaults(vector_store=store),
    )
    index.delete_ref_doc("travel")
    assert {node.ref_doc_id for node in store.get_nodes()} == {"leave", "lunch"}
    index.insert(documents()[0])
    assert {node.ref_doc_id for node in store.get_nodes()} == set(TEXTS)


@pytest.mark.parametrize("mode", ["default", "hybrid", "sparse", "mmr"])
def test_every_query_mode_from_a_stored_index(
    model: SituateEmbedding, parser: LateChunkingNodeParser, tmp_path: Path, mode: str
) -> None:
    store = SituateVectorStore(path=str(tmp_path), embedder=model.embedder)
    IngestionPipeline(transformations=[parser], vector_store=store).run(documents=documents())
    store.close()
    again = SituateVectorStore(path=str(tmp_path), embedder=model.embedder)
    index = VectorStoreIndex.from_vector_store(again, embed_model=model)
    retriever = index.as_retriever(vector_store_query_mode=VectorStoreQueryMode(mode), similarity_top_k=2)
    query = "180 euros"
    found = retriever.retrieve(query)
    assert found[0].node.ref_doc_id == "travel"
    assert "180 euros" in found[0].node.get_content()
    assert [hit.node for hit in asyncio.run(retriever.aretrieve(query))] == [hit.node for hit in found]
    again.close()
    other = SituateEmbedding(document_instruction="passage: ", device="cpu")
    stranger = SituateVectorStore(path=str(tmp_path), embedder=other.embedder)
    with pytest.raises(IncompatibleIndexError, match="another encoder"):
        stranger.get_nodes()
    stranger.close()


def test_a_pipeline_keeps_documents_up_to_date(model: SituateEmbedding, embedded: Embedded) -> None:
    parser = Counting(embed_model=model, chunk_size=24)
    store, docstore = SituateVectorStore(), SimpleDocumentStore()
    pipeline = IngestionPipeline(
        transformations=[parser, model],
        vector_store=store,
        docstore=docstore,
        docstore_strategy=DocstoreStrategy.UPSERTS,
    )
    first = pipeline.run(documents=documents())
    assert embedded.texts == [], "the embedding in the pipeline leaves late vectors alone"
    assert parser.seen == list(TEXTS)
    stored = {node.node_id: node.get_content() for node in store.get_nodes()}
    assert set(stored) == {node.node_id for node in first}

    assert pipeline.run(documents=documents()) == []
    assert parser.seen == list(TEXTS)

    changed = TEXTS["leave"].replace("30", "25")
    second = pipeline.run(documents=documents(leave=changed))
    assert parser.seen == [*TEXTS, "leave"]
    now = {node.node_id: node.get_content() for node in store.get_nodes()}
    assert {node.node_id for node in second} <= set(now)
    assert not any("30 days" in text for text in now.values())
    assert any("25 days" in text for text in now.values())
    # Sick leave is the same text in another document: its late vector is a new one.
    sick = {node.get_content(): node.embedding for node in first if "doctor" in node.get_content()}
    for node in second:
        if node.get_content() in sick:
            assert not np.allclose(node.embedding, sick[node.get_content()], atol=1e-6)
    assert embedded.texts == []


async def test_the_same_pipeline_asynchronously(model: SituateEmbedding, embedded: Embedded) -> None:
    parser = LateChunkingNodeParser(embed_model=model, chunk_size=24)
    store = SituateVectorStore()
    pipeline = IngestionPipeline(transformations=[parser, model], vector_store=store, docstore=SimpleDocumentStore())
    nodes = await pipeline.arun(documents=documents())
    assert {node.node_id for node in store.get_nodes()} == {node.node_id for node in nodes}
    assert await pipeline.arun(documents=documents()) == []
    await pipeline.arun(documents=documents(lunch="Lunch is off."))
    assert sum(node.ref_doc_id == "lunch" for node in store.get_nodes()) == 1
    assert embedded.texts == []


def test_the_cache_returns_nodes_with_their_vectors(
    model: SituateEmbedding, embedded: Embedded, tmp_path: Path
) -> None:
    def run(*transformations: TransformComponent) -> list[Any]:
        return list(IngestionPipeline(transformations=list(transformations), cache=cache).run(documents=documents()))

    cache = IngestionCache()
    parser = Counting(embed_model=model, chunk_size=24)
    first = run(parser, model)
    cache.persist(str(tmp_path / "cache.json"))
    cache = IngestionCache.from_persist_path(str(tmp_path / "cache.json"))
    again = Counting(embed_model=model, chunk_size=24)
    second = run(again, model)
    assert again.seen == []
    assert [node.node_id for node in second] == [node.node_id for node in first]
    np.testing.assert_allclose([n.embedding for n in second], [n.embedding for n in first], atol=1e-6)
    assert embedded.texts == []

    # Results of another configuration are not used for this one.
    for other in (
        Counting(embed_model=model, chunk_size=12),
        Counting(embed_model=model, splitter=SentenceSplitter(chunk_size=20, chunk_overlap=0)),
        Counting(embed_model=SituateEmbedding(document_instruction="passage: ", device="cpu"), chunk_size=24),
    ):
        run(other)
        assert other.seen == list(TEXTS)


def test_a_splitter_of_llama_index_and_our_embedding(model: SituateEmbedding, embedded: Embedded) -> None:
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(chunk_size=30, chunk_overlap=0), model])
    nodes = pipeline.run(documents=documents())
    assert len(embedded.texts) == len(nodes)
    np.testing.assert_allclose(
        [node.embedding for node in nodes], model.get_text_embedding_batch(embedded.texts[: len(nodes)]), atol=1e-5
    )


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_official_store_on_the_embedded_engine(
    model: SituateEmbedding, parser: LateChunkingNodeParser, embedded: Embedded, hybrid: bool
) -> None:
    from situate.retrievers.config import LexicalScheme
    from situate.retrievers.index.lexical import LexicalEncoder

    encoder = LexicalEncoder(LexicalScheme(context=(), neighbours=0.0))

    def sparse(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        vectors = [encoder.encode_query(text) for text in texts]
        return [v.indices.tolist() for v in vectors], [v.values.tolist() for v in vectors]

    extra: dict[str, Any] = (
        {"enable_hybrid": True, "sparse_doc_fn": sparse, "sparse_query_fn": sparse} if hybrid else {}
    )
    store = QdrantVectorStore("handbook", client=EdgeClient(":memory:"), **extra)
    index = VectorStoreIndex.from_documents(
        documents(),
        transformations=[parser],
        embed_model=model,
        storage_context=StorageContext.from_defaults(vector_store=store),
    )
    assert embedded.texts == []
    mode = VectorStoreQueryMode.HYBRID if hybrid else VectorStoreQueryMode.DEFAULT
    found = index.as_retriever(similarity_top_k=2, vector_store_query_mode=mode).retrieve(QUERY)
    assert found[0].node.ref_doc_id == "travel"
    index.delete_ref_doc("travel")
    again = index.as_retriever(similarity_top_k=9, vector_store_query_mode=mode).retrieve(QUERY)
    assert {hit.node.ref_doc_id for hit in again} == {"leave", "lunch"}


async def test_the_official_store_asynchronously(model: SituateEmbedding, parser: LateChunkingNodeParser) -> None:
    client = EdgeClient(":memory:")
    store = QdrantVectorStore("handbook", client=client, aclient=AsyncEdgeClient(client=client))
    await IngestionPipeline(transformations=[parser], vector_store=store).arun(documents=documents())
    index = VectorStoreIndex.from_vector_store(store, embed_model=model)
    found = await index.as_retriever(similarity_top_k=1).aretrieve(QUERY)
    assert [hit.node.ref_doc_id for hit in found] == ["travel"]


@pytest.mark.full
def test_worker_processes_load_their_own_model(model: SituateEmbedding, parser: LateChunkingNodeParser) -> None:
    pipeline = IngestionPipeline(transformations=[parser, model], disable_cache=True)
    alone = pipeline.run(documents=documents())
    together = pipeline.run(documents=documents(), num_workers=2)
    assert [node.node_id for node in together] == [node.node_id for node in alone]
    np.testing.assert_allclose([n.embedding for n in together], [n.embedding for n in alone], atol=1e-4)
