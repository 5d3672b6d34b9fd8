"""Many asynchronous queries at once: limits, threads that leave the event loop its time, and batches of queries.

Two hundred queries that rerank at once are no faster than four: they share the same cores, repeat work that a cache
could have spared, and hold their memory all at once. `LoopLimit` admits a few at a time in order of arrival, and
`StepPolicy.timeout` counts from admission.

What a query costs in Python (tokenizing, pooling, BM25 terms, Qdrant's answers) is small for one query and a second for
two hundred that arrive together. In the event loop's own thread it would block the loop, and a pool of threads would
compete with the loop for the interpreter. `QueryBatcher` therefore makes vectors in one thread, for the waiting queries
in one batch, and after it one thread searches the embedded engine (which holds the interpreter while it searches), or
several threads query a server. Queries are answered in order of arrival.

A forked child has none of its parent's threads, limits and waiting queries.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar

from situate.errors import InputError
from situate.retrievers.pipeline.steps import waiting
from situate.retrievers.types import SearchResult, Step
from situate.threads import ThreadPool, renew_after_fork

if TYPE_CHECKING:
    from situate.retrievers.search.query_vectors import QueryEncoder, QueryVectors, WrittenQuery

T = TypeVar("T")

#: Seconds that a thread waits, at most, for the event loop to take its result before its next task.
#: Without it a loop that wakes up waits for the interpreter, five milliseconds (Python's switch interval) at each use
#: of a socket.
_TAKE_WAIT = 0.05

#: Seconds for which a thread releases the interpreter between two pieces of work: as short as a sleep can be.
_RELEASE = 0.0001

#: Queries that wait for the answers of one server at once.
AT_A_SERVER = 16

#: Queries whose vectors are made together: about one pass of the model.
BATCH_QUERIES = 16

_thread = threading.local()


def in_this_process(model: object) -> bool:
    """Whether a model computes in this process and not at a server. The first call may read the model's files."""
    from situate import embedders as e

    encoders = e.Encoder | e.LibraryEncoder | e.MultiVectorEmbedder
    here = encoders | e.CrossEncoderModel | e.MonoT5Model | e.DuoT5Model | e.QueryLikelihoodModel
    # An embedder has an encoder, and so does a cache in front of one.
    while not isinstance(model, here) and (beneath := getattr(model, "encoder", None)) is not None:
        model = beneath
    return isinstance(model, here)


def serves_a_loop() -> bool:
    """Whether the caller's thread works for an event loop (`LoopThreads`)."""
    return getattr(_thread, "serves_a_loop", False)


def release_gil() -> None:
    """Release the interpreter for a moment; for work that holds it for milliseconds, time and again.

    Does nothing outside of `LoopThreads`: no event loop waits for a synchronous call.
    """
    if serves_a_loop():
        time.sleep(_RELEASE)


def _serve_a_loop() -> None:
    _thread.serves_a_loop = True


class Handoff(Generic[T]):
    """A result that a thread passes to a coroutine."""

    def __init__(self) -> None:
        self._future: Future[T] = Future()
        self._taken = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the coroutine was cancelled."""
        return self._future.cancelled()

    def fill(self, work: Callable[..., T], *arguments: Any) -> None:
        """Do the work, unless it was cancelled, and wait a moment for the result to be taken. For a thread."""
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            result = work(*arguments)
        except BaseException as error:  # noqa: BLE001 - the engine's panics are no Exception, and a coroutine waits
            self._future.set_exception(error)
        else:
            self._future.set_result(result)
        self._taken.wait(_TAKE_WAIT)

    async def result(self) -> T:
        """The result. For the event loop."""
        try:
            return await asyncio.wrap_future(self._future)
        finally:
            # after all callbacks that are ready now
            asyncio.get_running_loop().call_soon(self._taken.set)


class LoopThreads:
    """Threads for work in Python that would block the event loop.

    A thread with a result waits until the event loop has taken it: otherwise the two compete for the interpreter.

    Args:
        count: How many threads.
        name: The prefix of their names.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPool(count, name, _serve_a_loop)

    async def run(self, work: Callable[[], T]) -> T:
        """``work()``, with the caller's context variables. Cancelling withdraws it unless it has begun."""
        handoff = Handoff[T]()
        self.start(handoff.fill, contextvars.copy_context().run, work)
        return await handoff.result()

    def start(self, work: Callable[..., object], *arguments: Any) -> None:
        """Call ``work(*arguments)`` in a thread, in order of submission; it reports its errors itself."""
        self._pool.submit(work, *arguments)

    def close(self) -> None:
        """Refuse further work; submitted work is done."""
        self._pool.shutdown(wait=False)


