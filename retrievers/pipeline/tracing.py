"""OpenTelemetry spans through the standard API, where it is installed. Exporting them is the application's business."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

from situate.retrievers.types import Step


class StepSpan(Protocol):
    """Records a step when it ends."""

    def describe(self, step: Step) -> None:
        """Writes the step's counts and error to the span; never texts, which may be private."""
        ...


@contextmanager
def otel_span(name: str) -> Iterator[StepSpan]:
    """A span that is current while the block runs; a span that does nothing without ``opentelemetry-api``."""
    api = _api()
    if api is None:
        yield _NoSpan()
        return
    with api.get_tracer("situate").start_as_current_span(name) as span:
        yield _OtelSpan(api, span)


def record(step: Step) -> None:
    """A span for a step that ends now, as a child of the current span."""
    api = _api()
    if api is None:
        return
    end = time.time_ns()
    span = api.get_tracer("situate").start_span(f"situate.{step.name}", start_time=end - int(step.seconds * 1e9))
    _OtelSpan(api, span).describe(step)
    span.end(end)


class _NoSpan:
    def describe(self, step: Step) -> None:
        pass


class _OtelSpan:
    def __init__(self, api: Any, span: Any) -> None:
        self._api = api
        self._span = span

    def describe(self, step: Step) -> None:
        for key, value in step.details.items():
            if isinstance(value, bool | int | float):
                self._span.set_attribute(f"situate.{key}", value)
        if step.error is not None:
            self._span.set_status(self._api.StatusCode.ERROR, step.error.partition(":")[0])


@cache
def _api() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace
