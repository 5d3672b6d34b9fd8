"""Requests are bounded in time and size, keys are not leaked, and a server's answers are checked."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import json
import multiprocessing
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from situate.embedders import HttpSettings, OpenAIEncoder, SpanText, TEIEncoder, VLLMEncoder
from situate.errors import InputError, NonFiniteVectorError, ServerError
from situate.outside import Secret
from tests.embedders.remote.test_remote import KEY, Server, openai_answer

TEXT = [SpanText("x")]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.answer = openai_answer
    yield server
    server.close()


@contextmanager
def raw_server(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server that speaks bytes: ``talk`` gets each connection once its request was read."""
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65_536)
                talk(connection, over)
            except OSError:
                pass  # the client went away, as it should

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        over.set()
        listening.close()


def drip(data: bytes, at_once: bytes = b"") -> Callable[[socket.socket, threading.Event], None]:
    """Sends ``at_once``, then a byte each 0.1 seconds, over and over."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(at_once)
        while True:
            for byte in data:
                connection.sendall(bytes([byte]))
                if over.wait(0.1):
                    return

    return talk


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "talk",
    [
        drip(b" ", HEAD + b"Content-Length: 1000000\r\n\r\n"),
        drip(b"1\r\n \r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
        drip(b"X-Header: a\r\n", b"HTTP/1.1 200 OK\r\n"),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n"),
        drip(b" ", b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000\r\n\r\n"),
    ],
    ids=["body", "chunks", "headers", "continue", "error"],
)
async def test_a_server_that_drips_is_given_up_in_time(talk: Any) -> None:
    with raw_server(talk) as url:
        encoder = OpenAIEncoder("m", url, timeout=0.5, retries=0)
        for again in (False, True):
            started = time.monotonic()
            with pytest.raises(ServerError, match=r"did not answer in time .*timeout 0\.5 s"):
                await encoder.aencode(TEXT) if again else encoder.encode(TEXT)
            assert time.monotonic() - started < 2
        encoder.close()
        await encoder.aclose()


def endless(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(HEAD + b"\r\n" + b'{"data": [')
    while not over.is_set():
        connection.sendall(b"0," * 32_768)


def packed(encoding: str, pack: Callable[[bytes], bytes]) -> Callable[[socket.socket, threading.Event], None]:
    data = pack(b" " * 300_000_000)

    def talk(connection: socket.socket, over: threading.Event) -> None:
        head = f"Content-Encoding: {encoding}\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(HEAD + head.encode() + data)

    return talk


def test_endless_answers_and_bombs_are_read_up_to_a_limit() -> None:
    bombs = (
        endless,
        packed("gzip", lambda data: gzip.compress(data, 1)),
        packed("deflate", lambda data: zlib.compress(data, 1)),
    )
    for talk in bombs:
        with raw_server(talk) as url:
            encoder = OpenAIEncoder("m", url, retries=0)
            before = peak_memory()
            # One vector was requested: its answer has at most 2 MiB.
            with pytest.raises(ServerError, match=r"more than 2,097,152 bytes.*max_response_bytes"):
                encoder.encode(TEXT)
            assert peak_memory() - before < 100 * 2**20
            encoder.close()


def peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_answers_of_many_token_vectors_are_bounded_by_the_setting(server: Server) -> None:
    server.answer = lambda path, body: (200, {"max_input_length": 512, "filler": "a" * 5_000})
    encoder = TEIEncoder(server.url, max_response_bytes=1_000)
    with pytest.raises(ServerError, match="info answered more than 1,000 bytes"):
        _ = encoder.max_tokens
    encoder.close()


def test_gzip_is_understood_and_other_encodings_are_refused(server: Server) -> None:
    encoder = OpenAIEncoder("m", server.url.rstrip("/") + "/v1", retries=0)
    plain = json.dumps(openai_answer("/v1/embeddings", {"input": ["x"], "model": "m"})[1]).encode()
    server.troubles = [(200, gzip.compress(plain), {"Content-Encoding": "gzip"})]
    packed_vector = encoder.encode(TEXT)[0].vectors
    np.testing.assert_array_equal(packed_vector, encoder.encode(TEXT)[0].vectors)
    assert server.requests[-1][1]["Accept-Encoding"] == "gzip"
    for encoding, data in (("zstd", b"x"), ("br", b"x"), ("gzip", b"no gzip"), ("gzip", gzip.compress(plain)[:-20])):
        server.troubles = [(200, data, {"Content-Encoding": encoding})]
        with pytest.raises(ServerError):
            encoder.encode(TEXT)
    encoder.close()


@pytest.mark.parametrize("depth", [200, 100_000])
def test_nested_json_is_a_server_error(server: Server, depth: int) -> None:
    encoder = OpenAIEncoder("m", server.url + "/v1", retries=0)
    for bracket, closing in (("[", "]"), ('{"data":', "}")):
        server.answer = lambda path, body, text=bracket * depth + "1" + closing * depth: (200, text.encode())
        with pytest.raises(ServerError, match="nested deeper"):
            encoder.encode(TEXT)
    encoder.close()


@pytest.mark.parametrize(
    "embedding",
    [
        ["1", "2"],
        [True, False, True],
        [1.0, True],
        [1.0, None],
        [[1.0]],
        "AAAA",
        "no base64 !",
        {"0": 1.0},
        [0.0, 0.0, 0.0],
        [0, 0],
        [float("nan"), 1.0],
        [float("inf"), 1.0],
        [1e300, 1.0],
        [10**400, 1],
        [],
        None,
        7,
    ],
)
def test_what_is_no_vector_is_a_server_error(server: Server, embedding: Any) -> None:
    server.answer = lambda path, body: (200, {"data": [{"index": 0, "embedding": embedding}]})
    encoder = OpenAIEncoder("m", server.url + "/v1", retries=0)
    with pytest.raises(ServerError):
        encoder.encode(TEXT)
    encoder.close()


def test_a_vector_that_is_not_finite_is_both_errors(server: Server) -> None:
    server.answer = lambda path, body: (200, {"data": [{"index": 0, "embedding": [float("nan")]}]})
    encoder = OpenAIEncoder("m", server.url + "/v1", retries=0)
    with pytest.raises(NonFiniteVectorError) as caught:
        encoder.encode(TEXT)
    assert isinstance(caught.value, ServerError)
    encoder.close()


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1.0]}] * 2,
        [{"index": 1, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": "1", "embedding": [1.0]}],
        [{"embedding": [1.0]}, {"embedding": [1.0]}],
        {"0": 1},
        "text",
        None,
    ],
)
def test_wrong_counts_and_shapes_are_server_errors(server: Server, data: Any) -> None:
    server.answer = lambda path, body: (200, {"data": data})
    encoder = OpenAIEncoder("m", server.url + "/v1", retries=0)
    with pytest.raises(ServerError):
        encoder.encode([SpanText("x"), SpanText("y")])
    encoder.close()


@pytest.mark.parametrize("limit", [0, -1, True, "512", 1.5, float("inf"), 10**400, None, []])
def test_a_limit_that_is_no_count_is_a_server_error(server: Server, limit: Any) -> None:
    server.answer = lambda path, body: (
        200,
        {"max_input_length": limit} if path == "/info" else {"data": [{"id": "m", "max_model_len": limit}]},
    )
    for encoder in (TEIEncoder(server.url, retries=0), VLLMEncoder("m", server.url, retries=0)):
        with pytest.raises(ServerError, match="not its interface's"):
            _ = encoder.max_tokens
        encoder.close()


def test_a_lone_surrogate_is_sent_as_the_replacement_character(server: Server) -> None:
    encoder = OpenAIEncoder("m", server.url + "/v1")
    encoder.encode([SpanText("ferry \ud83d leaves")])
    assert server.requests[-1][2]["input"] == ["ferry \ufffd leaves"]
    encoder.close()


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://gpu:8000/v1", "http://api.openai.com/v1", "http://10.0.0.7/v1"])
@pytest.mark.parametrize(
    "options",
    [{"api_key": KEY}, {"api_key_env": "SOME_KEY"}, {"headers": {"X-Api-Key": KEY}}],
    ids=lambda o: next(iter(o)),
)
def test_a_key_is_not_sent_in_the_clear(url: str, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="in the clear: give the https:// address, or key_over_http=True") as caught:
        OpenAIEncoder("m", url, **options)
    assert KEY not in str(caught.value)
    OpenAIEncoder("m", url, key_over_http=True, **options)
    OpenAIEncoder("m", url.replace("http:", "https:"), **options)
    for here in (
        "http://localhost:1",
        "http://127.0.0.1:1",
        "http://127.8.9.1",
        "http://[::1]:1",
        "http://a.localhost",
    ):
        OpenAIEncoder("m", here, **options)


def test_openais_key_does_not_go_to_openai_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(InputError, match="in the clear"):
        OpenAIEncoder("m", "http://api.openai.com/v1")
    assert OpenAIEncoder("m", "http://gpu:8000/v1").http.key() is None


def encoders(**options: Any) -> list[Any]:
    url = "https://me:hunter2@example.org"
    return [
        OpenAIEncoder("m", url, **options),
        TEIEncoder(url, **options),
        VLLMEncoder("m", url, **options),
        HttpSettings(url, **options),
    ]


@pytest.mark.parametrize("place", range(4))
def test_copies_are_the_configuration_and_show_no_key(place: int) -> None:
    made = encoders(api_key=KEY, headers={"X-Token": "tok-abc"}, timeout=7.0, retries=1)[place]
    for twin in (made, copy.deepcopy(made), copy.copy(made), pickle.loads(pickle.dumps(made))):
        settings = twin if isinstance(twin, HttpSettings) else twin.http
        assert (settings.key(), settings.timeout, settings.retries) == (KEY, 7.0, 1)
        assert settings.request_headers()["X-Token"] == "tok-abc"
        for shown in (repr(twin), str(twin), f"{twin}", repr(settings), str(vars(twin))):
            assert KEY not in shown
            assert "tok-abc" not in shown
            assert "hunter2" not in repr(settings)
            assert "tok-abc" not in repr(settings)
    assert KEY.encode() not in pickle.dumps(made)
    assert b"tok-abc" not in pickle.dumps(made)


def test_settings_are_one_value(server: Server) -> None:
    settings = HttpSettings(server.url + "/v1", api_key=KEY, timeout=9)
    assert settings == HttpSettings(server.url + "/v1/", api_key=Secret(KEY), timeout=9)
    assert dataclasses.replace(settings, timeout=3).key() == KEY
    assert hash(settings) == hash(HttpSettings(server.url + "/v1", api_key=KEY, timeout=9))
    encoder = OpenAIEncoder("m", settings)
    encoder.encode(TEXT)
    assert server.requests[-1][1]["Authorization"] == f"Bearer {KEY}"
    with pytest.raises(InputError, match="timeout: set it in the HttpSettings"):
        OpenAIEncoder("m", settings, timeout=3)
    encoder.close()


@pytest.mark.parametrize("kind", [OpenAIEncoder, TEIEncoder, VLLMEncoder])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [("key", "api_key"), ("batchsize", "batch_size"), ("max_retries", "retries"), ("url", "base_url")],
)
def test_an_unknown_parameter_is_refused_and_the_right_one_named(kind: Any, wrong: str, right: str) -> None:
    with pytest.raises(InputError, match=rf"{kind.__name__} does not know {wrong}= \(here it is {right}=\)"):
        kind(**{wrong: 1})


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": "5"},
        {"timeout": None},
        {"retries": 1.5},
        {"timeout": float("nan")},
        {"timeout": -1},
        {"retries": -1},
        {"backoff": -0.1},
        {"longest_wait": float("inf")},
        {"concurrency": 0},
        {"max_response_bytes": 0},
        {"headers": {"X": "a\r\nHost: evil"}},
    ],
)
def test_settings_out_of_range_are_refused(options: Any) -> None:
    with pytest.raises(InputError, match=next(iter(options))[:6]):
        HttpSettings("https://example.org", **options)


@pytest.mark.parametrize(
    "url", ["", "example.org", "ftp://example.org", "http://", "http://a:b", "http://[::1", "file:///x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="base_url"):
        HttpSettings(url)
    with pytest.raises(InputError, match="base_url"):
        OpenAIEncoder("m", url)


def test_a_key_with_a_line_break_is_sent_without_it_or_not_at_all(server: Server) -> None:
    encoder = OpenAIEncoder("m", server.url + "/v1", api_key=KEY + "\n")
    encoder.encode(TEXT)
    assert server.requests[-1][1]["Authorization"] == f"Bearer {KEY}"
    encoder.close()
    broken = OpenAIEncoder("m", server.url + "/v1", api_key=f"{KEY}\nHost: evil")
    with pytest.raises(InputError, match="no header can carry") as caught:
        broken.encode(TEXT)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_key_that_a_server_repeats_is_not_shown(server: Server) -> None:
    server.answer = lambda path, body: (400, f"hunter-two and {KEY} and sk-another-key-1234567 are bad".encode())
    encoder = OpenAIEncoder("m", server.url + "/v1", api_key="hunter-two", headers={"X-Api-Key": KEY}, retries=0)
    with pytest.raises(ServerError) as caught:
        encoder.encode(TEXT)
    report = "".join(traceback.format_exception(caught.value))
    assert "answered HTTP 400: [key] and [key] and [key] are bad" in report
    for secret in ("hunter-two", KEY, "another"):
        assert secret not in report
    encoder.close()


# Threads, forks, the end of the program -------------------------------------------------------------------------------


def _encode_in_child(encoder: OpenAIEncoder, answers: Any) -> None:
    answers.put(encoder.encode(TEXT)[0].vectors)


async def test_an_encoder_works_in_a_forked_child(server: Server) -> None:
    encoder = OpenAIEncoder("m", server.url + "/v1", timeout=20)
    wanted = encoder.encode(TEXT)[0].vectors
    await encoder.aencode(TEXT)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_encode_in_child, args=(encoder, answers))
    child.start()
    np.testing.assert_array_equal(answers.get(timeout=30), wanted)
    child.join(30)
    assert child.exitcode == 0
    np.testing.assert_array_equal(encoder.encode(TEXT)[0].vectors, wanted)
    await encoder.aclose()
    encoder.close()


def test_it_works_at_the_end_of_the_program_and_leaves_no_warning(server: Server) -> None:
    program = f"""
