"""An encoder after a fork, after the end of the main thread, and inside a signal handler."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such timer here")

COMMON = """
import asyncio, os, signal, sys, threading, time
import numpy as np, torch
torch.set_num_threads(2)
from situate.embedders import Encoder, SpanText
encoder = Encoder("sentence-transformers/all-MiniLM-L6-v2", device="cpu", dtype="float32", batch_tokens=700)
one = [SpanText("Which ferry leaves first?")]
many = [SpanText(f"the {n} seven barges passed the lock beside the mill " * 6) for n in range(24)]

def sync(): return encoder.encode(one, role="query")
def bulk(): return encoder.encode(many)
def asynchronous():
    async def both():
        return (await asyncio.gather(encoder.aencode(one, role="query"), encoder.aencode(many)))[0]
    return asyncio.run(both())
ways = {"sync": sync, "bulk": bulk, "async": asynchronous}

def rows(found): return np.concatenate([each.vectors for each in found])
def in_child(work):
    child = os.fork()
    if not child:
        signal.alarm(90)  # a child that hangs is ended
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


#: Runs each program of which a line names the file in a fork of its own: all is imported, and nothing was computed.
TEMPLATE = (
    COMMON
    + """
from transformers import BertModel, PreTrainedTokenizerFast
while line := sys.stdin.readline():
    path = line.rstrip()
    child = os.fork()
    if not child:
        signal.alarm(400)
        for stream in (1, 2):
            os.dup2(os.open(f"{path}.{stream}", os.O_WRONLY | os.O_CREAT), stream)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
exec(compile(open(path).read(), path, "exec"))
"""
)
Run = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a program behind `COMMON`, to its end as an ordinary process."""
    folder = tmp_path_factory.mktemp("programs")
    numbers = itertools.count()
    variables = {**os.environ, "SITUATE_CORES": "all", "PYTHONPATH": str(ROOT)}
    variables.pop("OMP_NUM_THREADS", None)
    template = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", TEMPLATE],
        cwd=ROOT,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with template:
        stdin, stdout = template.stdin, template.stdout
        assert stdin is not None
        assert stdout is not None

        def run_one(program: str) -> subprocess.CompletedProcess[str]:
            path = folder / f"{next(numbers)}.py"
            path.write_text(textwrap.dedent(program))
            print(path, file=stdin, flush=True)
            code = int(stdout.readline())
            written = [path.with_name(f"{path.name}.{stream}").read_text() for stream in (1, 2)]
            return subprocess.CompletedProcess(program, code, *written)

        yield run_one
        stdin.close()


@forks
@pytest.mark.parametrize("parent", ["sync", "bulk", "async"])
def test_every_kind_of_call_works_in_a_child_forked_after_any(run: Run, parent: str) -> None:
    done = run(f"""
        wanted = {{name: rows(way()) for name, way in ways.items() if name == {parent!r}}}
        for name, way in ways.items():
            code = in_child(lambda: np.isfinite(rows(way())).all() and (
                name not in wanted or np.allclose(rows(way()), wanted[name], atol=1e-6)))
            assert code == 0, (name, code)
        assert np.allclose(rows(ways[{parent!r}]()), wanted[{parent!r}], atol=1e-6)
    """)
    assert done.returncode == 0, done.stderr[-2000:]


@forks
def test_a_pool_of_forked_processes_shares_an_encoder_that_was_used(run: Run) -> None:
    done = run("""
        import multiprocessing
        wanted = rows(bulk())
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map_async(encoder.encode, [many, many, one]).get(120)
        assert np.allclose(rows(found[1]), wanted, atol=1e-6)
    """)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.full
@forks
def test_gunicorn_preloads_an_application_that_has_embedded(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    import socket
    import time
    import urllib.request

    (tmp_path / "served.py").write_text(
        COMMON
        + """
bulk(), sync(), asynchronous()
def app(environ, start):
    body = repr([sum(len(each.vectors) for each in way()) for way in ways.values()]).encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", address, "served:app"]
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PYTHONWARNINGS": "ignore"}
    server = subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.PIPE)
    try:
        answers: list[bytes] = []
        ended = time.monotonic() + 180
        while len(answers) < 4 and time.monotonic() < ended and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://{address}/", timeout=90) as answer:
                    answers.append(answer.read())
            except OSError:
                time.sleep(0.3)
        assert answers == [b"[1, 24, 1]"] * 4
    finally:
        server.terminate()
        server.communicate(timeout=60)


@pytest.mark.parametrize("when", ["thread", pytest.param("atexit", marks=pytest.mark.full), "atexit, registered first"])
def test_bulk_embedding_works_after_the_main_thread_has_ended(run: Run, when: str) -> None:
    late = """
        def late():
            if threading.current_thread() is not threading.main_thread():
                threading.main_thread().join()
            assert np.allclose(rows(bulk()), wanted, atol=1e-6)
            assert len(sync()) == 1
            print("embedded", flush=True)
    """
    begin = {
        "thread": "        wanted = rows(bulk())\n        threading.Thread(target=late).start()\n",
        "atexit": "        wanted = rows(bulk())\n        import atexit\n        atexit.register(late)\n",
        "atexit, registered first": "        wanted = rows(bulk())\n",
    }[when]
    if when == "atexit, registered first":
        program = (
            "import atexit\natexit.register(lambda: late())\n" + COMMON + textwrap.dedent(late.rstrip(" ") + begin)
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
    else:
        done = run(late.rstrip(" ") + begin)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "embedded" in done.stdout, done.stderr[-2000:]


@signals
def test_embedding_in_a_signal_handler_that_interrupted_an_embedding_is_an_error_or_works(run: Run) -> None:
    done = run("""
        from situate.errors import ReentryError
        wanted, refused, worked = rows(sync()), 0, 0
        def handler(*_):
            global refused, worked
            try:
                assert np.allclose(rows(sync()), wanted, atol=1e-6)
                worked += 1
            except ReentryError as error:
                assert "another thread" in str(error)
                refused += 1
        signal.signal(signal.SIGALRM, handler)
        threading.Timer(240, lambda: os._exit(3)).start()
        for way in (sync, bulk):
            for i in range(80 if way is sync else 8):
                signal.setitimer(signal.ITIMER_REAL, 0.0003 + i * 0.00011)
                assert np.isfinite(rows(way())).all()
                signal.setitimer(signal.ITIMER_REAL, 0)
        assert np.allclose(rows(sync()), wanted, atol=1e-6)
        assert refused, worked  # or no embedding was interrupted
        print("refused", refused, "worked", worked)
        os._exit(0)
    """)
    assert done.returncode == 0, done.stderr[-2000:]
