"""Many queries at once: their vectors are made together, and the event loop only hands over and takes back.

What a query costs in Python (tokenizing, pooling, BM25 terms, Qdrant's answers) is small for one query. For two hundred
that arrive together it is a second during which the event loop would serve nobody, be it because the work runs in the
loop's own thread, or because a pool of threads fights with it over the interpreter. So one thread makes vectors, of the
queries that wait together in one batch; and behind it one searches the embedded engine, which holds the interpreter
anyway, or several ask a server. Queries are answered in the order in which they came.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from situate.retrievers.pipeline.turns import Handed, Threads
from situate.retrievers.search.hybrid import QueryVectors
from situate.retrievers.search.query_vectors import QueryEncoder, WrittenQuery
from situate.retrievers.types import SearchResult, Step

#: Queries whose vectors are made together: about one pass of the model.
BATCH_QUERIES = 16

#: A query's vectors and how they were made -> what is found.
Search: TypeAlias = Callable[[QueryVectors, Step], SearchResult]


@dataclass(frozen=True, slots=True)
class _Request:
    written: WrittenQuery
    search: Search
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    arrived: float = field(default_factory=time.perf_counter)
    result: Handed[SearchResult] = field(default_factory=Handed)


class AsyncSearcher:
    """Answers queries off the event loop.

    Args:
        encoder: Makes vectors.
        searchers: Threads that search at once: 1 for an embedded store, more for a server.
    """

    def __init__(self, encoder: QueryEncoder, searchers: int) -> None:
        self._encoder = encoder
        self._local: bool | None = None
        self._waiting: deque[_Request] = deque()
        self._called = False
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="situate-query")
        self._searching = Threads(searchers, "situate-search")

    async def search(self, written: WrittenQuery, search: Search) -> SearchResult:
        """What is found for a query. Cancelling takes it back unless it is being searched for.

        Args:
            written: The query.
            search: Called with its vectors, in a thread.
        """
        if self._local is None:
            self._local = await asyncio.to_thread(lambda: self._encoder.local)  # the first time it reads files
        request = _Request(written, search)
        if self._local:
            self._waiting.append(request)
            self._have_encoded()
        else:
            # a server's answer is waited for in the loop, as many at once as there are
            started = time.perf_counter()
            vectors = await self._encoder.aencode(written)
            self._hand_on(request, vectors, Step("embed", time.perf_counter() - started))
        return await request.result.taken()

    def close(self) -> None:
        """Take no more queries; those that came are answered."""
        self._encoding.submit(self._finish)

    def _finish(self) -> None:
        while self._waiting:
            self._encode_batch()
        self._searching.close()
        self._encoding.shutdown(wait=False)

    def _have_encoded(self) -> None:
        if not self._called:
            self._called = True
            self._encoding.submit(self._encode_waiting)

    def _encode_waiting(self) -> None:
        """Vectors for those who wait; who comes from now on calls again, and so does this for those it leaves."""
        self._called = False
        try:
            self._encode_batch()
        finally:
            if self._waiting:
                self._have_encoded()

    def _encode_batch(self) -> None:
        taken: list[_Request] = []
        while self._waiting and len(taken) < BATCH_QUERIES:
            request = self._waiting.popleft()
            if not request.result.cancelled:
                taken.append(request)
        if not taken:
            return
        started = time.perf_counter()
        try:
            vectors = self._encoder.encode_many([request.written for request in taken])
        except Exception:  # noqa: BLE001 - each is tried alone below, so that only those that fail hear of it
            for request in taken:
                self._encode_alone(request)
            return
        seconds = time.perf_counter() - started
        for request, made in zip(taken, vectors, strict=True):
            details = {"waited": started - request.arrived, "together": len(taken)}
            self._hand_on(request, made, Step("embed", seconds, details))

    def _encode_alone(self, request: _Request) -> None:
        started = time.perf_counter()
        try:
            (vectors,) = self._encoder.encode_many([request.written])
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller, who waits
            self._searching.submit(request.result, _raise, error)
            return
        self._hand_on(request, vectors, Step("embed", time.perf_counter() - started))

    def _hand_on(self, request: _Request, vectors: QueryVectors, step: Step) -> None:
        # in the caller's context, so that spans find their parent
        self._searching.submit(request.result, request.context.run, request.search, vectors, step)


def _raise(error: BaseException) -> NoReturn:
    raise error
