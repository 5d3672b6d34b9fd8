"""Threads and locks that survive a fork, an ended main thread and a signal handler.

A fork copies locks as they are, held ones too, but no thread that would release them; an interpreter that ends refuses
`concurrent.futures.ThreadPoolExecutor` new tasks as soon as its main thread has returned; and a signal handler that
asks for a lock which the code that it interrupted holds waits for ever.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

from situate.errors import ReentryError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Tasks: TypeAlias = "queue.SimpleQueue[Callable[[], object] | None]"


class Forked(Protocol):
    """An object that holds locks or threads."""

    def renew(self) -> None:
        """Make new locks and forget threads, in the only thread of a forked child."""
        ...


_FORKED: weakref.WeakSet[Forked] = weakref.WeakSet()


def renew_after_fork(owner: Forked) -> None:
    """Call ``owner.renew()`` in every child that this process forks, for as long as the owner lives."""
    _FORKED.add(owner)


def _renew_all() -> None:
    for owner in list(_FORKED):
        owner.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


class OwnedLock:
    """A lock that raises where the thread that holds it acquires it again, instead of deadlocking.

    A signal handler that interrupts the holder would do so. In a forked child the lock is released.

    Args:
        task: What is done under it, for the message.
    """

    def __init__(self, task: str = "embedding") -> None:
        self.task = task
        self._lock = threading.RLock()
        renew_after_fork(self)

    def renew(self) -> None:
        """Release it, whichever thread held it."""
        self._lock = threading.RLock()

    @property
    def mine(self) -> bool:
        """Whether the calling thread holds it."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]

    def check(self) -> None:
        """Raise in the thread that holds it.

        Raises:
            ReentryError: The calling thread holds it already.
        """
        if self.mine:
            raise ReentryError(
                f"{self.task} was called by the thread that is {self.task} already (by a signal handler, say), "
                "which would wait for itself: call it in another thread, or when the handler has returned"
            )

    def acquire(self, blocking: bool = True) -> bool:
        """Take it; whether it was taken.

        Raises:
            ReentryError: The calling thread holds it already.
        """
        self.check()
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Release it if the calling thread holds it: harmless after an interrupted `acquire`."""
        if self.mine:
            self._lock.release()

    def __enter__(self) -> OwnedLock:
        self.check()
        try:
            self._lock.acquire()
        except BaseException:
            self.release()  # an interrupt between taking it and returning
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class _Task:
    def __init__(self, future: Future[Any], call: Callable[[], Any]) -> None:
        self.future = future
        self._call = call

    def __call__(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._call()
        except BaseException as error:  # noqa: BLE001  every error belongs to the caller
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class ThreadPool(Executor):
    """Daemon threads that run tasks in the order of submission.

    They begin with the first task, and end with this object. Unlike the standard library's pool it takes tasks when
    the main thread has returned, and in a forked child. Where no thread can be started any more (the interpreter is
    ending), `submit` runs the task itself.

    Args:
        size: How many threads.
        name: Of the threads.
        begin: Called by each thread first.
    """

    def __init__(self, size: int, name: str, begin: Callable[[], object] | None = None) -> None:
        self.size = size
        self._name = name
        self._begin = begin
        self.renew()
        renew_after_fork(self)
        _POOLS.add(self)

    def renew(self) -> None:
        """Forget all threads and the tasks that wait for them."""
        self._tasks: _Tasks = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        weakref.finalize(self, _end, self._tasks, self._threads).atexit = False

    def submit(self, function: Callable[_P, _T], /, *arguments: _P.args, **named: _P.kwargs) -> Future[_T]:
        """Run ``function`` in one of the threads; its result as a future."""
        future: Future[_T] = Future()
        task = _Task(future, lambda: function(*arguments, **named))
        if self.started(self.size):
            self._tasks.put(task)
        else:
            task()
        return future

    def free(self, wanted: int) -> int:
        """How many threads can be given a task by `share`: ``wanted``, or 0 while an earlier task has not begun."""
        return wanted if wanted and not self.waiting and self.started(wanted) else 0

    def share(self, task: Callable[[], object], times: int) -> None:
        """Have ``times`` threads run ``task``, which must not raise."""
        for _ in range(times):
            self._tasks.put(task)

    @property
    def waiting(self) -> int:
        """How many tasks wait to begin."""
        return self._tasks.qsize()

    def started(self, count: int) -> bool:
        """Start threads up to ``count``; whether all of them run."""
        try:
            while len(self._threads) < count:
                ready = threading.Event()
                work = self._tasks, self._begin, ready
                thread = threading.Thread(
                    target=_serve, args=work, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
                ready.wait()
        except RuntimeError:  # the interpreter is ending
            self._threads.pop()
            return False
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after the waiting tasks have run; the next task starts new ones."""
        tasks, threads = self._tasks, self._threads
        self._tasks, self._threads = queue.SimpleQueue(), []
        weakref.finalize(self, _end, self._tasks, self._threads).atexit = False
        if cancel_futures:
            while not tasks.empty():
                task = tasks.get()
                if isinstance(task, _Task):
                    task.future.cancel()
        _end(tasks, threads)
        for thread in threads if wait else ():
            if thread is not threading.current_thread():
                thread.join()


_POOLS: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


def _serve(tasks: _Tasks, begin: Callable[[], object] | None, ready: threading.Event) -> None:
    if begin is not None:
        begin()
    ready.set()
    while (task := tasks.get()) is not None:
        task()
        del task  # it holds its arguments, and the wait for the next one may be long


def _end(tasks: _Tasks, threads: list[threading.Thread]) -> None:
    for _ in threads:
        tasks.put(None)


@atexit.register
def _end_all() -> None:
    """No thread may be inside compiled code when the libraries' own destructors run."""
    for pool in list(_POOLS):
        pool.shutdown()
