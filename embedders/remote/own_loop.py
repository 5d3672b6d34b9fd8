"""The event loop that synchronous calls hand their requests to, so that both ways share one body."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar, TypeVarTuple, Unpack

import httpx

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class OwnLoop(asyncio.SelectorEventLoop):
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=self.run_forever, name="situate-http", daemon=True).start()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """``func(*args)`` on a thread of its own.

        Names are looked up this way. asyncio's own executor takes no work once the main thread has ended.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(func(*args))
            except BaseException as error:  # noqa: BLE001 - handed to the coroutine that waits
                future.set_exception(error)

        threading.Thread(target=run, name="situate-http-lookup", daemon=True).start()
        return asyncio.wrap_future(future, loop=self)

    def close_client(self, client: httpx.AsyncClient) -> None:
        """Close the connections of a client whose owner is gone. May be called by any thread."""
        if self is _current:
            self.call_soon_threadsafe(lambda: self.create_task(client.aclose()))


_current: OwnLoop | None = None
_lock = threading.RLock()  # re-entrant, because a signal handler may interrupt its holder
#: The loops of parent processes. They are kept, because collecting them would close what parent and child share.
_parents: list[OwnLoop | None] = []


def run_on_own_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the coroutine returns, run on the loop of this process; interrupting the wait cancels it."""
    global _current
    with _lock:
        if _current is None:
            _current = OwnLoop()
        loop = _current
    future = asyncio.run_coroutine_threadsafe(work(), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _after_fork() -> None:
    global _current, _lock
    _parents.append(_current)
    _current, _lock = None, threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
