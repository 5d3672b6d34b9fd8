"""Encoders that call a server, against a real one on the loopback that answers right, wrong, late or not at all."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from situate.embedders import ChunkScheme, Embedder, OpenAIEncoder, SpanText, TEIEncoder
from situate.errors import (
    ConventionError,
    InputError,
    NonFiniteVectorError,
    OverflowLimitError,
    ServerError,
    TruncationWarning,
)
from situate.types import Chunk, Context, Document

KEY = "sk-secret-1234567890"
TEXTS = ["the cat sat on the mat", "Berlin is the capital of Germany", "old river", "naïve café 東京"]
LONG = "".join(f"In the year {year} the old river ran through the city of Berlin. " for year in range(1900, 1940))


class Server:
    """An HTTP server whose answers a test writes.

    Attributes:
        answer: From path and body to status and answer.
        requests: What it was asked: path, headers, body.
        troubles: What it does instead, one per request, until there are none left.
    """

    def __init__(self) -> None:
        self.answer: Callable[[str, Any], tuple[int, Any]] = lambda path, body: (404, {"error": "no such path"})
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.troubles: list[Any] = []
        self.released = threading.Event()
        self.arrived = threading.Event()
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self.handle_any(None)

            def do_POST(self) -> None:
                self.handle_any(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def handle_any(self, body: Any) -> None:
                with outer._lock:
                    outer.requests.append((self.path, dict(self.headers), body))
                    outer.under_way += 1
                    outer.most_under_way = max(outer.most_under_way, outer.under_way)
                    trouble = outer.troubles.pop(0) if outer.troubles else None
                try:
                    self.reply(body, trouble)
                finally:
                    with outer._lock:
                        outer.under_way -= 1

            def reply(self, body: Any, trouble: Any) -> None:
                if trouble == "hang":
                    outer.arrived.set()
                    outer.released.wait(30)
                    self.close_connection = True
                    return
                if trouble == "hang up":
                    self.close_connection = True
                    return
                headers: dict[str, str] = {}
                if trouble is None:
                    status, content = outer.answer(self.path, body)
                else:
                    status, content, headers = trouble
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *args: object) -> None:
                """Some tests give up as a client."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def vector_of(text: str) -> list[float]:
    """A vector that differs between texts."""
    rng = np.random.default_rng(list(text.encode()) or [0])
    return rng.normal(size=8).astype(np.float32).tolist()


def openai_answer(path: str, body: Any) -> tuple[int, Any]:
    assert path == "/v1/embeddings"
    data = [{"object": "embedding", "index": i, "embedding": vector_of(text)} for i, text in enumerate(body["input"])]
    if body.get("encoding_format") == "base64":
        for row in data:
            row["embedding"] = base64.b64encode(np.array(row["embedding"], dtype="<f4").tobytes()).decode()
    return 200, {"object": "list", "data": data[::-1], "model": body["model"], "usage": {}}


