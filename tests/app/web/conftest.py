"""A chat application on a port of this machine, and a language model beside it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from situate.app.web import WebSettings, create_app
from situate.app.web.server import server_config
from situate.chunkers import HeadingSituator
from situate.embedders import Embedder, OpenAIGenerator
from situate.retrievers import Index, Retriever
from situate.types import TextGenerator

LEAVE = """# Leave

## Parental leave

Parents take twelve weeks of leave, paid in full. It may be split into two parts.

## Sick leave

A doctor's note is needed from the third day on. Send it to the people team.
"""
TRAVEL = """# Travel

## Hotels

A hotel may cost up to 180 euros a night. Above that, the head of finance signs first.

## Trains

Journeys of less than four hours are made by train, in second class.
"""


class LanguageModel:
    """A server of OpenAI's interface: answers in pieces as it is told to, and remembers what it was asked.

    Attributes:
        pieces: The answer's pieces; a number waits so many seconds, None ends the connection.
        status: The status of its answers.
        asked: The bodies of the requests.
    """

    def __init__(self) -> None:
        self.reset()
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.asked.append(body)
                if model.status != 200:
                    answer = b'{"error": {"message": "no, and here is sk-a-secret-key-of-the-model"}}'
                    self.send_response(model.status)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                    return
                pieces = model.pieces if body.get("stream") else model.rewritten
                if not body.get("stream"):
                    text = json.dumps({"choices": [{"message": {"content": "".join(map(str, pieces))}}]}).encode()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                for piece in pieces:
                    if piece is None:
                        return
                    if isinstance(piece, float):
                        model.resume.wait(piece)
                        continue
                    event = json.dumps({"choices": [{"delta": {"content": piece}}]})
                    try:
                        self.wfile.write(f"data: {event}\n\n".encode())
                        self.wfile.flush()
                    except OSError:
                        model.left.set()
                        return
                with suppress(OSError):
                    self.wfile.write(b"data: [DONE]\n\n")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def reset(self) -> None:
        """The answer that is given where a test says nothing else."""
        self.pieces: list[Any] = ["Twelve weeks, ", "**paid in full** [1]."]
        self.rewritten = ["How long is parental leave?"]
        self.status = 200
        self.asked: list[dict[str, Any]] = []
        self.resume = threading.Event()
        self.left = threading.Event()

    def stop(self) -> None:
        """Ends the server."""
        self.resume.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Running:
    """A chat application on a free port, in a thread of its own."""

    def __init__(self, retriever: Retriever, generator: TextGenerator | None, settings: WebSettings) -> None:
        self.app = create_app(retriever, generator, settings=settings)
        self._server = uvicorn.Server(server_config(self.app, "127.0.0.1", 0))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()))
        self._thread.start()
        until(lambda: self._server.started or not self._thread.is_alive())
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def ready(self) -> Running:
        """Waits until the models are loaded."""
        with self.client() as client:
            until(lambda: client.get("/readyz").status_code == 200, 120)
        return self

    def client(self, key: str | None = None) -> httpx.Client:
        """A client, with a tenant's key where one is given."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def stop(self) -> None:
        """Stops it as a signal would."""
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.02)


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """The names and data of server-sent events."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    found = []
    for block in response.text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def add(client: httpx.Client, name: str, content: str | bytes, collection: str = "documents") -> dict[str, Any]:
    """Uploads a file and waits until it is indexed, or failed; its record."""
    path = f"/api/collections/{collection}/documents"
    response = client.post(path, params={"name": name}, content=content)
    assert response.status_code == 202, response.text
    assert all(data["state"] for _, data in events(client.get(f"{path}/events")))
    return next(one for one in client.get(path).json() if one["id"] == name)


def ask(
    client: httpx.Client, question: str, conversation: str | None = None, collection: str = "documents"
) -> list[tuple[str, dict[str, Any]]]:
    """The events of an answer."""
    asked = {"question": question, "conversation": conversation}
    return events(client.post(f"/api/collections/{collection}/ask", json=asked))


def written(made: list[tuple[str, dict[str, Any]]]) -> str:
    """The text of an answer's events."""
    text = ""
    for name, data in made:
        text = data["text"] if name == "replace" else text + data["text"] if name == "text" else text
    return text


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The real weights, loaded once."""
    return Embedder()


@pytest.fixture(scope="session")
def language_model() -> Iterator[LanguageModel]:
    """A language model's server."""
    model = LanguageModel()
    yield model
    model.stop()


@pytest.fixture
def model(language_model: LanguageModel) -> LanguageModel:
    """The language model, as it is from the start."""
    language_model.reset()
    return language_model


@pytest.fixture
def start(embedder: Embedder, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts chat applications, each on an index in memory of its own, and stops them."""
    running: list[Running] = []

    def started(model: LanguageModel | None = None, path: str | Path = ":memory:", **settings: Any) -> Running:
        index = Index(embedder, path=path, situators=[HeadingSituator()])
        generator = None if model is None else OpenAIGenerator("small", model.url, timeout=120, retries=0)
        settings = {"folder": tmp_path / "chat", **settings}
        running.append(Running(Retriever(index), generator, WebSettings(**settings)))
        return running[-1]

    yield started
    for one in running:
        one.stop()
