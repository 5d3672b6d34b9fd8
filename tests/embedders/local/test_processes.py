"""Several devices, a process each: the same vectors in the same order, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from situate.embedders import Embedder
from situate.embedders.local import processes
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from situate.errors import FallbackWarning, InputError, ModelError, SpanError, TruncationWarning
from tests.embedders.forward.test_packed import FAMILIES, TEXTS, save

#: Enough for many shares.
MANY = [SpanText(f"{TEXTS[i % 5]} number {i}", ((0, 5), (2, 11)) if i % 7 == 0 else None) for i in range(1500)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    return save(tmp_path_factory.mktemp("bert"), FAMILIES["bert"][0]())


@pytest.fixture(scope="module")
def team(folder: Path) -> Iterator[Encoder]:
    with Encoder(folder, device=["cpu", "cpu"], dtype="float32") as encoder:
        yield encoder


def workers() -> set[int]:
    """The processes that encode for this one; not multiprocessing's own tracker of resources, which stays."""
    found = psutil.Process().children(recursive=True)
    return {p.pid for p in found if "spawn_main" in " ".join(p.cmdline())}


def test_results_equal_one_device_and_keep_their_order(folder: Path, team: Encoder) -> None:
    alone = Encoder(folder, device="cpu", dtype="float32")
    got, wanted = team.encode(MANY), alone.encode(MANY)
    assert len(got) == len(MANY)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a.vectors, b.vectors, atol=1e-5)
    assert (team.device, team.dtype, team.dimension) == ("cpu,cpu", "float32", 64)
    assert len(workers()) == 2
    few = team.encode(MANY[:3], token_vectors=True, role="query", progress=True)
    assert [r.tokens is not None for r in few] == [True] * 3
    assert team.encode([]) == []


async def test_async_callers_share_the_processes(folder: Path, team: Encoder) -> None:
    alone = Encoder(folder, device="cpu", dtype="float32")
    parts = [MANY[i : i + 90] for i in range(0, 900, 90)]
    found = await asyncio.gather(*(team.aencode(part) for part in parts))
    for part, results in zip(parts, found, strict=True):
        for a, b in zip(results, alone.encode(part), strict=True):
            np.testing.assert_allclose(a.vectors, b.vectors, atol=1e-5)


def test_errors_and_cut_texts_reach_the_caller(team: Encoder) -> None:
    with pytest.raises(SpanError, match="3 characters"):
        team.encode([SpanText("abc", ((2, 9),))])
    with pytest.raises(InputError, match="adapter 'tax' is not known"):
        team.encode(MANY[:2], adapter="tax")
    with pytest.warns(TruncationWarning, match=r"2 of 3 texts .* lost") as given:
        team.encode([SpanText("mill " * 400), SpanText("mill"), SpanText("mill " * 400)])
    assert len(given) == 1
    assert len(team.encode(MANY[:2])) == 2, "the processes go on after an error"


def test_cancelling_takes_back_what_has_not_run(team: Encoder) -> None:
    async def cancelled() -> None:
        job = asyncio.ensure_future(team.aencode(MANY * 20))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job

    asyncio.run(cancelled())
    assert len(team.encode(MANY[:2])) == 2


def test_it_pickles_without_its_processes(team: Encoder) -> None:
    copy = pickle.loads(pickle.dumps(team))
    assert copy.device == "cpu,cpu"
    assert len(pickle.dumps(team)) < 1000


def test_a_process_that_dies_is_an_error_and_takes_the_others_with_it(team: Encoder) -> None:
    team.encode(MANY)
    before = workers()
    assert len(before) == 2

    def until_the_pool_notices() -> None:
        os.kill(sorted(before)[0], signal.SIGKILL)
        for _ in range(200):
            team.encode(MANY)

    with pytest.raises(ModelError, match=r"one of the 2 processes that encode .* ended while it worked"):
        until_the_pool_notices()
    assert not workers()
    assert not [p for p in psutil.Process().children() if p.pid in before], "no zombies"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_that_exits_and_an_interrupt_leave_the_processes_alone(folder: Path) -> None:
    program = """
import os, signal, sys, threading
import psutil
from situate.embedders import Encoder, SpanText
if __name__ == "__main__":
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    encoder = Encoder(sys.argv[1], device=["cpu"], dtype="float32")
    encoder.encode([SpanText("mill")])
    child = os.fork()
    if not child:
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    encoder.encode([SpanText("mill")])
    threading.Timer(0.3, os.killpg, (0, signal.SIGINT)).start()
    try:
        while True:
            encoder.encode([SpanText("mill " * 40)] * 300)
    except KeyboardInterrupt:
        print("interrupted")
    print(len(encoder.encode([SpanText("mill")] * 3)))
    # A process that reads nothing: the interrupt comes while a request is written.
    [process] = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    process.suspend()
    threading.Timer(0.3, os.killpg, (0, signal.SIGINT)).start()
    try:
        encoder.encode([SpanText("mill " * 180 + str(n)) for n in range(2000)])
    except KeyboardInterrupt:
        print("interrupted")
    print(len(encoder.encode([SpanText("mill")] * 3)))
    assert not process.is_running()
"""
    script = folder.parent / "forked.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=300)
    # Of a process that was killed, multiprocessing finds a semaphore in the end, which it says.
    assert (done.returncode, done.stdout.split()) == (0, ["interrupted", "3"] * 2), done.stderr
    assert "Traceback" not in done.stderr


