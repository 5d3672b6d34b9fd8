"""HyDE around LlamaIndex's retrievers: the formula, the bundle, prompts, events, and failing models."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, PromptTemplate, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import Response
from llama_index.core.indices.query.query_transform import HyDEQueryTransform as StockHyDE
from llama_index.core.llms import LLM, MockLLM
from llama_index.core.prompts.default_prompts import DEFAULT_HYDE_PROMPT
from llama_index.core.query_engine import RetrieverQueryEngine, TransformQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.settings import Settings

from situate.errors import InputError, StepError
from situate.integrations.llama_index import HyDEQueryTransform, HyDERetriever, LateChunkingNodeParser, SituateEmbedding

DRAFTS = ("A hotel costs up to 180 euros a night.", "Hotels are paid up to a limit.", "Ask the head of department.")
QUERY = "What may a hotel cost?"


class Recording(BaseRetriever):
    """Returns one node and keeps its bundles."""

    def __init__(self) -> None:
        super().__init__()
        self.bundles: list[QueryBundle] = []

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        self.bundles.append(query_bundle)
        return [NodeWithScore(node=TextNode(text="x", id_="x"), score=1.0)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._retrieve(query_bundle)


@pytest.fixture
def llm(scripted: Any) -> LLM:
    turn: Iterator[int] = count()
    lock = threading.Lock()

    def answer(prompt: str) -> str:
        with lock:
            return DRAFTS[next(turn) % len(DRAFTS)]

    model: LLM = scripted(answer)
    return model


@pytest.fixture
def symmetric() -> SituateEmbedding:
    # In bfloat16 a text's vector depends on its batch by more than these tests allow.
    return SituateEmbedding(
        query_instruction="query: ", document_instruction="passage: ", device="cpu", dtype="float32"
    )


def formula(model: SituateEmbedding, weight: float = 1.0, query: str = QUERY) -> Any:
    """Gao et al. 2022, equation 8, with the query's weight: the mean of the query and its drafts, normalised."""
    mean = weight * np.array(model.get_query_embedding(query)) + np.sum(
        model.get_text_embedding_batch(list(DRAFTS)), axis=0
    )
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("weight", [1.0, 0.0, 2.5])
def test_the_vector_is_the_papers(llm: LLM, symmetric: SituateEmbedding, weight: float) -> None:
    inner = Recording()
    hyde = HyDERetriever(inner, llm=llm, embed_model=symmetric, drafts=3, query_weight=weight)
    bundle = QueryBundle(QUERY)
    assert [found.node.node_id for found in hyde.retrieve(bundle)] == ["x"]
    asyncio.run(hyde.aretrieve(bundle))
    for given in inner.bundles:
        np.testing.assert_allclose(given.embedding, formula(symmetric, weight), atol=1e-5)
        assert given.query_str == QUERY
        assert all(type(value) is float for value in given.embedding or [])
    assert len(inner.bundles) == 2
    assert bundle == QueryBundle(QUERY), "the caller's bundle is the caller's"


def test_the_transform_does_the_same(llm: LLM, symmetric: SituateEmbedding) -> None:
    transform = HyDEQueryTransform(llm, embed_model=symmetric, drafts=3)
    bundle = QueryBundle(QUERY)
    made = transform(bundle)
    np.testing.assert_allclose(made.embedding, formula(symmetric), atol=1e-5)
    assert made.query_str == QUERY
    assert bundle.embedding is None


def test_custom_embedding_strings_stand_for_the_query(llm: LLM, symmetric: SituateEmbedding) -> None:
    transform = HyDEQueryTransform(llm, embed_model=symmetric, drafts=3)
    made = transform(QueryBundle("ignored for the vector", custom_embedding_strs=[QUERY]))
    np.testing.assert_allclose(made.embedding, formula(symmetric), atol=1e-5)


def test_a_given_embedding_is_passed_on(llm: Any, embed_model: SituateEmbedding) -> None:
    inner = Recording()
    given = QueryBundle(QUERY, embedding=[1.0] * 384)
    HyDERetriever(inner, llm=llm, embed_model=embed_model).retrieve(given)
    assert inner.bundles == [given]
    assert inner.bundles[0] is not given
    HyDERetriever(inner, llm=llm, embed_model=embed_model).retrieve("  ")
    assert llm.prompts == ()


def test_drafts_are_an_event(llm: LLM, embed_model: SituateEmbedding, events: Any) -> None:
    HyDERetriever(Recording(), llm=llm, embed_model=embed_model, drafts=3).retrieve(QUERY)
    [event] = events.of("HyDEDraftsEvent")
    assert event.query == QUERY
    assert sorted(event.drafts) == sorted(DRAFTS)
    assert sorted(events.embedded()) == sorted([QUERY, *DRAFTS])


def fail(prompt: str) -> str:
    raise ConnectionError("the model is away")


