"""A forked child, at any moment of its parent's threads, begins with pools, limits and queues of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from situate.retrievers import Index, Retriever, connect
from situate.retrievers.cache import SemanticCache
from situate.retrievers.cache_codecs import TEXT
from situate.retrievers.pipeline.concurrency import LoopLimit, LoopThreads, QueryBatcher, StartLimit
from situate.retrievers.rerank import LateInteractionReranker
from situate.retrievers.search.query_vectors import QueryVectors, WrittenQuery
from situate.retrievers.types import QueryText, SearchResult, Step
from situate.types import Document
from tests.rest_server import RestServer

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Encoder:
    """Makes vectors of nothing, in this process."""

    local = True

    def encode_many(self, several: list[WrittenQuery]) -> list[QueryVectors]:
        return [QueryVectors(np.ones(2, dtype=np.float32)) for _ in several]


class Vectors:
    """The part of an embedder that a cache uses."""

    dimension = 2

    @property
    def fingerprint(self) -> dict[str, str]:
        return {}

    def embed_queries(self, texts: list[str]) -> Any:
        return np.ones((len(texts), 2), dtype=np.float32)

    aembed_queries = partial(asyncio.to_thread, embed_queries)


def find(query: str, wait: Callable[[], object] = lambda: None) -> Callable[[QueryVectors, Step], SearchResult]:
    def search(vectors: QueryVectors, step: Step) -> SearchResult:
        wait()
        return SearchResult(query, ())

    return search


async def ask(batcher: QueryBatcher, query: str, wait: Callable[[], object] = lambda: None) -> str:
    return (await batcher.search(WrittenQuery(query, [QueryText(query)]), find(query, wait))).query


async def limited(limit: LoopLimit) -> int:
    async with limit.slot():
        return await limit.in_thread(lambda: 7)


async def begun(limit: StartLimit) -> int:
    for _ in range(3):
        await limit.begin()
    return 7


def child(work: Callable[[], object], expected: object) -> bool:
    """Whether ``work`` gives ``expected`` in a forked child, within a minute."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        same = False
        try:
            same = work() == expected
        finally:
            os._exit(0 if same else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@contextmanager
def busy(run: Callable[[Callable[[], object]], Any], times: int) -> Iterator[None]:
    """Threads that are in the middle of ``run`` while the block runs."""
    inside, leave = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        inside.release()
        assert leave.wait(60)

    threads = [threading.Thread(target=run, args=(hold,)) for _ in range(times)]
    with ExitStack() as stack:
        stack.callback(lambda: [thread.join(60) for thread in threads])
        stack.callback(leave.set)
        for thread in threads:
            thread.start()
        assert inside.acquire(timeout=60)
        yield


def test_a_batcher_answers_in_a_child_while_its_parents_threads_search() -> None:
    batcher = QueryBatcher(Encoder(), 1)  # type: ignore[arg-type]
    with busy(lambda hold: asyncio.run(ask(batcher, "parent", hold)), 3):
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            os._exit(0 if asyncio.run(ask(batcher, "child")) == "child" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert asyncio.run(ask(batcher, "parent again")) == "parent again"
    batcher.close()


LIMIT, START, THREADS = LoopLimit(1), StartLimit(1), LoopThreads(1, "situate-test")
BATCHER = QueryBatcher(Encoder(), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "work",
    [
        lambda: asyncio.run(LIMIT.in_thread(lambda: 7)),
        lambda: asyncio.run(limited(LIMIT)),
        lambda: asyncio.run(begun(START)),
        lambda: asyncio.run(THREADS.run(lambda: 7)),
        lambda: asyncio.run(ask(BATCHER, "q")),
    ],
    ids=["in_thread", "slot", "start", "threads", "batcher"],
)
def test_what_has_run_here_runs_in_a_child(work: Callable[[], object]) -> None:
    assert child(work, work())


@pytest.mark.parametrize("held", ["limit", "start", "cache"])
def test_a_lock_that_a_thread_holds_is_free_in_a_child(held: str) -> None:
    with connect(":memory:") as client:
        cache = SemanticCache(client, Vectors(), TEXT)
        owner, work = {
            "limit": (LIMIT, lambda: asyncio.run(limited(LIMIT))),
            "start": (START, lambda: asyncio.run(begun(START))),
            "cache": (cache, lambda: cache.client is client),
        }[held]

        def hold(wait: Callable[[], object]) -> None:
            with owner._lock:  # type: ignore[attr-defined]
                wait()

        with busy(hold, 1):
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                os._exit(0 if work() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def retrieved(retriever: Retriever) -> list[str]:
    return [hit.chunk.document_id for hit in retriever.retrieve("what do cats do?")]


def aretrieved(retriever: Retriever) -> list[str]:
    async def found() -> list[list[str]]:
        results = await asyncio.gather(*(retriever.aretrieve("what do cats do?") for _ in range(3)))
        return [[hit.chunk.document_id for hit in result] for result in results]

    return asyncio.run(found())[0]


def embedded(retriever: Retriever) -> list[str]:
    retriever.index.embedder.embed_documents(["A longer text of several words. " * 20] * 40)
    return retrieved(retriever)


@pytest.fixture(scope="module")
def served() -> Iterator[Retriever]:
    """A retriever over a server's collection, which reranks with a model of this process."""
    from situate.embedders import Embedder

    with connect(":memory:") as client:
        server = RestServer(client)  # type: ignore[arg-type]
        # The compiled pass: this test is about retrieval's threads and locks, not about other libraries' allocators.
        index = Index(Embedder(dtype="float32"), path=server.url)
        index.add([Document("cats", "Cats sleep all day."), Document("dogs", "Dogs bark.")])
        yield Retriever(index, rerankers=[LateInteractionReranker(index.embedder)])
        index.close()
        server.stop()


WAYS = [retrieved, aretrieved, embedded]


@pytest.mark.parametrize("here", WAYS)
@pytest.mark.parametrize("there", WAYS)
def test_a_retriever_that_was_used_here_works_in_a_child(
    here: Callable[[Retriever], object], there: Callable[[Retriever], object], served: Retriever
) -> None:
    assert child(partial(there, served), here(served))
