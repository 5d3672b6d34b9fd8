"""The CPU's cores: which threads compute, with how many cores each, and the OpenMP threads that they release.

**Shares.** An operator that is spread over the cores makes them wait for one another at its end, hundreds of times in a
pass, and the products of a small model are too short for that. So a pass over many sequences is dealt out instead:
every core takes a share of the sequences through the whole model, and they meet once.

**Busy machines.** A pass that cannot be dealt out is spread over the cores, operator by operator. Where other processes
use the cores too, one of the threads that wait for one another has no core, the others spin on theirs, and a query
takes many times as long (benchmarks/crowded.py). The operating system counts how often it preempts a thread, which
distinguishes such a pass from a slow one; for a while then, one core computes alone.

**OpenMP's threads.** OpenMP gives every thread that computes a team of threads of its own, and keeps it until that
thread computes again or ends. GNU's OpenMP, which torch uses on Linux, counts them all: as soon as they are more than
the cores, whether they work or not, no team waits awake for its next operator, and having to be woken some hundred
times makes a query half as slow again. So a thread releases its team after it has computed. Making a team for the next
pass costs a query about a fourteenth of its time; a program that computes in its main thread alone does not pay it. A
fork copies the team's records without its threads, and the child's first operator would wait for them for ever.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch

from situate.errors import InputError
from situate.threads import ThreadPool

Cores: TypeAlias = Literal["adaptive", "all"]

#: A share of fewer tokens is not worth handing to another thread, which costs as much as some ten tokens.
_SMALLEST_SHARE = 128
#: `omp_pause_soft` of the OpenMP standard (5.0, section 3.2.46).
_PAUSE_SOFT = 1
#: After so many passes with no other thread's between them the main thread keeps its team: more than the warming up of
#: a server whose own threads will ask. Another thread's pass ends that, as soon as the main thread has computed again.
_PASSES_ALONE = 32


def cores_setting() -> Cores:
    """``SITUATE_CORES`` of the environment: "adaptive" (the default), or "all".

    On a busy machine "adaptive" leaves some passes to one core, which adds up in another order: two vectors of one text
    may differ in their last bit. With "all" they never do, where the pass itself does not depend on its batch.

    Raises:
        InputError: The value is neither of them.
    """
    found = os.environ.get("SITUATE_CORES", "adaptive")
    if found == "all":
        return "all"
    if found == "adaptive":
        return "adaptive"
    raise InputError(f"the environment variable SITUATE_CORES is {found!r}: set it to 'adaptive' or 'all', or unset it")


@dataclass(frozen=True)
class CrowdRule:
    """When a thread shares its core with other processes, and for how long one core computes alone then.

    On a quiet machine a thread is preempted now and then too, and there one core alone would be slower.

    Attributes:
        times: Least preemptions in a pass.
        times_a_second: The pass has more than so many in each second.
        first_wait: Seconds until a pass is spread over all cores again; twice as many after each such pass in a row.
        longest_wait: Most seconds.
    """

    times: int = 6
    times_a_second: float = 50
    first_wait: float = 0.25
    longest_wait: float = 16.0


def preemptions() -> int:
    """How often this thread lost its core to another one; 0 where the operating system does not say."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (ImportError, AttributeError):  # Windows has no such module, macOS no such counter
        return 0


class CorePool:
    """Threads that compute with one core each. They begin with the first `map`.

    Args:
        size: How many; as many as torch would spread an operator over, if not given.
        cores: How a pass that cannot be dealt out runs on a busy machine; None: `cores_setting`.
        rule: When the machine is busy.
        count: The calling thread's preemptions so far.
        clock: Seconds.
    """

    def __init__(
        self,
        size: int | None = None,
        cores: Cores | None = None,
        *,
        rule: CrowdRule = CrowdRule(),
        count: Callable[[], int] = preemptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.size = torch.get_num_threads() if size is None else size
        self.cores: Cores = cores_setting() if cores is None else cores
        self._pool = ThreadPool(self.size, "situate-core", _take_one_core)
        self._rule, self._count, self._clock = rule, count, clock
        self._crowded_for, self._crowded_until = rule.first_wait, 0.0

    @property
    def crowded(self) -> bool:
        """Whether `run_alone` leaves a pass to one core now, since other processes use the others."""
        return self._clock() < self._crowded_until

    def shares(self, lengths: Sequence[int]) -> list[list[int]]:
        """Deal out sequences, equally many tokens to each share.

        Args:
            lengths: Tokens of each sequence, longest first.

        Returns:
            Rows of ``lengths`` by share, in order; one share where more are not worth it.
        """
        count = min(self.size, len(lengths), sum(lengths) // _SMALLEST_SHARE)
        if count < 2:
            return [list(range(len(lengths)))]
        shares: list[list[int]] = [[] for _ in range(count)]
        tokens = [0] * count
        for row, length in enumerate(lengths):
            least = tokens.index(min(tokens))
            shares[least].append(row)
            tokens[least] += length
        # One sequence longer than the rest together: all cores on it at once, and on the others, beat one after it.
        return shares if max(tokens) * (count + 1) <= 2 * sum(tokens) else [list(range(len(lengths)))]

    def map(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run all at the same time; return, or raise what the first of them raised, when all have ended."""
        own = torch.get_num_threads()
        self._pool.started(self.size)
        # The number belongs to a thread, but threads that have none yet take the last one that was set anywhere.
        torch.set_num_threads(own)
        running = [self._pool.submit(task) for task in tasks]
        wait(running)
        for task in running:
            task.result()

    def run_alone(self, task: Callable[[], None]) -> None:
        """Run a task that cannot be shared: spread over all cores, or on one while others want the cores, too."""
        if self.size < 2 or self.cores == "all":
            task()
            return
        if self.crowded:
            self.map([task])
            return
        rule, started, taken = self._rule, self._clock(), self._count()
        task()
        taken, now = self._count() - taken, self._clock()
        if taken >= rule.times and taken > rule.times_a_second * (now - started):
            self._crowded_until = now + self._crowded_for
            self._crowded_for = min(2 * self._crowded_for, rule.longest_wait)
        else:
            self._crowded_for = rule.first_wait


class _InARow:
    """Passes of the main thread since another thread's; that threads overwrite each other's number is harmless."""

    passes = 0


@contextmanager
def computing() -> Iterator[None]:
    """`torch.inference_mode`, and `release_openmp_threads` after it."""
    try:
        with torch.inference_mode():
            yield
    finally:
        release_openmp_threads()


def release_openmp_threads() -> None:
    """End the calling thread's team of OpenMP threads, unless it is the main thread, which has long been alone."""
    _InARow.passes = _InARow.passes + 1 if threading.current_thread() is threading.main_thread() else 0
    if _InARow.passes <= _PASSES_ALONE:
        _release()()


@lru_cache(maxsize=1)
def _release() -> Callable[[], object]:
    try:
        # GNU's library under its own name, and only if it is in the process already: others do not count the teams.
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
        pause, device = library.omp_pause_resource, library.omp_get_initial_device()
    except (OSError, AttributeError):  # no Linux, another OpenMP, or one from before 5.0
        return lambda: None
    return lambda: pause(_PAUSE_SOFT, device)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: _release()())


def _take_one_core() -> None:
    torch.get_num_threads()  # torch gives a thread its number when it first asks, and would overwrite ours
    torch.set_num_threads(1)
