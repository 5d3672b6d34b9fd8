"""`SituateVectorStore` passes LangChain's standard tests and keeps chunks in their documents."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from langchain_text_splitters import RecursiveCharacterTextSplitter
from qdrant_client import QdrantClient, models

from situate.embedders.types import ChunkScheme, Vectors
from situate.errors import IncompatibleIndexError, InputError
from situate.integrations.langchain import (
    SituateEmbeddings,
    SituateTextSplitter,
    SituateVectorStore,
    chunk_context,
)
from situate.integrations.langchain.documents import to_chunk, to_document
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.documents import EmptyDocumentWarning
from situate.retrievers.storage.edge import EdgeClient

LATE = PipelineConfig(dense=ChunkScheme(late=True, residual=0.5, neighbours=0.35))


def stored_vectors(store: SituateVectorStore) -> dict[str, Vectors]:
    """Chunk id -> dense vector, as the collection holds it."""
    records, _ = store.index.client.scroll(
        store.index.collection, limit=1000, with_payload=True, with_vectors=["dense"]
    )
    return {
        (record.payload or {})["chunk_id"]: np.asarray(record.vector["dense"], dtype=np.float32)
        for record in records
        if isinstance(record.vector, dict)
    }


class TestStandard(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, embeddings: SituateEmbeddings) -> Iterator[VectorStore]:  # type: ignore[override]
        store = SituateVectorStore(embeddings)
        yield store
        store.close()


class TestStandardDense(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, embeddings: SituateEmbeddings) -> Iterator[VectorStore]:  # type: ignore[override]
        store = SituateVectorStore(embeddings, config=PipelineConfig.plain())
        yield store
        store.close()


class TestStandardOnDisk(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, embeddings: SituateEmbeddings, tmp_path: Path) -> Iterator[VectorStore]:  # type: ignore[override]
        store = SituateVectorStore(embeddings, path=tmp_path / "store", config=PipelineConfig.quality())
        yield store
        store.close()


@pytest.fixture
def whole(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> Iterator[SituateVectorStore]:
    """A store with the handbook's documents, added whole."""
    store = SituateVectorStore(embeddings, splitter=splitter, config=LATE)
    assert store.add_documents(handbook) == ["leave", "travel"]
    yield store
    store.close()


