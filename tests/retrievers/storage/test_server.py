"""Failing servers: a stand-in that refuses, stalls and restarts, on real sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from situate.errors import InputError, ServerError
from situate.retrievers import connect, connect_async
from situate.retrievers.storage import server
from situate.retrievers.storage.server import AsyncServerClient, ServerClient

KEY = "secret-key-1234"
pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")


class StandIn:
    """Answers like a server, but first does what ``faults`` says: a status, "drop" the connection, or "stall"."""

    def __init__(self, faults: list[Any]) -> None:
        self.faults = faults
        self.upserts: list[list[int]] = []
        self.calls = 0
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.calls += 1
                fault = outer.faults.pop(0) if outer.faults else None
                if fault == "drop":
                    self.close_connection = True
                    self.connection.close()
                    return
                if fault == "stall":
                    outer.release.wait(30)
                    self.close_connection = True
                    return
                if fault is None and self.path.startswith("/collections/c/points"):
                    outer.upserts.append([p["id"] for p in json.loads(body)["points"]])
                result: dict[str, Any] = {
                    "result": {"operation_id": 0, "status": "completed"},
                    "status": "ok",
                    "time": 0,
                }
                if self.path == "/":
                    result = {"title": "stand-in", "version": "1.20.0"}
                data = json.dumps(result).encode()
                self.send_response(200 if fault is None else fault)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (OSError, ValueError):  # the other end, or this one, is gone
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(server, "LONGEST_WAIT", 0.01)


@pytest.fixture
def stand_in(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    running = StandIn(list(getattr(request, "param", [])))
    yield running
    running.stop()


def points(count: int) -> list[models.PointStruct]:
    return [models.PointStruct(id=i, vector=[1.0]) for i in range(count)]


@pytest.mark.parametrize("stand_in", [[503, "drop", 502, 429]], indirect=True)
def test_a_server_that_comes_back(stand_in: StandIn) -> None:
    client = ServerClient(stand_in.url, check_compatibility=False)
    client.upsert("c", points(3))
    assert stand_in.upserts == [[0, 1, 2]]
    assert stand_in.calls == 5
    client.close()


@pytest.mark.parametrize("stand_in", [[503, "drop", 503]], indirect=True)
async def test_a_server_that_comes_back_async(stand_in: StandIn) -> None:
    client = AsyncServerClient(stand_in.url, check_compatibility=False)
    await client.upsert("c", points(3))
    assert stand_in.upserts == [[0, 1, 2]]
    await client.close()


@pytest.mark.parametrize("stand_in", [[None, "drop", 503, None, *[503] * 50]], indirect=True)
def test_a_server_that_restarts_in_the_middle_of_an_upload(stand_in: StandIn) -> None:
    """The upload continues where it was, and the final error gives the number of points that the server has."""
    client = ServerClient(stand_in.url, attempts=4, api_key=KEY, check_compatibility=False)
    with pytest.raises(ServerError) as error:
        client.upload_points("c", points(100), batch_size=10)
    assert stand_in.upserts == [list(range(10)), list(range(10, 20))]
    message = str(error.value)
    assert stand_in.url in message
    assert "20 points were written" in message
    assert "4 attempts" in message
    assert KEY not in message
    client.close()


@pytest.mark.parametrize("stand_in", [[*[None] * 3, *[503] * 9]], indirect=True)
def test_columns_are_uploaded_like_points(stand_in: StandIn) -> None:
    client = ServerClient(stand_in.url, attempts=4, api_key=KEY, check_compatibility=False)
    with pytest.raises(ServerError, match="30 points were written"):
        client.upload_collection("c", np.zeros((100, 2)), ids=range(100), batch_size=10)
    assert stand_in.upserts == [list(range(10)), list(range(10, 20)), list(range(20, 30))]
    with pytest.raises(InputError, match="as many rows"):
        client.upload_collection("c", {"a": np.zeros((2, 2)), "b": np.zeros((3, 2))})
    client.close()


@pytest.mark.parametrize("client", [ServerClient, AsyncServerClient])
def test_no_url_at_all(client: Any) -> None:
    with pytest.raises(InputError, match="empty list"):
        client([])


@pytest.mark.parametrize("stand_in", [["stall"] * 10], indirect=True)
def test_a_slow_server(stand_in: StandIn) -> None:
    client = ServerClient(stand_in.url, attempts=2, timeout=1, api_key=KEY, check_compatibility=False)
    with pytest.raises(ServerError, match="2 attempts") as error:
        client.count("c")
    assert stand_in.url in str(error.value)
    assert KEY not in str(error.value)
    client.close()


@pytest.mark.parametrize("stand_in", [[403]], indirect=True)
def test_a_refusal_is_not_tried_again(stand_in: StandIn) -> None:
    client = ServerClient(stand_in.url, api_key=KEY, check_compatibility=False)
    with pytest.raises(UnexpectedResponse):
        client.upsert("c", points(1))
    assert stand_in.calls == 1
    client.close()


NOWHERE = "http://127.0.0.1:9"


def test_a_node_that_is_away_at_first(stand_in: StandIn) -> None:
    client = connect([NOWHERE, stand_in.url], attempts=2, timeout=2)
    client.upsert("c", points(1))
    assert stand_in.upserts == [[0]]
    client.close()


@pytest.fixture
def cluster() -> Iterator[list[StandIn]]:
    running = [StandIn([]) for _ in range(3)]
    yield running
    for node in running:
        node.stop()


def test_a_node_that_is_lost_in_the_middle(cluster: list[StandIn]) -> None:
    """The next node gets the calls at once, and from then on; a node that was away for a moment is tried again."""
    client = connect([node.url for node in cluster], timeout=2, attempts=2)
    client.upsert("c", points(1))
    cluster[0].faults += [503, *["drop"] * 100]
    client.upload_points("c", points(30), batch_size=10)
    assert [len(node.upserts) for node in cluster] == [1, 3, 0]
    cluster[1].faults += [503] * 100
    cluster[2].faults += ["drop"]
    cluster[0].faults.clear()
    client.upsert("c", points(1))
    assert [len(node.upserts) for node in cluster] == [2, 3, 0]
    client.close()


async def test_a_node_that_is_lost_in_the_middle_async(cluster: list[StandIn]) -> None:
    client = connect_async([node.url for node in cluster], timeout=2, attempts=1)
    await client.upsert("c", points(1))
    cluster[0].faults += [502] * 100
    await client.upsert("c", points(1))
    await client.upsert("c", points(1))
    assert [len(node.upserts) for node in cluster] == [1, 2, 0]
    assert cluster[0].calls == 2
    await client.close()


def test_all_nodes_are_lost(cluster: list[StandIn]) -> None:
    client = connect([node.url for node in cluster], timeout=2, attempts=2, api_key=KEY)
    for node in cluster:
        node.faults += [503] * 100
    with pytest.raises(ServerError, match="6 attempts") as error:
        client.upload_points("c", points(1))
    assert all(node.url in str(error.value) for node in cluster)
    assert KEY not in str(error.value)
    client.close()


@pytest.mark.parametrize("stand_in", [[401]], indirect=True)
def test_a_wrong_key_raises_at_once(stand_in: StandIn) -> None:
    with pytest.raises(UnexpectedResponse, match="401"):
        connect([stand_in.url, NOWHERE], api_key=KEY)
    assert stand_in.calls == 1


def test_no_server_at_all() -> None:
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9") as error:
        connect("http://user:pw-5678@127.0.0.1:9/?token=9abc", api_key=KEY, attempts=2, timeout=1)
    for secret in (KEY, "pw-5678", "9abc"):
        assert secret not in str(error.value)
