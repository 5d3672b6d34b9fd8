"""Many asynchronous queries at once: the same hits as one by one, without work in the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from situate.chunkers import Document
from situate.embedders import Embedder
from situate.errors import OverflowLimitError
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.index import Index
from situate.retrievers.pipeline.concurrency import BATCH_QUERIES, QueryBatcher
from situate.retrievers.rerank import LateInteractionReranker, Mmr
from situate.retrievers.retriever import Retriever
from situate.retrievers.search.query_vectors import QueryEncoder, QueryVectors, WrittenQuery
from situate.retrievers.types import QueryText, SearchResult, Step

TOPICS = ("leave", "travel", "purchasing", "safety", "releases", "security", "support", "equipment")
QUERIES = [f"what does rule {n} of {TOPICS[n % len(TOPICS)]} say?" for n in range(40)]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    # In bfloat16, which "auto" takes where the hardware computes in it, a vector's last bits depend on its batch.
    return Embedder(dtype="float32")


@pytest.fixture(scope="module", params=["fast", "quality"])
def index(request: pytest.FixtureRequest, embedder: Embedder) -> Iterator[Index]:
    with Index(embedder, config=getattr(PipelineConfig, request.param)()) as index:
        index.add(Document(topic, " ".join(f"Rule {i} of {topic} says this." for i in range(30))) for topic in TOPICS)
        yield index


def test_vectors_made_together_are_those_made_alone(embedder: Embedder) -> None:
    encoder = QueryEncoder(embedder, replace(PipelineConfig.fast(), token_vectors="float16").table)
    given = embedder.embed_documents(["given"])[0]
    several = [
        WrittenQuery("one", [QueryText("one")]),
        WrittenQuery("two", [QueryText("two"), QueryText("a draft", role="document"), QueryText("draft", "lexical")]),
        WrittenQuery("three", [QueryText("three")], given),
        WrittenQuery("four", [QueryText("only a draft", role="document", weight=2.0)]),
    ]
    for together, written in zip(encoder.encode_many(several), several, strict=True):
        alone = encoder.encode(written)
        np.testing.assert_allclose(together.dense, alone.dense, atol=1e-5)
        assert together.tokens is not None
        assert alone.tokens is not None
        np.testing.assert_allclose(together.tokens, alone.tokens, atol=1e-5)
        assert together.lexical is not None
        assert alone.lexical is not None
        assert together.lexical.indices.tolist() == alone.lexical.indices.tolist()


async def test_many_at_once_find_what_one_finds(index: Index) -> None:
    results = await asyncio.gather(*(index.asearch(query, k=5) for query in QUERIES))
    for query, result in zip(QUERIES, results, strict=True):
        alone = index.search(query, k=5)
        assert result.query == query
        assert [hit.chunk.id for hit in result] == [hit.chunk.id for hit in alone]
        np.testing.assert_allclose([h.score for h in result], [h.score for h in alone], atol=1e-4)
        assert [step.name for step in result.steps] == ["embed", "search"]
    assert max(result.steps[0].details["together"] for result in results) > 1
    assert max(result.steps[0].details["together"] for result in results) <= BATCH_QUERIES


@pytest.mark.parametrize("rerankers", [[], [LateInteractionReranker], [Mmr]], ids=["search", "late", "mmr"])
async def test_the_event_loop_neither_encodes_nor_searches(
    index: Index, embedder: Embedder, rerankers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[int]] = {}

    def watched(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def noting(*args: Any, **kwargs: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noting)

    watched(embedder.encoder, "encode")
    watched(embedder.encoder, "aencode")
    searches = {"dbsf": {"query_points"}, "minmax": {"nearest_scores", "payloads"}}[index.config.fusion]
    for name in searches:
        watched(index.client, name)
    retriever = Retriever(index, rerankers=[build(embedder) for build in rerankers], candidates=4)
    results = await asyncio.gather(*(retriever.aretrieve(query) for query in QUERIES[:4]))
    assert all(results)
    assert {"encode", *searches} <= set(threads)
    assert "aencode" not in threads
    assert threading.get_ident() not in set().union(*threads.values())


async def test_a_query_that_cannot_be_encoded_fails_alone() -> None:
    with Index(Embedder(on_overflow="raise")) as index:
        index.add([Document("a", "Cats sleep.")])
        queries = ["cats", "word " * 2000, "sleep"]
        first, second, third = await asyncio.gather(*(index.asearch(q) for q in queries), return_exceptions=True)
    assert isinstance(second, OverflowLimitError)
    assert isinstance(first, SearchResult)
    assert isinstance(third, SearchResult)


async def test_a_cancelled_query_is_neither_encoded_nor_searched_for(embedder: Embedder) -> None:
    batcher = QueryBatcher(QueryEncoder(embedder), 1)
    entered, leave = threading.Event(), threading.Event()
    searched: list[str] = []

    def blocking(vectors: QueryVectors, step: Step) -> SearchResult:
        entered.set()
        leave.wait()
        return SearchResult("blocking", ())

    def noting(query: str) -> Any:
        def search(vectors: QueryVectors, step: Step) -> SearchResult:
            searched.append(query)
            return SearchResult(query, ())

        return search

    async def ask(query: str, search: Any) -> SearchResult:
        return await batcher.search(WrittenQuery(query, [QueryText(query)]), search)

    first = asyncio.create_task(ask("first", blocking))
    await asyncio.to_thread(entered.wait)
    tasks = [asyncio.create_task(ask(query, noting(query))) for query in ("second", "third")]
    await asyncio.sleep(0)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    leave.set()
    await asyncio.gather(first, tasks[1])
    batcher.close()
    assert searched == ["third"]


async def test_errors_of_the_search_reach_the_caller(embedder: Embedder) -> None:
    batcher = QueryBatcher(QueryEncoder(embedder), 1)

    def failing(vectors: QueryVectors, step: Step) -> SearchResult:
        raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError, match="gone"):
        await batcher.search(WrittenQuery("a", [QueryText("a")]), failing)
    batcher.close()
