"""Rerankers as document compressors: numbers against references, and nothing of the caller's changed."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import ValidationError

from situate.integrations.langchain import (
    CrossEncoderReranker,
    LateInteractionReranker,
    SituateCrossEncoder,
    SituateEmbeddings,
    SituateReranker,
    SituateTextSplitter,
    SituateVectorStore,
)
from situate.retrievers.config import PipelineConfig
from situate.retrievers.rerank import Mmr, StoredTokens
from situate.retrievers.types import Hit, Reranker

QUERY = "How many weeks do parents get?"
TEXTS = [
    "Trains are booked in second class.",
    "Parents of a newborn get sixteen weeks. They may split them in two parts.",
    "",
    "Up to 120 euros a night.",
    "Receipts are not needed. " * 30,
]


@pytest.fixture
def documents() -> list[Document]:
    return [Document(id=str(n), page_content=text, metadata={"n": n, "tags": ["x"]}) for n, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory, minilm_path: str) -> str:
    """A tiny cross-encoder with random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        num_labels=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("cross-encoder")
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_path, model_max_length=512).save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["cross-encoder", "late interaction"])
def reranker(request: pytest.FixtureRequest, cross_encoder: str, embeddings: SituateEmbeddings) -> Any:
    if request.param == "cross-encoder":
        return CrossEncoderReranker(model=SituateCrossEncoder(model=cross_encoder, dtype="float32"))
    return LateInteractionReranker(embeddings=embeddings)


def scores(documents: Sequence[Document]) -> list[float]:
    return [document.metadata["relevance_score"] for document in documents]


async def test_copies_best_first(reranker: Any, documents: list[Document]) -> None:
    before = [document.model_copy(deep=True) for document in documents]
    ranked = reranker.compress_documents(documents, QUERY)
    assert isinstance(reranker, BaseDocumentCompressor)
    assert documents == before
    assert sorted(str(d.id) for d in ranked) == [d.id for d in documents]
    assert scores(ranked) == sorted(scores(ranked), reverse=True)
    for document in ranked:
        original = documents[int(str(document.id))]
        assert document.page_content == original.page_content
        assert document.metadata == {**original.metadata, "relevance_score": document.metadata["relevance_score"]}
        document.metadata["tags"].append("y")
    assert documents == before
    again = await reranker.acompress_documents(documents, QUERY)
    assert [d.id for d in again] == [d.id for d in ranked]
    np.testing.assert_allclose(scores(again), scores(ranked), atol=1e-3)  # token vectors are kept in float16


def test_top_n_threshold_and_nothing(reranker: Any, documents: list[Document]) -> None:
    ranked = reranker.compress_documents(documents, QUERY)
    top = type(reranker)(**{**dict(reranker), "top_n": 2}).compress_documents(documents, QUERY)
    assert [d.id for d in top] == [d.id for d in ranked[:2]]
    limit = scores(ranked)[1]
    above = type(reranker)(**{**dict(reranker), "threshold": limit - 1e-4}).compress_documents(documents, QUERY)
    assert [d.id for d in above] == [d.id for d in ranked[:2]]
    assert reranker.compress_documents([], QUERY) == []
    assert [d.id for d in reranker.compress_documents(documents, " ")] == [d.id for d in documents]


def test_the_same_passage_twice_stays_twice(reranker: Any, documents: list[Document]) -> None:
    ranked = reranker.compress_documents([documents[0], documents[1], documents[0]], QUERY)
    assert sorted(d.metadata["n"] for d in ranked) == [0, 0, 1]


async def test_the_event_loop_goes_on(reranker: Any, documents: list[Document], watched: Any) -> None:
    many = [d.model_copy(update={"id": f"{d.id}-{n}", "page_content": f"{n} {d.page_content}"}) for n in range(16)
            for d in documents]  # fmt: skip
    await reranker.acompress_documents(many[:5], QUERY)  # weights are loaded
    async with watched():
        await asyncio.gather(*(reranker.acompress_documents(many, f"{QUERY} {n}") for n in range(3)))


def test_pickles_as_its_configuration(reranker: Any, documents: list[Document]) -> None:
    ranked = reranker.compress_documents(documents, QUERY)
    data = pickle.dumps(reranker)
    assert len(data) < 8192
    assert pickle.loads(data).compress_documents(documents, QUERY) == ranked


