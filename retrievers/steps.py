"""Running the steps of a query: timed, bounded, retried, and harmless when an optional one fails."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    stop_never,
    wait_exponential_jitter,
)

from situate.chunkers.errors import InputError, ModelError, StepError
from situate.retrievers.tracing import otel_span
from situate.retrievers.types import Step

T = TypeVar("T")
OnError: TypeAlias = Literal["degrade", "raise"]

_logger = logging.getLogger(__name__)
_noted: ContextVar[dict[str, Any] | None] = ContextVar("situate_step_details", default=None)

#: Errors that a second attempt would meet again.
_PERMANENT = (
    ModelError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    ImportError,
    MemoryError,
)
#: An error's message may quote an answer of any length; a step record keeps this much of it.
_MESSAGE_LIMIT = 500


def note(**details: Any) -> None:
    """Adds to the details of the step that is running; does nothing outside of one.

    This is how an expander or a reranker, whose return value has no room for it, says what it did: drafts, counts,
    tokens.
    """
    noted = _noted.get()
    if noted is not None:
        noted.update(details)


@dataclass(frozen=True)
class StepPolicy:
    """How an optional step may fail.

    Attributes:
        timeout: Seconds for the step, all attempts and the waiting between them together; None for no limit. In
            synchronous calls the work goes on in its thread after the limit, because Python cannot stop a thread,
            but nobody waits for it; in asynchronous calls it is cancelled.
        retries: Further attempts after the first, for errors that may pass (not for wrong input or models).
        backoff: Seconds before the first retry; doubled for each one after it, with jitter.
        on_error: "degrade" keeps the result of the step before; "raise" raises a `StepError`.
    """

    timeout: float | None = 30.0
    retries: int = 1
    backoff: float = 0.2
    on_error: OnError = "degrade"

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f"timeout={self.timeout}: seconds must be more than 0, or None for no limit")
        if self.retries < 0 or self.backoff < 0:
            raise InputError(f"retries={self.retries} and backoff={self.backoff} must be 0 or more")
        if self.on_error not in ("degrade", "raise"):
            raise InputError(f'on_error={self.on_error!r}: "degrade" or "raise"')


class StepRunner:
    """Runs the optional steps of queries by one policy, and remembers what it has warned of.

    Args:
        policy: What holds for every step.
        policies: Policies of single steps by name, or by the part of the name before the first colon ("rerank").
    """

    def __init__(self, policy: StepPolicy = StepPolicy(), policies: Mapping[str, StepPolicy] | None = None) -> None:
        self.policy = policy
        self.policies = dict(policies or {})
        self._warned: set[tuple[str, ...]] = set()

    def trace(self) -> Trace:
        """The record of one query, through which its steps are run."""
        return Trace(self)

    def policy_of(self, name: str) -> StepPolicy:
        """The policy of the step ``name``."""
        return self.policies.get(name) or self.policies.get(name.partition(":")[0]) or self.policy

    def warn_once(self, name: str, error: Exception) -> None:
        """Logs that a step was skipped, once per step and kind of cause.

        It is logged and not a Python warning: a warning filter set to "error" would fail the very query that
        degrading is there to save.
        """
        cause = (name, *(type(e).__name__ for e in (error, error.__cause__) if e is not None))
        if cause not in self._warned:
            self._warned.add(cause)
            _logger.warning(
                "step %r failed and was skipped (%s); further failures of this kind are marked on the result only",
                name,
                _message(error),
            )


class Trace:
    """The steps of one query, in the order in which they ended."""

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner
        self._steps: list[Step] = []

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was done so far."""
        return tuple(self._steps)

    @contextmanager
    def required(self, name: str) -> Iterator[dict[str, Any]]:
        """Records a step that the query cannot do without; its errors pass unchanged. Yields the step's details."""
        with self._record(name) as record:
            yield record.details
            record.finish()

    def run(self, name: str, work: Callable[[], T], fallback: T) -> T:
        """The result of ``work``, or ``fallback`` where it failed and the policy is to degrade.

        Raises:
            StepError: It failed and the policy is to raise.
        """
        policy = self._runner.policy_of(name)
        with self._record(name) as record:
            deadline = _deadline(policy)
            try:
                value: T = Retrying(**_retrying(policy, record))(_within, work, policy, deadline)
            except Exception as error:  # noqa: BLE001 - whatever an optional step dies of, the query goes on
                self._failed(name, policy, record, error)
                return fallback
            record.finish()
            return value

    async def arun(self, name: str, work: Callable[[], Awaitable[T]], fallback: T) -> T:
        """`run` for asynchronous work. Cancelling it cancels the work, and is never taken for a failure of it."""
        policy = self._runner.policy_of(name)
        with self._record(name) as record:
            deadline = _deadline(policy)
            try:
                value: T = await AsyncRetrying(**_retrying(policy, record))(_awithin, work, policy, deadline)
            except Exception as error:  # noqa: BLE001 - as in run; CancelledError is no Exception and passes
                self._failed(name, policy, record, error)
                return fallback
            record.finish()
            return value

    def skip(self, name: str, **details: Any) -> None:
        """Records that there was nothing to do for a step, and why."""
        self._steps.append(Step(name, 0.0, details))

    @contextmanager
    def _record(self, name: str) -> Iterator[_Record]:
        record = _Record(time.perf_counter())
        token = _noted.set(record.details)
        with otel_span(f"situate.{name}") as span:
            try:
                yield record
            except BaseException as error:
                record.error = _message(error)
                raise
            finally:
                _noted.reset(token)
                step = Step(name, record.seconds(), dict(record.details), record.error)
                self._steps.append(step)
                span.describe(step)

    def _failed(self, name: str, policy: StepPolicy, record: _Record, error: Exception) -> None:
        record.error = _message(error)
        if policy.on_error == "raise":
            raise StepError(
                f"step {name!r} failed after {record.attempts} attempt(s) with {_message(error)}. "
                'With on_error="degrade" the query would have gone on without it'
            ) from error
        self._runner.warn_once(name, error)


