"""Faults that a store survives. Each test injects the fault for real; SITUATE_FULL=1 runs the long forms."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from situate.errors import InputError, NonFiniteVectorError, SituateError, StorageError, StoreCorruptError
from situate.retrievers.storage.edge import AsyncEdgeClient, EdgeClient
from situate.retrievers.storage.edge.files import checksums
from tests.conftest import FULL

PARAMS = models.VectorParams(size=4, distance=models.Distance.COSINE)


def point(i: int, **payload: object) -> models.PointStruct:
    return models.PointStruct(id=i, vector=[1.0, float(i), 0.5, -1.0], payload={"i": i, **payload})


def make(path: Path, count: int = 50, name: str = "c") -> None:
    with EdgeClient(path) as client:
        client.create_collection(name, PARAMS)
        client.upsert(name, [point(i) for i in range(count)])


# -- killed

#: Adds, replaces and deletes documents of five points each, optimises, forks, gives the vector another size at times,
#: and prints the acknowledged operations.
WRITER = """
import itertools, os, random, sys, threading
from qdrant_client import models
from situate.errors import StorageError
from situate.retrievers.storage.edge import EdgeClient

client = EdgeClient(sys.argv[1], auto_optimize=False)
rng = random.Random(int(sys.argv[2]))
say = lambda *words: os.write(1, (" ".join(map(str, words)) + "\\n").encode())
if not client.collection_exists("c"):
    client.create_collection("c", {"v": models.VectorParams(size=64, distance="Dot")},
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1))

def size():
    vectors = client.get_collection("c").config.params.vectors
    return vectors["v"].size if "v" in vectors else None

def resize():
    if size() is not None:
        client.delete_vector_name("c", "v")
    dense = models.DenseVectorConfig(size=rng.choice([16, 64]), distance="Dot")
    client.create_vector_name("c", "v", models.DenseVectorNameConfig(dense=dense))

if size() is None:
    resize()
say("open")

def optimize():
    while True:
        try:
            if client.optimize("c"):
                say("optimized")
        except StorageError:
            pass  # given up for another size of the vector

threading.Thread(target=optimize, daemon=True).start()
for version in itertools.count(int(sys.argv[3])):
    document = rng.randrange(20)
    dice = rng.random()
    if dice < 0.0005:
        resize()
        say("resized")
    elif dice < 0.005:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    if dice > 0.8:
        say("deleting", document)
        client.delete("c", [document * 10 + i for i in range(5)])
        say("deleted", document)
    else:
        say("writing", document, version)
        numbers = [rng.random() for _ in range(size())]
        client.upsert("c", [models.PointStruct(id=document * 10 + i, vector={"v": numbers},
            payload={"document": document, "version": version}) for i in range(5)])
        say("written", document, version)
"""


def test_killed_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9 while documents are added, replaced, deleted, optimised and given other vectors, and between forks.

    What was acknowledged is there, once.
    """
    kills = 200 if FULL else 3
    rng = random.Random(7)
    held: dict[int, int] = {}
    version, acknowledged, optimized, resized = 1, 0, 0, 0
    for turn in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "s"), str(turn), str(version)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        lines = iter(writer.stdout.readline, b"")
        assert next(lines) == b"open\n"
        pending: tuple[int, int | None] | None = None
        bullet = threading.Timer(rng.uniform(0, 6 if FULL else 2), writer.kill)
        bullet.start()
        for line in lines:  # also those that the pipe still holds
            match line.decode().split():
                case ["writing", document, number] if line.endswith(b"\n"):
                    pending = int(document), int(number)
                case ["deleting", document] if line.endswith(b"\n"):
                    pending = int(document), None
                case ["written", document, number] if line.endswith(b"\n"):
                    held[int(document)] = version = int(number)
                    pending, acknowledged = None, acknowledged + 1
                case ["deleted", document] if line.endswith(b"\n"):
                    held.pop(int(document), None)
                    pending, acknowledged = None, acknowledged + 1
                case ["optimized"]:
                    optimized += 1
                case ["resized"]:
                    resized += 1
        writer.wait()
        bullet.join()
        writer.stdout.close()
        version += 1
        with EdgeClient(tmp_path / "s", auto_optimize=False) as client:
            records = client.scroll("c", limit=1000)[0]
        found: dict[int, list[int]] = {}
        for record in records:
            assert record.payload is not None
            found.setdefault(record.payload["document"], []).append(record.payload["version"])
        for document, versions in found.items():
            expected = held.get(document)
            unanswered = pending is not None and pending[0] == document
            assert unanswered or versions == [expected] * 5, (turn, document, versions, expected)
            if unanswered and pending is not None:
                # one operation: all of it or nothing
                assert versions in ([expected] * 5, [pending[1]] * 5), (turn, document, versions, expected, pending)
        missing = set(held) - set(found) - ({pending[0]} if pending is not None and pending[1] is None else set())
        assert not missing, (turn, missing)
        held = {document: versions[0] for document, versions in found.items()}
    with capsys.disabled():
        print(f"\nkilled {kills} times, {optimized} times optimised, {resized} times resized;", end=" ")
        print(f"{acknowledged} acknowledged operations, none lost, none doubled")


