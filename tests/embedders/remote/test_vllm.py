"""A stand-in for a vLLM server that runs the real MiniLM: spans and token vectors equal the local encoder's."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertJapaneseTokenizer, PreTrainedTokenizerFast

from situate.embedders import ChunkScheme, Embedder, SpanText, VLLMEncoder
from situate.embedders.local.encoder import Encoder
from situate.errors import (
    ConventionError,
    InputError,
    ModelNotFoundError,
    NonFiniteVectorError,
    OverflowLimitError,
    ServerError,
    TruncationWarning,
)
from situate.retrievers import Index
from situate.types import Chunk, Document
from tests.embedders.remote.test_remote import LONG, TEXTS, Server

NAME = "all-minilm"


class Served:
    """vLLM's documented interface, over a transformers model.

    Attributes:
        spoil: Called with the path and the answer's rows before they are sent.
    """

    def __init__(self, path: str, limit: int = 256) -> None:
        self.model = AutoModel.from_pretrained(path)
        self.limit = limit
        self.spoil: Any = lambda path, rows: rows

    def __call__(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": NAME, "object": "model", "max_model_len": self.limit}]}
        if body["model"] != NAME:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}
        hidden = []
        for ids in body["input"]:
            if len(ids) > self.limit:
                return 400, {"error": {"message": f"maximum context length is {self.limit} tokens", "code": 400}}
            with torch.inference_mode():
                hidden.append(self.model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy())
        if path == "/v1/embeddings":
            means = [h.mean(0) for h in hidden]
            rows = [{"index": i, "embedding": (m / np.linalg.norm(m)).tolist()} for i, m in enumerate(means)]
        elif path == "/pooling" and body["task"] == "token_embed":
            if body.get("use_activation") is not False:  # vLLM normalises every token by default
                hidden = [h / np.linalg.norm(h, axis=1, keepdims=True) for h in hidden]
            rows = [{"index": i, "object": "pooling", "data": h.tolist()} for i, h in enumerate(hidden)]
        else:
            return 404, {"detail": "Not Found"}
        return 200, {"object": "list", "data": self.spoil(path, rows[::-1])}


@pytest.fixture(scope="module")
def served(minilm_path: str) -> Served:
    return Served(minilm_path)


@pytest.fixture
def server(served: Served) -> Iterator[Server]:
    server = Server()
    served.spoil = lambda path, rows: rows
    server.answer = served
    yield server
    server.close()


@pytest.fixture
def ask(server: Server, minilm_path: str) -> Iterator[Callable[..., VLLMEncoder]]:
    """Makes encoders that ask the server, and closes their connections."""
    made = []

    def encoder(name: str = NAME, **settings: Any) -> VLLMEncoder:
        made.append(VLLMEncoder(name, server.url, **{"tokenizer": minilm_path, **settings}))
        return made[-1]

    yield encoder
    for each in made:
        each.close()


@pytest.fixture
def remote(ask: Callable[..., VLLMEncoder]) -> VLLMEncoder:
    return ask(backoff=0.001, batch_size=5)


@pytest.fixture(scope="module")
def local(minilm_path: str) -> Encoder:
    return Encoder(minilm_path, dtype="float32", device="cpu")


INPUTS = [
    SpanText("Berlin is the capital of Germany. Its 3.85 million inhabitants live there.", ((0, 33), (34, 74))),
    SpanText("A whole text."),
    SpanText(""),
    SpanText(LONG, ((0, 60), (1200, 1300), (len(LONG) - 50, len(LONG))), window=100, overlap=20),
    SpanText("query: cats", ((7, 11),), prefix=7),
    *(SpanText(text) for text in TEXTS),
]


@pytest.mark.parametrize("token_vectors", [False, True])
async def test_spans_and_token_vectors_equal_the_local_encoder(
    remote: VLLMEncoder, local: Encoder, token_vectors: bool
) -> None:
    wanted = local.encode(INPUTS, token_vectors=token_vectors)
    for found in (
        remote.encode(INPUTS, token_vectors=token_vectors),
        await remote.aencode(INPUTS, token_vectors=token_vectors),
    ):
        for one, two in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.vectors, two.vectors, atol=1e-5)
            assert (one.tokens is None) == (two.tokens is None)
            for a, b in zip(one.tokens or (), two.tokens or (), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)
    assert (remote.dimension, remote.max_tokens) == (384, 256)
    await remote.aclose()


@pytest.mark.parametrize("pooling", ["cls", "last", "max", "weighted_mean"])
def test_every_pooling_of_spans(ask: Callable[..., VLLMEncoder], minilm_path: str, pooling: Any) -> None:
    remote = ask(pooling=pooling, normalize=False)
    local = Encoder(minilm_path, pooling=pooling, normalize=False, dtype="float32", device="cpu")
    for one, two in zip(remote.encode(INPUTS[:1]), local.encode(INPUTS[:1]), strict=True):
        np.testing.assert_allclose(one.vectors, two.vectors, atol=1e-4)


def test_whole_texts_move_one_vector_each(remote: VLLMEncoder, server: Server) -> None:
    remote.encode([SpanText(text) for text in TEXTS])
    assert {path for path, _, _ in server.requests} == {"/v1/models", "/v1/embeddings"}
    assert [len(body["input"]) for _, _, body in server.requests if body] == [4]


def test_late_chunking_through_a_server(remote: VLLMEncoder, minilm_path: str) -> None:
    document = Document("d", LONG)
    chunks = [Chunk.of(document, i, a, min(a + 190, len(LONG))) for i, a in enumerate(range(0, len(LONG), 190))]
    scheme = ChunkScheme(late=True, window=128, overlap=20)
    near = Embedder(minilm_path, dtype="float32", device="cpu").encode_chunks([(document, chunks)], scheme)[0]
    far = Embedder("sentence-transformers/all-MiniLM-L6-v2", encoder=remote).encode_chunks([(document, chunks)], scheme)
    np.testing.assert_allclose(far[0].dense, near.dense, atol=1e-5)


def test_long_texts_are_cut_refused_or_read_in_windows(
    ask: Callable[..., VLLMEncoder], minilm_path: str, local: Encoder
) -> None:
    item = SpanText("word " * 300)
    with pytest.warns(TruncationWarning, match=r"1 of 1 texts .* 256 tokens .* lost 46"):
        found = ask().encode([item])
    with pytest.warns(TruncationWarning):
        np.testing.assert_allclose(found[0].vectors, local.encode([item])[0].vectors, atol=1e-5)
    with pytest.raises(OverflowLimitError, match="max_tokens is 100"):
        ask(max_tokens=100, on_overflow="raise").encode([item])
    windows = ask(on_overflow="window").encode([item])
    near = Encoder(minilm_path, on_overflow="window", dtype="float32", device="cpu").encode([item])
    np.testing.assert_allclose(windows[0].vectors, near[0].vectors, atol=1e-5)


@pytest.fixture(scope="module")
def slow_tokenizer(minilm_path: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer in plain Python with MiniLM's vocabulary."""
    folder = tmp_path_factory.mktemp("slow")
    vocabulary = PreTrainedTokenizerFast.from_pretrained(minilm_path).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=lambda token: vocabulary[token])))
    (folder / "config.json").write_text((Path(minilm_path) / "config.json").read_text())
    BertJapaneseTokenizer(
        str(folder / "vocab.txt"), word_tokenizer_type="basic", subword_tokenizer_type="wordpiece", do_lower_case=True
    ).save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_in_plain_python_encodes_and_chunks_are_sized_in_characters(
    ask: Callable[..., VLLMEncoder], local: Encoder, slow_tokenizer: str
) -> None:
    remote = ask(tokenizer=slow_tokenizer)
    item = SpanText("Berlin is the capital of Germany.", ((0, 6), (14, 32)))
    np.testing.assert_allclose(remote.encode([item])[0].vectors, local.encode([item])[0].vectors, atol=1e-5)
    embedder = Embedder("sentence-transformers/all-MiniLM-L6-v2", encoder=remote)
    with pytest.raises(ConventionError, match="plain Python only"):
        _ = embedder.tokenizer
    with Index(embedder) as index:
        index.add([Document("rivers", LONG)])
        lengths = [len(chunk.text) for chunk in index.get_chunks(["rivers"])]
        assert sum(lengths) >= len(LONG.strip()) * 0.95
        assert 400 < max(lengths) <= 800
        assert index.search("river").hits