class LoopLimit:
    """Admits so many coroutines of an event loop at once, first come, first served.

    May be used from several event loops; each has a limit of its own. Pickles as its number.

    Args:
        at_once: How many, or a function that returns it: it is called once, in a thread, at first use.

    Raises:
        InputError: ``at_once`` is less than 1.
    """

    def __init__(self, at_once: int | Callable[[], int]) -> None:
        if not callable(at_once) and at_once < 1:
            raise InputError(f"at_once={at_once} must be 1 or more")
        self._at_once = at_once
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Free all slots: a forked child has none of the coroutines that held them."""
        self._lock = threading.Lock()
        self._slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]
        self._slots = weakref.WeakKeyDictionary()
        self._threads: LoopThreads | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return LoopLimit, (self._at_once,)

    @property
    def at_once(self) -> int:
        """How many are admitted at once."""
        at_once = self._at_once
        if callable(at_once):
            at_once = self._at_once = at_once()
        return at_once

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for admission, which ends with the block. The clock of the running step is stopped meanwhile."""
        loop = asyncio.get_running_loop()
        at_once = self._at_once
        if callable(at_once):
            at_once = await asyncio.to_thread(lambda: self.at_once)
        with self._lock:
            slots = self._slots.setdefault(loop, asyncio.Semaphore(at_once))
        if slots.locked():
            with waiting():
                await slots.acquire()
        else:
            await slots.acquire()
        try:
            yield
        finally:
            slots.release()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """``work()`` in one of ``at_once`` threads, with the caller's context variables."""
        with self._lock:
            if self._threads is None:
                self._threads = LoopThreads(self.at_once, "situate-limit")
        return await self._threads.run(work)


def model_limit(model: object, at_once: int) -> LoopLimit:
    """The limit of a model: ``at_once`` where it computes in this process, else `AT_A_SERVER`."""
    return LoopLimit(partial(_at_once, model, at_once))


def _at_once(model: object, here: int) -> int:
    return here if in_this_process(model) else AT_A_SERVER


class StartLimit:
    """Lets only so many calls begin in one iteration of an event loop, in order of arrival.

    A call computes before it first waits for anything. Two hundred calls that start in the same moment would block the
    loop for all of that at once.

    Args:
        at_once: How many begin in an iteration.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget earlier calls, which a forked child does not have."""
        self._lock = threading.Lock()
        self._starts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Starts] = weakref.WeakKeyDictionary()

    async def begin(self) -> None:
        """Wait for an iteration in which few have begun; the first ones do not wait at all."""
        loop = asyncio.get_running_loop()
        with self._lock:
            starts = self._starts.setdefault(loop, _Starts())
        if starts.begun < self.at_once:
            if not starts.begun:
                loop.call_soon(self._next, loop, starts)
            starts.begun += 1
            return
        admission = loop.create_future()
        starts.waiting.append(admission)
        await admission

    def _next(self, loop: asyncio.AbstractEventLoop, starts: _Starts) -> None:
        starts.begun = 0
        while starts.waiting and starts.begun < self.at_once:
            admission = starts.waiting.popleft()
            if not admission.done():  # cancelled
                admission.set_result(None)
                starts.begun += 1
        if starts.begun:
            loop.call_soon(self._next, loop, starts)


