"""`SituateRetriever` passes LangChain's standard tests and runs the query pipeline."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from situate.errors import StepError
from situate.integrations.langchain import (
    LangChainGenerator,
    SituateEmbeddings,
    SituateRetriever,
    SituateTextSplitter,
    chunk_context,
    situated_text,
)
from situate.retrievers.config import PipelineConfig
from situate.retrievers.expand.hyde import Hyde
from situate.retrievers.index.index import Index
from situate.retrievers.pipeline.steps import StepPolicy
from situate.retrievers.rerank import LateInteractionReranker
from situate.retrievers.retriever import Retriever

QUERY = "How much may a hotel cost?"


class Failing(FakeListChatModel):
    def _call(self, *args: Any, **kwargs: Any) -> str:
        raise ConnectionError("no route to host")


class Seen(BaseCallbackHandler):
    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.metadata: dict[str, Any] = {}

    def on_retriever_start(self, *_: Any, metadata: dict[str, Any] | None = None, **__: Any) -> None:
        self.metadata = metadata or {}

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        assert name == "situate_steps"
        self.steps = data


@pytest.fixture
def index(embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]) -> Iterator[Index]:
    retriever = SituateRetriever.from_documents(handbook, embeddings, splitter=splitter)
    yield retriever.index
    retriever.index.close()


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _given(self, index: Index) -> None:
        self.index = index

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return SituateRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.index}

    @property
    def retriever_query_example(self) -> str:
        return QUERY


def test_passages_carry_score_place_and_context(index: Index, handbook: list[Document]) -> None:
    passages = SituateRetriever(index=index, k=3).invoke(QUERY)
    best = passages[0]
    assert "120 euros" in best.page_content
    scores = [passage.metadata["relevance_score"] for passage in passages]
    assert scores == sorted(scores, reverse=True)
    start = best.metadata["start_index"]
    assert handbook[1].page_content[start : start + len(best.page_content)] == best.page_content
    assert chunk_context(best).title == "Travel"
    assert situated_text(best).startswith("Travel")
    assert [hit.chunk.id for hit in index.search(QUERY, 3)] == [passage.id for passage in passages]


async def test_filters_and_k_at_every_level(index: Index) -> None:
    retriever = SituateRetriever(index=index, filter={"title": "Leave"}, k=2)
    assert {p.metadata["title"] for p in retriever.invoke(QUERY)} == {"Leave"}
    assert {p.metadata["title"] for p in retriever.invoke(QUERY, filter={"title": "Travel"})} == {"Travel"}
    (only,) = await retriever.ainvoke(QUERY, k=1, filter={"source": "travel.md"})
    assert only.metadata["source"] == "travel.md"
    with pytest.raises(TypeError, match="top_k"):
        retriever.invoke(QUERY, top_k=1)


async def test_steps_reach_the_callbacks(index: Index) -> None:
    hyde = Hyde(LangChainGenerator(FakeListChatModel(responses=["Hotels cost up to 120 euros."])), drafts=2)
    retriever = SituateRetriever(index=index, expander=hyde, k=1)
    for seen, passages in (
        (sync := Seen(), retriever.invoke(QUERY, config={"callbacks": [sync]})),
        (native := Seen(), await retriever.ainvoke(QUERY, config={"callbacks": [native]})),
    ):
        assert "120 euros" in passages[0].page_content
        assert [step["name"] for step in seen.steps] == ["hyde", "embed", "search"]
        assert seen.steps[0]["details"]["used"] == 2
        assert seen.metadata["ls_retriever_name"] == "situate"
        assert seen.metadata["ls_vector_store_provider"] == "qdrant"
        assert seen.metadata["ls_embedding_model"] == "sentence-transformers/all-MiniLM-L6-v2"


async def test_failing_steps_degrade_or_raise(index: Index) -> None:
    hyde = Hyde(LangChainGenerator(Failing(responses=["never"])), drafts=1)
    policy = StepPolicy(retries=0)
    plain = SituateRetriever(index=index, k=2).invoke(QUERY)
    degraded = SituateRetriever(index=index, k=2, expander=hyde, policy=policy)
    seen = Seen()
    assert degraded.invoke(QUERY, config={"callbacks": [seen]}) == plain
    assert seen.steps[0]["error"].startswith("GenerationError")
    assert await degraded.ainvoke(QUERY) == plain
    strict = SituateRetriever(index=index, expander=hyde, policies={"hyde": StepPolicy(retries=0, on_error="raise")})
    with pytest.raises(StepError):
        strict.invoke(QUERY)


def test_around_a_pipeline(index: Index, embeddings: SituateEmbeddings) -> None:
    pipeline = Retriever(index, rerankers=[LateInteractionReranker(embeddings.embedder)], k=3, candidates=8)
    retriever = SituateRetriever.from_pipeline(pipeline, filter={"title": "Travel"})
    expected = pipeline.retrieve(QUERY, filter={"title": "Travel"})
    assert [passage.id for passage in retriever.invoke(QUERY)] == [hit.chunk.id for hit in expected]


def test_a_threshold_may_leave_nothing(index: Index) -> None:
    assert SituateRetriever(index=index, threshold=1e9).invoke(QUERY) == []
    assert SituateRetriever(index=index).invoke("  ") == []


async def test_many_queries_at_once_never_stall_the_loop(index: Index, watched: Any) -> None:
    retriever = SituateRetriever(index=index, k=2)
    queries = [f"{QUERY} {number}" for number in range(100)]
    async with watched():
        found = await asyncio.gather(*(retriever.ainvoke(query) for query in queries))
    assert all(len(passages) == 2 for passages in found)
    assert [passage.id for passage in found[7]] == [passage.id for passage in retriever.invoke(queries[7])]


def test_from_documents_with_settings(embeddings: SituateEmbeddings, handbook: list[Document], tmp_path: Path) -> None:
    retriever = SituateRetriever.from_documents(
        handbook, embeddings, path=tmp_path / "store", config=PipelineConfig.quality(), settings={"k": 1}
    )
    assert len(retriever.invoke(QUERY)) == 1
    retriever.index.close()


def test_bad_settings(index: Index) -> None:
    with pytest.raises(ValidationError, match="Index"):
        SituateRetriever(index="not one")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="k\n"):
        SituateRetriever(index=index, k=0)
    with pytest.raises(ValidationError, match="top_k"):
        SituateRetriever(index=index, top_k=3)  # type: ignore[call-arg]


def test_pickles_as_its_configuration(embeddings: SituateEmbeddings, handbook: list[Document], tmp_path: Path) -> None:
    retriever = SituateRetriever.from_documents(handbook, embeddings, path=tmp_path / "store", settings={"k": 2})
    found = retriever.invoke(QUERY)
    retriever.index.close()
    again = pickle.loads(pickle.dumps(retriever))
    assert again.invoke(QUERY) == found
    again.index.close()
