"""Rerankers as node postprocessors: the scores, LlamaIndex's events, and unchanged nodes."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.settings import Settings

from situate.errors import InputError
from situate.integrations.llama_index import (
    CrossEncoderRerank,
    LateChunkingNodeParser,
    LateInteractionRerank,
    SituateEmbedding,
    SituateLLMRerank,
    SituateRerank,
)
from situate.retrievers.rerank.late_interaction import maxsim
from situate.retrievers.rerank.stages import Stage, Stages
from situate.retrievers.types import Hit

QUERY = "What may a hotel cost?"
TEXTS = [
    "Lunch is served at noon.",
    "Everybody has 30 days of leave.",
    "A hotel may cost up to 180 euros a night.",
    "The travel desk books trains.",
]


@pytest.fixture
def found() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=text, id_=f"n{i}", metadata={"title": f"Page {i}"}), score=1.0 - i / 10)
        for i, text in enumerate(TEXTS)
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, minilm_path: str) -> str:
    """A cross-encoder with random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=1,
        initializer_range=0.3,
    )
    folder = str(tmp_path_factory.mktemp("cross"))
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_path, model_max_length=128).save_pretrained(folder)
    return folder


def test_cross_encoder_scores_are_sentence_transformers(tiny: str, found: list[NodeWithScore]) -> None:
    from sentence_transformers import CrossEncoder

    rerank = CrossEncoderRerank(model=tiny, output="logit", device="cpu", dtype="float32")
    ranked = rerank.postprocess_nodes(found, query_str=QUERY)
    shown = [(QUERY, hit.node.get_content(metadata_mode=MetadataMode.EMBED)) for hit in ranked]
    import torch

    wanted = CrossEncoder(tiny, device="cpu").predict(shown, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose([hit.score for hit in ranked], wanted, atol=1e-4)
    assert all(type(hit.score) is float for hit in ranked)
    assert list(wanted) == sorted(wanted, reverse=True)
    bare = CrossEncoderRerank(model=tiny, output="logit", device="cpu", dtype="float32", metadata_mode="none", top_n=1)
    [best] = bare.postprocess_nodes(found, query_str=QUERY)
    scores = CrossEncoder(tiny, device="cpu").predict([(QUERY, t) for t in TEXTS], activation_fn=torch.nn.Identity())
    assert best.node.get_content() == TEXTS[int(np.argmax(scores))]
    assert best.score == pytest.approx(float(np.max(scores)), abs=1e-4)


def test_late_interaction_is_maxsim(embed_model: SituateEmbedding, found: list[NodeWithScore]) -> None:
    rerank = LateInteractionRerank(embed_model=embed_model, metadata_mode=MetadataMode.NONE)
    ranked = rerank.postprocess_nodes(found, query_str=QUERY)
    assert ranked[0].node.node_id == "n2"
    query = embed_model.embedder.embed_query_tokens([QUERY])[0]
    passages = embed_model.embedder.embed_document_tokens([hit.node.get_content() for hit in ranked])
    np.testing.assert_allclose([hit.score for hit in ranked], maxsim(query, passages) / len(query), atol=1e-4)


def rerankers(tiny: str, embed_model: SituateEmbedding) -> list[Any]:
    late = LateInteractionRerank(embed_model=embed_model, prior=0.25)
    cross = CrossEncoderRerank(model=tiny, device="cpu")
    return [cross, late, SituateRerank(using=Stages(Stage(late.reranker, keep=3), cross.reranker))]


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_nodes_stay_as_they_were(
    tiny: str, embed_model: SituateEmbedding, found: list[NodeWithScore], which: int
) -> None:
    rerank = rerankers(tiny, embed_model)[which]
    before = copy.deepcopy(found)
    ranked = rerank.postprocess_nodes(found, query_bundle=QueryBundle(QUERY))
    again = await rerank.apostprocess_nodes(found, query_bundle=QueryBundle(QUERY))
    assert found == before
    assert [hit.node for hit in again] == [hit.node for hit in ranked]
    np.testing.assert_allclose([hit.score for hit in again], [hit.score for hit in ranked], atol=1e-4)
    assert [hit.score for hit in ranked] == sorted((hit.score for hit in ranked), reverse=True)
    assert not {id(hit) for hit in ranked} & {id(hit) for hit in found}
    rerank.top_n = 2
    assert [hit.node.node_id for hit in rerank.postprocess_nodes(found, query_str=QUERY)] == [
        hit.node.node_id for hit in ranked[:2]
    ]


def test_the_earlier_score_can_be_kept(embed_model: SituateEmbedding, found: list[NodeWithScore]) -> None:
    rerank = LateInteractionRerank(embed_model=embed_model, keep_retrieval_score=True)
    ranked = rerank.postprocess_nodes(found, query_str=QUERY)
    assert {hit.node.node_id: hit.node.metadata["retrieval_score"] for hit in ranked} == {
        hit.node.node_id: hit.score for hit in found
    }
    assert all("retrieval_score" not in hit.node.metadata for hit in found)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_observers_get_events(
    embed_model: SituateEmbedding, found: list[NodeWithScore], events: Any, asynchronous: bool
) -> None:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    rerank = LateInteractionRerank(embed_model=embed_model, top_n=3, callback_manager=CallbackManager([handler]))
    bundle = QueryBundle(QUERY)
    if asynchronous:
        ranked = await rerank.apostprocess_nodes(found, query_bundle=bundle)
    else:
        ranked = rerank.postprocess_nodes(found, query_bundle=bundle)
    [start], [end] = events.of("ReRankStartEvent"), events.of("ReRankEndEvent")
    assert (start.query, start.top_n, start.model_name) == (bundle, 3, embed_model.model_name)
    assert start.nodes == found
    assert end.nodes == ranked
    [(begun, done)] = handler.get_event_pairs(CBEventType.RERANKING)
    assert begun.payload is not None
    assert done.payload is not None
    assert begun.payload[EventPayload.QUERY_STR] == QUERY
    assert begun.payload[EventPayload.TOP_K] == 3
    assert done.payload[EventPayload.NODES] == ranked


class Threads:
    """A reranker that records its thread."""

    name = "threads"

    def __init__(self) -> None:
        self.sync: set[int] = set()
        self.awaited = 0

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        self.sync.add(threading.get_ident())
        return list(hits)

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        self.awaited += 1
        return list(hits)


async def test_async_awaits_the_reranker(found: list[NodeWithScore]) -> None:
    threads = Threads()
    await SituateRerank(using=threads).apostprocess_nodes(found, query_str=QUERY)
    assert (threads.sync, threads.awaited) == (set(), 1)


async def test_the_event_loop_goes_on(embed_model: SituateEmbedding, found: list[NodeWithScore], ticking: Any) -> None:
    many = [NodeWithScore(node=TextNode(text=f"{hit.node.get_content()} {i} " * 8)) for i in range(12) for hit in found]
    rerank = LateInteractionRerank(embed_model=embed_model)
    ranked, ticks = await ticking(rerank.apostprocess_nodes(many, query_str=QUERY))
    assert len(ranked) == len(many)
    assert ticks > 10


def judge(prompt: str) -> str:
    """The answers of a language model that prefers hotels."""
    return "3" if "hotel may cost" in prompt else "0"


async def test_a_language_model_grades(scripted: Any, found: list[NodeWithScore], events: Any) -> None:
    llm = scripted(judge)
    rerank = SituateLLMRerank(llm=llm, top=3)
    ranked = rerank.postprocess_nodes(found, query_str=QUERY)
    assert [hit.node.node_id for hit in ranked] == ["n2", "n0", "n1", "n3"]
    assert ranked[0].score == 1.0
    assert len(llm.prompts) == 3
    again = await rerank.apostprocess_nodes(found, query_str=QUERY)
    assert [(hit.node.node_id, hit.score) for hit in again] == [(hit.node.node_id, hit.score) for hit in ranked]
    assert threading.get_ident() not in llm.threads
    assert {event.model_name for event in events.of("ReRankStartEvent")} == {"scripted"}
    assert rerank.to_dict()["llm"] == "scripted"


@pytest.mark.parametrize("method", ["pairwise", "listwise"])
def test_other_ways_to_ask(scripted: Any, found: list[NodeWithScore], method: str) -> None:
    asked = scripted(lambda prompt: "[3] > [1] > [2] > [4]" if method == "listwise" else "A")
    rerank = SituateLLMRerank(llm=asked, method=method)
    ranked = rerank.postprocess_nodes(found, query_str=QUERY)
    assert sorted(hit.node.node_id for hit in ranked) == ["n0", "n1", "n2", "n3"]
    assert len(asked.prompts) == (1 if method == "listwise" else 12)
    if method == "listwise":
        assert [hit.node.node_id for hit in ranked] == ["n2", "n0", "n1", "n3"]


def test_odd_input(embed_model: SituateEmbedding, found: list[NodeWithScore], events: Any) -> None:
    rerank = LateInteractionRerank(embed_model=embed_model)
    assert rerank.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(InputError, match="needs the query"):
        rerank.postprocess_nodes(found)
    unscored = [NodeWithScore(node=hit.node) for hit in found]
    assert rerank.postprocess_nodes(unscored, query_str=QUERY)[0].node.node_id == "n2"
    twice = rerank.postprocess_nodes([*found, *found], query_str=QUERY)
    assert len(twice) == len(found), "a node is judged once"
    with pytest.raises(ValueError, match="is not a reranker"):
        SituateRerank(using="cross-encoder")
    with pytest.raises(ValueError, match="greater than 0"):
        LateInteractionRerank(top_n=0)


def test_pickles_as_its_configuration(tiny: str, embed_model: SituateEmbedding, found: list[NodeWithScore]) -> None:
    for rerank in rerankers(tiny, embed_model):
        ranked = rerank.postprocess_nodes(found, query_str=QUERY)
        data = pickle.dumps(rerank)
        assert len(data) < 8000
        again = pickle.loads(data).postprocess_nodes(found, query_str=QUERY)
        assert [hit.node for hit in again] == [hit.node for hit in ranked]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_in_a_query_engine(embed_model: SituateEmbedding, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    index = VectorStoreIndex.from_documents(
        [Document(text=text, id_=str(i)) for i, text in enumerate(TEXTS)],
        transformations=[LateChunkingNodeParser(embed_model=embed_model)],
        embed_model=embed_model,
    )
    engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=4),
        node_postprocessors=[LateInteractionRerank(embed_model=embed_model, top_n=1)],
        response_mode=ResponseMode.NO_TEXT,
    )
    response = engine.query(QUERY) if mode == "sync" else await engine.aquery(QUERY)
    assert [hit.node.ref_doc_id for hit in response.source_nodes] == ["2"]