async def test_cross_encoder_scores_are_sentence_transformers(cross_encoder: str) -> None:
    from sentence_transformers import CrossEncoder

    pairs = [(QUERY, text) for text in TEXTS]
    expected = CrossEncoder(cross_encoder, device="cpu").predict(pairs)
    ours = SituateCrossEncoder(model=cross_encoder, output="model", dtype="float32")
    if find_spec("langchain_core.cross_encoders"):  # not before langchain-core 1.0
        from langchain_core.cross_encoders import BaseCrossEncoder

        assert isinstance(ours, BaseCrossEncoder)
    np.testing.assert_allclose(ours.score(pairs), expected, atol=1e-5)
    np.testing.assert_allclose(await ours.ascore(pairs), expected, atol=1e-5)
    assert ours.score([]) == []


def test_late_interaction_scores_are_maxsim(embeddings: SituateEmbeddings, documents: list[Document]) -> None:
    embedder = embeddings.embedder
    texts = [text for text in TEXTS if text]
    (query,) = embedder.embed_query_tokens([QUERY])
    expected = [float((query @ tokens.T).max(1).mean()) for tokens in embedder.embed_document_tokens(texts)]
    ranked = LateInteractionReranker(embeddings=embeddings).compress_documents(documents, QUERY)
    got = {document.page_content: document.metadata["relevance_score"] for document in ranked}
    np.testing.assert_allclose([got[text] for text in texts], expected, atol=2e-3)  # kept in float16
    assert ranked[0].id == "1"


def test_stored_token_vectors_serve(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    store = SituateVectorStore.from_documents(handbook, embeddings, splitter=splitter, config=PipelineConfig.quality())
    stored = StoredTokens(store.index.client, store.index.collection)
    found = store.similarity_search(QUERY, k=5)
    ranked = LateInteractionReranker(embeddings=embeddings, stored=stored).compress_documents(found, QUERY)
    alone = LateInteractionReranker(embeddings=embeddings).compress_documents(found, QUERY)
    assert "sixteen weeks" in ranked[0].page_content
    # Stored token vectors were made with the document in view: the numbers tell that they were used.
    assert not np.allclose(scores(ranked), scores(alone), atol=1e-3)
    store.close()


@pytest.fixture
def mmr(embeddings: SituateEmbeddings) -> Reranker:
    return Mmr(embeddings.embedder, keep=2)


async def test_any_reranker(mmr: Reranker, documents: list[Document]) -> None:
    reranker = SituateReranker(reranker=mmr)
    ranked = reranker.compress_documents(documents, QUERY)
    assert ranked[0].id == "1"
    assert len(ranked) == 2
    assert await reranker.acompress_documents(documents, QUERY) == ranked


def test_earlier_scores_can_count(embeddings: SituateEmbeddings, documents: list[Document]) -> None:
    for document, score in zip(documents, (0.9, 0.1, 0.0, 0.2, 0.3), strict=True):
        document.metadata["relevance_score"] = score
    only = LateInteractionReranker(embeddings=embeddings, prior=1.0).compress_documents(documents, QUERY)
    assert only[0].id == "0"


def test_hits_carry_what_situates_them(embeddings: SituateEmbeddings, splitter: SituateTextSplitter,
                                       handbook: list[Document]) -> None:  # fmt: skip
    seen: list[Hit] = []

    class Looking:
        name = "looking"

        def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
            seen.extend(hits)
            return list(hits)

        async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
            return self.rerank(query, hits)

    chunks = splitter.split_documents(handbook)
    assert [d.id for d in SituateReranker(reranker=Looking()).compress_documents(chunks, QUERY)] == [
        c.id for c in chunks
    ]
    assert {hit.chunk.document_id for hit in seen} == {"leave", "travel"}
    assert seen[0].chunk.context.title == "Leave"


def test_bad_settings(embeddings: SituateEmbeddings) -> None:
    with pytest.raises(ValidationError, match="top_n"):
        LateInteractionReranker(embeddings=embeddings, top_n=0)
    with pytest.raises(ValidationError, match="prior"):
        LateInteractionReranker(embeddings=embeddings, prior=2.0)
    with pytest.raises(ValidationError, match="top_k"):
        CrossEncoderReranker(top_k=3)  # type: ignore[call-arg]
