"""One owner of the device, many callers.

Both frameworks send ten texts at a time, servers one. While the model is busy, requests wait in one of two queues,
queries before documents, and waiting requests run together in full batches. A big job gives the model back after every
batch, so a query waits for no more than the batch that is running; on a GPU, which is handed a second batch while it
computes the first, for these two. A caller that finds the model idle runs a small job in its own thread: waking another
one costs as much as a tenth of a query.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from situate.embedders.text.requests import PoolingRequest, PoolingResult
from situate.embedders.types import Role
from situate.errors import ReentryError
from situate.progress import Told
from situate.threads import OwnedLock, renew_after_fork

#: Seconds that an idle model waits for further jobs after one arrived, and the longest that this goes on.
_BATCHING_WINDOW, _BATCHING_WINDOW_IN_ALL = 0.0002, 0.001
#: `Scheduler.submit` blocks while more full batches than this wait.
_WAITING_BATCHES = 64

#: Returns when the results of a pass have been written, or raises what the device says.
Written: TypeAlias = Callable[[], None]


class Job:
    """A request that waits or runs, and the part of its result that is computed."""

    def __init__(self, request: PoolingRequest, hidden_size: int, told: Told | None = None) -> None:
        self.request = request
        self.told = told
        self.future: Future[PoolingResult] = Future()
        self.lengths = np.array([len(ids) for ids in request.sequences], dtype=np.int64)
        # Longest first: neighbours of equal length run fastest, and a batch that does not fit into memory fails at
        # once.
        self.order = np.argsort(-self.lengths, kind="stable") if len(self.lengths) > 1 else np.arange(len(self.lengths))
        self.tokens = int(self.lengths.sum())
        self.begun = 0
        self.result = PoolingResult(
            np.zeros((len(request.segments), hidden_size), dtype=np.float32),
            [np.zeros((0, hidden_size), dtype=np.float32)] * len(request.kept),
        )

    def take(self, budget: int) -> NDArray[np.int64]:
        """The next sequences that hold at most ``budget`` tokens, or one that holds more."""
        rest = self.order[self.begun :]
        count = int(np.searchsorted(np.cumsum(self.lengths[rest]), budget, side="right"))
        self.begun += max(1, count)
        return rest[: max(1, count)]

    @property
    def over(self) -> bool:
        """Whether all of it has begun."""
        return self.begun >= len(self.order)


class Engine(Protocol):
    """An engine, as the scheduler sees it.

    Attributes:
        hidden_size: Length of a vector.
        batch_tokens: Most tokens of one pass.
        ahead: Passes that the device may have at once; 0: `forward` returns when its results have been written.
    """

    hidden_size: int
    batch_tokens: int
    ahead: int

    def forward(self, parts: Sequence[tuple[Job, NDArray[np.int64]]]) -> Written:
        """Run these sequences of these jobs in one pass, or hand the pass to the device."""
        ...


@dataclass(frozen=True)
class _Pass:
    """A pass that the device has, and the jobs with so many tokens in it; ``last`` are those that end with it."""

    jobs: list[tuple[Job, int]]
    last: list[Job]
    written: list[Written] = field(default_factory=list)


class Scheduler:
    """Shares one engine among many callers.

    Args:
        engine: The engine. Only one thread at a time calls it.
        inside: Held by the thread that runs the engine; shared where several engines share a device.
    """

    def __init__(self, engine: Engine, *, inside: OwnedLock | None = None) -> None:
        self.engine = engine
        self.inside = OwnedLock() if inside is None else inside
        self._closed = False
        self.renew()
        renew_after_fork(self)
        _SCHEDULERS.add(self)

    def renew(self) -> None:
        """Empty queues, and no thread."""
        self._changed = threading.Condition()
        self._queues: dict[Role, deque[Job]] = {"query": deque(), "document": deque()}
        self._waiting_tokens = 0
        self._running: deque[_Pass] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def run_now(self, request: PoolingRequest) -> PoolingResult | None:
        """Run a small request in the calling thread; None if the model is busy or the request is not small.

        Raises:
            ReentryError: The calling thread runs the model already.
        """
        self.inside.check()
        if self._waiting_tokens or self._closed:
            return None
        try:
            if not self.inside.acquire(blocking=False):
                return None
            job = Job(request, self.engine.hidden_size)
            if job.tokens > self.engine.batch_tokens:
                return None
            if len(job.order):
                self.engine.forward([(job, job.order)])()
            return job.result
        finally:
            self.inside.release()

    def submit(
        self, request: PoolingRequest, role: Role, *, block: bool = True, told: Told | None = None
    ) -> Future[PoolingResult] | None:
        """Queue a request. Blocks while the queues are full.

        Args:
            request: What to run.
            role: Queries run before documents.
            block: Off: return None instead of blocking.
            told: Called with each further share of the tokens that is done, by the thread that runs the model.

        Returns:
            Its result as a future; cancelling it withdraws the sequences that have not run. None if the queues are full
            and ``block`` is off.

        Raises:
            ReentryError: The calling thread runs the model already.
            RuntimeError: The scheduler was closed.
        """
        self.inside.check()
        self._check_not_queueing()
        job = Job(request, self.engine.hidden_size, told)
        if not len(job.order):
            job.future.set_result(job.result)
            return job.future
        with self._changed:
            while self._waiting_tokens > _WAITING_BATCHES * self.engine.batch_tokens and not self._closed:
                if not block:
                    return None
                self._changed.wait()
            if self._closed:
                raise RuntimeError("the encoder was closed while this call waited for it")
            self._queues[role].append(job)
            self._waiting_tokens += job.tokens
            served = self._started()
            self._changed.notify_all()
        if not served:
            self._serve_here(job)
        return job.future

    def close(self, *, drain: bool = True) -> None:
        """Refuse requests, and end the thread after the waiting ones have run or, without ``drain``, are cancelled."""
        self._closed = True
        self._stop(drain)

    def pause(self) -> None:
        """End the thread without running the waiting requests; the next request starts it again."""
        self._stop(drain=False)

    def _stop(self, drain: bool) -> None:
        with self._changed:
            self._stopping = True
            if not drain:
                for queue in self._queues.values():
                    for job in queue:
                        job.future.cancel()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _check_not_queueing(self) -> None:
        """Raise in a thread whose own interrupted `submit` holds the lock of the queues."""
        if self._changed._is_owned():  # type: ignore[attr-defined]
            raise ReentryError(
                "an embedding was requested by a signal handler that interrupted a request of the same thread, "
                "which would wait for itself: embed in another thread, or when the handler has returned"
            )

    def _started(self) -> bool:
        """Start a thread for the queues where none runs; whether one does. The lock is held."""
        if self._thread is not None and not self._stopping:
            return True
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="situate-encoder", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending
            self._thread = None
            return False
        return True

    def _serve_here(self, job: Job) -> None:
        """Run the waiting requests in the calling thread, until ``job`` is done."""
        while not job.future.done():
            self._next_pass()

    def _serve(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                idle = not self._waiting_tokens
                while not self._waiting_tokens:
                    if self._stopping or self._thread is not me:
                        return
                    self._changed.wait()
                if idle:
                    self._wait_for_more()
            self._next_pass()

    def _next_pass(self) -> None:
        with self.inside:
            # Room first: a query that arrives while the device is busy is in the very next pass.
            self._finish(leaving=self.engine.ahead - 1)
            with self._changed:
                parts = self._collect()
            if parts:
                self._run(parts)
            if not self._waiting_tokens:
                self._finish(leaving=0)

    def _wait_for_more(self) -> None:
        """Wait a moment for further requests, for as long as they keep arriving. The lock is held."""
        for _ in range(round(_BATCHING_WINDOW_IN_ALL / _BATCHING_WINDOW)):
            if self._waiting_tokens >= self.engine.batch_tokens or self._stopping:
                return
            if not self._changed.wait(_BATCHING_WINDOW):
                return

    def _collect(self) -> list[tuple[Job, NDArray[np.int64]]]:
        """The next pass: from the queues in order, until it is full. The lock is held."""
        budget = self.engine.batch_tokens
        parts: list[tuple[Job, NDArray[np.int64]]] = []
        for queue in (self._queues["query"], self._queues["document"]):
            if parts and self.engine.ahead:
                break  # a GPU is as fast with few tokens, and documents would hold up the queries' results
            while queue and budget > 0:
                job = queue[0]
                if job.future.cancelled():
                    queue.popleft()
                    self._waiting_tokens -= int(job.lengths[job.order[job.begun :]].sum())
                    continue
                if parts and int(job.lengths[job.order[job.begun]]) > budget:
                    budget = 0
                    break
                taken = job.take(budget)
                tokens = int(job.lengths[taken].sum())
                budget -= tokens
                self._waiting_tokens -= tokens
                parts.append((job, taken))
                if job.over:
                    queue.popleft()
        self._changed.notify_all()
        return parts

    def _run(self, parts: list[tuple[Job, NDArray[np.int64]]]) -> None:
        jobs = [(job, int(job.lengths[taken].sum())) for job, taken in parts]
        begun = _Pass(jobs, [job for job, _ in parts if job.over])
        for job, error in self._failures(parts, begun.written):
            self._fail(job, error)
        self._running.append(begun)
        self._finish(leaving=self.engine.ahead)

    def _finish(self, leaving: int) -> None:
        """Wait for the oldest passes until the device has only so many, and hand over the results of their jobs."""
        while len(self._running) > max(0, leaving):
            done = self._running.popleft()
            try:
                for written in done.written:
                    written()
            except Exception as error:  # noqa: BLE001  whatever the device says belongs to the callers who wait for it
                for job, _ in done.jobs:
                    self._fail(job, error)
                continue
            for job, tokens in done.jobs:
                self._tell(job, tokens)
            for job in done.last:
                if not job.future.done() and job.future.set_running_or_notify_cancel():
                    job.future.set_result(job.result)

    def _tell(self, job: Job, tokens: int) -> None:
        try:
            if job.told is not None and not job.future.done():
                job.told(tokens / job.tokens)
        except Exception as error:  # noqa: BLE001  what the caller's function raises belongs to the caller
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self._drop(job)
        if not job.future.done() and job.future.set_running_or_notify_cancel():
            job.future.set_exception(error)

    def _drop(self, job: Job) -> None:
        with self._changed:
            for queue in self._queues.values():
                if job in queue:
                    queue.remove(job)
                    self._waiting_tokens -= int(job.lengths[job.order[job.begun :]].sum())
            self._changed.notify_all()

    def _failures(
        self, parts: list[tuple[Job, NDArray[np.int64]]], written: list[Written]
    ) -> list[tuple[Job, Exception]]:
        """Run a pass; if it fails, run each job's part alone, so that only callers whose texts fail get the error."""
        try:
            written.append(self.engine.forward(parts))
            return []
        except Exception as error:  # noqa: BLE001  whatever the model says belongs to the callers, not to this thread
            if len(parts) == 1:
                return [(parts[0][0], error)]
        # After the handler: the error's traceback would keep the failed pass's memory while the parts run.
        return [failure for part in parts for failure in self._failures([part], written)]


_SCHEDULERS: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@atexit.register
def _pause_all() -> None:
    """No thread may be inside compiled code when the libraries' own destructors run."""
    for scheduler in list(_SCHEDULERS):
        scheduler.pause()
