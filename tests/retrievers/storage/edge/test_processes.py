"""Stores and processes: forks, killed processes and their remains."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from qdrant_client import models

from situate.errors import StorageError
from situate.retrievers.storage.edge import AsyncEdgeClient, EdgeClient

PARAMS = models.VectorParams(size=4, distance=models.Distance.COSINE)
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def point(i: int) -> models.PointStruct:
    return models.PointStruct(id=i, vector=[1.0, float(i), 0.5, -1.0], payload={"i": i})


class Child:
    """A fork that runs ``work`` and leaves with 0, or with 1 where it raised; it stays until `end`."""

    def __init__(self, work: Callable[[], None] = lambda: None, *, stay: bool = False) -> None:
        self._reading, writing = os.pipe()
        waiting, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            status = 1
            try:
                work()
                status = 0
            finally:
                os.write(writing, b"x")
                if stay:
                    os.read(waiting, 1)
                os._exit(status)
        os.close(writing)
        os.close(waiting)
        os.read(self._reading, 1)

    def status(self) -> int:
        """Ends it; how it ended. Fails where it hangs."""
        os.close(self._go)
        os.close(self._reading)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("the forked child hangs")


def refused(call: Callable[[], object]) -> Callable[[], None]:
    def work() -> None:
        with pytest.raises(StorageError, match="fork"):
            call()

    return work


def test_a_store_is_closed_while_a_fork_lives(tmp_path: Path) -> None:
    """The lock is released, although the child has a copy of the file; the child's end changes nothing."""
    client = EdgeClient(tmp_path / "store")
    client.create_collection("c", PARAMS)
    child = Child(stay=True)
    client.close()
    with EdgeClient(tmp_path / "store") as again:
        assert again.collection_exists("c")
        other = subprocess.run(
            [sys.executable, "-c", OPEN, str(tmp_path / "store")], capture_output=True, text=True, timeout=60
        )
        assert "StoreLockedError" in other.stdout
        assert child.status() == 0
        again.upsert("c", [point(1)])


OPEN = """
import sys
from situate.retrievers.storage.edge import EdgeClient
try: EdgeClient(sys.argv[1]).close()
except Exception as error: print(type(error).__name__, error)
"""

#: Opens a store, forks a child that stays, and is killed.
OUTLIVED = """
import os, signal, sys, time
from situate.retrievers.storage.edge import EdgeClient
client = EdgeClient(sys.argv[1])
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_fork_that_outlives_its_parent_holds_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OUTLIVED, str(tmp_path / "store")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.wait()
        try:
            EdgeClient(tmp_path / "store").close()
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_fork_gets_an_error(tmp_path: Path, where: str) -> None:
    """Every kind of call raises at once; the child ends by itself and takes nothing from its parent."""
    with EdgeClient(":memory:" if where == "memory" else tmp_path / "store") as client:
        client.create_collection("c", PARAMS)
        client.upsert("c", [point(1)])
        shared = AsyncEdgeClient(client=client)
        asyncio.run(shared.count("c"))
        calls: list[Callable[[], object]] = [
            lambda: client.count("c"),
            lambda: client.upsert("c", [point(2)]),
            lambda: client.create_collection("d", PARAMS),
            lambda: client.get_collections(),
            lambda: client.optimize(),
            lambda: AsyncEdgeClient(client=client),
            lambda: asyncio.run(shared.count("c")),
        ]
        for call in calls:
            assert Child(refused(call)).status() == 0
        assert Child(client.close).status() == 0
        assert Child(lambda: EdgeClient().close()).status() == 0
        client.upsert("c", [point(3)])
        assert client.count("c").count == 2
        asyncio.run(shared.close())


#: A fork that leaves as a program does, through every hook and destructor.
LEAVES = """
import os, sys
from qdrant_client import models
from situate.retrievers.storage.edge import EdgeClient
client = EdgeClient(*sys.argv[1:])
client.create_collection("c", models.VectorParams(size=4, distance="Dot"))
client.upsert("c", [models.PointStruct(id=1, vector=[1, 2, 3, 4])])
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
client.upsert("c", [models.PointStruct(id=2, vector=[1, 2, 3, 4])])
assert client.count("c").count == 2
client.close()
"""


@pytest.mark.parametrize("where", [":memory:", "store"])
def test_a_fork_leaves_its_parents_store_alone(tmp_path: Path, where: str) -> None:
    place = where if where == ":memory:" else str(tmp_path / where)
    done = subprocess.run([sys.executable, "-c", LEAVES, place], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def count_in_child(path: str, answers: multiprocessing.SimpleQueue[str]) -> None:
    try:
        EdgeClient(path).close()
        answers.put("opened")
    except StorageError as error:
        answers.put(type(error).__name__)


def test_multiprocessing_by_forks(tmp_path: Path) -> None:
    """A child may open the store of its parent once that has closed it, and is refused before."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    client = EdgeClient(tmp_path / "store")
    for expected in ("StoreLockedError", "opened"):
        process = context.Process(target=count_in_child, args=(str(tmp_path / "store"), answers))
        process.start()
        process.join(30)
        assert process.exitcode == 0
        assert answers.get() == expected
        client.close()


