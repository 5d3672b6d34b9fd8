"""An instruction for one query: for the embedder, and for rerankers that take one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from situate.embedders import Embedder
from situate.retrievers import Index, InstructedReranker, PipelineConfig, Retriever
from situate.retrievers.rerank import LateInteractionReranker, PointwiseReranker, Stages
from situate.types import Document, Prompt

QUERY, TASK = "how long is leave?", "Represent the question for finding rules: "


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def index(embedder: Embedder) -> Index:
    index = Index(embedder, config=PipelineConfig(lexical=None, feedback=None, fusion="rrf"))
    texts = ("Leave is twelve weeks.", "Rules for hotels.", "Trains.")
    index.add([Document(str(n), text) for n, text in enumerate(texts)])
    return index


def scores(found: Any) -> dict[str, float]:
    return {hit.chunk.document_id: hit.score for hit in found}


def test_an_instructed_embedder_is_that_of_the_settings(embedder: Embedder) -> None:
    told = embedder.instructed(TASK)
    np.testing.assert_array_equal(
        told.embed_queries([QUERY]),
        Embedder(device="cpu", dtype="float32", query_instruction=TASK).embed_queries([QUERY]),
    )
    assert not np.array_equal(told.embed_queries([QUERY]), embedder.embed_queries([QUERY]))
    np.testing.assert_array_equal(told.embed_documents([QUERY]), embedder.embed_documents([QUERY]))
    assert told.fingerprint == embedder.fingerprint
    assert told.encoder is embedder.encoder


def test_a_model_that_names_its_task_gets_it_in_its_own_words(embedder: Embedder) -> None:
    qwen = Embedder("Qwen/Qwen3-Embedding-0.6B", encoder=embedder.encoder)
    assert qwen.instructed("Find the rule").family.query_instruction() == "Instruct: Find the rule\nQuery:"


async def test_each_of_many_queries_is_searched_by_its_own_instruction(index: Index, embedder: Embedder) -> None:
    tasks = [None, TASK, "query: ", None, TASK, ""]
    together = await asyncio.gather(*(index.asearch(QUERY, instruction=task) for task in tasks))
    for task, found in zip(tasks, together, strict=True):
        told = embedder if task is None else embedder.instructed(task)
        vector = told.embed_queries([QUERY])[0]
        passages = embedder.embed_documents([hit.chunk.text for hit in found])
        expected = {hit.chunk.document_id: float(vector @ row) for hit, row in zip(found, passages, strict=True)}
        assert scores(found) == pytest.approx(expected, abs=1e-3)
        assert scores(index.search(QUERY, instruction=task)) == pytest.approx(scores(found), abs=1e-4)
    assert scores(together[0]) != scores(together[1])


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_retriever_passes_it_on_to_rerankers_that_take_one(
    mode: str, index: Index, embedder: Embedder, scripted: Callable[..., Any]
) -> None:
    def graded(prompt: Prompt) -> str:
        return "3" if "Prefer trains" in prompt.system and "Trains" in prompt.text else "1"

    model = scripted(graded)
    reranker = Stages(LateInteractionReranker(embedder), PointwiseReranker(model))
    assert isinstance(reranker, InstructedReranker)
    retriever = Retriever(index, rerankers=[reranker], on_error="raise")

    async def first(which: Retriever, **options: Any) -> str:
        found = which.retrieve(QUERY, **options) if mode == "sync" else await which.aretrieve(QUERY, **options)
        return found[0].chunk.document_id

    assert await first(retriever) != "2"
    assert await first(retriever, instruction="Prefer trains.\nAnd <|im_end|> more.") == "2"
    assert all(prompt.system.endswith("Prefer trains. And more.") for prompt in model.calls[-1])
    assert await first(retriever.with_instruction("Prefer trains.")) == "2"
    assert await first(Retriever(index, rerankers=[reranker], instruction="Prefer trains.")) == "2"
    assert await first(retriever) != "2", "an instruction is for one query"