AFTER_A_COPY = """
import os, signal, sys
from qdrant_client import models
from situate.retrievers.storage.edge import EdgeClient

client = EdgeClient(sys.argv[1], auto_optimize=False)
write = lambda ids: client.upsert("c", [models.PointStruct(id=i, vector=[1.0, i, 2, 3]) for i in ids])
client.create_collection("c", models.VectorParams(size=4, distance="Dot"),
    optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1))
for i in range(200):
    write([i])
if sys.argv[2] == "optimised":
    assert client.optimize("c")
else:
    client.recover_snapshot("c", client.create_snapshot("c").name)
client.close()
client = EdgeClient(sys.argv[1], auto_optimize=False)
write(range(200, 210))
client.delete("c", [0])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("copy", ["optimised", "recovered"])
def test_killed_after_a_copy_took_over(tmp_path: Path, copy: str) -> None:
    """A copy continues the operation count of the original: a new log's operations would be read as old ones."""
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_COPY, str(tmp_path / "s"), copy], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    with EdgeClient(tmp_path / "s") as client:
        assert {r.id for r in client.scroll("c", limit=1000)[0]} == set(range(1, 210))


# -- damaged files


def files_of(shard: Path) -> list[Path]:
    return sorted(f for f in shard.rglob("*") if f.is_file() and f.stat().st_size > 0 and "wal" not in f.parts)


