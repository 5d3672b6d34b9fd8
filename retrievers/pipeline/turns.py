"""Turns for work that many queries want at once, and threads that leave the event loop its time.

Two hundred queries that rerank at once would not be faster than four: they share the same cores, compute for each other
in vain what one of them could have kept, and hold their memory all at once. So they take turns, in the order in which
they came, and what a step may take (`StepPolicy.timeout`) counts from its turn.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from situate.errors import InputError
from situate.retrievers.pipeline.steps import waiting

T = TypeVar("T")

#: Seconds that a thread waits, at most, for the event loop to take its result before it begins anything else.
#: Without it a loop that wakes up waits for the interpreter, five milliseconds (Python's switch interval) each time
#: that it touches a socket.
PAUSE = 0.05

#: Seconds for which a thread lets go of the interpreter between two pieces of work: as short as a sleep can be.
_WAY = 0.0001

#: How many queries may wait for the answers of one server at once.
AT_A_SERVER = 16


def in_this_process(model: object) -> bool:
    """Whether a model computes in this process (and no server does it). The first time this may read its files."""
    from situate import embedders as e

    encoders = e.Encoder | e.LibraryEncoder | e.MultiVectorEmbedder
    here = encoders | e.CrossEncoderModel | e.MonoT5Model | e.DuoT5Model
    # An embedder has an encoder, and so has a cache in front of one.
    while not isinstance(model, here) and (beneath := getattr(model, "encoder", None)) is not None:
        model = beneath
    return isinstance(model, here)


_of_thread = threading.local()


def give_way() -> None:
    """Let others have the interpreter for a moment; for work that holds it for milliseconds, time and again.

    Does nothing outside of `Threads`: nobody waits behind a call that is not asynchronous.
    """
    if getattr(_of_thread, "serves_a_loop", False):
        time.sleep(_WAY)


def _serve() -> None:
    _of_thread.serves_a_loop = True


class Turns:
    """Lets so many at once into a piece of work, first come, first served.

    May be used from several event loops; each has turns of its own. Pickles as its number.

    Args:
        at_once: How many.

    Raises:
        InputError: ``at_once`` is less than 1.
    """

    def __init__(self, at_once: int) -> None:
        if at_once < 1:
            raise InputError(f"at_once={at_once} must be 1 or more")
        self.at_once = at_once
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]
        self._of_loops = weakref.WeakKeyDictionary()
        self._threads: Threads | None = None

    def __getstate__(self) -> dict[str, int]:
        return {"at_once": self.at_once}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__dict__.update(state)
        self._forget()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn, which ends with the block. The limit of the step that runs stands still meanwhile."""
        loop = asyncio.get_running_loop()
        with self._lock:
            turns = self._of_loops.setdefault(loop, asyncio.Semaphore(self.at_once))
        if turns.locked():
            with waiting():
                await turns.acquire()
        else:
            await turns.acquire()
        try:
            yield
        finally:
            turns.release()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """``work()`` in one of ``at_once`` threads, with the caller's context variables."""
        with self._lock:
            if self._threads is None:
                self._threads = Threads(self.at_once, "situate-turn")
        return await self._threads.run(work)


class ModelTurns:
    """Turns at a model, which may not have been looked up yet.

    Args:
        model: The model.
        at_once: How many at once, if it computes in this process; else there are `AT_A_SERVER`.
    """

    def __init__(self, model: object, at_once: int) -> None:
        self.model = model
        self.at_once = at_once
        self._turns: Turns | None = None

    async def get(self) -> Turns:
        """The turns, the same for everybody."""
        if self._turns is None:
            here = await asyncio.to_thread(in_this_process, self.model)
            if self._turns is None:  # somebody else may have been faster
                self._turns = Turns(self.at_once if here else AT_A_SERVER)
        return self._turns


class Pace:
    """Lets only so many calls begin in one iteration of an event loop, in the order in which they came.

    A call computes before it first waits for anything. Two hundred calls that start in the same moment would hold up
    the loop for all of that at once.

    Args:
        at_once: How many begin in an iteration.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._lock = threading.Lock()
        self._starts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Start] = weakref.WeakKeyDictionary()

    async def begin(self) -> None:
        """Wait for an iteration in which few have begun; the first ones do not wait at all."""
        loop = asyncio.get_running_loop()
        with self._lock:
            start = self._starts.setdefault(loop, _Start())
        if start.begun < self.at_once:
            if not start.begun:
                loop.call_soon(self._next, loop, start)
            start.begun += 1
            return
        turn = loop.create_future()
        start.waiting.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop, start: _Start) -> None:
        start.begun = 0
        while start.waiting and start.begun < self.at_once:
            turn = start.waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                start.begun += 1
        if start.begun:
            loop.call_soon(self._next, loop, start)


@dataclass(slots=True)
class _Start:
    """Of one event loop: how many calls have begun in this iteration, and those that wait for another."""

    begun: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Threads:
    """Threads for work in Python that would hold up the event loop.

    A thread that has a result waits for the event loop to take it: the two would only fight over the interpreter.

    Args:
        count: How many threads.
        name: What they are called.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_serve)

    async def run(self, work: Callable[[], T]) -> T:
        """``work()``, with the caller's context variables. Cancelling takes it back unless it has begun."""
        handed = Handed[T]()
        self.submit(handed, contextvars.copy_context().run, work)
        return await handed.taken()

    def submit(self, handed: Handed[T], work: Callable[..., T], *arguments: Any) -> None:
        """Have a thread hand over ``work(*arguments)``."""
        self._pool.submit(handed.fill, work, *arguments)

    def close(self) -> None:
        """Take no more work; what was submitted is done."""
        self._pool.shutdown(wait=False)


class Handed(Generic[T]):
    """What a thread hands over to a coroutine."""

    def __init__(self) -> None:
        self._future: Future[T] = Future()
        self._taken = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._future.cancelled()

    def fill(self, work: Callable[..., T], *arguments: Any) -> None:
        """Do the work, unless it was cancelled, and wait a moment for the result to be taken. For a thread."""
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            result = work(*arguments)
        except BaseException as error:  # noqa: BLE001 - the engine's panics are no Exception, and somebody waits
            self._future.set_exception(error)
        else:
            self._future.set_result(result)
        self._taken.wait(PAUSE)

    async def taken(self) -> T:
        """The result. For the event loop."""
        try:
            return await asyncio.wrap_future(self._future)
        finally:
            # behind whatever else is ready to run now
            asyncio.get_running_loop().call_soon(self._taken.set)
