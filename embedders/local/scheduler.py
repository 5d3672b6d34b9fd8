"""One owner of the device, many callers.

Both frameworks ask for ten texts at a time, servers for one. Whoever asks while the model is busy waits in one of two
queues, queries before documents, and what waits together runs together in full batches. A big job gives the model back
after every batch, so a query never waits for more than the batch that is running. A caller who finds nobody else there
runs a small job in its own thread: waking another one costs as much as a tenth of a query.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from situate.embedders.text.tokenizer import Ids
from situate.embedders.types import Vectors

Priority = Literal["query", "document"]
Reduction = Literal["sum", "weighted", "max"]

#: Seconds that an idle model waits for company after a job arrived, and the longest that this goes on.
_COMPANY, _COMPANY_IN_ALL = 0.0002, 0.001
#: Full batches that may wait; who brings more is held up until some have run.
_WAITING_BATCHES = 64


@dataclass(frozen=True, slots=True)
class Work:
    """What a caller asks for.

    Attributes:
        sequences: Token ids of each pass over the model.
        segments: int64 ``[segments, 4]``: sequence, first token, one past the last token, weight of the first.
        reduction: What becomes of a segment's token vectors: their sum, their sum weighted by position, their maximum.
        kept: int64 ``[kept, 3]``: sequence, first token, one past the last token, of token vectors to hand back.
    """

    sequences: Sequence[Ids]
    segments: NDArray[np.int64]
    reduction: Reduction
    kept: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Done:
    """What a caller gets.

    Attributes:
        reduced: float32 ``[segments, hidden]``.
        kept: Per row of ``Work.kept``, float32 ``[tokens, hidden]``.
    """

    reduced: Vectors
    kept: list[Vectors]


class Job:
    """Work that waits or runs, and what is there of its result."""

    def __init__(self, work: Work, hidden_size: int) -> None:
        self.work = work
        self.future: Future[Done] = Future()
        self.lengths = np.array([len(ids) for ids in work.sequences], dtype=np.int64)
        # Longest first: neighbours of equal length run fastest, and what does not fit the memory shows at once.
        self.order = np.argsort(-self.lengths, kind="stable") if len(self.lengths) > 1 else np.arange(len(self.lengths))
        self.tokens = int(self.lengths.sum())
        self.begun = 0
        self.result = Done(
            np.zeros((len(work.segments), hidden_size), dtype=np.float32),
            [np.zeros((0, hidden_size), dtype=np.float32)] * len(work.kept),
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


class Runner(Protocol):
    """What the scheduler knows of an engine."""

    hidden_size: int
    batch_tokens: int

    def run(self, parts: Sequence[tuple[Job, NDArray[np.int64]]]) -> None:
        """Run these sequences of these jobs in one pass and write their results."""
        ...

    def settle(self) -> None:
        """Return when the results of all passes so far have been written."""
        ...


class Scheduler:
    """Shares one engine among many callers.

    Args:
        engine: What runs. Only one thread at a time is ever inside.
        inside: Held by who is inside; shared where several engines share a device.
    """

    def __init__(self, engine: Runner, *, inside: threading.Lock | None = None) -> None:
        self.engine = engine
        self._inside = threading.Lock() if inside is None else inside
        self._changed = threading.Condition()
        self._queues: dict[Priority, deque[Job]] = {"query": deque(), "document": deque()}
        self._waiting_tokens = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def run_now(self, work: Work) -> Done | None:
        """Run a small job in the calling thread if nobody else is there; None if somebody is, or if it is not small."""
        if self._waiting_tokens or not self._inside.acquire(blocking=False):
            return None
        try:
            job = Job(work, self.engine.hidden_size)
            if job.tokens > self.engine.batch_tokens or self._closed:
                return None
            if len(job.order):
                self.engine.run([(job, job.order)])
                self.engine.settle()
            return job.result
        finally:
            self._inside.release()

    def submit(self, work: Work, priority: Priority, *, block: bool = True) -> Future[Done] | None:
        """Queue work.

        Args:
            work: The work.
            priority: Which queue.
            block: Whether to wait while the queues are full.

        Returns:
            Its result, some time later; cancelling takes back what has not run. None if the queues are full and
            ``block`` is off.

        Raises:
            RuntimeError: The scheduler was closed.
        """
        job = Job(work, self.engine.hidden_size)
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
            self._queues[priority].append(job)
            self._waiting_tokens += job.tokens
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="situate-encoder", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job.future

    def close(self, *, drain: bool = True) -> None:
        """End the thread, after what waits has run or, without ``drain``, been cancelled."""
        with self._changed:
            self._closed = True
            if not drain:
                for queue in self._queues.values():
                    for job in queue:
                        job.future.cancel()
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._changed:
                idle = not self._waiting_tokens
                while not self._waiting_tokens:
                    if self._closed:
                        return
                    self._changed.wait()
                if idle:
                    self._wait_for_company()
                with_room = self._collect()
            if with_room:
                with self._inside:
                    self._run(with_room)

    def _wait_for_company(self) -> None:
        """A moment for others who are about to ask, as long as they keep coming."""
        for _ in range(round(_COMPANY_IN_ALL / _COMPANY)):
            if self._waiting_tokens >= self.engine.batch_tokens or self._closed:
                return
            if not self._changed.wait(_COMPANY):
                return

    def _collect(self) -> list[tuple[Job, NDArray[np.int64]]]:
        """The next pass: from the queues in order, until it is full. The lock is held."""
        budget = self.engine.batch_tokens
        parts: list[tuple[Job, NDArray[np.int64]]] = []
        for queue in (self._queues["query"], self._queues["document"]):
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
        for alone in _failures(self, parts):
            job, error = alone
            self._drop(job)
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
        finished = [job for job, _ in parts if job.over and not job.future.done()]
        if finished:
            try:
                self.engine.settle()
            except Exception as error:  # noqa: BLE001  whatever the device says belongs to the callers who wait for it
                for job in finished:
                    if job.future.set_running_or_notify_cancel():
                        job.future.set_exception(error)
                return
        for job in finished:
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(job.result)

    def _drop(self, job: Job) -> None:
        with self._changed:
            for queue in self._queues.values():
                if job in queue:
                    queue.remove(job)
                    self._waiting_tokens -= int(job.lengths[job.order[job.begun :]].sum())
            self._changed.notify_all()


def _failures(scheduler: Scheduler, parts: list[tuple[Job, NDArray[np.int64]]]) -> Iterator[tuple[Job, Exception]]:
    """Run a pass; if it fails, run each job's part alone, so that only the callers whose texts fail hear of it."""
    try:
        scheduler.engine.run(parts)
    except Exception as error:  # noqa: BLE001  whatever the model says belongs to the callers, not to this thread
        if len(parts) == 1:
            yield parts[0][0], error
            return
        for part in parts:
            try:
                scheduler.engine.run([part])
            except Exception as own:  # noqa: BLE001  as above
                yield part[0], own
