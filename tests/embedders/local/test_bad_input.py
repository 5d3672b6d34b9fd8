"""Accidental input of users at real sizes, and hostile model folders."""

from __future__ import annotations

import json
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertJapaneseTokenizer

from situate.chunkers import AutoChunker
from situate.embedders import Embedder
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from situate.errors import (
    ConventionError,
    FallbackWarning,
    InputError,
    ModelError,
    SpanError,
    TruncationWarning,
    UnsafeModelError,
)
from tests.conftest import FULL
from tests.embedders.forward.test_packed import FAMILIES, TEXTS, save

CHARACTERS = 10_000_000 if FULL else 100_000

SURFACES = [
    "",
    " ",
    "\n\t\r\u00a0\u3000",
    "\x00",
    "a\x00b",
    "\ud800",
    "caf\udce9 au lait",
    "\u200b\u200d\ufeff",
    "Русский текст, 日本語の文章、العربية, हिन्दी, ไทย, 👩‍👩‍👧‍👦, Z̸͑a̷͝l̶̈́g̵̀o̶͋",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "ﷺ" * 50,
    "\u202eevil\u202c",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a WordPiece vocabulary."""
    torch.manual_seed(8)
    return save(tmp_path_factory.mktemp("bert"), FAMILIES["bert"][0]())


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder with a byte-level BPE vocabulary."""
    torch.manual_seed(9)
    folder = save(tmp_path_factory.mktemp("qwen3"), FAMILIES["qwen3"][0]())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("text", SURFACES)
@pytest.mark.parametrize("kind", ["folder", "bytewise"])
def test_any_text_gets_a_finite_vector_and_so_does_each_of_its_spans(
    kind: str, text: str, request: pytest.FixtureRequest
) -> None:
    encoder = Encoder(request.getfixturevalue(kind), dtype="float32", device="cpu")
    spans = tuple((i, i + 1) for i in range(min(len(text), 40)))
    whole, parts = encoder.encode([SpanText(text), SpanText(text, spans)], token_vectors=True)
    assert np.isfinite(whole.vectors).all()
    assert parts.vectors.shape == (len(spans), 64)
    np.testing.assert_allclose(np.linalg.norm(parts.vectors, axis=1), 1, atol=1e-5)


def _unbroken(kind: str) -> str:
    if kind == "letter":
        return "x" * CHARACTERS
    if kind == "cjk":
        return "東京都千代田区" * (CHARACTERS // 21)  # three bytes each
    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/", k=CHARACTERS)
    return "".join(letters)


@pytest.mark.parametrize("text_kind", ["letter", "cjk", "base64"])
@pytest.mark.parametrize("kind", ["folder", "bytewise"])
def test_megabytes_without_a_blank(kind: str, text_kind: str, request: pytest.FixtureRequest) -> None:
    encoder = Encoder(request.getfixturevalue(kind), dtype="bfloat16", device="cpu", layers=1)
    text = _unbroken(text_kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # WordPiece makes one unknown token of a long word
        cut = encoder.encode([SpanText(text)])[0]
    assert cut.vectors.shape == (1, 64)
    last = len(text)
    spans = ((0, 5), (last // 2, last // 2 + 9), (last - 10, last))
    late = encoder.encode([SpanText(text, spans, overlap=8)])[0]
    assert late.lost_tokens == 0
    assert late.vectors.shape == (3, 64)
    assert np.isfinite(late.vectors).all()
    head = text[:10_000]
    assert np.isfinite(encoder.encode([SpanText(head, ((0, len(head)),))])[0].vectors).all()


def test_windows_that_no_span_needs_are_not_read(folder: Path) -> None:
    encoder = Encoder(folder, dtype="float32", device="cpu")
    text = (TEXTS[2] + " ") * 40
    spans = ((5000, 5040), (3, 9))
    few = SpanText(text, spans, window=60, overlap=10)
    many = SpanText(text, (*spans, (0, len(text))), window=60, overlap=10)
    read, all_read = (encoder.read_plan(item)[0] for item in (few, many))
    assert len(read.sequences) <= 4 < len(all_read.sequences)
    got = encoder.encode([few], token_vectors=True)[0]
    wanted = encoder.encode([many], token_vectors=True)[0]
    np.testing.assert_allclose(got.vectors, wanted.vectors[:2], atol=1e-6)
    assert got.tokens is not None
    assert wanted.tokens is not None
    for one, two in zip(got.tokens, wanted.tokens[:2], strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("span", [(3, 3), (5, 2), (-1, 4), (0, 999), (28, 29)])
def test_bad_spans_name_themselves(folder: Path, span: tuple[int, int]) -> None:
    encoder = Encoder(folder, dtype="float32", device="cpu")
    with pytest.raises(SpanError, match=rf"\({span[0]}, {span[1]}\).*28 characters"):
        encoder.encode([SpanText("Kiel lies on the Baltic Sea.", (span,))])


def test_spans_inside_one_token_overlapping_and_repeated(bytewise: Path) -> None:
    encoder = Encoder(bytewise, dtype="float32", device="cpu")
    text = "The river 東京 bends"
    place = text.index("東")
    found = encoder.encode([SpanText(text, ((place, place + 1), (place, place + 2), (place, place + 1), (0, 9)))])[0]
    np.testing.assert_array_equal(found.vectors[0], found.vectors[2])
    assert np.abs(found.vectors[0] - found.vectors[1]).max() > 1e-4


# Tokenizers without offsets -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The same model with transformers' own Japanese BERT tokenizer, which is plain Python and keeps no offsets."""
    target = tmp_path_factory.mktemp("slow")
    for name in ("config.json", "model.safetensors"):
        (target / name).symlink_to(folder / name)
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    (target / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=lambda token: vocabulary[token])))
    tokenizer = BertJapaneseTokenizer(
        str(target / "vocab.txt"), word_tokenizer_type="basic", subword_tokenizer_type="wordpiece", do_lower_case=True
    )
    assert not tokenizer.is_fast
    tokenizer.save_pretrained(target)
    (target / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 150}))
    return target


def test_a_slow_tokenizer_pools_the_same_spans_as_a_fast_one(slow: Path, folder: Path) -> None:
    text = TEXTS[2]
    spans = ((0, 24), (26, 41), (100, 140), (len(text) - 30, len(text)))
    inputs = [SpanText(text, spans), SpanText(text), *(SpanText(t) for t in TEXTS)]
    got = Encoder(slow, dtype="float32", device="cpu").encode(inputs, token_vectors=True)
    wanted = Encoder(folder, dtype="float32", device="cpu").encode(inputs, token_vectors=True)
    for one, two in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one.vectors, two.vectors, atol=1e-5)
        assert one.tokens is not None
        assert two.tokens is not None
        assert [len(a) for a in one.tokens] == [len(b) for b in two.tokens]


def test_where_offsets_cannot_be_recovered_spans_are_refused_and_whole_texts_go_on(slow: Path) -> None:
    encoder = Encoder(slow, dtype="float32", device="cpu")
    text = "東 京 都 the river"  # several unknown tokens in a row
    with pytest.raises(ConventionError, match=r"tokenizer\.json, or encode whole texts"):
        encoder.encode([SpanText(text, ((0, 2),))])
    assert encoder.encode([SpanText(text)])[0].vectors.shape == (1, 64)
    with pytest.raises(ConventionError, match="no fast tokenizer"):
        _ = encoder.tokenizer
    embedder = Embedder(slow, encoder=encoder, query_instruction="", document_instruction="", pooling="mean")
    chunker = AutoChunker.for_model(embedder, 20)
    assert (chunker.tokenizer, chunker.size) == (None, 80), "in characters, four for a token"


# Code and pickles -----------------------------------------------------------------------------------------------------

CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel

Path(__file__).with_name("it-ran").touch()
Path({marker!r}).touch()


class ForeignConfig(BertConfig):
    model_type = "foreign-bert"


class ForeignModel(BertModel):
    config_class = ForeignConfig
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model of an architecture of its own, with the code for it, which leaves a mark when it is run."""
    marker = tmp_path / "marker"
    torch.manual_seed(10)
    folder = save(tmp_path / "model", FAMILIES["bert"][0]())
    (folder / "modeling_foreign.py").write_text(CODE.format(marker=str(marker)))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "foreign-bert"
    config["auto_map"] = {
        "AutoConfig": "modeling_foreign.ForeignConfig",
        "AutoModel": "modeling_foreign.ForeignModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder, marker


def test_a_models_own_code_runs_only_when_allowed(foreign: tuple[Path, Path]) -> None:
    folder, marker = foreign
    with pytest.raises(UnsafeModelError, match="trust_remote_code=True"):
        Encoder(folder, device="cpu").encode([SpanText("x")])
    embedder = Embedder(folder, device="cpu", pooling="mean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)  # the assumptions on an unknown model
        with pytest.raises(UnsafeModelError, match="trust_remote_code=True"):
            embedder.embed_documents(["x"])
    assert not marker.exists(), "nothing ran"
    trusted = Encoder(folder, device="cpu", dtype="float32", trust_remote_code=True)
    assert trusted.encode([SpanText("x")])[0].vectors.shape == (1, 64)
    assert marker.exists()


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.marker,))


def test_a_pickle_that_runs_code_is_refused_and_never_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    armed = tmp_path / "armed"
    armed.mkdir()
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (armed / file.name).symlink_to(file)
    torch.save({"embeddings.word_embeddings.weight": Bomb(marker)}, armed / "pytorch_model.bin")
    pickle.loads(pickle.dumps(Bomb(tmp_path / "proof")))
    assert (tmp_path / "proof").exists(), "the bomb works"
    with pytest.raises(UnsafeModelError, match="allow_pickle=True"):
        Encoder(armed, device="cpu").encode([SpanText("x")])
    # Even with allow_pickle torch reads plain weights only, which runs nothing.
    with pytest.raises((ModelError, pickle.UnpicklingError, OSError)):
        Encoder(armed, device="cpu", allow_pickle=True).encode([SpanText("x")])
    assert not marker.exists()


@pytest.mark.skipif("nomic" not in FAMILIES, reason="transformers has it since 5.0")
def test_a_model_that_transformers_knows_needs_no_code_of_its_own(tmp_path: Path) -> None:
    """Nomic's repository still names its Python files; transformers has the architecture itself."""
    torch.manual_seed(11)
    folder = save(tmp_path, FAMILIES["nomic"][0]())
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "somebody/else--modeling.Model", "AutoConfig": "somebody/else--modeling.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    found = Encoder(folder, dtype="float32", device="cpu").encode([SpanText("x")])
    assert isinstance(transformers.AutoConfig.from_pretrained(folder), transformers.NomicBertConfig)
    assert found[0].vectors.shape == (1, 64)


def test_a_model_that_lacks_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers fills them up with random numbers and logs it: meaningless vectors."""
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).symlink_to(file)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    pooler = [name for name in weights if "pooler" in name]
    safetensors.torch.save_file({name: weights[name] for name in weights if name not in pooler}, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "model.safetensors")
    Encoder(tmp_path, device="cpu").encode([SpanText("x")])  # the pooler is not used
    lost = "encoder.layer.0.intermediate.dense.weight"
    assert pooler
    assert lost in weights
    safetensors.torch.save_file({name: weights[name] for name in weights if name != lost}, tmp_path / "y")
    (tmp_path / "y").rename(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=rf"1 weights of BertModel are not in .+ \({lost}, say\)"):
        Encoder(tmp_path, device="cpu").encode([SpanText("x")])


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "not one that torch knows"), ("cuda:99", r"is not there: torch sees \d+ CUDA devices")],
)
def test_a_device_that_is_not_there(device: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Embedder(device=device).embed_queries(["Where?"])
