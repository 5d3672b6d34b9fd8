"""OpenAIGenerator against a server on loopback that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from situate.embedders import OpenAIGenerator
from situate.errors import GenerationError, InputError, PromptRefusedError
from situate.types import Prompt, StreamingGenerator
from tests.embedders.remote.test_http import raw_server
from tests.embedders.remote.test_remote import KEY, Server

PROMPT = Prompt("What is late chunking?", prefix="A passage.\n", system="Answer briefly.")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def ended(connection: socket.socket) -> None:
    """The end of the answer; what is left of the request is read, so that closing resets nothing."""
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65_536):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
async def generator() -> AsyncIterator[Callable[..., OpenAIGenerator]]:
    """Makes generators, and closes their connections after the test."""
    made: list[OpenAIGenerator] = []

    def make(url: str, **options: Any) -> OpenAIGenerator:
        made.append(OpenAIGenerator("small", f"{url}/v1", **{"backoff": 0.001, "timeout": 5, "retries": 1, **options}))
        return made[-1]

    yield make
    for model in made:
        model.close()
        await model.aclose()


def echo(path: str, body: Any) -> tuple[int, Any]:
    return 200, {"choices": [{"message": {"content": f"To: {body['messages'][-1]['content']}"}}]}


async def pieces_of(generator: StreamingGenerator, asynchronously: bool) -> list[str]:
    if asynchronously:
        return [piece async for piece in generator.astream(PROMPT)]
    return await asyncio.to_thread(lambda: list(generator.stream(PROMPT)))


async def test_answers_come_in_order_and_the_request_is_openais(generator: Any, server: Server) -> None:
    server.answer = echo
    model = generator(server.url, api_key=KEY, temperature=0.0, max_tokens=50, request={"seed": 3})
    prompts = [Prompt(str(number)) for number in range(5)]
    assert model.generate(prompts) == await model.agenerate(prompts) == [f"To: {number}" for number in range(5)]
    model.generate([PROMPT])
    path, headers, body = server.requests[-1]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "small",
        "temperature": 0.0,
        "max_tokens": 50,
        "seed": 3,
        "messages": [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": "A passage.\nWhat is late chunking?"},
        ],
    }
    copy = pickle.loads(pickle.dumps(model))
    assert copy.generate([PROMPT]) == model.generate([PROMPT])
    assert KEY not in repr(model) + repr(model.configuration())
    copy.close()


@pytest.mark.parametrize("asynchronously", [True, False])
async def test_a_stream_arrives_piece_by_piece_whatever_way_it_is_cut(generator: Any, asynchronously: bool) -> None:
    stream = b": a comment\n\n" + event("Late ") + event("") + event("chünking") + b"data: [DONE]\n\n" + event("no")

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(HEAD)
        for at in range(0, len(stream), 7):
            connection.sendall(stream[at : at + 7])
        ended(connection)

    with raw_server(talk) as url:
        model = generator(url)
        assert isinstance(model, StreamingGenerator)
        assert await pieces_of(model, asynchronously) == ["Late ", "chünking"]


async def test_the_first_piece_is_read_before_the_last_is_written(generator: Any) -> None:
    read = threading.Event()

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(HEAD + event("first"))
        assert read.wait(10)
        connection.sendall(event(" last"))
        ended(connection)

    with raw_server(talk) as url:
        pieces = generator(url).stream(PROMPT)
        first = await asyncio.to_thread(next, pieces)
        read.set()
        assert [first, *await asyncio.to_thread(list, pieces)] == ["first", " last"]


async def test_a_server_that_does_not_stream_answers_in_one_piece(generator: Any, server: Server) -> None:
    server.answer = echo
    assert await pieces_of(generator(server.url), True) == ["To: A passage.\nWhat is late chunking?"]
    assert server.requests[0][2]["stream"] is True


async def test_a_stream_that_falls_silent_is_given_up_and_one_that_breaks_off_is_an_error(generator: Any) -> None:
    def silent(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(HEAD + event("Late"))
        over.wait(10)

    def broken(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(HEAD + event("Late") + b'data: {"error": {"message": "out of memory"}}\n\n')
        ended(connection)

    for talk, message in ((silent, "did not answer in time"), (broken, "out of memory")):
        with raw_server(talk) as url:
            started = time.monotonic()
            pieces = generator(url, timeout=0.3).astream(PROMPT)
            assert await anext(pieces) == "Late"
            with pytest.raises(GenerationError, match=message):
                await anext(pieces)
            assert time.monotonic() - started < 5


async def test_a_stream_that_is_left_closes_its_connection(generator: Any) -> None:
    closed = threading.Event()

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(HEAD + event("Late"))
        connection.settimeout(10)
        while connection.recv(65_536):
            pass
        closed.set()

    with raw_server(talk) as url:
        pieces = generator(url).stream(PROMPT)
        assert await asyncio.to_thread(next, pieces) == "Late"
        await asyncio.to_thread(pieces.close)
        assert await asyncio.to_thread(closed.wait, 10)


@pytest.mark.parametrize("asynchronously", [True, False])
async def test_refusals_and_passing_failures_before_a_stream_begins(
    generator: Any, server: Server, asynchronously: bool
) -> None:
    server.answer = echo
    server.troubles = [(503, {"error": "loading"}, {})]
    assert len(await pieces_of(generator(server.url), asynchronously)) == 1
    server.troubles = [(400, {"error": f"too long, key {KEY}"}, {})]
    with pytest.raises(PromptRefusedError, match="too long") as refused:
        await pieces_of(generator(server.url, api_key=KEY), asynchronously)
    assert KEY not in str(refused.value)
    server.troubles = [(401, {"error": "no"}, {})]
    with pytest.raises(GenerationError, match="no key was sent"):
        await pieces_of(generator(server.url), asynchronously)


@pytest.mark.parametrize(
    "answer", [{}, {"choices": []}, {"choices": [3]}, [], {"choices": [{"message": {"content": 3}}]}]
)
def test_what_is_no_answer_is_an_error(generator: Any, server: Server, answer: Any) -> None:
    server.answer = lambda path, body: (200, answer)
    with pytest.raises(GenerationError, match=r"holds no text|no choices\[0\]"):
        generator(server.url).generate([PROMPT])


def test_a_server_that_is_not_there_and_an_option_that_is_unknown(generator: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(GenerationError, match="cannot be reached"):
        generator(url).generate([PROMPT])
    with pytest.raises(GenerationError, match="cannot be reached"):
        next(generator(url).stream(PROMPT))
    with pytest.raises(InputError, match="base_url="):
        OpenAIGenerator("small", url="http://127.0.0.1/v1")  # type: ignore[call-arg]


async def test_probabilities_of_answers_are_those_of_the_likeliest_first_tokens(generator: Any, server: Server) -> None:
    def likeliest(path: str, body: Any) -> tuple[int, Any]:
        shares = (
            {"3": 0.5, " 3": 0.1, "2": 0.2, "yes": 0.2} if "late" in body["messages"][-1]["content"] else {"x": 1.0}
        )
        tokens = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
        return 200, {"choices": [{"logprobs": {"content": [{"top_logprobs": tokens}]}}]}

    server.answer = likeliest
    model = generator(server.url)
    for found in (
        model.answer_probabilities([PROMPT, Prompt("?")], ["2", "3"]),
        await model.aanswer_probabilities([PROMPT, Prompt("?")], ["2", "3"]),
    ):
        assert found == [[pytest.approx(0.25), pytest.approx(0.75)], [0, 0]]
    assert {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}.items() <= server.requests[-1][2].items()
    server.answer = echo
    with pytest.raises(GenerationError, match="holds no log-probabilities"):
        model.answer_probabilities([PROMPT], ["2", "3"])
