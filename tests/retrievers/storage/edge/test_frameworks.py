"""The official Qdrant stores of LlamaIndex and LangChain, unchanged, on an embedded store."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_qdrant import QdrantVectorStore as LangChainStore, RetrievalMode, SparseEmbeddings, SparseVector
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaStore
from qdrant_client import models

from situate.retrievers.storage.edge import AsyncEdgeClient, EdgeClient

TEXTS = ["the red fox jumps", "a lazy dog sleeps", "foxes and dogs", "an unrelated sentence about the law"]
embedding = DeterministicFakeEmbedding(size=16)


def words(text: str) -> dict[int, float]:
    return {zlib.crc32(word.encode()) & 0xFFFFFF: 1.0 for word in text.lower().split()}


class Words(SparseEmbeddings):
    """One dimension for each word."""

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        return [SparseVector(indices=list(w), values=list(w.values())) for w in map(words, texts)]

    def embed_query(self, text: str) -> SparseVector:
        return self.embed_documents([text])[0]


def sparse_function(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
    cells = [words(text) for text in texts]
    return [list(c) for c in cells], [list(c.values()) for c in cells]


def nodes() -> list[TextNode]:
    return [
        TextNode(
            id_=f"00000000-0000-4000-8000-00000000000{i}",
            text=text,
            embedding=embedding.embed_query(text),
            metadata={"number": i, "even": "yes" if i % 2 == 0 else "no"},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document-{i // 2}")},
        )
        for i, text in enumerate(TEXTS)
    ]


@pytest.fixture
def store(edge: EdgeClient) -> LlamaStore:
    return LlamaStore(
        "llama",
        client=edge,
        aclient=AsyncEdgeClient(client=edge),
        enable_hybrid=True,
        sparse_doc_fn=sparse_function,
        sparse_query_fn=sparse_function,
    )


QUERIES: dict[str, dict[str, Any]] = {
    "default": {"mode": VectorStoreQueryMode.DEFAULT},
    "hybrid": {"mode": VectorStoreQueryMode.HYBRID, "sparse_top_k": 3},
    "sparse": {"mode": VectorStoreQueryMode.SPARSE, "sparse_top_k": 3},
    "mmr": {"mode": VectorStoreQueryMode.MMR},
}


def query(**options: Any) -> VectorStoreQuery:
    return VectorStoreQuery(
        query_str=TEXTS[0], query_embedding=embedding.embed_query(TEXTS[0]), similarity_top_k=3, **options
    )


@pytest.mark.parametrize("options", QUERIES.values(), ids=QUERIES.keys())
def test_llama_index(store: LlamaStore, edge: EdgeClient, options: dict[str, Any]) -> None:
    ids = store.add(nodes())
    assert edge.count("llama").count == len(TEXTS)
    found = store.query(query(**options))
    assert found.nodes is not None
    assert found.nodes[0].get_content() == TEXTS[0]
    filters = MetadataFilters(filters=[MetadataFilter(key="even", value="no", operator=FilterOperator.EQ)])
    filtered = store.query(query(filters=filters, **options)).nodes
    assert filtered is not None
    assert {n.metadata["even"] for n in filtered} == {"no"}
    assert {n.node_id for n in store.get_nodes(ids[:2])} == set(ids[:2])
    store.delete("document-0")
    assert edge.count("llama").count == 2
    store.delete_nodes(ids[2:3])
    assert edge.count("llama").count == 1
    store.clear()


@pytest.mark.parametrize("options", QUERIES.values(), ids=QUERIES.keys())
async def test_llama_index_async(store: LlamaStore, edge: EdgeClient, options: dict[str, Any]) -> None:
    ids = await store.async_add(nodes())
    found = await store.aquery(query(**options))
    assert found.nodes is not None
    assert found.nodes[0].get_content() == TEXTS[0]
    assert len(await store.aget_nodes(ids)) == len(TEXTS)
    await store.adelete("document-1")
    assert edge.count("llama").count == 2
    await store.adelete_nodes(ids[:1])
    assert edge.count("llama").count == 1
    await store.aclear()


MODES = [RetrievalMode.DENSE, RetrievalMode.SPARSE, RetrievalMode.HYBRID]


def langchain_store(client: EdgeClient, mode: RetrievalMode) -> LangChainStore:
    client.create_collection(
        "chain",
        {"": models.VectorParams(size=16, distance=models.Distance.COSINE)},
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    return LangChainStore(
        client,
        "chain",
        embedding=embedding,
        sparse_embedding=Words(),
        sparse_vector_name="words",
        retrieval_mode=mode,
        validate_collection_config=True,
    )


@pytest.mark.parametrize("mode", MODES)
def test_langchain(edge: EdgeClient, mode: RetrievalMode) -> None:
    store = langchain_store(edge, mode)
    ids = store.add_documents([Document(text, metadata={"number": i}) for i, text in enumerate(TEXTS)])
    assert store.similarity_search(TEXTS[0], k=2)[0].page_content == TEXTS[0]
    odd = models.Filter(must=[models.FieldCondition(key="metadata.number", match=models.MatchAny(any=[1, 3]))])
    assert {d.metadata["number"] for d in store.similarity_search("a dog sleeps", k=4, filter=odd)} <= {1, 3}
    assert [d.page_content for d in store.get_by_ids(ids[:2])] == TEXTS[:2]
    if mode == RetrievalMode.DENSE:
        assert store.max_marginal_relevance_search(TEXTS[1], k=2)[0].page_content == TEXTS[1]
    store.delete(ids[:1])
    assert edge.count("chain").count == len(TEXTS) - 1


@pytest.mark.parametrize("mode", MODES)
async def test_langchain_async(edge: EdgeClient, mode: RetrievalMode) -> None:
    store = langchain_store(edge, mode)
    ids = await store.aadd_texts(TEXTS)
    found = await store.asimilarity_search_with_score(TEXTS[2], k=2)
    assert found[0][0].page_content == TEXTS[2]
    await store.adelete(ids)
    assert edge.count("chain").count == 0