def test_whole_documents_are_embedded_with_their_text_in_view(
    whole: SituateVectorStore, embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    vectors = stored_vectors(whole)
    for document in handbook:
        chunks = [to_chunk(chunk) for chunk in splitter.split_documents([document])]
        (expected,) = embeddings.embedder.encode_chunks([(to_document(document), chunks)], scheme=LATE.dense)
        alone = embeddings.embedder.embed_documents([chunk.text for chunk in chunks])
        got = np.array([vectors[chunk.id] for chunk in chunks])
        np.testing.assert_allclose(got, expected.dense, atol=1e-5)
        assert np.abs(got - alone).max() > 0.01


@pytest.mark.parametrize("order", ["together", "one by one", "backwards", "in pairs"])
def test_chunks_find_their_document_in_whatever_batches_they_come(
    whole: SituateVectorStore,
    embeddings: SituateEmbeddings,
    splitter: SituateTextSplitter,
    handbook: list[Document],
    order: str,
) -> None:
    chunks = splitter.split_documents(handbook)
    size = {"together": len(chunks), "one by one": 1, "backwards": 1, "in pairs": 2}[order]
    if order == "backwards":
        chunks = chunks[::-1]
    store = SituateVectorStore(embeddings, config=LATE)
    for start in range(0, len(chunks), size):
        batch = chunks[start : start + size]
        assert store.add_documents(batch) == [chunk.id for chunk in batch]
    expected, got = stored_vectors(whole), stored_vectors(store)
    assert got.keys() == expected.keys()
    for id, vector in expected.items():
        np.testing.assert_allclose(got[id], vector, atol=1e-5)
    store.close()


async def test_parts_of_a_document_added_at_once_all_stay(
    whole: SituateVectorStore, embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    store = SituateVectorStore(embeddings, config=LATE)
    chunks = splitter.split_documents(handbook)
    await asyncio.gather(*(store.aadd_documents([chunk]) for chunk in chunks))
    expected, got = stored_vectors(whole), stored_vectors(store)
    assert got.keys() == expected.keys()
    for id, vector in expected.items():
        np.testing.assert_allclose(got[id], vector, atol=1e-5)
    store.close()


def test_whole_and_cut_documents_come_out_alike(
    whole: SituateVectorStore, embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    chunks = splitter.split_documents(handbook)
    store = SituateVectorStore.from_documents(chunks, embeddings, config=LATE)
    ids = [str(chunk.id) for chunk in chunks]
    assert store.get_by_ids(ids) == whole.get_by_ids(ids) == chunks
    assert store.similarity_search("unpaid", k=3) == whole.similarity_search("unpaid", k=3)
    store.close()


def test_a_changed_document_replaces_all_its_chunks(whole: SituateVectorStore, handbook: list[Document]) -> None:
    text = handbook[0].page_content.replace("sixteen weeks", "twenty weeks").partition("## Illness")[0]
    changed = handbook[0].model_copy(update={"page_content": text})
    assert whole.add_documents([changed]) == ["leave"]
    (again,) = whole.get_by_ids(["leave"])
    assert again == changed
    found = [document.page_content for document in whole.similarity_search("weeks for parents, doctor's note", k=20)]
    assert any("twenty weeks" in text for text in found)
    assert not any("sixteen" in text or "doctor" in text for text in found)


def test_ids_of_documents_and_of_chunks(whole: SituateVectorStore, handbook: list[Document]) -> None:
    chunk = whole.similarity_search("consent of the lead", k=1)[0]
    assert whole.get_by_ids([str(chunk.id), "travel", "missing"]) == [chunk, handbook[1]]
    assert whole.delete(["travel", "missing"])
    assert whole.get_by_ids([str(chunk.id), "travel"]) == []
    assert whole.get_by_ids(["leave"]) == [handbook[0]]
    assert whole.delete()
    assert whole.similarity_search("weeks", k=5) == []


def test_deleting_a_chunk_leaves_the_others_and_adding_brings_it_back(
    whole: SituateVectorStore, handbook: list[Document]
) -> None:
    before = stored_vectors(whole)
    doomed = [str(chunk.id) for chunk in whole.similarity_search("parents and newborns", k=2)]
    whole.delete(doomed)
    after = stored_vectors(whole)
    assert after.keys() == before.keys() - set(doomed)
    for id, vector in after.items():
        np.testing.assert_array_equal(vector, before[id])
    whole.add_documents(handbook)
    assert stored_vectors(whole).keys() == before.keys()


def test_an_edited_chunk_is_refused(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    chunks = splitter.split_documents(handbook)
    chunks[0].page_content = "Title: " + chunks[0].page_content
    with pytest.raises(InputError, match="change texts before splitting"):
        SituateVectorStore(embeddings).add_documents(chunks)


def test_changed_metadata_alone_is_stored(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    chunks = splitter.split_documents(handbook[:1])
    store = SituateVectorStore.from_documents(chunks, embeddings)
    chunks[-1].metadata["reviewed"] = True
    store.add_documents(chunks[-1:])
    assert store.get_by_ids([str(chunks[-1].id)]) == chunks[-1:]
    assert store.similarity_search("doctor", k=9, filter={"reviewed": True}) == chunks[-1:]
    store.close()


def test_any_splitter(embeddings: SituateEmbeddings, handbook: list[Document]) -> None:
    store = SituateVectorStore(embeddings, splitter=RecursiveCharacterTextSplitter(chunk_size=80, chunk_overlap=0))
    store.add_documents(handbook)
    assert store.get_by_ids(["leave", "travel"]) == handbook
    assert "sixteen" in store.similarity_search("weeks for parents of a newborn", k=1)[0].page_content
    store.close()


def test_empty_documents_give_a_warning(embeddings: SituateEmbeddings, splitter: SituateTextSplitter) -> None:
    store = SituateVectorStore(embeddings, splitter=splitter)
    with pytest.warns(EmptyDocumentWarning, match="1 documents without text"):
        store.add_documents([Document(id="empty", page_content=" \n"), Document(id="full", page_content="text")])
    assert [d.id for d in store.get_by_ids(["empty", "full"])] == ["full"]
    store.close()


def test_generators_and_identical_texts(embeddings: SituateEmbeddings) -> None:
    store = SituateVectorStore.from_texts(["one", "two"], embeddings, [{"n": 1}, {"n": 2}], ids=["1", "2"])
    assert store.add_texts(text for text in ("three", "three")) == store.add_texts(["three"]) * 2
    assert store.index.count() == 3
    assert store.add_documents(document for document in [Document(id="4", page_content="four")]) == ["4"]  # type: ignore[arg-type]
    assert store.index.count() == 4
    assert store.get_by_ids(["2"]) == [Document(id="2", page_content="two", metadata={"n": 2})]
    store.close()


async def test_from_texts_async(embeddings: SituateEmbeddings) -> None:
    store = await SituateVectorStore.afrom_texts(["one", "two"], embeddings, ids=["1", "2"])
    assert (await store.asimilarity_search("two", k=1))[0].id == "2"
    await store.aadd_texts(["three"], ids=["3"])
    assert [d.id for d in await store.aget_by_ids(["3", "1"])] == ["3", "1"]
    store.close()


# -- searching --------------------------------------------------------------------------------------------------------


def test_filters(whole: SituateVectorStore) -> None:
    def sources(filter: Any) -> set[str]:
        return {d.metadata["source"] for d in whole.similarity_search("euros and weeks", k=20, filter=filter)}

    assert sources(None) == {"leave.md", "travel.md"}
    assert sources({"source": "leave.md"}) == {"leave.md"}
    assert sources({"source": ["leave.md", "travel.md"]}) == {"leave.md", "travel.md"}
    condition = models.FieldCondition(key="metadata.source", match=models.MatchValue(value="travel.md"))
    assert sources(models.Filter(must_not=[condition])) == {"leave.md"}
    for mode in ("dense", "hybrid"):
        found = whole.similarity_search("weeks", k=20, filter={"title": "Travel"}, mode=mode)
        assert {d.metadata["title"] for d in found} == {"Travel"}


def test_dense_scores_are_cosines(whole: SituateVectorStore, embeddings: SituateEmbeddings) -> None:
    query = "Who pays for the reservation?"
    vector = np.array(embeddings.embed_query(query))
    cosines = {id: float(v @ vector) for id, v in stored_vectors(whole).items()}
    best = sorted(cosines, key=lambda id: -cosines[id])[:4]
    found = whole.similarity_search_with_score(query, k=4, mode="dense")
    assert [document.id for document, _ in found] == best
    np.testing.assert_allclose([score for _, score in found], [cosines[id] for id in best], atol=1e-5)
    assert [d.id for d in whole.similarity_search_by_vector(vector.tolist(), k=4)] == best


def test_a_fitted_configuration_is_searched_by_a_vector_alone(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    query = embeddings.embed_query("Who pays for the reservation?")
    found = []
    for config in (PipelineConfig.fast(), replace(PipelineConfig.fast(), lexical_share=0.8)):
        store = SituateVectorStore(embeddings, splitter=splitter, config=config)
        store.add_documents(handbook)
        found.append([document.id for document in store.similarity_search_by_vector(query, k=4)])
    assert found[0] == found[1]


@pytest.mark.parametrize("config", [PipelineConfig.fast(), PipelineConfig.hybrid(), PipelineConfig.plain()])
def test_relevance_is_between_0_and_1(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document], config: PipelineConfig
) -> None:
    store = SituateVectorStore.from_documents(handbook, embeddings, splitter=splitter, config=config)
    found = store.similarity_search_with_relevance_scores("sixteen weeks", k=20)
    scores = [score for _, score in found]
    assert all(0 <= score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]
    assert store.similarity_search_with_relevance_scores("sixteen weeks", k=20, score_threshold=scores[1]) == found[:2]
    store.close()


def test_hybrid_finds_words_that_dense_vectors_blur(embeddings: SituateEmbeddings) -> None:
    texts = [f"Form {code} asks for the reason of the absence." for code in ("QX17", "QX71", "QY17", "XQ17", "QX11")]
    store = SituateVectorStore.from_texts(texts, embeddings)
    assert store.similarity_search("QY17", k=1)[0].page_content == texts[2]
    store.close()


def test_mmr_is_langchains(whole: SituateVectorStore, embeddings: SituateEmbeddings) -> None:
    query = "How many euros?"
    by_relevance = whole.max_marginal_relevance_search(query, k=3, fetch_k=8, lambda_mult=1.0)
    assert by_relevance == whole.similarity_search(query, k=3, mode="dense")
    diverse = whole.max_marginal_relevance_search(query, k=3, fetch_k=8, lambda_mult=0.0)
    assert diverse[0] == by_relevance[0]
    assert diverse != by_relevance
    only = whole.max_marginal_relevance_search(query, k=3, filter={"title": "Leave"})
    assert {d.metadata["title"] for d in only} == {"Leave"}


async def test_async_finds_the_same(whole: SituateVectorStore, embeddings: SituateEmbeddings) -> None:
    query = "How many euros?"
    vector = embeddings.embed_query(query)
    assert await whole.asimilarity_search(query, k=3) == whole.similarity_search(query, k=3)
    assert await whole.asimilarity_search_with_score(query, 3, mode="dense") == whole.similarity_search_with_score(
        query, 3, mode="dense"
    )
    assert await whole.asimilarity_search_by_vector(vector, 3) == whole.similarity_search_by_vector(vector, 3)
    assert await whole.amax_marginal_relevance_search(query, 3) == whole.max_marginal_relevance_search(query, 3)
    assert await whole.asimilarity_search_with_relevance_scores(
        query, 3
    ) == whole.similarity_search_with_relevance_scores(query, 3)


async def test_the_event_loop_never_stalls(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document], watched: Any
) -> None:
    store = SituateVectorStore(embeddings, splitter=splitter, config=LATE)
    many = [d.model_copy(update={"id": f"{d.id}{n}"}) for n in range(10) for d in handbook]
    async with watched():
        await store.aadd_documents(many)
    async with watched():
        await asyncio.gather(*(store.asimilarity_search(f"question {n} about leave", k=5) for n in range(50)))
    store.close()


def test_as_retriever(whole: SituateVectorStore) -> None:
    retriever = whole.as_retriever(search_type="mmr", search_kwargs={"k": 2, "fetch_k": 6})
    assert len(retriever.invoke("euros")) == 2
    assert retriever.tags == ["SituateVectorStore", "SituateEmbeddings"]


# -- where it is stored -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")
@pytest.mark.parametrize("kind", ["edge", "local mode"])
def test_any_client(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document], kind: str
) -> None:
    client = EdgeClient(":memory:") if kind == "edge" else QdrantClient(":memory:")
    store = SituateVectorStore(embeddings, client=client, splitter=splitter)
    store.add_documents(handbook)
    assert "120 euros" in store.similarity_search("price of a hotel per night", k=1)[0].page_content
    assert len(store.max_marginal_relevance_search("hotel", k=2)) == 2
    store.delete(["travel"])
    assert store.get_by_ids(["travel", "leave"]) == handbook[:1]
    client.close()


def test_a_store_on_disk_is_there_again(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document], tmp_path: Path
) -> None:
    store = SituateVectorStore(embeddings, path=tmp_path / "store", splitter=splitter)
    store.add_documents(handbook)
    found = store.similarity_search("price of a hotel", k=3)
    store.close()
    again = SituateVectorStore(embeddings, path=tmp_path / "store", splitter=splitter)
    assert again.similarity_search("price of a hotel", k=3) == found
    assert chunk_context(found[0]).title == "Travel"
    again.close()
    other = SituateVectorStore(embeddings, path=tmp_path / "store", config=LATE)
    with pytest.raises(IncompatibleIndexError):
        other.similarity_search("hotel")
    other.close()


def test_pickles_as_its_configuration(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document], tmp_path: Path
) -> None:
    store = SituateVectorStore(embeddings, path=tmp_path / "store", splitter=splitter)
    store.add_documents(handbook)
    store.close()
    data = pickle.dumps(store)
    assert b"model.safetensors" not in data
    assert len(data) < 1_000_000  # the tokenizer's vocabulary at most, never weights or points
    again = pickle.loads(data)
    assert again.get_by_ids(["leave", "travel"]) == handbook
    again.close()
    with pytest.raises(InputError, match="in memory cannot be pickled"):
        pickle.dumps(SituateVectorStore(embeddings))


# -- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input(embeddings: SituateEmbeddings) -> None:
    with pytest.raises(InputError, match="DeterministicFakeEmbedding cannot"):
        SituateVectorStore.from_texts(["text"], DeterministicFakeEmbedding(size=6))
    store = SituateVectorStore(embeddings)
    with pytest.raises(InputError, match="1 ids for 2 documents"):
        store.add_documents([Document(page_content="a"), Document(page_content="b")], ids=["1"])
    with pytest.raises(InputError, match="1 metadatas for 2 texts"):
        store.add_texts(["a", "b"], [{}])
    with pytest.raises(InputError, match="metadata of document 'x' cannot be stored"):
        store.add_documents([Document(id="x", page_content="a", metadata={"x": {1, 2}})])
    with pytest.raises(InputError, match=r"texts is one text \('zebra'\)"):
        store.add_texts("zebra")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="documents is one Document"):
        store.add_documents(Document(page_content="a"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'a' is a str, and no Document"):
        store.add_documents(["a"])  # type: ignore[list-item]
    for by_id in (store.get_by_ids, store.delete):
        with pytest.raises(InputError, match="the id None is a NoneType"):
            by_id([None])  # type: ignore[arg-type]
    for threshold in (float("nan"), "0.5"):
        with pytest.raises(InputError, match="score_threshold"):
            store.similarity_search("text", score_threshold=threshold)
    with pytest.raises(InputError, match="mode='sparse'"):
        store.similarity_search("text", mode="sparse")
    with pytest.raises(TypeError, match="fetch"):
        store.similarity_search("text", fetch=3)
    with pytest.raises(InputError, match="k=0"):
        store.similarity_search("text", k=0)
    for lambda_mult in (-0.1, 2, float("nan")):
        with pytest.raises(InputError, match="lambda_mult"):
            store.max_marginal_relevance_search("text", lambda_mult=lambda_mult)
    for vector in (["a"] * 384, [[1.0] * 384], [10**400] * 384):
        for search in (store.similarity_search_by_vector, store.max_marginal_relevance_search_by_vector):
            with pytest.raises(InputError, match="embedding"):
                search(vector)
    for mode in ("hybrid", "dense"):
        with pytest.raises(InputError, match="the query is a NoneType"):
            store.similarity_search(None, mode=mode)  # type: ignore[arg-type]
    assert store.max_marginal_relevance_search(" ") == []
    assert store.index.count() == 0
    store.close()
