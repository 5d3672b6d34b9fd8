"""Opening, sharing, locking, closing, optimising, snapshots."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from situate.errors import InputError, StorageError, StoreCorruptError
from situate.retrievers import connect, connect_async
from situate.retrievers.storage.edge import AsyncEdgeClient, EdgeClient
from situate.retrievers.storage.edge.files.snapshots import fetch
from tests.conftest import FULL

PARAMS = models.VectorParams(size=4, distance=models.Distance.COSINE)


def point(i: int, **payload: object) -> models.PointStruct:
    return models.PointStruct(id=i, vector=[1.0, float(i), 0.5, -1.0], payload={"i": i, **payload})


def in_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


# -- opening and closing


def test_it_is_a_client(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "store") as client:
        assert isinstance(client, QdrantClient)
        assert isinstance(AsyncEdgeClient(client=client), AsyncQdrantClient)
        client.create_collection("c", PARAMS, metadata={"model": "m"})
        client.upsert("c", [point(1)])
    assert client.closed
    with pytest.raises(StorageError, match="closed"):
        client.count("c")
    with EdgeClient(tmp_path / "store") as client:
        assert client.count("c").count == 1
        assert client.get_collection("c").config.metadata == {"model": "m"}


def test_clients_of_one_path_share_the_store(tmp_path: Path) -> None:
    first = EdgeClient(tmp_path / "store")
    second = EdgeClient(str(tmp_path / "elsewhere" / ".." / "store"))
    first.create_collection("c", PARAMS)
    second.upsert("c", [point(1)])
    assert first.count("c").count == 1
    first.close()
    first.close()  # closing twice takes nothing away from others
    assert second.count("c").count == 1
    copy = pickle.loads(pickle.dumps(second))
    second.close()
    assert copy.count("c").count == 1
    copy.close()
    with pytest.raises(StorageError, match="closed"):
        second.count("c")


def test_memory_stores_are_apart_and_leave_nothing() -> None:
    first, second = EdgeClient(), EdgeClient(":memory:")
    folder = Path(first.path)
    first.create_collection("c", PARAMS)
    assert not second.collection_exists("c")
    assert folder.exists()
    first.close()
    second.close()
    assert not folder.exists()


@pytest.mark.parametrize("where", ["memory", "folder"])
async def test_a_closed_client_is_closed(tmp_path: Path, where: str) -> None:
    """Even if other clients keep the store open, and for every call; the others continue."""
    first = EdgeClient(":memory:" if where == "memory" else tmp_path / "store")
    shared = AsyncEdgeClient(client=first)
    first.create_collection("c", PARAMS)
    first.close()
    for call in (
        lambda: first.count("c"),
        lambda: first.upsert("c", [point(1)]),
        lambda: first.query_points("c", [1.0, 0, 0, 0]),
        lambda: first.get_collections(),
        lambda: first.nearest_scores("c", {"": [1.0, 0, 0, 0]}, 1),
        lambda: first.payloads("c", [1]),
        lambda: first.create_snapshot("c"),
        lambda: first.optimize(),
        lambda: AsyncEdgeClient(client=first),
    ):
        with pytest.raises(StorageError, match="closed"):
            call()
    first.close()
    assert first.closed
    assert (await shared.count("c")).count == 0
    await shared.close()
    with pytest.raises(StorageError, match="closed"):
        await shared.count("c")
    assert first.path == shared.path


def test_a_forgotten_memory_store_is_removed_at_exit() -> None:
    code = "from situate.retrievers.storage.edge import EdgeClient; c = EdgeClient(); print(c.path)"
    done = in_process(code)
    assert done.returncode == 0
    assert done.stderr == ""
    assert not Path(done.stdout.strip()).exists()


def test_the_error_of_another_process_names_the_holder_of_the_store(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from situate.retrievers.storage.edge import EdgeClient\n"
        "try: EdgeClient(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    with EdgeClient(tmp_path / "store"):
        answer = in_process(code, str(tmp_path / "store")).stdout
    assert "StoreLockedError" in answer
    assert f"pid {os.getpid()}" in answer
    assert "server" in answer
    assert in_process(code, str(tmp_path / "store")).stdout == ""


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal\n"
        "from qdrant_client import models\n"
        "from situate.retrievers.storage.edge import EdgeClient\n"
        "client = EdgeClient(sys.argv[1])\n"
        "client.create_collection('c', models.VectorParams(size=4, distance='Cosine'))\n"
        "client.upsert('c', [models.PointStruct(id=1, vector=[1, 2, 3, 4])])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert in_process(code, str(tmp_path / "store")).returncode == -9
    with EdgeClient(tmp_path / "store") as client:
        assert client.count("c").count == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "store") as client:
        client.create_collection("c", PARAMS)
        child = os.fork()
        if child == 0:
            try:
                client.count("c")
            except StorageError as error:
                os._exit(0 if "fork" in str(error) else 2)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        client.upsert("c", [point(1)])
        assert client.count("c").count == 1


# -- error classes


def test_missing_and_existing_collections(edge: EdgeClient) -> None:
    with pytest.raises(ValueError, match="not found"):
        edge.count("none")
    with pytest.raises(UnexpectedResponse) as response:
        edge.get_collection("none")
    assert response.value.status_code == 404
    edge.create_collection("c", PARAMS)
    with pytest.raises(ValueError, match="already exists"):
        edge.create_collection("c", PARAMS)
    with pytest.raises(UnexpectedResponse) as response:
        edge.create_collection("c", PARAMS)
    assert response.value.status_code == 409
    assert edge.delete_collection("none") is False
    for bad in ("", "..", "a/b", "x" * 256, "a:b"):
        with pytest.raises(InputError):
            edge.create_collection(bad, PARAMS)


def test_what_only_a_cluster_can_do(edge: EdgeClient) -> None:
    for call in (edge.cluster_status, edge.recover_current_peer, edge.cluster_telemetry):
        with pytest.raises(StorageError, match="cluster"):
            call()
    with pytest.raises(NotImplementedError):
        edge.create_shard_key("c", "key")


# -- optimising


def test_optimising_beside_reads_and_writes(tmp_path: Path) -> None:
    """HNSW graphs are built while threads read and write; nothing written meanwhile is lost."""
    rng = np.random.default_rng(0)
    count = 4000 if FULL else 1000
    vectors = rng.normal(size=(count, 32)).astype(np.float32)
    with EdgeClient(tmp_path / "store", auto_optimize=False) as client:
        client.create_collection(
            "c",
            models.VectorParams(size=32, distance=models.Distance.COSINE),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=100),
            hnsw_config=models.HnswConfigDiff(full_scan_threshold=10),
        )
        client.upload_collection("c", vectors, ids=range(count))
        assert client.get_collection("c").status == models.CollectionStatus.GREY
        assert client.get_optimizations("c").summary.queued_optimizations == 1
        written: list[int] = []
        done = threading.Event()

        def write() -> None:
            for i in range(10_000, 10_000 + count // 2):
                client.upsert("c", [models.PointStruct(id=i, vector=vectors[i % count].tolist())])
                client.delete("c", [i - 10_000])
                written.append(i)
                if done.is_set():
                    return

        def read() -> int:
            reads = 0
            while not done.is_set():
                assert len(client.query_points("c", vectors[reads % count], limit=5).points) == 5
                reads += 1
            return reads

        with ThreadPoolExecutor(3) as pool:
            writer, reader = pool.submit(write), pool.submit(read)
            try:
                assert client.optimize("c") is True
            finally:
                done.set()
            writer.result()
            assert reader.result() > 0
        info = client.get_collection("c")
        assert info.indexed_vectors_count
        assert info.points_count == count
        stored = {r.id for r in client.scroll("c", limit=10_000, with_payload=False)[0]}
        assert stored == set(range(len(written), count)) | set(written)
        assert len(client.get_optimizations("c").completed or []) == 1
    with EdgeClient(tmp_path / "store") as client:
        assert {r.id for r in client.scroll("c", limit=10_000, with_payload=False)[0]} == stored
        assert len(list((tmp_path / "store" / "collections").iterdir())) == 1


def test_optimising_does_not_change_what_setting_null_does(edge: EdgeClient) -> None:
    # The engine drops empty payloads when it builds a segment anew, as it does after many deletions.
    edge.create_collection(
        "c",
        PARAMS,
        optimizers_config=models.OptimizersConfigDiff(
            indexing_threshold=0, deleted_threshold=0.01, vacuum_min_vector_number=100
        ),
    )
    edge.upsert("c", [point(i) for i in range(2, 1500)])
    edge.upsert("c", [models.PointStruct(id=i, vector=[1.0, 0.0, 0.0, 0.0], payload={}) for i in (0, 1)])
    edge.delete("c", list(range(500, 1500)))
    assert edge.optimize("c") is True
    edge.set_payload("c", {"i": None, "word": "red"}, [0, 1, 2])
    assert [p.payload for p in edge.retrieve("c", [0, 1, 2])] == [{"word": "red"}] * 3


def test_optimising_by_itself() -> None:
    with EdgeClient() as client:
        client.create_collection(
            "c",
            models.VectorParams(size=32, distance=models.Distance.DOT),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10),
        )
        client.upload_collection("c", np.random.default_rng(0).normal(size=(500, 32)), ids=range(500))
        done = client._client.store.collection("c").wait_optimized(30)
        assert done
        assert client.get_collection("c").indexed_vectors_count == 500
        assert client.get_collection("c").status == models.CollectionStatus.GREEN


def test_closing_and_deleting_while_optimising(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 64))
    for end in ("close", "delete"):
        client = EdgeClient(tmp_path / end, auto_optimize=False)
        client.create_collection(
            "c",
            models.VectorParams(size=64, distance=models.Distance.DOT),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10),
        )
        client.upload_collection("c", vectors, ids=range(3000))
        collection = client._client.store.collection("c")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(client.optimize, "c")
            collection.started.wait(30)
            client.close() if end == "close" else client.delete_collection("c")
            with pytest.raises(StorageError):
                running.result()
        client.close()
        with EdgeClient(tmp_path / end) as again:
            assert again.collection_exists("c") == (end == "close")
            if end == "close":
                assert again.count("c").count == 3000


# -- snapshots


def test_snapshots_of_a_collection(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "store") as client:
        client.create_collection("c", PARAMS, metadata={"x": 1})
        client.upsert("c", [point(1), point(2)])
        snapshot = client.create_snapshot("c")
        assert [s.name for s in client.list_snapshots("c")] == [snapshot.name]
        client.delete("c", [1])
        client.upsert("c", [point(3)])
        client.recover_snapshot("c", snapshot.name, checksum=snapshot.checksum)
        assert {r.id for r in client.scroll("c")[0]} == {1, 2}
        file = tmp_path / "store" / "snapshots" / "c" / snapshot.name
        with EdgeClient() as other:
            other.recover_snapshot("copy", file.as_uri())
            assert other.count("copy").count == 2
            assert other.get_collection("copy").config.metadata == {"x": 1}
        with pytest.raises(StoreCorruptError, match="checksum"):
            client.recover_snapshot("c", snapshot.name, checksum="0" * 64)
        with pytest.raises(InputError):
            client.delete_snapshot("c", "../c/" + snapshot.name)
        broken = tmp_path / "broken.snapshot"
        broken.write_bytes(file.read_bytes()[:3000])
        with pytest.raises(StoreCorruptError):
            client.recover_snapshot("c", str(broken))
        stranger = tmp_path / "stranger.snapshot"
        with tarfile.open(stranger, "w") as tar:
            tar.add(file, "something")
        with pytest.raises(StoreCorruptError, match="no snapshot of an embedded store"):
            client.recover_snapshot("c", str(stranger))
        assert {r.id for r in client.scroll("c")[0]} == {1, 2}
        client.delete_snapshot("c", snapshot.name)
        assert client.list_snapshots("c") == []


def test_reading_a_snapshot_beside_the_writer(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "store") as writer:
        writer.create_collection("c", PARAMS)
        writer.update_collection_aliases(
            [models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name="c", alias_name="alias"))]
        )
        writer.upsert("c", [point(1)])
        with pytest.raises(StorageError, match="create_full_snapshot"):
            EdgeClient(tmp_path / "store", read_only=True)
        full = writer.create_full_snapshot()
        writer.upsert("c", [point(2)])
        with EdgeClient(tmp_path / "store", read_only=True) as reader:
            assert reader.count("alias").count == 1
            for call in (
                lambda: reader.upsert("c", [point(3)]),
                lambda: reader.delete("c", [1]),
                lambda: reader.create_collection("d", PARAMS),
                lambda: reader.delete_collection("c"),
                lambda: reader.create_payload_index("c", "i", "integer"),
                lambda: reader.optimize(),
            ):
                with pytest.raises(StorageError, match="reading only"):
                    call()
        assert writer.count("c").count == 2
        assert writer.delete_full_snapshot(full.name)
        assert writer.list_full_snapshots() == []


class _Redirects(BaseHTTPRequestHandler):
    """Sends a download to another origin, and notes the keys that come with its requests."""

    keys: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.keys.append(self.headers.get("api-key"))
        self.send_response(302 if self.path == "/snapshot" else 404)
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/elsewhere")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


def test_the_key_of_a_snapshots_download_goes_to_no_other_host(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _Redirects) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for key in ("secret-key-1234", None):
                with pytest.raises(StorageError, match="cannot be downloaded") as error:
                    fetch(f"http://127.0.0.1:{server.server_address[1]}/snapshot", tmp_path, key, None)
                assert "secret-key-1234" not in str(error.value)
        finally:
            server.shutdown()
            thread.join()
    assert _Redirects.keys == ["secret-key-1234", None, None]


# -- connect


def test_open_client(tmp_path: Path) -> None:
    for target in (":memory:", str(tmp_path / "a"), tmp_path / "b"):
        client = connect(target)
        assert isinstance(client, EdgeClient)
        client.close()
    for bad in ("", [], ["folder"], "ftp://host", "http://", 3, "http://[host", "http://host:99999", ["http://h:port"]):
        with pytest.raises(InputError):
            connect(bad)  # type: ignore[arg-type]


def test_open_client_names_the_url_and_never_the_key() -> None:
    key = "secret-key-1234"
    for target in ("http://127.0.0.1:9", ["http://user:pw-5678@127.0.0.1:9", "http://127.0.0.1:10/prefix?token=9abc"]):
        with pytest.raises(StorageError) as error, pytest.warns(UserWarning, match="insecure"):
            connect(target, api_key=key, timeout=1)
        assert "http://127.0.0.1:9" in str(error.value)
        for secret in (key, "pw-5678", "9abc"):
            assert secret not in str(error.value)


async def test_open_async_client(tmp_path: Path) -> None:
    client = connect_async(tmp_path / "store")
    await client.create_collection("c", PARAMS)
    assert isinstance(client, AsyncEdgeClient)
    assert await client.collection_exists("c")
    await client.close()


# -- async


async def test_async_calls_do_not_hold_up_the_loop(tmp_path: Path) -> None:
    """While a call waits for the store, the loop goes on: a lock held elsewhere delays that call and nothing else."""
    async with AsyncEdgeClient(tmp_path / "store") as client:
        await client.create_collection("c", PARAMS)
        collection = client._client.backend.store.collection("c")
        taken, release = threading.Event(), threading.Event()

        def hold() -> None:
            with collection.lock:
                taken.set()
                release.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait(30)
        write = asyncio.ensure_future(client.upsert("c", [point(1)]))
        turns = 0
        while turns < 100:
            await asyncio.sleep(0)
            turns += 1
        assert not write.done()
        assert (await client.count("c")).count == 0  # reads wait for no writer
        release.set()
        await write
        thread.join()
        assert (await client.count("c")).count == 1


def test_every_method_of_the_interface_is_there() -> None:
    from qdrant_client.async_client_base import AsyncQdrantBase
    from qdrant_client.client_base import QdrantBase

    from situate.retrievers.storage.edge.async_client import AsyncEdgeBackend
    from situate.retrievers.storage.edge.backend.edge import EdgeBackend

    for base, ours, inherited in (
        (QdrantBase, EdgeBackend, {"migrate"}),
        (AsyncQdrantBase, AsyncEdgeBackend, {"migrate"}),
    ):
        names = {n for n, m in vars(base).items() if callable(m) and not n.startswith("_")}
        missing = {n for n in names if getattr(ours, n) is getattr(base, n)}
        assert missing <= inherited
