"""Several devices: a process for each, with a copy of the encoder, and texts dealt out among them.

Processes and not threads, because the work around a device (tokens, batches, pooled results) is Python. They are
spawned, never forked: CUDA does not survive a fork, and neither do the locks of other threads. In each process several
threads encode, so that one share of a call is tokenized while the device computes another, and a query waits for no
share, only for the passes that the device has already.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from situate.embedders.types import Encoded, SpanText
from situate.errors import ModelError, TruncationWarning
from situate.threads import renew_after_fork

#: Texts that a process is given at once: few enough that the last ones of a call end at about the same time.
_SHARE_TEXTS, _SHARE_CHARACTERS = 512, 500_000
#: Shares of one call per device: one computed, one tokenized, one on its way.
_AHEAD = 3
#: Threads of a process for documents and for queries.
_DOCUMENT_THREADS, _QUERY_THREADS = 2, 8

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
        """No processes, which are the parent's."""
        self._lock = threading.RLock()
        self._workers: list[_Worker] | None = None

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
        except _Ended as error:
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
        except _Ended as error:
            raise self._died() from error
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the processes after their running texts; the next call starts them again."""
        self._close(died=False)

    def _close(self, died: bool) -> None:
        with self._lock:
            workers, self._workers = self._workers, None
        if workers is not None:
            _end(workers, os.getpid(), died)

    def _submit(self, share: Sequence[SpanText], options: dict[str, Any]) -> Future[_Result]:
        with self._lock:
            if self._workers is None:
                self._workers = self._started()
            for place, worker in enumerate(self._workers):
                if worker.cut_off:
                    worker.join()
                    self._workers[place] = _Worker(self._encoders[place], len(self._encoders))
            worker = min(self._workers, key=lambda each: each.waiting)
        return worker.submit(share, options)

    def _started(self) -> list[_Worker]:
        workers = [_Worker(encoder, len(self._encoders)) for encoder in self._encoders]
        weakref.finalize(self, _end, workers, os.getpid(), False)
        return workers

    def _died(self) -> ModelError:
        self._close(died=True)
        return ModelError(
            f"one of the {len(self._encoders)} processes that encode (one per device) ended while it worked: it may "
            "have been killed for memory (give batch_tokens=, or fewer devices), or the program that started them has "
            "no `if __name__ == '__main__':` around what it runs. The next call starts them again"
        )


class _Ended(Exception):
    """A process ended while it had something to do."""


class _Worker:
    """A process with its encoder, and the shares that it has.

    Args:
        encoder: Pickled.
        count: How many processes share the machine's cores.

    Attributes:
        cut_off: An interrupt came while a request was written, and the process was killed.
    """

    def __init__(self, encoder: bytes, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, encoder, count), daemon=True)
        with _held_interrupts():
            self._process.start()
        # multiprocessing ends the processes of its list when any fork of this one exits; this one's owner ends it.
        multiprocessing.process._children.discard(self._process)  # type: ignore[attr-defined]
        there.close()
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._shares: dict[int, Future[_Result]] = {}
        self._keys = itertools.count()
        self._ended = self._closing = self.cut_off = False
        self._thread = threading.Thread(target=self._receive, name="situate-device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many shares it has."""
        return len(self._shares)

    def submit(self, share: Sequence[SpanText], options: dict[str, Any]) -> Future[_Result]:
        """Hand over a share.

        Raises:
            _Ended: The process has ended.
        """
        future: Future[_Result] = Future()
        with self._lock:
            if self._ended:
                raise _Ended
            key = next(self._keys)
        request = pickle.dumps((key, list(share), options))
        self._shares[key] = future
        try:
            with self._sending:
                self._pipe.send_bytes(request)
        except OSError as error:
            self._shares.pop(key, None)
            raise _Ended from error
        except BaseException:
            # Interrupted, it may have sent half of the request, behind which no other can be read.
            self._shares.pop(key, None)
            self.cut_off = True
            self._process.kill()
            raise
        return future

    def stop(self, died: bool) -> None:
        """Ask it to end after its running texts; the others are cancelled or, after another process died, fail."""
        self._closing = not died
        try:
            with self._sending:
                self._pipe.send(None)
        except OSError:
            pass  # it has ended

    def join(self) -> None:
        """Wait for its end. In the thread that its results need to be read by, end it at once."""
        if self._thread is threading.current_thread():
            self._process.terminate()
        self._process.join()

    def _receive(self) -> None:
        while True:
            try:
                key, answer = self._pipe.recv()
            except (EOFError, OSError):
                break
            future = self._shares.pop(key, None)
            if future is None or not future.set_running_or_notify_cancel():
                continue
            try:
                result, error = pickle.loads(answer)  # noqa: S301  this process's own child wrote it
            except Exception as problem:  # noqa: BLE001  an error that cannot be read is the caller's all the same
                result, error = None, problem
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        with self._lock:
            self._ended = True
            left = list(self._shares.values())
            self._shares.clear()
        for future in left:
            if self._closing:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                future.set_exception(_Ended())
        self._pipe.close()


@contextmanager
def _held_interrupts() -> Iterator[None]:
    """A process that is started meanwhile never sees SIGINT: Ctrl-C goes to all processes of a terminal, and the call
    that it interrupts ends in this one alone."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which lets SIGINT through again, the first time
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(workers: Sequence[_Worker], owner: int, died: bool) -> None:
    """End the processes, unless this one is a fork of the one that started them."""
    if os.getpid() == owner:
        for worker in workers:
            worker.stop(died)
        for worker in workers:
            worker.join()


def _serve(pipe: Any, encoder: bytes, count: int) -> None:
    """In a new process: encode what comes out of the pipe. The first text loads the model, so that an error reaches a
    caller."""
    model: Any = pickle.loads(encoder)  # noqa: S301  this process's own parent wrote it
    if model.device == "cpu":
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    given = threading.local()

    def noted(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        # Texts that were cut are counted by the caller, over all processes.
        if not issubclass(category, TruncationWarning):
            given.warnings = [*getattr(given, "warnings", []), (category, str(message))]

    # Once for the process: `catch_warnings` is not for several threads.
    warnings.simplefilter("always")
    warnings.showwarning = noted
    sending = threading.Lock()

    def run(key: int, share: list[SpanText], options: dict[str, Any]) -> None:
        given.warnings = []
        try:
            answer = pickle.dumps(((model.encode(share, **options), given.warnings), None))
        except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's
            answer = _pickled(error)
        with sending:
            pipe.send((key, answer))

    documents, queries = ThreadPoolExecutor(_DOCUMENT_THREADS), ThreadPoolExecutor(_QUERY_THREADS)
    try:
        while (task := pipe.recv()) is not None:
            (queries if task[2].get("role") == "query" else documents).submit(run, *task)
    except EOFError:
        pass  # the parent has ended
    for pool in (documents, queries):
        pool.shutdown(cancel_futures=True)


def _pickled(error: Exception) -> bytes:
    try:
        return pickle.dumps((None, error))
    except Exception:  # noqa: BLE001  an error may hold anything; its words are what the caller can be told
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))


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