class _Record:
    """A step while it runs."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.ended: float | None = None
        self.details: dict[str, Any] = {}
        self.error: str | None = None
        self.attempts = 1

    def finish(self) -> None:
        self.ended = time.perf_counter()
        if self.attempts > 1:
            self.details["attempts"] = self.attempts

    def seconds(self) -> float:
        return (self.ended if self.ended is not None else time.perf_counter()) - self.started


def _deadline(policy: StepPolicy) -> float | None:
    return None if policy.timeout is None else time.monotonic() + policy.timeout


def _retrying(policy: StepPolicy, record: _Record) -> dict[str, Any]:
    """What both of tenacity's drivers are given."""

    def counted(state: RetryCallState) -> None:
        record.attempts = state.attempt_number

    # a retry that would only begin after the limit is not waited for
    limit = stop_never if policy.timeout is None else stop_before_delay(policy.timeout)
    return {
        "stop": stop_after_attempt(policy.retries + 1) | limit,
        "wait": wait_exponential_jitter(multiplier=policy.backoff, jitter=policy.backoff),
        "retry": retry_if_exception(lambda e: isinstance(e, Exception) and not isinstance(e, _PERMANENT)),
        "before": counted,
        "reraise": True,
    }


def _within(work: Callable[[], T], policy: StepPolicy, deadline: float | None) -> T:
    """``work()``, waited for until the deadline.

    Raises:
        TimeoutError: The deadline passed first.
    """
    if deadline is None:
        return work()
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            outcome.set_exception(error)

    # A daemon thread and no pool: a pool would wait for work that hangs when the program ends.
    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="situate-step", daemon=True).start()
    try:
        return outcome.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError as error:
        if outcome.done():  # the work's own error
            raise
        raise TimeoutError(f"no result within {policy.timeout} s") from error


async def _awithin(work: Callable[[], Awaitable[T]], policy: StepPolicy, deadline: float | None) -> T:
    if deadline is None:
        return await work()
    limit = asyncio.timeout(max(0.0, deadline - time.monotonic()))
    try:
        async with limit:
            return await work()
    except TimeoutError as error:
        if not limit.expired():  # the work's own error
            raise
        raise TimeoutError(f"no result within {policy.timeout} s") from error


def _message(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _MESSAGE_LIMIT else text[:_MESSAGE_LIMIT] + "..."
