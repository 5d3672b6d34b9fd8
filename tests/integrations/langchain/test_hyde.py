"""HyDE through LangChain: the formula, the events, and what happens when the model fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from situate.errors import StepError
from situate.integrations.langchain import HyDEEmbeddings, HyDERetriever, SituateEmbeddings, SituateVectorStore

QUERY = "What may I spend on a bed?"
DRAFTS = ["A hotel may cost 120 euros a night.", "Rooms cost at most 120 euros."]


class Failing(FakeListChatModel):
    def _call(self, *args: Any, **kwargs: Any) -> str:
        raise ConnectionError("no route to host, key sk-secret")


class Seen(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: dict[str, Any] = {}
        self.models = 0

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        self.events[name] = data

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.models += 1


@pytest.fixture
def store(embeddings: SituateEmbeddings, handbook: list[Document]) -> Iterator[SituateVectorStore]:
    sections = [part for document in handbook for part in document.page_content.split("\n\n## ")]
    store = SituateVectorStore.from_texts(sections, embeddings)
    yield store
    store.close()


def expected(embeddings: SituateEmbeddings, drafts: list[str]) -> Any:
    rows = np.array([embeddings.embed_query(QUERY), *embeddings.embed_documents(drafts)])
    mean = rows.mean(0)
    return mean / np.linalg.norm(mean)


async def test_the_vector_is_the_papers(embeddings: SituateEmbeddings) -> None:
    # One response for every call: the stand-in hands its responses out by turns.
    hyde = HyDEEmbeddings(embeddings=embeddings, llm=FakeListChatModel(responses=DRAFTS[:1]), n=2)
    vector = expected(embeddings, DRAFTS[:1] * 2)
    np.testing.assert_allclose(hyde.embed_query(QUERY), vector, atol=1e-5)
    np.testing.assert_allclose(await hyde.aembed_query(QUERY), vector, atol=1e-5)
    assert hyde.embed_documents(DRAFTS) == embeddings.embed_documents(DRAFTS)
    assert await hyde.aembed_documents(DRAFTS) == embeddings.embed_documents(DRAFTS)


def test_drafts_are_embedded_as_documents() -> None:
    instructed = SituateEmbeddings(dtype="float32", query_instruction="query: ", document_instruction="passage: ")
    hyde = HyDEEmbeddings(embeddings=instructed, llm=FakeListLLM(responses=DRAFTS[:1]), n=1, query_weight=0.0)
    np.testing.assert_allclose(hyde.embed_query(QUERY), instructed.embed_documents(DRAFTS[:1])[0], atol=1e-5)


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _given(self, store: SituateVectorStore) -> None:
        self.store = store

    @property
    def retriever_constructor(self) -> type[HyDERetriever]:
        return HyDERetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self.store, "llm": FakeListChatModel(responses=DRAFTS), "k": 2}

    @property
    def retriever_query_example(self) -> str:
        return QUERY


async def test_hypothetical_answers_find_what_the_question_does_not_say(store: SituateVectorStore) -> None:
    hyde = HyDERetriever(vectorstore=store, llm=FakeListChatModel(responses=DRAFTS), n=2, k=1)
    seen = Seen()
    (found,) = hyde.invoke(QUERY, config={"callbacks": [seen]})
    assert found.page_content.startswith("Hotels")
    assert seen.models == 2
    (step,) = seen.events["situate_steps"]
    assert step["name"] == "hyde"
    assert sorted(step["details"]["drafts"]) == sorted(DRAFTS)
    aseen = Seen()
    assert await hyde.ainvoke(QUERY, config={"callbacks": [aseen]}) == [found]
    assert aseen.events["situate_steps"][0]["details"]["used"] == 2
    assert aseen.models == 2


async def test_a_failing_model_costs_only_the_drafts(
    store: SituateVectorStore, embeddings: SituateEmbeddings, caplog: pytest.LogCaptureFixture
) -> None:
    hyde = HyDERetriever(vectorstore=store, llm=Failing(responses=["never"]), k=2, retries=0)
    plain = store.similarity_search_by_vector(embeddings.embed_query(QUERY), 2)
    seen = Seen()
    with caplog.at_level(logging.WARNING):
        assert hyde.invoke(QUERY, config={"callbacks": [seen]}) == plain
        assert await hyde.ainvoke(QUERY) == plain
    assert "step 'hyde' failed" in caplog.text
    assert "sk-secret" not in caplog.text
    assert seen.events["situate_steps"][0]["error"].startswith("GenerationError")
    strict = HyDERetriever(vectorstore=store, llm=Failing(responses=["never"]), on_error="raise", retries=0)
    with pytest.raises(StepError):
        strict.invoke(QUERY)
    with pytest.raises(StepError):
        await strict.ainvoke(QUERY)


async def test_a_hanging_model_is_given_up(store: SituateVectorStore) -> None:
    cancelled = asyncio.Event()

    class Hanging(FakeListChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    hyde = HyDERetriever(vectorstore=store, llm=Hanging(responses=["never"]), k=2, timeout=0.05, retries=0)
    assert len(await hyde.ainvoke(QUERY)) == 2
    assert cancelled.is_set()


async def test_any_vector_store_and_drop_in(embeddings: SituateEmbeddings, handbook: list[Document]) -> None:
    llm = FakeListChatModel(responses=DRAFTS)
    other = InMemoryVectorStore(embeddings)
    other.add_documents(handbook)
    hyde = HyDERetriever(vectorstore=other, llm=llm, k=1)
    assert hyde.invoke(QUERY)[0].id == "travel"
    assert (await hyde.ainvoke(QUERY, k=2))[0].id == "travel"
    dropped_in = InMemoryVectorStore(HyDEEmbeddings(embeddings=embeddings, llm=llm))
    dropped_in.add_documents(handbook)
    assert dropped_in.similarity_search(QUERY, k=1)[0].id == "travel"


def test_filters_reach_the_store(embeddings: SituateEmbeddings, handbook: list[Document]) -> None:
    store = SituateVectorStore.from_documents(handbook, embeddings)
    hyde = HyDERetriever(vectorstore=store, llm=FakeListChatModel(responses=DRAFTS), search_kwargs={"filter": None})
    assert [d.id for d in hyde.invoke(QUERY, filter={"title": "Leave"})] == ["leave"]
    store.close()


def test_bad_settings(embeddings: SituateEmbeddings) -> None:
    with pytest.raises(ValidationError, match="drafts\n"):
        HyDEEmbeddings(embeddings=embeddings, llm=FakeListChatModel(responses=DRAFTS), drafts=0)
    with pytest.raises(ValidationError, match="llm is a str"):
        HyDEEmbeddings(embeddings=embeddings, llm="gpt")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="did you mean 'drafts'"):
        HyDEEmbeddings(embeddings=embeddings, llm=FakeListChatModel(responses=DRAFTS), draft=2)  # type: ignore[call-arg]