def test_damaged_and_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of a closed collection that lost its end, holds something else, or is gone: reported; the rest works."""
    make(tmp_path / "store", name="damaged")
    make(tmp_path / "store", name="whole")
    entry = json.loads((tmp_path / "store" / "store.json").read_text())["collections"]["damaged"]
    shard = tmp_path / "store" / "collections" / entry["folder"]
    files = [f for f in files_of(shard) if not f.name.startswith("situate-seal")]
    chosen = files if FULL else random.Random(0).sample(files, 6)
    for file in chosen:
        for damage in ("truncate", "remove", "overwrite"):
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            shutil.copytree(tmp_path / "store", tmp_path / "copy")
            victim = tmp_path / "copy" / file.relative_to(tmp_path / "store")
            if damage == "truncate":
                os.truncate(victim, victim.stat().st_size // 3)
            elif damage == "overwrite":
                with victim.open("r+b") as bytes_of:
                    changed = bytes(255 - byte for byte in bytes_of.read(100))
                    bytes_of.seek(0)
                    bytes_of.write(changed)
            else:
                victim.unlink()
            with EdgeClient(tmp_path / "copy") as client:
                with pytest.raises(StoreCorruptError, match="'damaged'"):
                    client.count("damaged")
                assert client.count("whole").count == 50
                assert len(client.query_points("whole", [1.0, 2, 3, 4]).points) == 10
                assert client.delete_collection("damaged")
    with capsys.disabled():
        print(f"\n{3 * len(chosen)} damaged files, each reported by collection")


def test_a_damaged_manifest(tmp_path: Path) -> None:
    make(tmp_path / "store")
    manifest = tmp_path / "store" / "store.json"
    text = manifest.read_text()
    for broken in (text[: len(text) // 2], "[]", "{}", "[" * 100_000, "[" * 500 + "]" * 500):
        manifest.write_text(broken)
        with pytest.raises(StoreCorruptError, match=r"store\.json"):
            EdgeClient(tmp_path / "store")
    manifest.write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(StorageError, match="upgrade"):
        EdgeClient(tmp_path / "store")
    manifest.write_text(text)
    with EdgeClient(tmp_path / "store") as client:
        assert client.count("c").count == 50


def test_a_missing_manifest(tmp_path: Path) -> None:
    """A store without its manifest is not an empty store: nothing of it is deleted."""
    make(tmp_path / "store")
    manifest = tmp_path / "store" / "store.json"
    manifest.rename(tmp_path / "kept")
    for _ in range(2):
        with pytest.raises(StoreCorruptError, match=r"store\.json is missing, and there are 1 collections in"):
            EdgeClient(tmp_path / "store")
    (tmp_path / "kept").rename(manifest)
    with EdgeClient(tmp_path / "store") as client:
        assert client.count("c").count == 50


def restored(store: Path, backup: str) -> None:
    """Puts a `store.json` back from a backup."""
    (store / "store.json").write_text(backup)


def test_a_manifest_from_a_backup(tmp_path: Path) -> None:
    """It names folders that optimising has replaced, and may not know newer collections: all of them are kept."""
    store = tmp_path / "store"
    vectors = models.VectorParams(size=32, distance=models.Distance.DOT)
    low = models.OptimizersConfigDiff(indexing_threshold=1)
    with EdgeClient(store, auto_optimize=False) as client:
        for name in "ab":
            client.create_collection(name, vectors, optimizers_config=low)
            client.upload_collection(name, np.random.default_rng(0).normal(size=(300, 32)), ids=range(300))
    old = (store / "store.json").read_text()
    with EdgeClient(store, auto_optimize=False) as client:
        for name in "ab":
            assert client.optimize(name)
            client.delete(name, [0])
        client.create_collection("new", PARAMS)
        client.upsert("new", [point(i) for i in range(7)])
    new = (store / "store.json").read_text()
    foreign = store / "collections" / "copy of a"
    foreign.mkdir()
    for _ in range(2):
        restored(store, old)
        with EdgeClient(store) as client:
            assert client.count("a").count == client.count("b").count == 299
            assert not client.collection_exists("new")
            client.upsert("a", [point_of(400, 32)])
            client.delete("a", [400])
        restored(store, new)
        with EdgeClient(store) as client:
            assert client.count("a").count == client.count("b").count == 299
            assert client.count("new").count == 7
    assert foreign.exists()
    assert len(list((store / "collections").iterdir())) == 4


def point_of(i: int, size: int) -> models.PointStruct:
    return models.PointStruct(id=i, vector=[1.0] * size)


def test_a_manifest_of_another_collection_of_that_name(tmp_path: Path) -> None:
    """A collection that was made anew is not taken for the one that was deleted; neither is lost."""
    store = tmp_path / "store"
    make(store, 10)
    old = (store / "store.json").read_text()
    with EdgeClient(store) as client:
        client.delete_collection("c")
    make(store, 20)
    new = (store / "store.json").read_text()
    restored(store, old)
    with EdgeClient(store) as client, pytest.raises(StoreCorruptError, match="'c'"):
        client.count("c")
    restored(store, new)
    with EdgeClient(store) as client:
        assert client.count("c").count == 20


def test_what_a_newer_version_says_in_the_manifest(tmp_path: Path) -> None:
    """Fields that this version does not know are kept; a setting that it does not know is named."""
    make(tmp_path / "store")
    manifest = tmp_path / "store" / "store.json"
    values = json.loads(manifest.read_text())
    values["collections"]["c"]["uuid"] = "1234"
    manifest.write_text(json.dumps(values))
    with EdgeClient(tmp_path / "store") as client:
        assert client.count("c").count == 50
        client.create_collection("d", PARAMS)
    values = json.loads(manifest.read_text())
    assert values["collections"]["c"]["uuid"] == "1234"
    values["collections"]["d"]["config"]["turbo"] = True
    manifest.write_text(json.dumps(values))
    with pytest.raises(StorageError, match=r"turbo[\s\S]*upgrade qdrant-client"):
        EdgeClient(tmp_path / "store")


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    """Also those of a first, unfinished collection; other files in the folder stay."""
    EdgeClient(tmp_path / "store").close()
    left = tmp_path / "store" / "collections" / uuid.uuid4().hex
    for turn in range(2):
        left.mkdir(parents=True)
        (left / "segment").write_text("half")
        (left.parent / "notes.txt").write_text("not ours")
        with EdgeClient(tmp_path / "store"):
            assert not left.exists()
            assert (left.parent / "notes.txt").exists()
        make(tmp_path / "store", name=f"c{turn}")


def test_a_collection_that_cannot_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are closed all the same, and the store can be opened again in this process."""
    make(tmp_path / "store", name="a")
    make(tmp_path / "store", name="b")
    client = EdgeClient(tmp_path / "store", auto_optimize=False)
    for name in "ab":
        client.upsert(name, [point(99)])
    broken = client._client.store.collection("b")
    monkeypatch.setattr(
        "situate.retrievers.storage.edge.files.checksums.write", _full_disk(broken.folder, checksums.write)
    )
    with pytest.raises(OSError, match="No space"):
        client.close()
    monkeypatch.undo()
    with EdgeClient(tmp_path / "store") as client:
        assert client.count("a").count == client.count("b").count == 51


