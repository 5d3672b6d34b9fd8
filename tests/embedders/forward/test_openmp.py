"""Whoever has computed leaves no OpenMP threads behind, which would slow down every other thread that computes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count

import pytest
import torch

from situate.embedders.forward.cores import computing, release_openmp_threads
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or "OpenMP" not in torch.__config__.parallel_info(),
    reason="only GNU's OpenMP counts the teams, and only Linux lists a process's threads",
)

#: Of eight threads that leave a team, fewer may be seen: threads of other tests end meanwhile, too.
SOME = 5


def threads_now() -> int:
    """Threads of this process, once it stays the same: they end a moment after whoever let go of them."""
    counts: list[int] = []
    while len(counts) < 5 or len(set(counts[-5:])) > 1:
        counts.append(len(os.listdir("/proc/self/task")))
        time.sleep(0.02)
    return counts[-1]


def left_behind(work: Callable[[], object], callers: int = 8) -> int:
    """By how much the process's threads are more after several threads did this, while they are still there."""
    done, ended = threading.Barrier(callers + 1, timeout=60), threading.Event()
    errors: list[Exception] = []

    def call() -> None:
        torch.set_num_threads(2)  # whatever the machine has
        try:
            work()
        except Exception as error:  # noqa: BLE001  whatever it is, it is raised below
            errors.append(error)
        done.wait()
        ended.wait(60)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    before = threads_now()
    own = torch.get_num_threads()
    try:
        for thread in threads:
            thread.start()
        done.wait()
        if errors:
            raise errors[0]
        return threads_now() - before - callers
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(own)


def product() -> None:
    weight = torch.ones(768, 768)
    (weight @ weight).sum()


def test_torch_leaves_a_team_to_every_thread() -> None:
    assert left_behind(product) >= SOME, "nothing is to be done any more: embedders/forward/cores.py can go"


def test_no_thread_keeps_a_team_after_it_has_computed() -> None:
    def careful() -> None:
        with computing():
            product()
        assert not torch.is_inference_mode_enabled()

    assert left_behind(careful) < SOME


def test_not_even_after_an_error() -> None:
    def failing() -> None:
        with contextlib.suppress(KeyError), computing():
            product()
            raise KeyError

    assert left_behind(failing) < SOME


def test_it_is_there_again_for_the_next_product() -> None:
    weight = torch.rand(512, 512)
    wanted = weight @ weight
    for _ in range(40):
        release_openmp_threads()
        assert torch.equal(weight @ weight, wanted)


def test_the_main_thread_keeps_its_team_while_it_is_alone() -> None:
    program = """
import os, threading, torch
from situate.embedders.forward.cores import _PASSES_ALONE, computing
torch.set_num_threads(2)
with computing():
    weight = torch.ones(768, 768)
def work():
    with computing():
        weight @ weight
def threads():
    import time; time.sleep(0.2)
    return len(os.listdir("/proc/self/task"))
def other():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
counts = [threads()]
for _ in range(_PASSES_ALONE - 1):
    work()
counts.append(threads())
work()
counts.append(threads())
other()
counts.append(threads())
work()
counts.append(threads())
print([count - counts[0] for count in counts])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 0, 1, 1, 0]"


def test_queries_from_many_threads_leave_none(minilm_path: str) -> None:
    numbers, alone = count(), threading.Lock()
    with Encoder(minilm_path) as encoder:
        encoder.encode([SpanText(f"text {n} among several " * 12) for n in range(20)])  # its own threads begin

        def query() -> None:
            with alone:  # so that it runs in its caller's thread
                encoder.encode([SpanText(f"query {next(numbers)} " * 12)])

        assert left_behind(query) < SOME
