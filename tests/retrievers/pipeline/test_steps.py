"""An optional step fails without harm, is retried after temporary errors, and never outlives its limit."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from situate.errors import GenerationError, InputError, ModelError, PromptRefusedError, StepError
from situate.retrievers.pipeline.steps import StepPolicy, StepRunner, note


class Flaky:
    """Fails a number of times, then answers."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.failures = failures
        self.error = error or GenerationError("the model is busy")
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "answer"

    async def acall(self) -> str:
        return self()


async def run(mode: str, runner: StepRunner, work: Flaky) -> tuple[str, object]:
    trace = runner.trace()
    if mode == "sync":
        value = trace.run("hyde", work, "fallback")
    else:
        value = await trace.arun("hyde", work.acall, "fallback")
    return value, trace.steps[0]


both = pytest.mark.parametrize("mode", ["sync", "async"])
quick = StepPolicy(timeout=10, retries=2, backoff=0.0)


@both
async def test_result_is_recorded(mode):
    value, step = await run(mode, StepRunner(), Flaky(0))
    assert value == "answer"
    assert step.name == "hyde"
    assert step.error is None
    assert step.seconds >= 0


@both
async def test_passing_errors_are_retried(mode):
    work = Flaky(2)
    value, step = await run(mode, StepRunner(quick), work)
    assert (value, work.calls, step.error, step.details["attempts"]) == ("answer", 3, None, 3)


@both
async def test_retries_are_bounded(mode):
    work = Flaky(99)
    value, step = await run(mode, StepRunner(quick), work)
    assert (value, work.calls) == ("fallback", 3)
    assert step.error == "GenerationError: the model is busy"


@both
@pytest.mark.parametrize(
    "error", [InputError("wrong"), ModelError("no weights"), PromptRefusedError("too long"), TypeError("bug")]
)
async def test_errors_that_would_come_again_are_not_retried(mode, error):
    work = Flaky(99, error)
    value, step = await run(mode, StepRunner(quick), work)
    assert (value, work.calls) == ("fallback", 1)
    assert step.error


@both
async def test_raise(mode):
    with pytest.raises(StepError, match=r"hyde.*1 attempt.*GenerationError: the model is busy.*degrade") as caught:
        await run(mode, StepRunner(StepPolicy(retries=0, on_error="raise")), Flaky(1))
    assert isinstance(caught.value.__cause__, GenerationError)


def test_policy_of_a_single_step_wins():
    runner = StepRunner(StepPolicy(retries=0), {"rerank": StepPolicy(retries=0, on_error="raise")})
    trace = runner.trace()
    assert trace.run("hyde", Flaky(1), "fallback") == "fallback"
    with pytest.raises(StepError):
        trace.run("rerank:cross_encoder", Flaky(1), "fallback")
    assert [step.error is None for step in trace.steps] == [False, False]


def test_synchronous_limit_does_not_wait_for_work_that_hangs():
    release = threading.Event()
    trace = StepRunner(StepPolicy(timeout=0.02, retries=3)).trace()
    try:
        assert trace.run("hyde", lambda: release.wait(60), None) is None
    finally:
        release.set()
    assert trace.steps[0].error == "TimeoutError: no result within 0.02 s"
    assert trace.steps[0].seconds < 30


async def test_asynchronous_limit_cancels_the_work():
    cancelled = asyncio.Event()

    async def hangs() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    trace = StepRunner(StepPolicy(timeout=0.02, retries=3)).trace()
    assert await trace.arun("hyde", hangs, "fallback") == "fallback"
    assert cancelled.is_set()
    assert trace.steps[0].error == "TimeoutError: no result within 0.02 s"


async def test_cancelling_the_caller_cancels_the_work_and_is_no_failure():
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def hangs() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    task = asyncio.create_task(StepRunner().trace().arun("hyde", hangs, "fallback"))
    await asyncio.wait_for(started.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


@both
async def test_a_timeout_of_the_work_itself_keeps_its_message(mode):
    _, step = await run(mode, StepRunner(StepPolicy(retries=0)), Flaky(9, TimeoutError("server said no")))
    assert step.error == "TimeoutError: server said no"


def test_warns_once_per_cause(caplog):
    runner = StepRunner(StepPolicy(retries=0))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            runner.trace().run("hyde", Flaky(1), "")
        runner.trace().run("hyde", Flaky(1, RuntimeError("other")), "")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "GenerationError: the model is busy" in caplog.records[0].getMessage()
    assert "RuntimeError: other" in caplog.records[1].getMessage()


@both
async def test_work_notes_details_into_its_own_step(mode):
    async def anoted() -> int:
        note(drafts=2)
        return 1

    trace = StepRunner().trace()
    if mode == "sync":
        trace.run("hyde", lambda: note(drafts=2), None)
    else:
        await asyncio.gather(trace.arun("hyde", anoted, 0), trace.arun("hyde", anoted, 0))
    assert all(step.details == {"drafts": 2} for step in trace.steps)
    note(drafts=5)  # outside of a step it does nothing
    assert trace.steps[0].details == {"drafts": 2}


def test_required_steps_are_timed_and_their_errors_pass_unchanged():
    trace = StepRunner().trace()
    with trace.required("embed") as details:
        details["texts"] = 3
    assert trace.steps[0].details == {"texts": 3}
    with pytest.raises(InputError, match="k=0"), trace.required("search"):
        raise InputError("k=0")
    assert trace.steps[1].error == "InputError: k=0"


def test_long_messages_are_cut():
    _, step = asyncio.run(run("sync", StepRunner(StepPolicy(retries=0)), Flaky(9, GenerationError("x" * 10**6))))
    assert len(step.error) < 600


@both
async def test_no_key_of_an_error_reaches_the_record_or_the_log(mode, caplog):
    error = RuntimeError("api key sk-proj-0123456789abcdef refused (https://me:hunter2@host/v1?api_key=abcdefgh)")
    with caplog.at_level(logging.WARNING):
        _, step = await run(mode, StepRunner(StepPolicy(retries=0)), Flaky(9, error))
    assert step.error == "RuntimeError: api key [key] refused (https://[key]@host/v1?api_key=[key])"
    assert step.error in caplog.text
    runner = StepRunner(StepPolicy(retries=0, on_error="raise"))
    with pytest.raises(StepError) as caught:
        await run(mode, runner, Flaky(9, error))
    assert "0123456789abcdef" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments", [{"timeout": 0}, {"timeout": float("nan")}, {"retries": -1}, {"backoff": -1.0}, {"on_error": "ignore"}]
)
def test_policies_that_make_no_sense_are_refused(arguments):
    with pytest.raises(InputError):
        StepPolicy(**arguments)


def test_opentelemetry_spans(monkeypatch):
    trace_api = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace_api, "_TRACER_PROVIDER", provider)

    def work() -> None:
        with trace_api.get_tracer("llm").start_as_current_span("llm call"):
            note(drafts=2, texts=["private"])

    trace = StepRunner(StepPolicy(retries=0)).trace()
    trace.run("hyde", work, None)
    trace.run("rerank:llm", Flaky(1), "")

    llm, hyde, rerank = exporter.get_finished_spans()
    assert (hyde.name, rerank.name) == ("situate.hyde", "situate.rerank:llm")
    assert llm.parent.span_id == hyde.context.span_id  # also across the thread that a limit needs
    assert dict(hyde.attributes) == {"situate.drafts": 2}  # counts, no texts
    assert hyde.status.is_ok
    assert rerank.status.status_code is trace_api.StatusCode.ERROR
    assert rerank.status.description == "GenerationError"