def _full_disk(folder: Path, write: Callable[[Path, int], None]) -> Callable[[Path, int], None]:
    def sealed(shard: Path, points: int) -> None:
        if shard == folder:
            raise OSError(28, "No space left on device")
        write(shard, points)

    return sealed


# -- folders


def test_a_folder_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StorageError, match="file"):
            EdgeClient(path)
    if os.geteuid() != 0:  # root writes everywhere
        locked = tmp_path / "locked"
        locked.mkdir()
        locked.chmod(0o500)
        with pytest.raises(StorageError, match="cannot be written"):
            EdgeClient(locked)


#: Opens a store on a disk that no user can write.
READ_ONLY = """
import sys
from situate.errors import StorageError
from situate.retrievers.storage.edge import EdgeClient

for path in (sys.argv[1], sys.argv[1] + "/new"):
    try:
        EdgeClient(path)
    except StorageError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mount namespaces")
def test_a_read_only_disk(tmp_path: Path) -> None:
    """The error names the folder, does not blame another process, and nothing counts as damaged."""
    make(tmp_path / "store")
    mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("no permission to mount a folder read-only")
    command = f'{mount} && exec "$0" -B -c "$1" {tmp_path}/store'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, sys.executable, READ_ONLY], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert "cannot be written (Read-only file system)" in said[0]
    assert "cannot be made" in said[1]
    with EdgeClient(tmp_path / "store") as client:
        assert client.count("c").count == 50


#: Fills a small RAM disk of its own, in a namespace of its own.
FILLER = """
import sys
from qdrant_client import models
from situate.errors import StorageError
from situate.retrievers.storage.edge import EdgeClient

client = EdgeClient(sys.argv[1], auto_optimize=False)
client.create_collection("c", models.VectorParams(size=256, distance="Dot"))
written = 0
try:
    while True:
        client.upsert("c", [models.PointStruct.model_construct(id=written + i, vector=[1.0] * 256,
            payload={"text": "x" * 1000}) for i in range(500)])
        written += 500
except StorageError as error:
    print(type(error).__name__, error)
assert client.count("c").count == written
client.delete("c", list(range(100)))
assert client.count("c").count == written - 100
client.close()
client = EdgeClient(sys.argv[1])
assert client.count("c").count == written - 100
print("written", written)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mount namespaces")
def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk is an error, not the end of the process; what was written stays, and can be deleted."""
    mount = f"mount -t tmpfs -o size=260m none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("no permission to mount a small disk")
    command = f'{mount} && exec "$0" -c "$1" {tmp_path}/store'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, sys.executable, FILLER], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "is full" in done.stdout
    with capsys.disabled():
        print(f"\nfull disk: {done.stdout.splitlines()[-1]} points, all kept")


#: Opens a store and makes a collection with ever less room on the disk.
NARROW = """
import os, shutil, sys
from qdrant_client import models
from situate.errors import StorageError
from situate.retrievers.storage.edge import EdgeClient

disk, store = sys.argv[1], sys.argv[1] + "/store"
params = models.VectorParams(size=4, distance="Dot")
def say(doing, call):
    try:
        call()
        print(doing, "works")
    except StorageError as error:
        print(doing, error)