@dataclass(slots=True)
class _Starts:
    """One event loop's calls: how many have begun in this iteration, and those that wait for another."""

    begun: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


#: A query's vectors and how they were made -> the result.
Search: TypeAlias = "Callable[[QueryVectors, Step], SearchResult]"


@dataclass(frozen=True, slots=True)
class _Request:
    written: WrittenQuery
    search: Search
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    arrived: float = field(default_factory=time.perf_counter)
    found: Handoff[SearchResult] = field(default_factory=Handoff)


class QueryBatcher:
    """Answers queries off the event loop, their vectors made in batches.

    Args:
        encoder: Makes vectors.
        searchers: Threads that search at once: 1 for an embedded store, more for a server.
    """

    def __init__(self, encoder: QueryEncoder, searchers: int) -> None:
        self._encoder = encoder
        self._local: bool | None = None
        self.renew()
        renew_after_fork(self)
        self._encoding = LoopThreads(1, "situate-query")
        self._searching = LoopThreads(searchers, "situate-search")

    def renew(self) -> None:
        """Forget the waiting queries, whose callers a forked child does not have."""
        self._waiting: deque[_Request] = deque()
        self._called = False

    async def search(self, written: WrittenQuery, search: Search) -> SearchResult:
        """The result of a query. Cancelling withdraws it unless its search has begun.

        Args:
            written: The query.
            search: Called with its vectors, in a thread.
        """
        if self._local is None:
            self._local = await asyncio.to_thread(lambda: self._encoder.local)  # the first call reads files
        request = _Request(written, search)
        if self._local:
            self._waiting.append(request)
            self._call_encoder()
        else:
            # the loop waits for a server's answers, for any number of queries at once
            started = time.perf_counter()
            vectors = await self._encoder.aencode(written)
            self._start_search(request, vectors, Step("embed", time.perf_counter() - started))
        return await request.found.result()

    def close(self) -> None:
        """Refuse further queries; the waiting ones are answered."""
        self._encoding.start(self._finish)

    def _finish(self) -> None:
        while self._waiting:
            self._encode_batch()
        self._searching.close()
        self._encoding.close()

    def _call_encoder(self) -> None:
        if not self._called:
            self._called = True
            self._encoding.start(self._encode_waiting)

    def _encode_waiting(self) -> None:
        """Vectors for one batch of the waiting queries; queries that arrive from now on, or remain, call again."""
        self._called = False
        try:
            self._encode_batch()
        finally:
            if self._waiting:
                self._call_encoder()

    def _encode_batch(self) -> None:
        batch: list[_Request] = []
        while self._waiting and len(batch) < BATCH_QUERIES:
            request = self._waiting.popleft()
            if not request.found.cancelled:
                batch.append(request)
        if not batch:
            return
        started = time.perf_counter()
        try:
            vectors = self._encoder.encode_many([request.written for request in batch])
        except Exception:  # noqa: BLE001 - each is tried alone below, so that only those that fail see an error
            for request in batch:
                self._encode_alone(request)
            return
        seconds = time.perf_counter() - started
        for request, made in zip(batch, vectors, strict=True):
            details = {"waited": started - request.arrived, "together": len(batch)}
            self._start_search(request, made, Step("embed", seconds, details))

    def _encode_alone(self, request: _Request) -> None:
        started = time.perf_counter()
        try:
            (vectors,) = self._encoder.encode_many([request.written])
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller, which waits
            self._searching.start(request.found.fill, _raise, error)
            return
        self._start_search(request, vectors, Step("embed", time.perf_counter() - started))

    def _start_search(self, request: _Request, vectors: QueryVectors, step: Step) -> None:
        # in the caller's context, so that spans find their parent
        self._searching.start(request.found.fill, request.context.run, request.search, vectors, step)


def _raise(error: BaseException) -> NoReturn:
    raise error