def expected(texts: list[str]) -> np.ndarray:
    vectors = np.array([vector_of(text) for text in texts], dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def openai(server: Server) -> Iterator[OpenAIEncoder]:
    server.answer = openai_answer
    encoder = OpenAIEncoder("some-model", f"{server.url}/v1", api_key=KEY, backoff=0.001, timeout=5, batch_size=2)
    yield encoder
    encoder.close()


def rows(encoded: list[Any]) -> np.ndarray:
    return np.concatenate([item.vectors for item in encoded])


# OpenAI-compatible ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_come_in_order_and_in_batches(server, encoding):
    server.answer = openai_answer
    encoder = OpenAIEncoder("some-model", f"{server.url}/v1", encoding=encoding, batch_size=3, dimensions=8)
    texts = [f"text {i}" for i in range(8)]
    np.testing.assert_allclose(rows(encoder.encode([SpanText(t) for t in texts])), expected(texts), atol=1e-6)
    bodies = [body for _, _, body in server.requests]
    assert sorted(len(body["input"]) for body in bodies) == [2, 3, 3]
    assert all(body["model"] == "some-model" and body["dimensions"] == 8 for body in bodies)
    assert "Authorization" not in server.requests[0][1]
    assert encoder.dimension == 8
    assert len(server.requests) == 3
    assert encoder.encode([]) == []
    encoder.close()


async def test_async_gives_the_same_and_leaves_the_loop_free(openai, server):
    inputs = [SpanText(text) for text in TEXTS]
    np.testing.assert_allclose(rows(await openai.aencode(inputs)), expected(TEXTS), atol=1e-6)
    server.troubles = ["hang"]
    waiting = asyncio.create_task(openai.aencode(inputs))
    assert await asyncio.to_thread(server.arrived.wait, 20)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await openai.aclose()


def test_one_encoder_serves_many_event_loops(openai):
    async def once() -> np.ndarray:
        found = rows(await openai.aencode([SpanText(text) for text in TEXTS]))
        await openai.aclose()
        return found

    for _ in range(3):
        np.testing.assert_allclose(asyncio.run(once()), expected(TEXTS), atol=1e-6)


def test_requests_are_sent_side_by_side_but_not_too_many(server):
    both = threading.Barrier(2, timeout=20)

    def answer(path: str, body: Any) -> tuple[int, Any]:
        both.wait()  # only two requests at once get past
        return openai_answer(path, body)

    server.answer = answer
    encoder = OpenAIEncoder("m", f"{server.url}/v1", batch_size=1, concurrency=2, retries=0)
    encoder.encode([SpanText(str(i)) for i in range(6)])
    assert server.most_under_way == 2
    encoder.close()


def test_an_embedder_writes_the_instructions_for_a_served_model(openai, server):
    embedder = Embedder("intfloat/e5-base-v2", encoder=openai)
    np.testing.assert_allclose(embedder.embed_queries(["cats"]), expected(["query: cats"]), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_documents(["cats"]), expected(["passage: cats"]), atol=1e-6)
    assert embedder.dimension == 8
    assert KEY not in repr(embedder)
    document = Document("d", "one two three")
    with pytest.raises(ConventionError, match="one vector per text"):
        embedder.encode_chunks([(document, [Chunk.of(document, 0, 0, 3)])], ChunkScheme(late=True, residual=0))
    with pytest.raises(ConventionError, match="one vector per text"):
        embedder.embed_query_tokens(["x"])


def test_a_server_that_pools_no_spans_reads_headings_as_part_of_the_chunk(openai, server):
    document = Document("d", "one two three")
    chunk = Chunk.of(document, 0, 4, 7, context=Context(headings=("Numbers",)))
    Embedder("intfloat/e5-base-v2", encoder=openai).encode_chunks(
        [(document, [chunk])], ChunkScheme(context=("headings",))
    )
    assert server.requests[-1][2]["input"] == ["passage: Numbers\ntwo"]


def test_an_empty_text_is_sent_as_a_blank(openai, server):
    openai.encode([SpanText("")])
    assert server.requests[0][2]["input"] == [" "]


# Keys -----------------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_shown_nowhere(openai, server):
    openai.encode([SpanText("x")])
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(openai)
    server.troubles = [(400, {"error": f"bad request by {KEY}"}, {})]
    with pytest.raises(ServerError) as caught:
        openai.encode([SpanText("x")])
    assert KEY not in str(caught.value)
    assert "[key]" in str(caught.value)
    server.troubles = [(401, {"error": "Incorrect API key provided: sk-sec***7890"}, {})]
    with pytest.raises(ServerError, match=r"refused the key .*check api_key=") as caught:
        openai.encode([SpanText("x")])
    assert "7890" not in str(caught.value)


def test_a_key_from_the_environment_is_read_when_needed_and_never_stored(server, monkeypatch):
    server.answer = openai_answer
    encoder = OpenAIEncoder("m", f"{server.url}/v1", api_key_env="SOME_KEY")
    encoder.encode([SpanText("x")])
    assert "Authorization" not in server.requests[-1][1]
    monkeypatch.setenv("SOME_KEY", KEY)
    encoder.encode([SpanText("x")])
    assert server.requests[-1][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY.encode() not in pickle.dumps(encoder)
    copy = pickle.loads(pickle.dumps(encoder))
    copy.encode([SpanText("x")])
    assert server.requests[-1][1]["Authorization"] == f"Bearer {KEY}"
    encoder.close()
    copy.close()


def test_openais_key_goes_to_openai_alone(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.answer = openai_answer
    encoder = OpenAIEncoder("m", f"{server.url}/v1")
    encoder.encode([SpanText("x")])
    assert "Authorization" not in server.requests[0][1]
    assert OpenAIEncoder("text-embedding-3-small").http.key() == KEY
    encoder.close()


def test_a_password_in_the_address_is_not_shown(server):
    url = server.url.replace("http://", "http://user:hunter2@")
    encoder = OpenAIEncoder("m", f"{url}/v1", retries=0)
    assert "hunter2" not in repr(encoder)
    with pytest.raises(ServerError) as caught:
        encoder.encode([SpanText("x")])
    assert "hunter2" not in str(caught.value)
    encoder.close()


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"error": "slow down"}, {"Retry-After": "0"}),
        (500, b"oops", {}),
        (503, {}, {"Retry-After": "tomorrow"}),
        "hang up",
    ],
)
async def test_passing_troubles_are_tried_again(openai, server, trouble):
    server.troubles = [trouble, trouble]
    np.testing.assert_allclose(rows(openai.encode([SpanText("x")])), expected(["x"]), atol=1e-6)
    assert len(server.requests) == 3
    server.troubles = [trouble, trouble]
    np.testing.assert_allclose(rows(await openai.aencode([SpanText("x")])), expected(["x"]), atol=1e-6)
    await openai.aclose()