def leave(free):
    with open(disk + "/filler", "ab") as filler:
        size = os.fstat(filler.fileno()).st_size + shutil.disk_usage(disk).free - free
        os.posix_fallocate(filler.fileno(), 0, max(1, size))

with EdgeClient(store) as client:
    client.create_collection("c", params)
    client.upsert("c", [models.PointStruct(id=i, vector=[1, 2, 3, i]) for i in range(100)])
for megabytes in (100, 29, 5, 0):
    leave(megabytes << 20)
    def make():
        with EdgeClient(store) as client:
            client.create_collection("d", params)
    def read():
        with EdgeClient(store) as client:
            assert client.count("c").count == 100
    def new():
        EdgeClient(disk + f"/new{megabytes}").close()
    for call in (make, read, new):
        say(f"{megabytes} {call.__name__}", call)
os.unlink(disk + "/filler")
read()
make()
print("all kept")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mount namespaces")
def test_a_nearly_full_disk(tmp_path: Path) -> None:
    """Making and opening collections without room for what the engine maps is refused, with the room that it needs."""
    mount = f"mount -t tmpfs -o size=300m none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("no permission to mount a small disk")
    command = f'{mount} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, sys.executable, NARROW], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    lines = done.stdout.splitlines()
    assert lines[-1] == "all kept"
    answers = {line.split(" ", 2)[0] + " " + line.split(" ", 2)[1]: line.split(" ", 2)[2] for line in lines[:-1]}
    assert "128 MB are needed" in answers["100 make"]
    assert answers["100 read"] == "works"
    for megabytes in (29, 5, 0):
        assert "128 MB are needed" in answers[f"{megabytes} make"] or "cannot be" in answers[f"{megabytes} make"]
        assert "72 MB are needed" in answers[f"{megabytes} read"] or "cannot be" in answers[f"{megabytes} read"]


# -- wrong input


def ids_of_every_kind() -> list[Any]:
    return [-1, 1 << 64, 1.5, "text", "", True, None, b"x", (1,), "12345678-1234-1234-1234-12345678901"]


WRONG_POINTS: dict[str, Callable[[], Any]] = {
    "nan": lambda: models.PointStruct(id=7, vector=[1.0, float("nan"), 0, 0]),
    "infinity": lambda: models.PointStruct(id=7, vector=[1.0, float("-inf"), 0, 0]),
    "beyond float32": lambda: models.PointStruct(id=7, vector=[1.0, 1e39, 0, 0]),
    "too long": lambda: models.PointStruct(id=7, vector=[1.0] * 5),
    "too short": lambda: models.PointStruct(id=7, vector=[1.0] * 3),
    "empty": lambda: models.PointStruct(id=7, vector=[]),
    "text": lambda: models.PointStruct.model_construct(id=7, vector=["a", "b", "c", "d"], payload=None),
    "no list": lambda: models.PointStruct.model_construct(id=7, vector=3.0, payload=None),
    "rows": lambda: models.PointStruct(id=7, vector=[[1.0] * 4]),
    "unknown name": lambda: models.PointStruct(id=7, vector={"other": [1.0] * 4}),
    "sparse": lambda: models.PointStruct(id=7, vector={"": models.SparseVector(indices=[1], values=[1.0])}),
    "payload object": lambda: models.PointStruct(id=7, vector=[1.0] * 4, payload={"x": object()}),
    "payload nan": lambda: models.PointStruct(id=7, vector=[1.0] * 4, payload={"x": [{"y": float("nan")}]}),
    "payload surrogate": lambda: models.PointStruct(id=7, vector=[1.0] * 4, payload={"x": "\ud800"}),
    "payload list": lambda: models.PointStruct.model_construct(id=7, vector=[1.0] * 4, payload=[1]),
}


@pytest.mark.parametrize("wrong", WRONG_POINTS.values(), ids=WRONG_POINTS.keys())
def test_wrong_points(edge: EdgeClient, wrong: Callable[[], Any]) -> None:
    """Nothing of a batch with a wrong point is written, and the message names the point."""
    edge.create_collection("c", PARAMS)
    with pytest.raises(InputError, match="7"):
        edge.upsert("c", [point(1), wrong(), point(2)])
    with pytest.raises(InputError, match="7"):
        edge.upload_points("c", [point(1), wrong()])
    assert edge.count("c").count == 0