import atexit, threading
from situate.embedders import OpenAIEncoder, SpanText
encoder = OpenAIEncoder("m", "{server.url.replace("127.0.0.1", "localhost")}/v1", batch_size=1, timeout=20)
def work(name):
    print(name, len(encoder.encode([SpanText("x"), SpanText("y")])), flush=True)
def late():
    threading.main_thread().join()
    work("thread")
atexit.register(work, "atexit")
threading.Thread(target=late).start()
work("main")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["main", "2", "thread", "2", "atexit", "2"]
    assert (done.returncode, done.stderr) == (0, "")


def test_a_dropped_encoder_closes_its_connections(server: Server) -> None:
    encoder = OpenAIEncoder("m", server.url + "/v1")
    encoder.encode(TEXT)
    (client,) = encoder._connection._clients.values()
    del encoder
    for _ in range(200):
        if client.is_closed:
            break
        time.sleep(0.01)
    assert client.is_closed


def test_an_interrupted_call_ends_and_cancels_its_request(server: Server, interruptible: None) -> None:
    server.troubles = ["hang"]
    encoder = OpenAIEncoder("m", server.url + "/v1", retries=0)

    def interrupt() -> None:
        server.arrived.wait(20)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(TEXT)
    assert time.monotonic() - started < 20
    encoder.encode(TEXT)
    encoder.close()
