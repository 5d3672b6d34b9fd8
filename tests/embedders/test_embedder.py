"""Queries, documents and tokens through the public class: roles, sharing, pickling, async, bad input."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from situate.embedders import ChunkScheme, Embedder, Encoded, Family, SpanText
from situate.errors import (
    ConventionError,
    InputError,
    ModelNotFoundError,
    NonFiniteVectorError,
    OverflowLimitError,
    SituateWarning,
    TruncationWarning,
)
from situate.types import Chunk, Document

TEXTS = ["the cat sat on the mat", "Berlin is the capital of Germany", "", "   ", "a\x00b 😀 東京", "\ud800 lone"]
LONG = "the river runs through the old city " * 200


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def reference(minilm_path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(minilm_path, device="cpu")


class Recorder:
    """A `SpanEncoder` that notes its inputs and answers with counts."""

    dimension = 4

    def __init__(self, value: float = 1.0) -> None:
        self.value = value
        self.asked: list[SpanText] = []

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        self.asked += inputs
        one = np.full((1, 4), self.value, dtype=np.float32)
        return [
            Encoded(
                np.repeat(one, len(item.spans or [0]), axis=0),
                (one,) * len(item.spans or [0]) if token_vectors else None,
            )
            for item in inputs
        ]

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        return self.encode(inputs, token_vectors=token_vectors)


# Roles ----------------------------------------------------------------------------------------------------------------


def test_plain_vectors_equal_sentence_transformers(embedder, reference):
    texts = [text for text in TEXTS if not text.startswith("\ud800")]
    expected = reference.encode(texts)
    np.testing.assert_allclose(embedder.embed_documents(texts), expected, atol=2e-6)
    np.testing.assert_allclose(embedder.embed_queries(texts), expected, atol=2e-6)


def test_instructions_are_written_by_role(reference):
    embedder = Embedder(query_instruction="query: ", document_instruction="passage: ", dtype="float32", device="cpu")
    np.testing.assert_allclose(embedder.embed_queries(["cats"]), reference.encode(["query: cats"]), atol=2e-6)
    np.testing.assert_allclose(embedder.embed_documents(["cats"]), reference.encode(["passage: cats"]), atol=2e-6)


def test_what_is_sent_to_an_encoder_is_what_describe_shows():
    recorder = Recorder()
    embedder = Embedder("intfloat/e5-base-v2", encoder=recorder)
    embedder.embed_queries(["q"])
    embedder.embed_documents(["d"])
    assert [item.text for item in recorder.asked] == ["query: q", "passage: d"]
    assert [item.prefix for item in recorder.asked] == [7, 9]
    shown = embedder.describe()
    assert "'query: ⟨text⟩'" in shown
    assert "'passage: ⟨text⟩'" in shown
    assert "https://arxiv.org/abs/2212.03533" in shown


def test_describe_tells_scheme_reasons_and_guesses():
    scheme = ChunkScheme(late=True, neighbours=0.35, context=("title",))
    shown = Embedder(scheme=scheme).describe()
    assert (
        "windows of the length it was trained on, mixed 0.5 with ⟨title⟩ + ⟨chunk⟩ alone, plus 0.35 of both neighbours"
        in shown
    )
    assert "not suited: its vector is that of the first token" in Embedder("BAAI/bge-m3", encoder=Recorder()).describe()
    with pytest.warns(SituateWarning, match="assumed"):
        assert (
            "assumed     no query and no document instruction"
            in Embedder("nobody/knows", encoder=Recorder(), max_tokens=100).describe()
        )


def test_a_title_fills_the_document_instruction():
    recorder = Recorder()
    embedder = Embedder("google/embeddinggemma-300m", encoder=recorder)
    document = Document("d", "some text", {"title": "Cats"})
    embedder.embed_chunks(document, [Chunk.of(document, 0, 0, 9)])
    embedder.embed_chunks(Document("e", "some text"), [Chunk.of(Document("e", "some text"), 0, 0, 9)])
    assert [item.text for item in recorder.asked] == [
        "title: Cats | text: some text",
        "title: none | text: some text",
    ]


def test_all_documents_reach_the_encoder_in_one_call_per_kind():
    calls: list[int] = []

    class Counter(Recorder):
        def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
            calls.append(len(inputs))
            return super().encode(inputs, token_vectors=token_vectors)

    embedder = Embedder("intfloat/e5-base-v2", encoder=Counter())
    items = []
    for number in range(5):
        document = Document(str(number), "one two three four")
        items.append((document, [Chunk.of(document, i, i * 4, i * 4 + 3) for i in range(3)]))
    embedder.encode_chunks(items, ChunkScheme(late=True))
    assert calls == [5 * 3 + 5]
    calls.clear()
    embedder.encode_chunks(items, ChunkScheme(late=True), token_vectors=True)
    assert calls == [5 * 3, 5]


# Properties -----------------------------------------------------------------------------------------------------------


def test_properties_need_neither_torch_nor_weights():
    program = """
