"""The event loop that runs the requests of synchronous calls, so that both kinds of call share one body."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

import httpx

from situate.threads import OwnedLock, ThreadPool, renew_after_fork

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Host names that are looked up at once.
_LOOKUPS = 4


class OwnLoop(asyncio.SelectorEventLoop):
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups = ThreadPool(_LOOKUPS, "situate-http-lookup")
        threading.Thread(target=self.run_forever, name="situate-http", daemon=True).start()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As asyncio's, but its default threads also take tasks after the main thread has ended."""
        return super().run_in_executor(executor or self._lookups, func, *args)

    def close_client(self, client: httpx.AsyncClient) -> None:
        """Close the connections of a client whose owner is gone. May be called by any thread."""
        if self is _loops.current:
            self.call_soon_threadsafe(lambda: self.create_task(client.aclose()))


class _Loops:
    """The loop of this process, made by the first call."""

    def __init__(self) -> None:
        self.current: OwnLoop | None = None
        # Collecting the loop of a parent process would close file descriptors that parent and child share.
        self._parents: list[OwnLoop | None] = []
        self._lock = OwnedLock("a request")
        renew_after_fork(self)

    def renew(self) -> None:
        self._parents.append(self.current)
        self.current = None

    def get(self) -> OwnLoop:
        with self._lock:
            if self.current is None:
                self.current = OwnLoop()
            return self.current


_loops = _Loops()


def run_on_own_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the coroutine returns, run on the loop of this process; interrupting the wait cancels it."""
    future = asyncio.run_coroutine_threadsafe(work(), _loops.get())
    try:
        return future.result()
    except BaseException:
        # After an interrupt, too, the loop stops what is no longer waited for.
        future.cancel()
        raise
