"""Several cores, each with passes of its own.

An operator that is spread over the cores makes them wait for one another at its end, hundreds of times in a pass, and
the products of a small model are too short for that. So a pass over many sequences is dealt out instead: every core
takes a share of the sequences through the whole model, and they meet once.

A pass that cannot be dealt out is spread over the cores, operator by operator. Where other processes want the cores,
too, that goes badly wrong: of the threads that wait for one another one has no core, while the others burn theirs
waiting, and a query takes many times as long (benchmarks/crowded.py). The operating system counts how often it took the
core away from a thread, which tells such a pass from a slow one; for a while then, one core computes alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import torch

#: Shares of fewer tokens are not worth the handing over, which costs as much as some ten tokens.
_SMALLEST_SHARE = 128
#: A core that is taken from a thread so often in a pass, and so often a second, is wanted by others. Now and then it is
#: taken on a quiet machine, too, and one core alone would be the slower way.
_TAKEN, _TAKEN_A_SECOND = 6, 50
#: Seconds until a pass is spread over all cores again: at first, and after that went wrong again and again.
_CROWDED_FOR, _CROWDED_AT_MOST = 0.25, 16.0


class Crew:
    """Threads that compute with one core each. They begin with the first `run`.

    Args:
        size: How many; as many as torch would spread an operator over, if not given.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = torch.get_num_threads() if size is None else size
        self._pool: ThreadPoolExecutor | None = None
        self._crowded_for, self._crowded_until = _CROWDED_FOR, 0.0

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

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run all at the same time; return, or raise what the first of them raised, when all have ended."""
        if self._pool is None:
            self._pool = self._started()
        running = [self._pool.submit(task) for task in tasks]
        wait(running)
        for task in running:
            task.result()

    def run_one(self, task: Callable[[], None]) -> None:
        """Run a task that cannot be shared: spread over all cores, or on one while others want the cores, too."""
        if self.size < 2:
            task()
            return
        started = time.monotonic()
        if started < self._crowded_until:
            self.run([task])
            return
        taken = _times_taken()
        task()
        taken, now = _times_taken() - taken, time.monotonic()
        if taken >= _TAKEN and taken > _TAKEN_A_SECOND * (now - started):
            self._crowded_until = now + self._crowded_for
            self._crowded_for = min(2 * self._crowded_for, _CROWDED_AT_MOST)
        else:
            self._crowded_for = _CROWDED_FOR

    def _started(self) -> ThreadPoolExecutor:
        ready = threading.Barrier(self.size + 1)
        pool = ThreadPoolExecutor(self.size, thread_name_prefix="situate-core", initializer=_take_one_core)
        own = torch.get_num_threads()
        for _ in range(self.size):
            pool.submit(ready.wait)
        ready.wait()
        # The number belongs to a thread, but threads that have none yet take the last one that was set anywhere.
        torch.set_num_threads(own)
        return pool


def _times_taken() -> int:
    """How often this thread lost its core to another one; 0 where the operating system does not say."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (ImportError, AttributeError):  # Windows has no such module, macOS no such counter
        return 0


def _take_one_core() -> None:
    torch.get_num_threads()  # torch gives a thread its number when it first asks, and would overwrite ours
    torch.set_num_threads(1)
