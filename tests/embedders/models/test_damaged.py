"""A model folder that is damaged or hostile is a `ModelError` that names file and value, from every reader."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from situate.embedders import CrossEncoderModel, Embedder, LibraryEncoder, SpanText
from situate.errors import FallbackWarning, ModelError
from tests.embedders.forward.test_packed import FAMILIES, save

MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]
FILES = [
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
]
DAMAGES = {
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "cut": b'{"hidden_size": 64, "num_',
    "no text": b"\xff\xfe\x00{}\xff",
    "a number": b"3",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with all files that sentence-transformers writes, a linear layer after the pooling included."""
    torch.manual_seed(3)
    folder = save(tmp_path_factory.mktemp("whole"), FAMILIES["bert"][0]())
    (folder / "modules.json").write_text(json.dumps(MODULES))
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text('{"in_features": 64, "out_features": 8}')
    weights = {"linear.weight": torch.randn(8, 64), "linear.bias": torch.zeros(8)}
    safetensors.torch.save_file(weights, folder / "2_Dense" / "model.safetensors")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def embed(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)  # the assumptions on an unknown model
        return Embedder(folder, device="cpu", dtype="float32").embed_queries(["x"])


def test_the_whole_folder_is_read(folder: Path) -> None:
    assert embed(folder).shape == (1, 8)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_json_that_is_damaged_or_nested_without_end(folder: Path, file: str, damage: str) -> None:
    (folder / file).write_bytes(DAMAGES[damage])
    with pytest.raises(ModelError, match=str(folder)):
        embed(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "modules.json"])
def test_damaged_json_in_front_of_the_other_kinds_of_models(folder: Path, file: str) -> None:
    (folder / file).write_bytes(DAMAGES["nested"])
    with pytest.raises(ModelError, match=str(folder)):
        CrossEncoderModel(folder, device="cpu").score([("x", "y")])
    with pytest.raises(ModelError, match=str(folder)):
        LibraryEncoder(folder, device="cpu").encode([SpanText("x")])


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("config.json", "num_hidden_layers", -1),
        ("config.json", "num_hidden_layers", 0),
        ("config.json", "num_hidden_layers", "six"),
        ("config.json", "num_hidden_layers", True),
        ("config.json", "hidden_size", 7.5),
        ("config.json", "hidden_size", [64]),
        ("config.json", "num_attention_heads", 0),
        ("config.json", "vocab_size", -5),
        ("config.json", "max_position_embeddings", -3),
        ("sentence_bert_config.json", "max_seq_length", -3),
        ("sentence_bert_config.json", "max_seq_length", "long"),
        ("tokenizer_config.json", "model_max_length", -1),
        ("2_Dense/config.json", "in_features", -64),
        ("2_Dense/config.json", "in_features", 65),
        ("2_Dense/config.json", "out_features", 0),
    ],
)
def test_a_number_that_no_model_can_have_is_named(folder: Path, file: str, name: str, value: Any) -> None:
    config = json.loads((folder / file).read_text())
    config[name] = value
    (folder / file).write_text(json.dumps(config))
    if name == "model_max_length":
        (folder / "sentence_bert_config.json").unlink()
    with pytest.raises(ModelError) as raised:
        embed(folder)
    assert file in str(raised.value)
    assert f"{name} = {value!r}" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_attention_heads", 7), ("vocab_size", 999), ("hidden_act", "none"), ("intermediate_size", 3)],
)
def test_a_configuration_that_its_weights_contradict(folder: Path, name: str, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(ModelError, match=str(folder)):
        embed(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "2_Dense/model.safetensors"])
def test_weights_of_another_shape_or_cut_short(folder: Path, file: str) -> None:
    weights = safetensors.torch.load_file(folder / file)
    name = next(name for name in weights if name.endswith("weight") and weights[name].ndim == 2)
    other = {**weights, name: weights[name][:, :-1].contiguous()}
    safetensors.torch.save_file(other, folder / "other", metadata={"format": "pt"})
    (folder / "other").replace(folder / file)
    with pytest.raises(ModelError, match=str(folder)):
        embed(folder)
    safetensors.torch.save_file(weights, folder / "other", metadata={"format": "pt"})
    (folder / file).write_bytes((folder / "other").read_bytes()[:-100])
    with pytest.raises(ModelError, match=str(folder)):
        embed(folder)


def test_a_configuration_without_its_numbers(folder: Path) -> None:
    (folder / "2_Dense" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="lacks in_features or out_features"):
        embed(folder)


@pytest.mark.parametrize("path", ["/etc", "../elsewhere", "2_Dense/../../elsewhere", ".."])
def test_a_module_outside_of_the_folder_is_not_read(folder: Path, path: str) -> None:
    (folder / "modules.json").write_text(json.dumps([*MODULES[:2], {**MODULES[2], "path": path}]))
    with pytest.raises(ModelError, match=r"modules\.json names the module folder .*outside"):
        embed(folder)


def test_a_file_of_any_length_takes_bounded_memory(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as stream:
        stream.truncate(1 << 40)  # sparse: a terabyte of zeros
    with pytest.raises(ModelError, match=r"config\.json"):
        embed(folder)