async def test_lasting_failures_raise_after_the_last_try(server):
    server.answer = lambda path, body: (503, {"error": "loading the model"})
    encoder = OpenAIEncoder("m", f"{server.url}/v1", retries=2, backoff=0.001)
    with pytest.raises(ServerError, match=r"/v1/embeddings answered HTTP 503: .*loading the model"):
        encoder.encode([SpanText("x")])
    assert len(server.requests) == 3
    with pytest.raises(ServerError, match="HTTP 503"):
        await encoder.aencode([SpanText("x"), SpanText("y")])
    await encoder.aclose()
    encoder.close()


async def test_a_server_that_does_not_answer_is_given_up(server):
    server.troubles = ["hang"] * 4
    encoder = OpenAIEncoder("m", f"{server.url}/v1", retries=1, backoff=0.001, timeout=0.1)
    with pytest.raises(ServerError, match=r"did not answer in time .*timeout 0\.1 s, 2 tries"):
        encoder.encode([SpanText("x")])
    with pytest.raises(ServerError, match="did not answer in time"):
        await encoder.aencode([SpanText("x")])
    await encoder.aclose()
    encoder.close()


def test_a_server_that_is_not_there_is_named(server):
    encoder = OpenAIEncoder("m", "http://127.0.0.1:9/v1", retries=1, backoff=0.001)
    with pytest.raises(ServerError, match=r"http://127\.0\.0\.1:9/v1/embeddings cannot be reached"):
        encoder.encode([SpanText("x")])
    encoder.close()


@pytest.mark.parametrize(
    ("status", "content", "error", "message"),
    [
        (200, b"<html>", ServerError, "not JSON"),
        (200, {"data": []}, ServerError, "0 vectors for 1 texts"),
        (200, {"data": [{"index": 3, "embedding": [1.0]}]}, ServerError, "for 1 texts"),
        (200, {"data": [{"index": 0, "embedding": []}]}, ServerError, "not its interface's"),
        (200, {"data": [{"index": 0, "embedding": ["a"]}]}, ServerError, "not its interface's"),
        (200, [1, 2], ServerError, "right kind of server"),
        (200, b'{"data": [{"index": 0, "embedding": [NaN, 1.0]}]}', NonFiniteVectorError, "NaN"),
        (400, {"error": "maximum context length is 8192"}, ServerError, "maximum context length"),
        (404, {}, ServerError, "HTTP 404"),
        (302, {}, ServerError, "HTTP 302"),
    ],
)
def test_nonsense_is_an_error_of_ours_and_not_tried_again(openai, server, status, content, error, message):
    server.answer = lambda path, body: (status, content)
    with pytest.raises(error, match=message):
        openai.encode([SpanText("x")])
    assert len(server.requests) == 1


def test_vectors_that_change_their_length_are_refused(openai, server):
    openai.encode([SpanText("x")])
    server.answer = lambda path, body: (200, {"data": [{"index": 0, "embedding": [1.0, 2.0]}]})
    with pytest.raises(ServerError, match="vectors of 2 numbers, before they had 8"):
        openai.encode([SpanText("x")])


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host/v1", "http://", ""])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InputError, match="no http or https address"):
        OpenAIEncoder("m", url)