def test_vectors_that_are_arrays_in_a_list(edge: EdgeClient) -> None:
    """As qdrant-client's other clients take them."""
    edge.create_collection("c", PARAMS)
    edge.upload_collection("c", [np.eye(4)[i] for i in range(3)], ids=range(3))
    edge.upsert("c", [models.PointStruct.model_construct(id=3, vector=np.eye(4)[3], payload=None)])
    assert [record.vector for record in edge.scroll("c", with_vectors=True)[0]] == np.eye(4).tolist()


def test_vectors_that_are_not_finite(edge: EdgeClient) -> None:
    edge.create_collection(
        "c",
        {
            "d": PARAMS,
            "m": PARAMS.model_copy(update={"multivector_config": models.MultiVectorConfig(comparator="max_sim")}),
        },
        sparse_vectors_config={"s": models.SparseVectorParams()},
    )
    edge.upsert("c", [models.PointStruct(id=1, vector={"d": [1.0] * 4})])
    nan = float("nan")
    for vector in (
        {"d": [nan, 0, 0, 0]},
        {"m": [[1.0] * 4, [0, 0, 0, float("inf")]]},
        {"s": models.SparseVector(indices=[1], values=[nan])},
    ):
        for call in (
            lambda v=vector: edge.upsert("c", [models.PointStruct(id=9, vector=v)]),
            lambda v=vector: edge.update_vectors("c", [models.PointVectors(id=1, vector=v)]),
            lambda v=vector: edge.query_points("c", next(iter(v.values())), using=next(iter(v))),
        ):
            with pytest.raises(NonFiniteVectorError):
                call()
    with pytest.raises(NonFiniteVectorError, match="point 3"):
        edge.upload_collection("c", {"d": np.array([[0.0] * 4, [np.inf] * 4])}, ids=[2, 3])
    assert edge.count("c").count == 1
    with pytest.raises(InputError, match="twice"):
        edge.query_points("c", models.SparseVector(indices=[1, 1], values=[1.0, 1.0]), using="s")


@pytest.mark.parametrize("wrong", ids_of_every_kind(), ids=repr)
def test_wrong_ids(edge: EdgeClient, wrong: Any) -> None:
    edge.create_collection("c", PARAMS)
    with pytest.raises(InputError, match="point id"):
        edge.upsert("c", [models.PointStruct.model_construct(id=wrong, vector=[1.0] * 4, payload={})])
    with pytest.raises(InputError, match="point id"):
        edge.retrieve("c", [wrong])
    with pytest.raises(InputError, match="point id"):
        edge.delete("c", [wrong])
    assert edge.count("c").count == 0


def test_ids_come_back_as_they_went_in(edge: EdgeClient) -> None:
    edge.create_collection("c", PARAMS)
    given = [0, 1, (1 << 64) - 1, str(uuid.uuid4()), uuid.uuid4()]
    edge.upsert("c", [models.PointStruct(id=i, vector=[1.0] * 4) for i in given])
    assert {r.id for r in edge.scroll("c")[0]} == {str(i) if isinstance(i, uuid.UUID) else i for i in given}
    assert len(edge.retrieve("c", given)) == len(given)


def test_large_payloads_and_filters(edge: EdgeClient) -> None:
    edge.create_collection("c", PARAMS)
    text = "ü" * (1 << 19)
    deep: Any = "end"
    for _ in range(60):
        deep = {"deeper": [deep]}
    edge.upsert("c", [point(1, text=text, deep=deep), point(2)])
    payload = edge.retrieve("c", [1])[0].payload
    assert payload is not None
    assert payload["text"] == text
    assert payload["deep"] == deep
    terms = [f"term {i}" for i in range(10_000)]
    edge.set_payload("c", {"word": "term 9999"}, [2])
    any_of = models.FieldCondition(key="word", match=models.MatchAny(any=terms))
    conditions = [models.FieldCondition(key="word", match=models.MatchValue(value=term)) for term in terms]
    for condition in (
        models.Filter(must=[any_of]),
        models.Filter(should=conditions),
        models.Filter(must=[models.HasIdCondition(has_id=[*range(2, 10_002)])]),
    ):
        assert [r.id for r in edge.scroll("c", scroll_filter=condition)[0]] == [2]
        assert [p.id for p in edge.query_points("c", [1.0, 0, 0, 0], query_filter=condition).points] == [2]