class Held:
    """An encoder whose documents wait until a query has been answered."""

    device = "cuda:0"
    begun = threading.Semaphore(0)
    answered = threading.Event()

    def encode(self, share: list[SpanText], role: str) -> list[Any]:
        if role == "document":
            self.begun.release()
            assert self.answered.wait(20)
        warnings.warn(f"{len(share)} texts", FallbackWarning, stacklevel=1)
        if role == "broken":
            raise ValueError(threading.Lock())  # which cannot be pickled
        return []


def test_a_query_waits_for_no_share_and_two_shares_are_worked_on_at_once() -> None:
    here, there = multiprocessing.Pipe()
    with warnings.catch_warnings():
        serving = threading.Thread(target=processes._serve, args=(there, pickle.dumps(Held()), 1))
        serving.start()
        for key in range(3):
            here.send((key, [SpanText("a")] * key, {"role": "document"}))
        for _ in range(2):
            assert Held.begun.acquire(timeout=20)
        here.send((9, [SpanText("a")], {"role": "query"}))
        key, answer = here.recv()
        assert (key, pickle.loads(answer)) == (9, (([], [(FallbackWarning, "1 texts")]), None))
        Held.answered.set()
        assert {here.recv()[0] for _ in range(3)} == {0, 1, 2}
        here.send((10, [], {"role": "broken"}))
        key, answer = here.recv()
        assert isinstance(pickle.loads(answer)[1], RuntimeError)
        here.send(None)
        serving.join(20)
    assert not serving.is_alive()


# A process takes seconds to import what it needs, so the next tests belong to the long suite.


@pytest.mark.full
def test_the_next_call_starts_new_processes_and_closing_ends_them(team: Encoder) -> None:
    assert len(team.encode(MANY)) == len(MANY)
    before = workers()
    assert len(before) == 2
    team.close()
    assert not workers()
    assert not [p for p in psutil.Process().children() if p.pid in before], "no zombies"


@pytest.mark.full
def test_warnings_reach_the_caller(tmp_path: Path) -> None:
    deberta = save(tmp_path, FAMILIES["deberta-v2"][0]())
    with (
        Encoder(deberta, device=["cpu"], dtype="float32") as padded,
        pytest.warns(FallbackWarning, match="runs padded"),
    ):
        padded.encode(MANY[:2])


@pytest.mark.full
def test_an_encoder_that_is_forgotten_ends_its_processes(folder: Path) -> None:
    before = workers()
    encoder = Encoder(folder, device=["cpu"], dtype="float32")
    assert workers() == before, "nothing begins before the first text"
    encoder.encode(MANY[:5])
    own = workers() - before
    assert len(own) == 1
    del encoder
    gc.collect()
    psutil.wait_procs([psutil.Process(pid) for pid in own if psutil.pid_exists(pid)], timeout=60)
    assert not workers() & own


@pytest.mark.full
def test_a_program_ends_with_processes_open(folder: Path) -> None:
    program = (
        "import sys\n"
        "from situate.embedders import Encoder, SpanText\n"
        "if __name__ == '__main__':\n"
        "    e = Encoder(sys.argv[1], device=['cpu', 'cpu'], dtype='float32')\n"
        "    print(len(e.encode([SpanText('mill')] * 700)))\n"
    )
    script = folder.parent / "program.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout.strip()) == (0, "700"), done.stderr


@pytest.mark.full
def test_a_program_without_a_main_guard_gets_an_error_that_names_it(folder: Path) -> None:
    program = (
        "import sys\n"
        "from situate.embedders import Encoder, SpanText\n"
        "e = Encoder(sys.argv[1], device=['cpu', 'cpu'], dtype='float32')\n"
        "e.encode([SpanText('mill')] * 700)\n"
    )
    script = folder.parent / "unguarded.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert "__name__ == '__main__'" in done.stderr


@pytest.mark.full
def test_embedders_pass_their_devices_to_the_encoder(folder: Path) -> None:
    settings: dict[str, Any] = {"pooling": "mean", "query_instruction": "", "document_instruction": ""}
    embedder = Embedder(folder, device=["cpu", "cpu"], dtype="float32", **settings)
    plain = Embedder(folder, device="cpu", dtype="float32", **settings)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), plain.embed_documents(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embedder.embed_queries(TEXTS), plain.embed_queries(TEXTS), atol=1e-5)
    assert isinstance(embedder.encoder, Encoder)
    embedder.encoder.close()


def test_no_device_and_unknown_ones_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="device is an empty list"):
        Encoder(folder, device=[])
    with pytest.raises(InputError, match="abacus"):
        _ = Encoder(folder, device=["cpu", "abacus"]).device
