"""One engine, many callers: coalesced, in order of priority, cancellable, bounded."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from situate.embedders.local.encoder import Encoder
from situate.embedders.local.scheduler import Job, Scheduler, Written
from situate.embedders.text.requests import PoolingRequest, PoolingResult
from situate.embedders.types import SpanText


class CountingEngine:
    """An engine whose vectors are the sums of token ids, and that can be blocked before a pass."""

    hidden_size = 1
    ahead = 0

    def __init__(self, batch_tokens: int = 10) -> None:
        self.batch_tokens = batch_tokens
        self.passes: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.gate: threading.Semaphore | None = None

    def forward(self, parts: Sequence[tuple[Job, NDArray[np.int64]]]) -> Written:
        self.passes.append([int(job.request.sequences[i][0]) for job, taken in parts for i in taken])
        self.entered.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=20)
        for job, taken in parts:
            for i in taken:
                if job.request.sequences[i][0] == 666:
                    raise ValueError("a text that the model cannot read")
                for row in np.flatnonzero(job.request.segments[:, 0] == i):
                    job.result.reduced[row] = job.request.sequences[i].sum()

        return lambda: None


class CountingCard(CountingEngine):
    """As a GPU: `forward` returns at once; a pass is over when it is let go, and `done` are those waited for."""

    ahead = 2

    def __init__(self, batch_tokens: int = 10) -> None:
        super().__init__(batch_tokens)
        self.turn = threading.Semaphore(0)
        self.done = 0
        self.most = 0

    def forward(self, parts: Sequence[tuple[Job, NDArray[np.int64]]]) -> Written:
        super().forward(parts)
        self.most = max(self.most, len(self.passes) - self.done)

        def written() -> None:
            assert self.turn.acquire(timeout=20)
            self.done += 1
            if any(777 in job.request.sequences[i] for job, taken in parts for i in taken):
                raise RuntimeError("the device has failed")

        return written


def work(*sequences: list[int]) -> PoolingRequest:
    ids = [np.array(s, dtype=np.int64) for s in sequences]
    segments = np.array([[i, 0, len(s), 1] for i, s in enumerate(sequences)], dtype=np.int64).reshape(-1, 4)
    return PoolingRequest(ids, segments, "sum", np.zeros((0, 3), dtype=np.int64))


def submitted(scheduler: Scheduler, what: PoolingRequest, role: str = "document") -> Future[PoolingResult]:
    future = scheduler.submit(what, role)  # type: ignore[arg-type]
    assert future is not None
    return future


@pytest.fixture
def held() -> tuple[CountingEngine, Scheduler, Callable[[int], None]]:
    """A scheduler whose engine is inside its first pass, and a way to let it go on."""
    engine = CountingEngine()
    engine.gate = threading.Semaphore(0)
    scheduler = Scheduler(engine)
    submitted(scheduler, work([1]))
    assert engine.entered.acquire(timeout=20)

    def go_on(passes: int) -> None:
        assert engine.gate is not None
        engine.gate.release(passes)

    return engine, scheduler, go_on


Held = tuple[CountingEngine, Scheduler, Callable[[int], None]]


def test_what_waits_together_runs_together(held: Held) -> None:
    engine, scheduler, go_on = held
    futures = [submitted(scheduler, work([i, i])) for i in (2, 3, 4)]
    go_on(2)
    assert [f.result(20).reduced.tolist() for f in futures] == [[[4]], [[6]], [[8]]]
    assert engine.passes == [[1], [2, 3, 4]]
    scheduler.close()


def test_queries_run_before_documents_and_between_the_batches_of_big_jobs(held: Held) -> None:
    engine, scheduler, go_on = held
    bulk = submitted(scheduler, work(*([10 + i] * 5 for i in range(6))))
    go_on(1)
    assert engine.entered.acquire(timeout=20)
    query = submitted(scheduler, work([2, 2, 2]), "query")
    go_on(10)
    assert query.result(20).reduced.tolist() == [[6]]
    assert bulk.result(20).reduced[:, 0].tolist() == [5 * (10 + i) for i in range(6)]
    assert engine.passes[1] == [10, 11]
    assert engine.passes[2][0] == 2
    scheduler.close()


def test_sequences_run_longest_first_and_come_back_in_order() -> None:
    engine = CountingEngine(batch_tokens=4)
    scheduler = Scheduler(engine)
    future = submitted(scheduler, work([1], [2, 2, 2], [3, 3], [4, 4, 4, 4, 4]))
    assert future.result(20).reduced[:, 0].tolist() == [1, 6, 6, 20]
    assert engine.passes == [[4], [2], [3, 1]]
    scheduler.close()


def test_cancelled_work_is_taken_back(held: Held) -> None:
    engine, scheduler, go_on = held
    first = submitted(scheduler, work([5]))
    bulk = submitted(scheduler, work(*([10 + i] * 9 for i in range(50))))
    assert first.cancel()
    go_on(1)
    assert engine.entered.acquire(timeout=20)
    assert bulk.cancel()
    last = submitted(scheduler, work([7]))
    go_on(10)
    assert last.result(20).reduced.tolist() == [[7]]
    assert len(engine.passes) == 3
    assert not any(5 in ids for ids in engine.passes)
    with pytest.raises(CancelledError):
        bulk.result(20)
    scheduler.close()


def test_a_failing_text_fails_its_own_caller_only(held: Held) -> None:
    _engine, scheduler, go_on = held
    good, bad = submitted(scheduler, work([2])), submitted(scheduler, work([666]))
    go_on(10)
    assert good.result(20).reduced.tolist() == [[2]]
    with pytest.raises(ValueError, match="cannot read"):
        bad.result(20)
    assert submitted(scheduler, work([3])).result(20).reduced.tolist() == [[3]]
    scheduler.close()


def test_the_queues_are_bounded(held: Held) -> None:
    _engine, scheduler, go_on = held
    futures = []
    while (future := scheduler.submit(work([2] * 10), "document", block=False)) is not None:
        futures.append(future)
    assert 60 <= len(futures) <= 70
    started = threading.Event()

    def blocked() -> PoolingResult:
        started.set()
        return submitted(scheduler, work([9])).result(20)

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(blocked)
        assert started.wait(20)
        assert not late.done()
        go_on(200)
        assert late.result(20).reduced.tolist() == [[9]]
    assert all(f.result(20).reduced.tolist() == [[20]] for f in futures)
    scheduler.close()


def test_an_idle_model_runs_small_work_in_the_calling_thread(held: Held) -> None:
    engine, scheduler, go_on = held
    assert scheduler.run_now(work([2])) is None, "somebody is inside"
    go_on(10)
    submitted(scheduler, work([1])).result(20)
    scheduler.close()

    engine = CountingEngine()
    scheduler = Scheduler(engine)
    threads = threading.active_count()
    done = scheduler.run_now(work([2], [3]))
    assert done is not None
    assert done.reduced.tolist() == [[2], [3]]
    assert scheduler.run_now(work([2] * 11)) is None, "too big to keep others waiting"
    assert threading.active_count() == threads
    empty = scheduler.run_now(work())
    assert empty is not None
    assert empty.reduced.shape == (0, 1)


def test_closing_finishes_what_waits_or_takes_it_back(held: Held) -> None:
    _engine, scheduler, go_on = held
    waiting = submitted(scheduler, work([2]))
    go_on(10)
    scheduler.close()
    assert waiting.result(0).reduced.tolist() == [[2]]
    with pytest.raises(RuntimeError, match="closed"):
        scheduler.submit(work([1]), "document")


def test_closing_without_draining_cancels(held: Held) -> None:
    _engine, scheduler, go_on = held
    waiting = submitted(scheduler, work([2]))
    closing = threading.Thread(target=scheduler.close, kwargs={"drain": False})
    closing.start()
    go_on(10)
    closing.join(20)
    assert not closing.is_alive()
    assert waiting.cancelled()


def test_a_card_has_two_passes_and_a_query_is_in_the_next() -> None:
    card = CountingCard()
    scheduler = Scheduler(card)
    bulk = submitted(scheduler, work(*([10 + i] * 5 for i in range(10))))
    for _ in range(2):
        assert card.entered.acquire(timeout=20)
    assert not card.entered.acquire(timeout=0.02), "a third pass waits for the first to be over"
    query = submitted(scheduler, work([2, 2, 2]), "query")
    assert scheduler.run_now(work([3])) is None
    card.turn.release(3)
    assert query.result(20).reduced.tolist() == [[6]]
    assert card.passes[2] == [2], "no document shares the query's pass"
    assert not bulk.done()
    card.turn.release(3)
    assert bulk.result(20).reduced[:, 0].tolist() == [5 * (10 + i) for i in range(10)]
    assert card.most == 2
    scheduler.close()


def test_an_error_of_the_card_reaches_the_callers_of_its_pass_only() -> None:
    card = CountingCard()
    scheduler = Scheduler(card)
    card.turn.release(9)
    bad = submitted(scheduler, work([777] * 9, [1] * 9, [2] * 9))
    with pytest.raises(RuntimeError, match="device has failed"):
        bad.result(20)
    assert submitted(scheduler, work([3])).result(20).reduced.tolist() == [[3]]
    scheduler.close()


def test_closing_waits_for_the_card() -> None:
    card = CountingCard()
    scheduler = Scheduler(card)
    waiting = [submitted(scheduler, work([i] * 9)) for i in range(1, 4)]
    card.turn.release(9)
    scheduler.close()
    assert [job.result(0).reduced.tolist() for job in waiting] == [[[9]], [[18]], [[27]]]


# The same with the real encoder.

TEXTS = [f"Question {i}: which ferry leaves at {i % 24} o'clock from pier {i % 7}?" for i in range(64)]


@pytest.fixture(scope="module")
def encoder(minilm_path: str) -> Encoder:
    return Encoder(minilm_path, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def wanted(encoder: Encoder) -> np.ndarray:
    return np.concatenate([r.vectors for r in encoder.encode([SpanText(t) for t in TEXTS])])


def test_many_threads_get_their_own_vectors(encoder: Encoder, wanted: np.ndarray) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: encoder.encode([SpanText(text)], role="query")[0].vectors[0], TEXTS))
    np.testing.assert_allclose(np.stack(found), wanted, atol=1e-6)


async def test_many_tasks_get_their_own_vectors_in_few_passes(encoder: Encoder, wanted: np.ndarray) -> None:
    engine = encoder.scheduler.engine
    passes = 0
    run = engine.forward

    def counted(parts: Sequence[tuple[Job, NDArray[np.int64]]]) -> Written:
        nonlocal passes
        passes += 1
        return run(parts)

    engine.forward = counted  # type: ignore[method-assign]
    try:
        found = await asyncio.gather(*(encoder.aencode([SpanText(text)], role="query") for text in TEXTS))
    finally:
        engine.forward = run  # type: ignore[method-assign]
    np.testing.assert_allclose(np.stack([f[0].vectors[0] for f in found]), wanted, atol=1e-6)
    assert passes < len(TEXTS)


async def test_the_event_loop_goes_on_while_the_model_runs(encoder: Encoder) -> None:
    job = asyncio.ensure_future(encoder.aencode([SpanText(text * 5) for text in TEXTS]))
    turns = 0
    while not job.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    assert len(await job) == len(TEXTS)


async def test_cancelling_a_task_leaves_the_others_alone(encoder: Encoder, wanted: np.ndarray) -> None:
    bulk = asyncio.ensure_future(encoder.aencode([SpanText(text * 8) for text in TEXTS * 3]))
    query = asyncio.ensure_future(encoder.aencode([SpanText(TEXTS[0])], role="query"))
    await asyncio.sleep(0)
    bulk.cancel()
    np.testing.assert_allclose((await query)[0].vectors[0], wanted[0], atol=1e-6)
    with pytest.raises(asyncio.CancelledError):
        await bulk


def test_the_thread_ends_with_its_encoder(minilm_path: str) -> None:
    short_lived = Encoder(minilm_path, device="cpu", batch_tokens=999)  # no other encoder shares its settings
    asyncio.run(short_lived.aencode([SpanText("hello")]))
    thread = short_lived.scheduler._thread
    assert thread is not None
    assert thread.is_alive()
    del short_lived
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


def test_a_failed_pass_holds_no_memory_while_its_parts_run_alone() -> None:
    class PassMemory:
        pass

    class Crowded(CountingEngine):
        """Has memory for one job, with what failed passes still hold."""

        def __init__(self) -> None:
            super().__init__()
            self.held: weakref.WeakSet[PassMemory] = weakref.WeakSet()

        def forward(self, parts: Sequence[tuple[Job, NDArray[np.int64]]]) -> Written:
            memory = PassMemory()
            self.held.add(memory)
            if len(self.held) > 1 or len(parts) > 1:
                raise RuntimeError("out of memory")
            return super().forward(parts)

    scheduler = Scheduler(Crowded())
    jobs = [Job(work([1, 2]), 1), Job(work([3]), 1)]
    scheduler._run([(job, job.take(10)) for job in jobs])
    assert [float(job.future.result(0).reduced[0, 0]) for job in jobs] == [3.0, 3.0]
    scheduler.close()
