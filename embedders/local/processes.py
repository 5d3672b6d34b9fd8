"""Several devices: a process for each, with a copy of the encoder, and texts dealt out among them.

Processes and not threads, because the work around a device (tokens, batches, pooled results) is Python. They are
spawned, never forked: CUDA does not survive a fork, and neither do the locks of other threads. The pool is the standard
library's, which notices a process that dies and leaves none behind.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from situate.embedders.types import Encoded, SpanText
from situate.errors import ModelError, TruncationWarning
from situate.threads import renew_after_fork

#: Texts that a process is given at once: few enough that the last ones of a call end at about the same time.
_SHARE_TEXTS, _SHARE_CHARACTERS = 512, 500_000
#: Shares of one call that may wait or run, per device. Callers with one text run in between.
_AHEAD = 2

_Result = tuple[list[Encoded], list[tuple[type[Warning], str]]]


class DeviceProcesses:
    """Copies of one encoder, each on a device of its own. The processes begin with the first text.

    Args:
        encoders: The encoder for each device.
    """

    def __init__(self, encoders: Sequence[Any]) -> None:
        self._encoders = [pickle.dumps(encoder) for encoder in encoders]
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """No processes, whose pool is the parent's."""
        self._lock = threading.RLock()
        self._pool: ProcessPoolExecutor | None = None

    def map(
        self, inputs: Sequence[SpanText], options: dict[str, Any], seen: Callable[[int], None] = lambda count: None
    ) -> list[Encoded]:
        """One result per input, in order.

        Args:
            inputs: Texts and their spans.
            options: Further arguments of the encoders' ``encode``.
            seen: Called with the number of newly finished texts.

        Raises:
            ModelError: A process died.
        """
        results: list[Encoded] = []
        waiting: deque[Future[_Result]] = deque()
        shares = _shares(inputs)
        try:
            while True:
                for share in shares:
                    waiting.append(self._submit(share, options))
                    if len(waiting) >= _AHEAD * len(self._encoders):
                        break
                if not waiting:
                    return results
                done = _opened(waiting.popleft().result())
                results += done
                seen(len(done))
        except BrokenProcessPool as error:
            raise self._died() from error
        finally:
            for future in waiting:
                future.cancel()

    async def amap(self, inputs: Sequence[SpanText], options: dict[str, Any]) -> list[Encoded]:
        """`map` without blocking the event loop; cancelling it withdraws the texts that have not run yet."""
        results: list[Encoded] = []
        waiting: deque[Future[_Result]] = deque()
        shares = _shares(inputs)
        try:
            while True:
                for share in shares:
                    waiting.append(await asyncio.to_thread(self._submit, share, options))
                    if len(waiting) >= _AHEAD * len(self._encoders):
                        break
                if not waiting:
                    return results
                results += _opened(await asyncio.wrap_future(waiting.popleft()))
        except BrokenProcessPool as error:
            raise self._died() from error
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the processes after their running texts; the next call starts them again."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _submit(self, share: Sequence[SpanText], options: dict[str, Any]) -> Future[_Result]:
        with self._lock:
            if self._pool is None:
                self._pool = self._started()
            return self._pool.submit(_encode, list(share), options)

    def _started(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        # Each process takes one; one pickle each, so that no process needs the others' encoders.
        places = context.SimpleQueue()
        for encoder in self._encoders:
            places.put(encoder)
        pool = ProcessPoolExecutor(
            len(self._encoders), mp_context=context, initializer=_begin, initargs=(places, len(self._encoders))
        )
        weakref.finalize(self, pool.shutdown, cancel_futures=True)
        return pool

    def _died(self) -> ModelError:
        self.close()
        return ModelError(
            f"one of the {len(self._encoders)} processes that encode (one per device) ended while it worked: it may "
            "have been killed for memory (give batch_tokens=, or fewer devices), or the program that started them has "
            "no `if __name__ == '__main__':` around what it runs. The next call starts them again"
        )


_ENCODER: Any = None


def _begin(places: Any, count: int) -> None:
    """In a new process: take an encoder. The first text loads it, so that an error reaches a caller."""
    global _ENCODER
    _ENCODER = pickle.loads(places.get())  # noqa: S301  this process's own parent put it there
    if _ENCODER.device == "cpu":
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))


def _encode(share: list[SpanText], options: dict[str, Any]) -> _Result:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        results = _ENCODER.encode(share, **options)
    # Texts that were cut are counted by the caller, over all processes.
    kept = [(w.category, str(w.message)) for w in given if not issubclass(w.category, TruncationWarning)]
    return results, kept


def _opened(result: _Result) -> list[Encoded]:
    for category, message in result[1]:
        warnings.warn(message, category, stacklevel=4)
    return result[0]


def _shares(inputs: Sequence[SpanText]) -> Iterator[Sequence[SpanText]]:
    start = characters = 0
    for i, item in enumerate(inputs):
        if i > start and (i - start >= _SHARE_TEXTS or characters + len(item.text) > _SHARE_CHARACTERS):
            yield inputs[start:i]
            start, characters = i, 0
        characters += len(item.text)
    if start < len(inputs):
        yield inputs[start:]