import sys
from situate.embedders import Embedder
e = Embedder()
assert (e.dimension, e.max_tokens, e.trained_tokens, e.similarity) == (384, 256, 256, "cosine")
assert e.tokenizer.encode("hi " * 300, add_special_tokens=False).ids.__len__() == 300
assert e.tokenizer.truncation is None and e.tokenizer.padding is None
e.fingerprint, e.query_fingerprint, e.describe(), repr(e)
sys.exit(any(name in sys.modules for name in ("torch", "transformers", "sentence_transformers")))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_fingerprint_is_json_and_follows_what_decides_a_vector(minilm_path):
    base = Embedder()
    assert json.loads(json.dumps(base.fingerprint)) == base.fingerprint
    assert base.fingerprint == Embedder(device="cpu", dtype="float32").fingerprint
    assert base.fingerprint == Embedder("all-MiniLM-L6-v2").fingerprint
    assert base.fingerprint["weights"] == Embedder(minilm_path).fingerprint["weights"]
    others = [
        Embedder(document_instruction="d: "),
        Embedder(pooling="cls"),
        Embedder(scheme=ChunkScheme(late=True)),
        Embedder(max_tokens=100),
        Embedder(on_overflow="warn"),
    ]
    for other in others:
        assert other.fingerprint != base.fingerprint
    asked = Embedder(query_instruction="q: ")
    assert asked.fingerprint == base.fingerprint
    assert asked.query_fingerprint != base.query_fingerprint


def test_unknown_lengths_are_an_error():
    embedder = Embedder("somebody/unheard-of", query_instruction="", document_instruction="", encoder=Recorder())
    with pytest.raises(ConventionError, match="max_tokens="):
        embedder.max_tokens  # noqa: B018
    assert Embedder("intfloat/e5-base", encoder=Recorder()).trained_tokens == 512
    with pytest.raises(ModelNotFoundError, match="served elsewhere and its tokenizer is not here"):
        Embedder("text-embedding-3-small", encoder=Recorder()).tokenizer  # noqa: B018
    assert Embedder(encoder=Recorder()).tokenizer.encode("hi").tokens == ["[CLS]", "hi", "[SEP]"]


def test_a_missing_model_is_an_error_when_it_is_needed():
    embedder = Embedder("nobody/no-such-model")
    with pytest.raises(ModelNotFoundError, match="nobody/no-such-model"):
        embedder.embed_queries(["x"])


# Sharing and pickling -------------------------------------------------------------------------------------------------


def test_embedders_of_one_model_share_one_encoder_and_let_it_go():
    first, second = Embedder(dtype="float32", max_tokens=99), Embedder(dtype="float32", max_tokens=99, task=None)
    copy = pickle.loads(pickle.dumps(first))
    other_scheme = Embedder(dtype="float32", max_tokens=99, scheme=ChunkScheme(late=True), query_instruction="q: ")
    assert first.encoder is second.encoder is copy.encoder is other_scheme.encoder
    assert Embedder(dtype="float32", max_tokens=98).encoder is not first.encoder
    from situate.embedders.local import loaded as _loaded

    before = len(_loaded._SHARED)
    del first, second, copy, other_scheme
    gc.collect()
    assert len(_loaded._SHARED) < before


def test_it_pickles_as_its_configuration(embedder):
    embedder.embed_queries(["load the weights"])
    pickled = pickle.dumps(embedder)
    assert len(pickled) < 2000
    copy = pickle.loads(pickled)
    assert copy.fingerprint == embedder.fingerprint
    np.testing.assert_array_equal(copy.embed_queries(TEXTS), embedder.embed_queries(TEXTS))


