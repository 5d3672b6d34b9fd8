"""One owner of the device, many callers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from situate.embedders._engine import Done, Work


class Scheduler:
    """Runs what many callers ask for, on one thread.

    Args:
        run: The engine's own method.
    """

    def __init__(self, run: Callable[[Work], Done]) -> None:
        self._run = run
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="situate-encoder")

    def submit(self, work: Work, priority: str) -> Future[Done]:
        """What ``work`` asks for, some time later."""
        return self._thread.submit(self._run, work)

    def close(self) -> None:
        """End the thread when what was asked for is done."""
        self._thread.shutdown()
