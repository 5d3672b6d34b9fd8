"""A reranker that is used alone degrades as it does within a `Retriever`: bounded, marked, its cause logged once."""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial

import pytest

from situate.errors import GenerationError, InputError, StepError
from situate.retrievers.pipeline.steps import StepPolicy
from situate.retrievers.rerank import ListwiseReranker, OptionalReranker, PairwiseReranker, PointwiseReranker
from situate.retrievers.types import Reranker

QUERY = "how long is parental leave?"
KEY = "sk-" + "abcdef0123456789" * 2

both = pytest.mark.parametrize("mode", ["sync", "async"])
NOW = StepPolicy(retries=0)


async def rank(mode, reranker, hits):
    return reranker.rank(QUERY, hits) if mode == "sync" else await reranker.arank(QUERY, hits)


class Down:
    """A language model whose provider refuses the key, and quotes it."""

    def generate(self, prompts):
        try:
            raise PermissionError(f"401: incorrect API key provided: {KEY}")
        except PermissionError as error:
            raise GenerationError("the language model 'gpt' failed with PermissionError") from error

    async def agenerate(self, prompts):
        return self.generate(prompts)


@both
@pytest.mark.parametrize("made", [PointwiseReranker, PairwiseReranker, ListwiseReranker])
async def test_a_model_that_is_down_leaves_the_hits_and_a_mark(mode, made, hits, caplog):
    given = hits("one", "two", "three")
    reranker = OptionalReranker(made(Down()), policy=NOW)
    with caplog.at_level(logging.WARNING):
        results = [await rank(mode, reranker, given) for _ in range(3)]
    for result in results:
        assert list(result.hits) == given
        assert result.degraded == (f"rerank:{reranker.name}",)
        assert "401" in result.steps[0].error
        assert KEY not in result.steps[0].error
    assert caplog.text.count("401") == 1
    assert KEY not in caplog.text


@both
async def test_on_error_raise(mode, hits):
    reranker = OptionalReranker(PointwiseReranker(Down()), policy=StepPolicy(retries=0, on_error="raise"))
    with pytest.raises(StepError, match="401") as caught:
        await rank(mode, reranker, hits("one", "two"))
    assert KEY not in str(caught.value)


class Hangs:
    """A reranker that never answers."""

    name = "hangs"

    def __init__(self):
        self.release = threading.Event()

    def rerank(self, query, hits):
        self.release.wait(60)
        return list(hits)

    async def arerank(self, query, hits):
        await asyncio.Event().wait()


@both
async def test_the_timeout_bounds_it(mode, hits):
    hanging = Hangs()
    result = await rank(mode, OptionalReranker(hanging, policy=StepPolicy(timeout=0.05)), hits("one", "two"))
    hanging.release.set()
    assert len(result) == 2
    assert "no result within 0.05 s" in result.steps[0].error


@both
async def test_a_reranker_that_works_is_not_changed_by_it(mode, scripted, hits):
    def alone():
        return PointwiseReranker(scripted(lambda prompt: "3" if "two" in prompt.text else "1"))

    given = hits("one", "two", "three")
    result = await rank(mode, OptionalReranker(alone()), given)
    assert list(result.hits) == alone().rerank(QUERY, given)
    assert result.degraded == ()
    assert result.steps[0].details["judged"] == 3


async def test_it_is_a_reranker_and_wraps_nothing_else(scripted, hits):
    reranker = OptionalReranker(PointwiseReranker(scripted(lambda prompt: "2")))
    assert isinstance(reranker, Reranker)
    assert reranker.rerank(QUERY, hits("one")) == await reranker.arerank(QUERY, hits("one"))
    with pytest.raises(InputError, match="partial is no reranker"):
        OptionalReranker(partial(print))
