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
    wait_exponential,
    wait_random,
)

from situate.errors import InputError, ModelError, PromptRefusedError, StepError
from situate.outside import safe_message
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.tracing import otel_span
from situate.retrievers.types import Step

T = TypeVar("T")
OnError: TypeAlias = Literal["degrade", "raise"]

_logger = logging.getLogger(__name__)
_noted: ContextVar[dict[str, Any] | None] = ContextVar("situate_step_details", default=None)
_clock: ContextVar[_Clock | None] = ContextVar("situate_step_clock", default=None)

#: Errors that a second attempt would raise again.
_PERMANENT = (
    ModelError,
    PromptRefusedError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    ImportError,
    MemoryError,
)


def note(**details: Any) -> None:
    """Adds to the details of the step that is running; does nothing outside of one.

    An expander or a reranker, whose return value has no room for it, reports its work with this: drafts, counts,
    tokens.
    """
    noted = _noted.get()
    if noted is not None:
        noted.update(details)


@contextmanager
def waiting() -> Iterator[None]:
    """Stops the clock of the asynchronous step that is running while the block waits for admission."""
    clock = _clock.get()
    if clock is None:
        yield
        return
    started = time.monotonic()
    clock.stop()
    try:
        yield
    finally:
        waited = time.monotonic() - started
        clock.go_on(waited)
        note(waited=clock.waited)


@checked_parameters
@dataclass(frozen=True)
class StepPolicy:
    """How an optional step may fail.

    Attributes:
        timeout: Seconds for the step, all attempts and the pauses between them together; None for no limit. In
            synchronous calls the work goes on in its thread after the limit, because Python cannot stop a thread,
            and its result is dropped; in asynchronous calls it is cancelled. The time that an asynchronous call waits
            for admission, because other queries are in the same step (`LoopLimit`), does not count.
        retries: Further attempts after the first, for errors that may pass (not for wrong input or models).
        backoff: Seconds before the first retry; doubled for each one after it, with jitter.
        on_error: "degrade" keeps the result of the step before; "raise" raises a `StepError`.

    Raises:
        InputError: ``timeout`` is not above 0, ``retries`` or ``backoff`` is negative, or ``on_error`` is neither of
            the two.
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


@checked_parameters
class StepRunner:
    """Runs the optional steps of queries by one policy, and logs each kind of failure once.

    Args:
        policy: The policy of every step.
        policies: Policies of single steps by name, or by the part of the name before the first colon ("rerank").
    """

    def __init__(self, policy: StepPolicy = StepPolicy(), policies: Mapping[str, StepPolicy] | None = None) -> None:
        self.policy = policy
        self.policies = dict(policies or {})
        for name, given in self.policies.items():
            if not isinstance(given, StepPolicy):
                raise InputError(f"policies[{name!r}] is {given!r:.80}: give a StepPolicy")
        self._warned: set[tuple[str, ...]] = set()

    def trace(self) -> Trace:
        """The record of one query, through which its steps are run."""
        return Trace(self)

    def policy_of(self, name: str) -> StepPolicy:
        """The policy of the step ``name``."""
        return self.policies.get(name) or self.policies.get(name.partition(":")[0]) or self.policy

    def warn_once(self, name: str, error: Exception) -> None:
        """Logs that a step was skipped and why, once per step and kind of cause, without what looks like a key.

        It is logged and not a Python warning: a warning filter set to "error" would fail the very query that degrading
        saves.
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
        """The steps so far."""
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
            clock = _Clock(policy.timeout)
            try:
                value: T = Retrying(**_retrying(policy, record, clock))(_within, work, clock)
            except Exception as error:  # noqa: BLE001 - whatever an optional step dies of, the query goes on
                self._failed(name, policy, record, error)
                return fallback
            record.finish()
            return value

    async def arun(self, name: str, work: Callable[[], Awaitable[T]], fallback: T) -> T:
        """`run` for asynchronous work. Cancelling it cancels the work, and is never taken for a failure of it."""
        policy = self._runner.policy_of(name)
        with self._record(name) as record:
            clock = _Clock(policy.timeout)
            try:
                value: T = await AsyncRetrying(**_retrying(policy, record, clock))(_awithin, work, clock)
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


class _Clock:
    """The rest of a step's time."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.waited = 0.0
        self.limit: asyncio.Timeout | None = None
        self._started = time.monotonic()

    def left(self) -> float | None:
        """Seconds, 0 or more; None without a limit."""
        if self.timeout is None:
            return None
        return max(0.0, self._started + self.waited + self.timeout - time.monotonic())

    def stop(self) -> None:
        if self.limit is not None:
            self.limit.reschedule(None)

    def go_on(self, waited: float) -> None:
        self.waited += waited
        left = self.left()
        if self.limit is not None and left is not None and not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time() + left)

    def over(self) -> TimeoutError:
        return TimeoutError(f"no result within {self.timeout} s")


def _retrying(policy: StepPolicy, record: _Record, clock: _Clock) -> dict[str, Any]:
    """The settings of both of tenacity's drivers."""

    def counted(state: RetryCallState) -> None:
        record.attempts = state.attempt_number

    def too_late(state: RetryCallState) -> bool:
        left = clock.left()
        return left is not None and left <= state.upcoming_sleep

    attempts = stop_after_attempt(policy.retries + 1)
    return {
        # a retry that would begin after the limit is not attempted
        "stop": lambda state: attempts(state) or too_late(state),
        "wait": wait_exponential(multiplier=policy.backoff) + wait_random(0, policy.backoff),
        "retry": retry_if_exception(lambda e: isinstance(e, Exception) and not isinstance(e, _PERMANENT)),
        "before": counted,
        "reraise": True,
    }


def _within(work: Callable[[], T], clock: _Clock) -> T:
    """``work()``, waited for until the limit.

    Raises:
        TimeoutError: The limit came first.
    """
    if clock.timeout is None:
        return work()
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            outcome.set_exception(error)

    # A daemon thread and no pool: at the program's end a pool would wait for work that hangs.
    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="situate-step", daemon=True).start()
    try:
        return outcome.result(clock.left())
    except TimeoutError as error:
        if outcome.done():  # the work's own error
            raise
        raise clock.over() from error


async def _awithin(work: Callable[[], Awaitable[T]], clock: _Clock) -> T:
    if clock.timeout is None:
        return await work()
    limit = clock.limit = asyncio.timeout(clock.left())
    token = _clock.set(clock)
    try:
        async with limit:
            return await work()
    except TimeoutError as error:
        if not limit.expired():  # the work's own error
            raise
        raise clock.over() from error
    finally:
        _clock.reset(token)
        clock.limit = None


def _message(error: BaseException) -> str:
    """The error and what it was raised from, without what looks like a key."""
    message, cause = safe_message(error), error.__cause__
    # A limit that ended the work is its own cause: the error below it only tells where the work was.
    return message if cause is None or isinstance(error, TimeoutError) else f"{message} (from {safe_message(cause)})"
