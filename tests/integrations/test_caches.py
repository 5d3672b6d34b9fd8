"""The semantic cache as LangChain's cache of a language model, and around LlamaIndex's query engines."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.caches import BaseCache
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer

from situate.embedders import Embedder
from situate.errors import InputError, UnknownArgumentError
from situate.integrations.langchain import SituateCache, SituateEmbeddings
from situate.integrations.llama_index import CachedQueryEngine, SituateEmbedding, SituateRetriever
from situate.integrations.llama_index.cache import CACHE_KEY
from situate.retrievers import Index
from situate.retrievers.cache_codecs import alike, same_text
from situate.types import Document

#: So wide a bound that a near entry is used at once: an entry without comparisons is wrong with the chance 1/2.
WIDE: dict[str, Any] = {"max_error": 0.5}
QUESTION, SAME, OTHER = "How long is parental leave?", "How long is the parental leave?", "What is a hotel's limit?"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def embeddings(embedder: Embedder) -> SituateEmbeddings:
    return SituateEmbeddings.from_embedder(embedder)


class TestLangChainsSuite(SyncCacheTestSuite):
    """LangChain's own tests."""

    @pytest.fixture
    def cache(self, embeddings: SituateEmbeddings) -> Iterator[BaseCache]:  # type: ignore[override]
        cache = SituateCache(embeddings)
        yield cache
        cache.semantic.close()


class TestLangChainsAsyncSuite(AsyncCacheTestSuite):
    """LangChain's own tests of the asynchronous methods."""

    @pytest.fixture
    async def cache(self, embeddings: SituateEmbeddings) -> Any:
        cache = SituateCache(embeddings)
        yield cache
        cache.semantic.close()


def chat(*messages: Any) -> str:
    return dumps(list(messages))


def test_a_chats_last_message_is_compared_by_meaning_and_the_rest_by_words(embeddings: SituateEmbeddings) -> None:
    cache = SituateCache(embeddings, **WIDE)
    rules = SystemMessage("Answer briefly.")
    answer = [ChatGeneration(message=AIMessage("Twelve weeks.", response_metadata={"model": "m"}))]
    assert cache.lookup(chat(rules, HumanMessage(QUESTION)), "model") is None
    cache.update(chat(rules, HumanMessage(QUESTION)), "model", answer)
    assert cache.lookup(chat(rules, HumanMessage(SAME)), "model") == answer
    assert cache.lookup(chat(rules, HumanMessage(OTHER)), "model") is None
    assert cache.lookup(chat(SystemMessage("Answer in French."), HumanMessage(SAME)), "model") is None
    assert cache.lookup(chat(rules, HumanMessage("Hi"), AIMessage("Hi"), HumanMessage(SAME)), "model") is None
    assert cache.lookup(chat(rules, HumanMessage(SAME)), "another model") is None


def test_a_long_prompt_is_found_by_its_words_alone(embeddings: SituateEmbeddings) -> None:
    cache = SituateCache(embeddings, **WIDE)
    passages = "Parents take twelve weeks of leave. " * 50
    for number, prompt in enumerate((f"{passages} 1", f"{passages} 2", chat(HumanMessage(f"{passages} 3")))):
        assert cache.lookup(prompt, "model") is None
        cache.update(prompt, "model", [Generation(text=str(number))])
        assert cache.lookup(prompt, "model") == [Generation(text=str(number))]


def test_a_model_answers_from_it(embeddings: SituateEmbeddings) -> None:
    model = FakeListChatModel(responses=["Twelve weeks.", "120 euros."], cache=SituateCache(embeddings, **WIDE))
    assert model.invoke(QUESTION).content == "Twelve weeks."
    assert model.invoke(SAME).content == "Twelve weeks."
    assert model.invoke(OTHER).content == "120 euros."


