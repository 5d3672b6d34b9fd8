"""Few queries at once are admitted to the same work, and waiting for admission is no failure."""

from __future__ import annotations

import asyncio
import pickle
import threading

import pytest

from situate.embedders import CrossEncoderModel, Embedder, OpenAIEncoder
from situate.errors import InputError
from situate.retrievers.pipeline.concurrency import AT_A_SERVER, LoopLimit, StartLimit, in_this_process, model_limit
from situate.retrievers.pipeline.steps import StepPolicy, StepRunner, note


async def test_calls_are_admitted_up_to_the_limit_in_order_of_arrival() -> None:
    limit = LoopLimit(2)
    inside: set[int] = set()
    most = 0
    order: list[int] = []

    async def work(number: int) -> None:
        nonlocal most
        async with limit.slot():
            inside.add(number)
            order.append(number)
            most = max(most, len(inside))
            await asyncio.sleep(0)
            inside.remove(number)

    await asyncio.gather(*(work(number) for number in range(20)))
    assert most == 2
    assert order == list(range(20))


async def test_only_so_many_begin_in_an_iteration() -> None:
    limit, begun = StartLimit(4), []

    async def call(number: int) -> None:
        await limit.begin()
        begun.append(number)

    calls = [asyncio.ensure_future(call(number)) for number in range(10)]
    seen = []
    while len(begun) < 10:
        await asyncio.sleep(0)
        seen.append(len(begun))
    await asyncio.gather(*calls)
    steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    assert max(steps) == 4
    assert begun == list(range(10))


def test_a_loop_that_ended_keeps_no_call_of_the_next_one_waiting() -> None:
    limit = StartLimit(1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(limit.begin())
    loop.close()
    asyncio.run(asyncio.wait_for(limit.begin(), 5))
    asyncio.run(asyncio.wait_for(limit.begin(), 5))


def test_every_event_loop_has_a_limit_of_its_own() -> None:
    limit = LoopLimit(1)

    async def contended() -> int:
        async def one() -> int:
            async with limit.slot():
                await asyncio.sleep(0)
                return 1

        return sum(await asyncio.gather(*(one() for _ in range(3))))

    assert asyncio.run(contended()) == asyncio.run(contended()) == 3


async def test_a_cancelled_waiter_leaves_its_place_to_the_next() -> None:
    limit, leave = LoopLimit(1), asyncio.Event()

    async def holder() -> None:
        async with limit.slot():
            await leave.wait()

    async def waiter() -> str:
        async with limit.slot():
            return "done"

    first = asyncio.create_task(holder())
    await asyncio.sleep(0)
    second, third = asyncio.create_task(waiter()), asyncio.create_task(waiter())
    await asyncio.sleep(0)
    second.cancel()
    leave.set()
    assert await third == "done"
    await first
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_the_timeout_of_a_step_counts_from_its_admission() -> None:
    """Two hundred at once do not degrade because each waits for the others."""
    limit, runner = LoopLimit(1), StepRunner(StepPolicy(timeout=0.3, retries=0))
    leave = asyncio.Event()

    async def holder() -> None:
        async with limit.slot():
            await leave.wait()

    async def work() -> str:
        async with limit.slot():
            return "reranked"

    first = asyncio.create_task(holder())
    await asyncio.sleep(0)
    trace = runner.trace()
    second = asyncio.create_task(trace.arun("rerank", work, "as it was"))
    await asyncio.sleep(0.6)
    assert not second.done()
    leave.set()
    assert await second == "reranked"
    assert trace.steps[0].error is None
    assert trace.steps[0].details["waited"] > 0.5
    await first


async def test_after_its_admission_a_step_has_its_timeout_again() -> None:
    limit, runner = LoopLimit(1), StepRunner(StepPolicy(timeout=0.2, retries=3, backoff=0.0))
    calls = 0

    async def holder() -> None:
        async with limit.slot():
            await asyncio.sleep(0.05)

    async def work() -> str:
        nonlocal calls
        calls += 1
        async with limit.slot():
            await asyncio.Event().wait()
            return "never"

    first = asyncio.create_task(holder())
    await asyncio.sleep(0)
    trace = runner.trace()
    assert await trace.arun("rerank", work, "as it was") == "as it was"
    assert "no result within 0.2 s" in (trace.steps[0].error or "")
    assert calls == 1
    await first


async def test_a_thread_has_the_callers_context_and_passes_errors_on() -> None:
    limit, runner = LoopLimit(1), StepRunner()

    def noting() -> int:
        note(thread=threading.current_thread() is not threading.main_thread())
        return 7

    trace = runner.trace()
    assert await trace.arun("step", lambda: limit.in_thread(noting), 0) == 7
    assert trace.steps[0].details == {"thread": True}

    def failing() -> int:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await limit.in_thread(failing)


async def test_what_waits_for_a_thread_can_be_taken_back() -> None:
    limit, entered, leave = LoopLimit(1), threading.Event(), threading.Event()
    done: list[int] = []

    def block() -> None:
        entered.set()
        leave.wait()

    first = asyncio.create_task(limit.in_thread(block))
    await asyncio.to_thread(entered.wait)
    second = asyncio.create_task(limit.in_thread(lambda: done.append(2)))
    third = asyncio.create_task(limit.in_thread(lambda: done.append(3)))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    leave.set()
    await asyncio.gather(first, third)
    assert done == [3]


async def test_models_here_and_at_a_server() -> None:
    here = Embedder()
    served = OpenAIEncoder("some-model", "http://localhost:1")
    assert in_this_process(here)
    assert in_this_process(CrossEncoderModel("nowhere"))
    assert not in_this_process(served)
    assert not in_this_process(object())
    for model, at_once in ((here, 1), (served, AT_A_SERVER)):
        limit = model_limit(model, 1)
        async with limit.slot():
            assert limit.at_once == at_once
        assert pickle.loads(pickle.dumps(limit)).at_once == at_once


def test_pickles_and_refuses_nonsense() -> None:
    assert pickle.loads(pickle.dumps(LoopLimit(3))).at_once == 3
    with pytest.raises(InputError, match="at_once=0"):
        LoopLimit(0)