def test_it_pickles_as_its_configuration(remote: VLLMEncoder) -> None:
    remote.encode(INPUTS[:1])
    copy = pickle.loads(pickle.dumps(remote))
    np.testing.assert_allclose(copy.encode(INPUTS[:1])[0].vectors, remote.encode(INPUTS[:1])[0].vectors, atol=1e-6)
    assert copy.tokenizer.encode("word " * 300).ids == remote.tokenizer.encode("word " * 300).ids
    copy.close()


def test_what_goes_wrong_is_named(
    remote: VLLMEncoder, ask: Callable[..., VLLMEncoder], server: Server, served: Served
) -> None:
    with pytest.raises(ServerError, match=r"serves 'all-minilm', but not 'other'"):
        ask("other").encode(INPUTS)
    with pytest.raises(ModelNotFoundError, match="tokenizer= with a folder or hub id"):
        ask(tokenizer=NAME).encode(INPUTS)
    with pytest.raises(InputError, match="ends in /v1"):
        VLLMEncoder(NAME, server.url + "/v1")
    with pytest.raises(InputError, match="batch_size is 0"):
        VLLMEncoder(NAME, server.url, batch_size=0)
    served.spoil = lambda path, rows: [{**row, "data": row.get("data", [])[:-1]} for row in rows]
    with pytest.raises(ServerError, match=r"answered \d+ vectors for \d+ tokens: is the model served for token_embed"):
        remote.encode(INPUTS[:1])
    served.spoil = lambda path, rows: rows[1:]
    with pytest.raises(ServerError, match="answered 0 results for 1 texts"):
        remote.encode(INPUTS[:1])
    served.spoil = lambda path, rows: [{"index": row["index"]} for row in rows]
    with pytest.raises(ServerError, match="not its interface's"):
        remote.encode(INPUTS)
    served.spoil = lambda path, rows: [{"index": row["index"], "embedding": [float("nan")] * 384} for row in rows]
    with pytest.raises(NonFiniteVectorError, match="NaN"):
        remote.encode(INPUTS[1:2])