def test_entries_learn_and_what_cannot_be_stored_is_not(embeddings: SituateEmbeddings) -> None:
    cache = SituateCache(embeddings, max_error=0.01, seed=0)
    for prompt in (QUESTION, SAME):  # the second is near, and is computed to learn from it
        assert cache.lookup(prompt, "model") is None
        cache.update(prompt, "model", [Generation(text="Twelve weeks.")])
    assert cache.semantic.count() == 1, "the second answer was the first one's"

    class Audio(Generation):
        """An answer of another kind."""

    cache.lookup(OTHER, "model")
    cache.update(OTHER, "model", [Audio(text="x")])
    cache.update(OTHER, "model", [Generation(text="x", generation_info={"handle": object()})])
    assert cache.semantic.count() == 1


def test_it_pickles_and_copies_share_nothing_that_is_open(embeddings: SituateEmbeddings, tmp_path: Any) -> None:
    cache = SituateCache(embeddings, path=str(tmp_path / "cache"), **WIDE)
    cache.update(QUESTION, "model", [Generation(text="Twelve weeks.")])
    cache.semantic.close()
    again = pickle.loads(pickle.dumps(cache))
    assert again.lookup(SAME, "model") == [Generation(text="Twelve weeks.")]
    again.semantic.close()


def test_wrong_parameters_are_refused(embeddings: SituateEmbeddings) -> None:
    with pytest.raises(UnknownArgumentError, match="each entry learns its own"):
        SituateCache(embeddings, similarity_threshold=0.9)
    with pytest.raises(UnknownArgumentError, match="no parameter 'max_eror': did you mean 'max_error'"):
        SituateCache(embeddings, max_eror=0.9)
    with pytest.raises(InputError, match="longest=-1"):
        SituateCache(embeddings, longest=-1)
    with pytest.raises(InputError, match="cosine=2"):
        alike(embeddings.embedder, 2)


def test_answers_of_a_model_that_samples_are_compared_by_meaning(embedder: Embedder) -> None:
    same = alike(embedder, 0.8)
    assert same("Parental leave is twelve weeks long.", "The parental leave takes twelve weeks.")
    assert not same("Parental leave is twelve weeks long.", "A hotel costs 120 euros.")
    assert same_text("A b", " a  B ")


# -- LlamaIndex ------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(embedder: Embedder) -> RetrieverQueryEngine:
    index = Index(embedder)
    index.add([Document("leave", "Parents take twelve weeks of leave."), Document("travel", "Hotels cost 120 euros.")])
    llm: CustomLLM = MockLLM(max_tokens=3)
    retriever = SituateRetriever(index, similarity_top_k=1)
    return RetrieverQueryEngine(retriever, get_response_synthesizer(llm=llm))


async def test_a_query_engines_response_is_used_for_a_query_that_means_the_same(
    engine: RetrieverQueryEngine, embedder: Embedder
) -> None:
    cached = CachedQueryEngine(engine, SituateEmbedding.from_embedder(embedder), tenant="acme", **WIDE)
    first = cached.query(QUESTION)
    assert CACHE_KEY not in (first.metadata or {})
    for again in (cached.query(SAME), await cached.aquery(SAME)):
        assert str(again) == str(first)
        assert again.metadata is not None
        assert 0.7 < again.metadata[CACHE_KEY] <= 1
        assert [(n.node, n.score) for n in again.source_nodes] == [(n.node, n.score) for n in first.source_nodes]
    assert CACHE_KEY not in ((await cached.aquery(OTHER)).metadata or {})
    cached.semantic.invalidate(["leave"])
    assert CACHE_KEY not in (cached.query(SAME).metadata or {})
    assert cached.get_prompts().keys() == {f"query_engine:{name}" for name in engine.get_prompts()}


def test_a_stream_passes_through_and_is_not_stored(engine: RetrieverQueryEngine, embedder: Embedder) -> None:
    llm: CustomLLM = MockLLM(max_tokens=3)
    streaming = RetrieverQueryEngine(engine.retriever, get_response_synthesizer(llm=llm, streaming=True))
    cached = CachedQueryEngine(streaming, SituateEmbedding.from_embedder(embedder), **WIDE)
    response: Any = cached.query(QUESTION)
    assert "".join(response.response_gen)
    assert cached.semantic.count() == 0