def test_wrong_requests(edge: EdgeClient) -> None:
    edge.create_collection("c", PARAMS)
    edge.upsert("c", [point(1)])
    rrf = models.FusionQuery(fusion=models.Fusion.RRF)
    calls: list[Callable[[], Any]] = [
        lambda: edge.upsert("c", []),
        lambda: edge.query_points("c", [1.0] * 4, limit=0),
        lambda: edge.query_points("c", [1.0] * 4, offset=-1),
        lambda: edge.query_points("c", [1.0] * 3),
        lambda: edge.query_points("c", [1.0] * 4, using="other"),
        lambda: edge.query_points("c", 99),
        lambda: edge.query_points("c", rrf),
        lambda: edge.query_points("c", prefetch=models.Prefetch(query=[1.0] * 4)),
        lambda: edge.query_points("c", rrf, prefetch=models.Prefetch(query=[1.0] * 4, limit=0)),
        lambda: edge.query_points("c", score_threshold=0.5),
        lambda: edge.query_points("c", models.OrderByQuery(order_by="i")),
        lambda: edge.scroll("c", order_by="i"),
        lambda: edge.facet("c", "i"),
        lambda: edge.scroll("c", limit=0),
        lambda: edge.set_payload("c", {"x": 1}, [99]),
        lambda: edge.set_payload("c", {"x": float("nan")}, [1]),
        lambda: edge.update_vectors("c", [models.PointVectors(id=99, vector=[1.0] * 4)]),
        lambda: edge.delete_vectors("c", ["other"], [1]),
        lambda: edge.create_payload_index("c", "x"),
        lambda: edge.create_payload_index("c", "x", "nonsense"),
        lambda: edge.query_points("c", models.RecommendQuery(recommend=models.RecommendInput())),
        lambda: edge.create_collection("d", models.VectorParams(size=0, distance=models.Distance.DOT)),
        lambda: edge.create_collection("d", {"a/b": PARAMS}),
        lambda: edge.create_collection("d", sparse_vectors_config={"": models.SparseVectorParams()}),
        lambda: edge.upsert("c", models.Batch(ids=[1, 2], vectors=[[1.0] * 4])),
        lambda: edge.upload_collection("c", {"": np.ones((2, 4)), "x": np.ones((3, 4))}, ids=[1, 2]),
    ]
    for call in calls:
        with pytest.raises((SituateError, ValueError)):
            call()
    assert edge.count("c").count == 1
    assert edge.retrieve("c", [1], with_vectors=True)[0].payload == {"i": 1}


# -- many at once


def test_threads_and_tasks_read_while_one_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """32 threads and 200 tasks read while one thread replaces documents: every answer is whole."""
    rounds = 200 if FULL else 15
    with EdgeClient(tmp_path / "store") as client:
        client.create_collection("c", PARAMS)
        client.upsert("c", [point(i, version=0) for i in range(100)])
        stop = threading.Event()
        wrote = 0

        def write() -> int:
            version = 0
            while not stop.is_set():
                version += 1
                client.upsert("c", [point(i, version=version) for i in range(100)])
            return version

        def check(points: Any) -> int:
            assert len(points) == 100
            versions = {p.payload["version"] for p in points}
            assert len(versions) == 1, versions  # a call of the writer is visible whole or not at all
            return 1

        def read() -> int:
            return sum(check(client.query_points("c", [1.0, 0, 0, 0], limit=100).points) for _ in range(rounds))

        async def read_async() -> int:
            shared = AsyncEdgeClient(client=client)

            async def task() -> int:
                return check((await shared.scroll("c", limit=100))[0])

            answers = await asyncio.gather(*(task() for _ in range(200)))
            await shared.close()
            return sum(answers)

        with ThreadPoolExecutor(33) as pool:
            writer = pool.submit(write)
            readers = [pool.submit(read) for _ in range(32)]
            try:
                tasks = asyncio.run(read_async())
                reads = sum(reader.result() for reader in readers)
            finally:
                stop.set()
            wrote = writer.result()
        assert client.count("c").count == 100
    assert tasks == 200
    assert reads == 32 * rounds
    with capsys.disabled():
        print(f"\n{reads} reads of 32 threads and {tasks} tasks while {wrote} batches were written")