# text-embeddings-inference --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served_model(minilm_path) -> Callable[[str, Any], tuple[int, Any]]:
    """The real weights behind text-embeddings-inference's interface."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(minilm_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm_path)
    limit = 256
    lock = threading.Lock()

    def hidden(text: str, truncate: bool) -> np.ndarray | None:
        ids = tokenizer(text, truncation=truncate, max_length=limit if truncate else None)["input_ids"]
        if len(ids) > limit:
            return None
        with torch.inference_mode():
            return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()

    def tokens(text: str) -> list[dict[str, Any]]:
        encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        return [
            {
                "id": i,
                "text": text[a:b],
                "special": bool(special),
                "start": None if special else a,
                "stop": None if special else b,
            }
            for i, (a, b), special in zip(
                encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True
            )
        ]

    def answer(path: str, body: Any) -> tuple[int, Any]:
        with lock:
            if path == "/info":
                return 200, {"model_id": "all-MiniLM-L6-v2", "max_input_length": limit, "max_client_batch_size": 32}
            if len(body["inputs"]) > 32:
                return 413, {"error": "batch size 33 > maximum allowed batch size 32", "error_type": "Validation"}
            if path == "/tokenize":
                return 200, [tokens(text) for text in body["inputs"]]
            vectors = [hidden(text, body["truncate"]) for text in body["inputs"]]
            if any(v is None for v in vectors):
                return 413, {"error": "`inputs` must have less than 256 tokens", "error_type": "Validation"}
            if path == "/embed_all":
                return 200, [v.tolist() for v in vectors]
            means = [v.mean(axis=0) for v in vectors]
            return 200, [(m / np.linalg.norm(m) if body["normalize"] else m).tolist() for m in means]

    return answer


@pytest.fixture
def tei(server: Server, served_model) -> Iterator[TEIEncoder]:
    server.answer = served_model
    encoder = TEIEncoder(server.url, backoff=0.001, batch_size=8)
    yield encoder
    encoder.close()


@pytest.fixture(scope="module")
def local() -> Embedder:
    return Embedder(dtype="float32", device="cpu")


def document() -> tuple[Document, list[Chunk]]:
    text = Document("d", LONG, {"title": "Rivers"})
    return text, [Chunk.of(text, i, a, min(a + 190, len(LONG))) for i, a in enumerate(range(0, len(LONG), 190))]


async def test_a_served_model_gives_the_local_models_vectors(tei, local):
    remote = Embedder(encoder=tei)
    np.testing.assert_allclose(remote.embed_queries(TEXTS), local.embed_queries(TEXTS), atol=1e-5)
    np.testing.assert_allclose(await remote.aembed_documents(TEXTS), local.embed_documents(TEXTS), atol=1e-5)
    for one, two in zip(remote.embed_query_tokens(TEXTS), local.embed_query_tokens(TEXTS), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    assert (remote.dimension, remote.max_tokens, remote.trained_tokens) == (384, 256, 256)
    await tei.aclose()


@pytest.mark.parametrize(
    "scheme",
    [
        ChunkScheme(late=True, residual=0.0, overlap=64),
        ChunkScheme(late=True, window=128, overlap=20, context=("title",)),
        ChunkScheme(situated=100, neighbours=0.35),
        ChunkScheme(context=("title",)),
    ],
)
async def test_chunk_schemes_work_through_a_server(tei, local, scheme):
    item = document()
    remote = Embedder(encoder=tei)
    found = remote.encode_chunks([item], scheme, token_vectors=True)[0]
    wanted = local.encode_chunks([item], scheme, token_vectors=True)[0]
    # A window that is cut back to whole words reads some tokens less of its neighbourhood.
    assert (found.dense * wanted.dense).sum(axis=1).min() > 0.999
    assert found.tokens is not None
    assert wanted.tokens is not None
    assert [m.shape for m in found.tokens] == [m.shape for m in wanted.tokens]
    twin = (await remote.aencode_chunks([item], scheme))[0].dense
    np.testing.assert_allclose(twin, found.dense, atol=1e-5)
    await tei.aclose()


def test_a_document_in_one_window_is_exact(tei, local):
    text, chunks = document()
    short = Document("d", LONG[:760], text.metadata)
    item = (short, chunks[:4])
    scheme = ChunkScheme(late=True, residual=0.0)
    np.testing.assert_allclose(
        Embedder(encoder=tei).encode_chunks([item], scheme)[0].dense,
        local.encode_chunks([item], scheme)[0].dense,
        atol=1e-5,
    )


def test_a_long_text_is_cut_with_a_count_refused_or_read_in_windows(server, tei, local):
    texts = ["short", LONG, "also short"]
    lost = len(local.tokenizer.encode(LONG).ids) - 256
    with pytest.warns(TruncationWarning, match=rf"1 of 3 texts .* lost {lost} tokens"):
        found = tei.encode([SpanText(text) for text in texts])
    assert [item.lost_tokens for item in found] == [0, lost, 0]
    cutting = Embedder(dtype="float32", device="cpu", on_overflow="warn")
    with pytest.warns(TruncationWarning):
        np.testing.assert_allclose(rows(found), cutting.embed_documents(texts), atol=1e-5)
    strict = TEIEncoder(server.url, on_overflow="raise")
    with pytest.raises(OverflowLimitError, match=f"{lost} tokens more than the 256"):
        strict.encode([SpanText(text) for text in texts])
    strict.close()
    reading = TEIEncoder(server.url, on_overflow="window")
    windowed = Embedder(dtype="float32", device="cpu", on_overflow="window").embed_documents(texts)
    found = rows(reading.encode([SpanText(text) for text in texts]))
    assert (found * windowed).sum(axis=1).min() > 0.9999
    reading.close()


def test_another_refusal_of_a_server_is_raised(server, served_model):
    server.answer = served_model
    encoder = TEIEncoder(server.url, batch_size=64)
    with pytest.raises(ServerError, match="maximum allowed batch size"):
        encoder.encode([SpanText("x")] * 40)
    encoder.close()


def test_a_server_that_pools_instead_of_answering_tokens_is_noticed(server, served_model):
    def one_vector_each(path: str, body: Any) -> tuple[int, Any]:
        status, content = served_model(path, body)
        return (status, [rows[:1] for rows in content]) if path == "/embed_all" else (status, content)

    server.answer = one_vector_each
    encoder = TEIEncoder(server.url)
    with pytest.raises(ServerError, match="1 vectors for 4 tokens"):
        encoder.encode([SpanText("two words", spans=((0, 3),))])
    encoder.close()


def test_offsets_into_bytes_are_understood(server, served_model, local):
    def in_bytes(path: str, body: Any) -> tuple[int, Any]:
        status, content = served_model(path, body)
        if path == "/tokenize":
            for text, row in zip(body["inputs"], content, strict=True):
                for token in row:
                    for name in ("start", "stop"):
                        if token[name] is not None:
                            token[name] = len(text[: token[name]].encode())
        return status, content

    server.answer = in_bytes
    encoder = TEIEncoder(server.url)
    text = "naïve café — 東京 tower"
    span = (text.index("tower"), len(text))
    found = encoder.encode([SpanText(text, spans=(span, (0, 5)))])[0].vectors
    wanted = local.encoder.encode([SpanText(text, spans=(span, (0, 5)))])[0].vectors
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    encoder.close()


@pytest.mark.parametrize(
    "row", [{"id": 1}, {"special": False, "start": "a", "stop": 2}, {"special": False, "start": 0, "stop": 99}]
)
def test_tokens_that_make_no_sense_are_noticed(server, served_model, row):
    server.answer = lambda path, body: (200, [[row]]) if path == "/tokenize" else served_model(path, body)
    encoder = TEIEncoder(server.url)
    with pytest.raises(ServerError, match="/tokenize answered in a form"):
        encoder.encode([SpanText("two words", spans=((0, 3),))])
    encoder.close()


def test_windows_wider_than_the_server_reads_are_refused(tei):
    with pytest.raises(OverflowLimitError, match="window of 300 tokens, but the server reads 256"):
        tei.encode([SpanText("x", spans=((0, 1),), window=300)])


def test_encoders_pickle_as_their_configuration(tei):
    tei.encode([SpanText("x")])
    copy = pickle.loads(pickle.dumps(tei))
    np.testing.assert_array_equal(rows(copy.encode([SpanText("x")])), rows(tei.encode([SpanText("x")])))
    copy.close()