@pytest.mark.parametrize("answer", [fail, lambda prompt: "", lambda prompt: "I'm sorry, I cannot help."])
def test_a_model_that_fails_costs_nothing_but_a_warning(
    scripted: Any, embed_model: SituateEmbedding, events: Any, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    inner = Recording()
    hyde = HyDERetriever(inner, llm=scripted(answer), embed_model=embed_model)
    hyde._expansion.runner.policy = type(hyde._expansion.runner.policy)(retries=0)
    with caplog.at_level(logging.WARNING):
        hyde.retrieve(QUERY)
        asyncio.run(hyde.aretrieve(QUERY))
    assert inner.bundles == [QueryBundle(QUERY)] * 2
    assert [event.drafts for event in events.of("HyDEDraftsEvent")] == [[], []]
    assert [record.message for record in caplog.records if "'hyde' failed and was skipped" in record.message]


def test_raising_is_a_choice(scripted: Any, embed_model: SituateEmbedding) -> None:
    hyde = HyDERetriever(Recording(), llm=scripted(lambda prompt: ""), embed_model=embed_model, on_error="raise")
    with pytest.raises(StepError, match="hyde"):
        hyde.retrieve(QUERY)


async def test_nothing_blocks_the_event_loop(llm: Any, embed_model: SituateEmbedding) -> None:
    await HyDERetriever(Recording(), llm=llm, embed_model=embed_model).aretrieve(QUERY)
    assert len(llm.prompts) == 4
    assert threading.get_ident() not in llm.threads


def test_prompts_are_exposed(llm: Any, embed_model: SituateEmbedding) -> None:
    hyde = HyDERetriever(Recording(), llm=llm, embed_model=embed_model, drafts=1)
    assert set(hyde.get_prompts()) == {"hyde_prompt"}
    hyde.retrieve(QUERY)
    assert llm.prompts[-1] == f"Please write a passage to answer the question.\nQuestion: {QUERY}\nPassage:"
    hyde.update_prompts({"hyde_prompt": PromptTemplate("Answer briefly: {query_str}")})
    hyde.retrieve("Is {this} {query} kept?")
    assert llm.prompts[-1] == "Answer briefly: Is {this} {query} kept?"
    hyde.update_prompts({"hyde_prompt": DEFAULT_HYDE_PROMPT})
    hyde.retrieve(QUERY)
    assert QUERY in llm.prompts[-1]
    with pytest.raises(InputError, match="query_str"):
        hyde.update_prompts({"hyde_prompt": PromptTemplate("Say something.")})
    hyde.retrieve("still works")
    assert "still works" in llm.prompts[-1]
    nested = HyDERetriever(hyde, llm=llm, embed_model=embed_model)
    assert set(nested.get_prompts()) == {"hyde_prompt", "retriever:hyde_prompt"}


def test_wrong_settings_raise_at_once(embed_model: SituateEmbedding) -> None:
    with pytest.raises(InputError, match="drafts=0"):
        HyDERetriever(Recording(), llm=MockLLM(), embed_model=embed_model, drafts=0)
    with pytest.raises(InputError, match="query_weight"):
        HyDEQueryTransform(MockLLM(), embed_model=embed_model, query_weight=-1)


def test_settings_are_the_default(llm: Any, embed_model: SituateEmbedding, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Recording()
    hyde = HyDERetriever(inner, drafts=3)
    monkeypatch.setattr(Settings, "_llm", llm)
    monkeypatch.setattr(Settings, "_embed_model", embed_model)
    hyde.retrieve(QUERY)
    np.testing.assert_allclose(inner.bundles[0].embedding, formula(embed_model), atol=1e-5)


@pytest.fixture(scope="module")
def index() -> VectorStoreIndex:
    model = SituateEmbedding(device="cpu", dtype="float32")
    documents = [
        Document(text="Travel. The desk books trains. It pays up to 180 euros a night.", id_="travel"),
        Document(text="Leave. Everybody has 30 days off in a year.", id_="leave"),
    ]
    return VectorStoreIndex.from_documents(
        documents, transformations=[LateChunkingNodeParser(embed_model=model)], embed_model=model
    )


@pytest.fixture
def mock_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Response synthesizers ask for a language model even where they need none."""
    monkeypatch.setattr(Settings, "_llm", MockLLM())


@pytest.mark.usefixtures("mock_answers")
async def test_in_a_query_engine(index: VectorStoreIndex, llm: LLM, embed_model: SituateEmbedding) -> None:
    hyde = HyDERetriever(index.as_retriever(similarity_top_k=1), llm=llm, embed_model=embed_model, drafts=3)
    engine = RetrieverQueryEngine.from_args(hyde, llm=MockLLM(), response_mode=ResponseMode.NO_TEXT)
    for response in (engine.query(QUERY), await engine.aquery(QUERY)):
        assert [found.node.ref_doc_id for found in response.source_nodes] == ["travel"]
        assert response.source_nodes[0].score == pytest.approx(
            float(np.dot(formula(embed_model), embedding_of(index, response.source_nodes[0]))), abs=1e-5
        )


def embedding_of(index: VectorStoreIndex, found: NodeWithScore) -> Any:
    return index.vector_store.get(found.node.node_id)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("mock_answers")
def test_where_the_stock_transform_goes(index: VectorStoreIndex, llm: LLM, embed_model: SituateEmbedding) -> None:
    base = index.as_query_engine(llm=MockLLM(), response_mode=ResponseMode.NO_TEXT, similarity_top_k=1)
    for transform in (StockHyDE(llm=llm), HyDEQueryTransform(llm, embed_model=embed_model)):
        response = TransformQueryEngine(base, query_transform=transform).query(QUERY)
        assert isinstance(response, Response)
        assert [found.node.ref_doc_id for found in response.source_nodes] == ["travel"]