# -- killed

MEMORY = """
import os, sys
from qdrant_client import models
from situate.retrievers.storage.edge import EdgeClient
client = EdgeClient()
client.create_collection("c", models.VectorParams(size=4, distance="Dot"))
client.upsert("c", [models.PointStruct(id=1, vector=[1, 2, 3, 4])])
print(client.path, flush=True)
sys.stdin.read()
"""


def test_what_killed_memory_stores_leave_is_swept(tmp_path: Path) -> None:
    """By the next one that is opened; those of living processes stay, and so do other files beside them."""
    writers = [
        subprocess.Popen([sys.executable, "-c", MEMORY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    killed, living = (Path(w.stdout.readline().decode().strip()) for w in writers if w.stdout is not None)
    persistent = EdgeClient(killed.parent / f"situate-{os.getpid()}-kept")
    foreign = killed.parent / f"situate-{os.getpid()}-foreign"
    foreign.mkdir()
    (foreign / ".lock.holder").write_text("")
    try:
        writers[0].kill()
        writers[0].communicate()
        assert killed.exists()
        with EdgeClient() as client:
            client.create_collection("c", PARAMS)
            assert not killed.exists()
            assert living.exists()
            assert foreign.exists()
            assert Path(persistent.path).exists()
            with EdgeClient():
                assert client.count("c").count == 0
    finally:
        writers[1].communicate()
        persistent.close()
        for folder in (foreign, Path(persistent.path)):
            subprocess.run(["rm", "-r", str(folder)], check=True)
    assert not living.exists()


#: Begins to optimise, says so and the optimiser's process, and goes on.
OPTIMISING = """
import os, sys, threading
import numpy as np
from qdrant_client import models
from situate.retrievers.storage.edge import EdgeClient
client = EdgeClient(sys.argv[1], auto_optimize=False)
client.create_collection("c", models.VectorParams(size=256, distance="Dot"),
    optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1),
    hnsw_config=models.HnswConfigDiff(m=64, ef_construct=800))
client.upload_collection("c", np.random.default_rng(0).normal(size=(20000, 256)), ids=range(20000))
print("written", flush=True)
client.optimize()
print("optimised", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_optimiser_ends_with_its_process(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OPTIMISING, str(tmp_path / "s")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"written\n"
        children: list[int] = []
        while not children and parent.poll() is None:
            tasks = Path(f"/proc/{parent.pid}/task")
            children = [int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()]
        time.sleep(1)  # long enough for it to load the engine, far too short for the graph
        parent.kill()
        assert parent.stdout.read() == b"", "it was done before it was killed"
    deadline = time.monotonic() + 10
    while any(running(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(running(child) for child in children)
    with EdgeClient(tmp_path / "s", auto_optimize=False) as client:
        assert client.count("c").count == 20_000
        assert len(list((tmp_path / "s" / "collections").iterdir())) == 1


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