def test_many_threads_get_what_one_gets(embedder):
    expected = embedder.embed_documents(TEXTS)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(embedder.embed_documents(TEXTS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


# Async ----------------------------------------------------------------------------------------------------------------


async def test_the_async_twins_give_the_same(embedder):
    document = Document("d", LONG, {"title": "Rivers"})
    chunks = [Chunk.of(document, i, i * 180, i * 180 + 180) for i in range(20)]
    scheme = ChunkScheme(late=True, neighbours=0.35, context=("title",))
    np.testing.assert_allclose(await embedder.aembed_queries(TEXTS), embedder.embed_queries(TEXTS), atol=1e-6)
    np.testing.assert_allclose(await embedder.aembed_documents(TEXTS), embedder.embed_documents(TEXTS), atol=1e-6)
    np.testing.assert_allclose(
        await embedder.aembed_chunks(document, chunks), embedder.embed_chunks(document, chunks), atol=1e-6
    )
    (one,) = await embedder.aencode_chunks([(document, chunks)], scheme, token_vectors=True)
    (two,) = embedder.encode_chunks([(document, chunks)], scheme, token_vectors=True)
    np.testing.assert_allclose(one.dense, two.dense, atol=1e-6)
    for a, b in zip(one.tokens, two.tokens, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(await embedder.aembed_query_tokens(TEXTS), embedder.embed_query_tokens(TEXTS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(await embedder.aembed_document_tokens(TEXTS), embedder.embed_document_tokens(TEXTS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


async def test_the_event_loop_runs_while_documents_are_embedded():
    # Its own encoder, so that looking up and loading the model is part of what must not block.
    embedder = Embedder(dtype="float32", device="cpu", max_tokens=200)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await embedder.aembed_documents([LONG[:700]] * 64)
    ticker.cancel()
    assert ticks >= 10


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_token_vectors_leave_out_special_tokens_and_the_instruction(minilm_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    embedder = Embedder(query_instruction="query: ", dtype="float32", device="cpu")
    (found,) = embedder.embed_query_tokens(["the old cat"])
    model, tokenizer = AutoModel.from_pretrained(minilm_path).eval(), AutoTokenizer.from_pretrained(minilm_path)
    with torch.inference_mode():
        hidden = model(**tokenizer("query: the old cat", return_tensors="pt")).last_hidden_state[0].numpy()
    expected = hidden[3:-1] / np.linalg.norm(hidden[3:-1], axis=1, keepdims=True)
    assert found.shape == (3, 384)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_queries_and_their_tokens_come_out_of_one_pass(minilm_path):
    instructed = Embedder(minilm_path, query_instruction="search: ", dtype="float32", device="cpu")
    texts = [*TEXTS, "another"]
    rows, matrices = instructed.embed_queries_with_tokens(texts, TEXTS)
    np.testing.assert_allclose(rows, instructed.embed_queries(texts), atol=1e-6)
    for got, wanted in zip(matrices, instructed.embed_query_tokens(TEXTS), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_repeated_text_is_read_once():
    from situate.embedders.text.reading import ReadPlan, pooling_request
    from situate.embedders.text.requests import TokenRange

    ids, other = np.array([1, 5, 2]), np.array([1, 6, 2])
    whole, words = [TokenRange(0, 0, 3)], [TokenRange(0, 1, 2)]
    work = pooling_request(
        [ReadPlan([ids], [whole]), ReadPlan([other], [whole]), ReadPlan([ids.copy()], [words])], "mean", True
    )
    assert [sequence.tolist() for sequence in work.sequences] == [[1, 5, 2], [1, 6, 2]]
    assert work.segments.tolist() == [[0, 0, 3, 1], [1, 0, 3, 1], [0, 1, 2, 1]]
    assert work.kept.tolist() == [[0, 0, 3], [1, 0, 3], [0, 1, 2]]


def test_a_text_without_words_has_no_token_vectors(embedder):
    shapes = [matrix.shape for matrix in embedder.embed_document_tokens(["", "one two", " \n", "three"])]
    assert shapes == [(0, 384), (2, 384), (0, 384), (1, 384)]


# Dimensions -----------------------------------------------------------------------------------------------------------


def test_vectors_are_cut_and_normalised_again(embedder):
    family = Family(name="matryoshka", source="here", dimensions=(16, 64))
    cut = Embedder(family=family, dimensions=64, dtype="float32", device="cpu")
    whole = embedder.embed_documents(TEXTS)[:, :64]
    np.testing.assert_allclose(
        cut.embed_documents(TEXTS), whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6
    )
    assert cut.dimension == 64
    assert cut.embed_query_tokens(["two words"])[0].shape == (2, 64)
    assert cut.embed_documents([]).shape == (0, 64)


def test_layer_norm_comes_before_the_cut():
    class Ramp(Recorder):
        def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
            return [Encoded(np.array([[1.0, 2.0, 3.0, 6.0]], dtype=np.float32)) for _ in inputs]

    family = Family(name="nomic-like", source="here", dimensions=(2, 4), layer_norm=True)
    found = Embedder("x", family=family, dimensions=2, encoder=Ramp()).embed_documents(["x"])
    row = np.array([1.0, 2.0, 3.0, 6.0])
    expected = ((row - row.mean()) / row.std())[:2]
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_a_cut_that_was_not_trained_gives_a_warning_and_an_impossible_one_is_refused():
    with pytest.warns(SituateWarning, match="not to be cut to 100 numbers"):
        assert Embedder(dimensions=100).embed_queries(["x"]).shape == (1, 100)
    with pytest.raises(InputError, match="dimensions is 500, but the model's vectors have 384"):
        Embedder(dimensions=500).embed_queries(["x"])
    with pytest.raises(InputError, match="dimensions is 0"):
        Embedder(dimensions=0)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\x00", "\ud800", "\u200b"])
def test_a_text_without_words_gets_a_finite_vector(embedder, text):
    for vectors in (embedder.embed_queries([text]), embedder.embed_documents([text])):
        assert vectors.shape == (1, 384)
        assert np.isfinite(vectors).all()
        np.testing.assert_allclose(np.linalg.norm(vectors), 1, atol=1e-5)


def test_no_texts_are_no_vectors(embedder):
    assert embedder.embed_queries([]).shape == (0, 384)
    assert embedder.embed_documents([]).dtype == np.float32
    assert embedder.embed_query_tokens([]) == []


def test_what_is_not_a_list_of_texts_is_refused(embedder):
    with pytest.raises(InputError, match="give a list"):
        embedder.embed_queries("one text")
    with pytest.raises(InputError, match="text 1 of 2 is a NoneType"):
        embedder.embed_documents(["fine", None])


def test_a_long_text_is_cut_with_a_warning_refused_or_read_in_windows():
    with pytest.warns(TruncationWarning, match="1 of 2 texts"):
        cut = Embedder(dtype="float32", device="cpu", on_overflow="warn").embed_documents([LONG, "short"])
    with pytest.raises(OverflowLimitError, match="max_tokens is 256"):
        Embedder(dtype="float32", device="cpu", on_overflow="raise").embed_documents([LONG])
    windows = Embedder(dtype="float32", device="cpu", on_overflow="window").embed_documents([LONG, "short"])
    assert np.abs(windows[0] - cut[0]).max() > 1e-4
    np.testing.assert_allclose(windows[1], cut[1], atol=1e-6)


def test_by_default_documents_are_read_in_windows_and_queries_cut(recwarn):
    default = Embedder(dtype="float32", device="cpu")
    windows = Embedder(dtype="float32", device="cpu", on_overflow="window")
    np.testing.assert_array_equal(default.embed_documents([LONG]), windows.embed_documents([LONG]))
    assert not recwarn
    assert default.fingerprint == windows.fingerprint
    with pytest.warns(TruncationWarning, match="1 of 1 texts"):
        query = default.embed_queries([LONG])
    assert np.abs(query - windows.embed_queries([LONG])).max() > 1e-4
    # One token stands for everything: a second window would be read and not be pooled.
    for pooling in ("cls", "last"):
        embedder = Embedder(dtype="float32", device="cpu", pooling=pooling)
        assert embedder.fingerprint["on_overflow"] == "cut"
        with pytest.warns(TruncationWarning):
            embedder.embed_documents([LONG])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_never_leave(value):
    embedder = Embedder("intfloat/e5-base", encoder=Recorder(value))
    document = Document("d", "one two")
    with pytest.raises(NonFiniteVectorError, match="NaN or infinity"):
        embedder.embed_queries(["x"])
    with pytest.raises(NonFiniteVectorError):
        embedder.embed_document_tokens(["x"])
    with pytest.raises(NonFiniteVectorError, match="document 'd'"):
        embedder.embed_chunks(document, [Chunk.of(document, 0, 0, 3)])
