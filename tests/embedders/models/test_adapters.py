"""Adapters by name: equal to what peft computes, apart from one another, refused where they do not fit."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from situate.embedders import Embedder
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from situate.errors import (
    ConventionError,
    InputError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
    UnsafeModelError,
)
from tests.embedders.forward.test_packed import FAMILIES, TEXTS, save

peft = pytest.importorskip("peft")

#: The warning of peft 0.21 on transformers 5.23 in the tests' own calls.
DEPRECATED = ("ignore", "`is_gradient_checkpointing`", FutureWarning)

TARGETS = {
    "bert": ["query", "value", "output.dense"],
    "modernbert": ["Wqkv", "Wo"],
    "qwen3": ["q_proj", "v_proj", "down_proj"],
}


def trained(model: Any, folder: Path, seed: int, **settings: Any) -> Path:
    """An adapter as if trained: peft begins with one that changes nothing."""
    config = peft.LoraConfig(r=4, lora_alpha=16, **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings(*DEPRECATED)
        adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    adapted.save_pretrained(str(folder))
    adapted.unload()
    return folder


Made = tuple[Path, dict[str, Path]]


def make(kind: str, root: Path) -> Made:
    """A model's folder and those of two adapters."""
    torch.manual_seed(2)
    folder = save(root / "model", FAMILIES[kind][0]())
    adapters = {}
    for seed, name in enumerate(("legal", "medical")):
        model = transformers.AutoModel.from_pretrained(folder)
        adapters[name] = trained(model, root / name, seed, target_modules=TARGETS[kind], use_dora=name == "medical")
    return folder, adapters


@pytest.fixture(scope="module", params=sorted(TARGETS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make("bert", tmp_path_factory.mktemp("bert"))


def reference(encoder: Encoder, folder: Path, adapter: Path | None) -> np.ndarray:
    """Each text alone through peft's own, unmerged model."""
    model: Any = transformers.AutoModel.from_pretrained(folder)
    if adapter is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings(*DEPRECATED)
            model = peft.PeftModel.from_pretrained(model, str(adapter))
    rows = []
    for text in TEXTS:
        ids = torch.tensor([encoder.tokenizer.encode(text).ids])
        with torch.inference_mode():
            mean = model.eval()(input_ids=ids).last_hidden_state[0].mean(0)
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def vectors(encoder: Encoder, adapter: str | None) -> np.ndarray:
    return np.concatenate([r.vectors for r in encoder.encode([SpanText(t) for t in TEXTS], adapter=adapter)])


def test_each_adapter_equals_peft_and_leaves_the_others_alone(made: Made) -> None:
    folder, adapters = made
    with Encoder(folder, adapters=adapters, dtype="float32", device="cpu") as encoder:
        wanted = {name: reference(encoder, folder, path) for name, path in (("legal", adapters["legal"]), (None, None))}
        wanted["medical"] = reference(encoder, folder, adapters["medical"])
        for name in ("legal", None, "medical", "legal", None):
            np.testing.assert_allclose(vectors(encoder, name), wanted[name], atol=1e-4)
    assert np.abs(wanted["legal"] - wanted[None]).max() > 0.01
    assert np.abs(wanted["legal"] - wanted["medical"]).max() > 0.01


async def test_concurrent_calls_with_different_adapters_do_not_mix(made: Made) -> None:
    folder, adapters = made
    encoder = Encoder(folder, adapters=adapters, dtype="float32", device="cpu")
    names = [None, "legal", "medical"] * 8
    wanted = {name: vectors(encoder, name) for name in set(names)}
    inputs = [SpanText(text) for text in TEXTS]
    found = await asyncio.gather(*(encoder.aencode(inputs, adapter=name) for name in names))
    for name, results in zip(names, found, strict=True):
        np.testing.assert_allclose(np.concatenate([r.vectors for r in results]), wanted[name], atol=1e-6)


def test_adapters_are_loaded_at_first_use_and_stay(bert: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from situate.embedders.forward import chooser as _forward

    folder, adapters = bert
    loads: list[Any] = []
    load = _forward.load_model

    def counted(*args: Any, **settings: Any) -> Any:
        loads.append(settings["variant"].adapter)
        return load(*args, **settings)

    monkeypatch.setattr(_forward, "load_model", counted)
    encoder = Encoder(folder, adapters=adapters, dtype="float32", device="cpu", batch_tokens=777)
    for adapter in ("legal", None, "legal", None, "legal"):
        vectors(encoder, adapter)
    assert [a and a.name for a in loads] == ["legal", None]


def test_an_embedder_has_one_adapter_and_shares_its_weights(bert: Made) -> None:
    folder, adapters = bert
    encoder = Encoder(folder, adapters=adapters, dtype="float32", device="cpu")
    settings: dict[str, Any] = {"pooling": "mean", "query_instruction": "", "document_instruction": ""}
    plain = Embedder(folder, adapters=adapters, dtype="float32", device="cpu", **settings)
    legal = plain.using("legal")
    np.testing.assert_allclose(legal.embed_documents(TEXTS), vectors(encoder, "legal"), atol=1e-6)
    np.testing.assert_allclose(legal.embed_queries(TEXTS), vectors(encoder, "legal"), atol=1e-6)
    np.testing.assert_allclose(plain.embed_documents(TEXTS), vectors(encoder, None), atol=1e-6)
    assert legal.encoder is plain.encoder
    assert pickle.loads(pickle.dumps(legal)).fingerprint == legal.fingerprint
    assert "adapter" not in plain.fingerprint
    assert legal.fingerprint["adapter"] != plain.using("medical").fingerprint["adapter"]
    assert legal.using(None).fingerprint == plain.fingerprint
    apart = Embedder(folder, adapters=adapters, adapter="legal", query_adapter="medical", dtype="float32", **settings)
    np.testing.assert_allclose(apart.embed_queries(TEXTS), vectors(encoder, "medical"), atol=1e-6)
    np.testing.assert_allclose(apart.embed_documents(TEXTS), vectors(encoder, "legal"), atol=1e-6)
    assert apart.fingerprint == legal.fingerprint
    assert apart.query_fingerprint != legal.query_fingerprint
    assert "adapter" in legal.describe()


def test_an_unknown_adapter_is_named(bert: Made) -> None:
    folder, adapters = bert
    encoder = Encoder(folder, adapters=adapters, device="cpu")
    with pytest.raises(InputError, match=r"adapter 'tax' is not known \(there are: 'legal', 'medical'\)"):
        vectors(encoder, "tax")
    with pytest.raises(InputError, match="adapter 'tax' is not known"):
        Embedder(folder, adapters=adapters, adapter="tax")
    with pytest.raises(InputError, match="there are: none"):
        Encoder(folder, device="cpu").encode([SpanText("x")], adapter="legal")


def test_what_is_no_adapter_is_refused(bert: Made, tmp_path: Path) -> None:
    folder, adapters = bert
    with pytest.raises(ModelNotFoundError, match=r"adapter 'a'.* no folder"):
        vectors(Encoder(folder, adapters={"a": "nobody/has-this"}, device="cpu"), "a")
    with pytest.raises(ModelNotFoundError, match="adapter_config"):
        vectors(Encoder(folder, adapters={"a": folder}, device="cpu"), "a")
    # The weights of another architecture.
    strange = trained(FAMILIES["qwen3"][0](), tmp_path / "strange", 0, target_modules=TARGETS["qwen3"])
    with pytest.raises(ConventionError, match="adapter 'a' does not fit"):
        vectors(Encoder(folder, adapters={"a": strange}, device="cpu"), "a")
    # Right layers, but not all of them were trained for this model.
    smaller = shutil.copytree(adapters["legal"], tmp_path / "smaller")
    from safetensors.torch import load_file, save_file

    weights = load_file(smaller / "adapter_model.safetensors")
    save_file({k: v for k, v in weights.items() if ".1." not in k}, smaller / "adapter_model.safetensors")
    with pytest.raises(ConventionError, match=r"does not fit .* are missing"):
        vectors(Encoder(folder, adapters={"a": smaller}, device="cpu"), "a")


def test_pickled_adapters_are_refused_unless_allowed(bert: Made, tmp_path: Path) -> None:
    folder, adapters = bert
    pickled = shutil.copytree(adapters["legal"], tmp_path / "pickled")
    from safetensors.torch import load_file

    torch.save(load_file(pickled / "adapter_model.safetensors"), pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    with pytest.raises(UnsafeModelError, match="allow_pickle=True"):
        vectors(Encoder(folder, adapters={"a": pickled}, device="cpu"), "a")
    trusted = Encoder(folder, adapters={"a": pickled}, device="cpu", dtype="float32", allow_pickle=True)
    plain = Encoder(folder, adapters=adapters, device="cpu", dtype="float32")
    np.testing.assert_allclose(vectors(trusted, "a"), vectors(plain, "legal"), atol=1e-6)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("adapter_config.json", b"[" * 100_000),
        ("adapter_config.json", b"3"),
        ("adapter_model.safetensors", b"\x09" * 99),
    ],
)
def test_a_damaged_adapter_is_named(bert: Made, tmp_path: Path, file: str, damage: bytes) -> None:
    folder, adapters = bert
    damaged = shutil.copytree(adapters["legal"], tmp_path / "damaged")
    (damaged / file).write_bytes(damage)
    with pytest.raises(ModelError, match=f"adapter 'a' in .*{damaged}"):
        vectors(Encoder(folder, adapters={"a": damaged}, device="cpu", dtype="float32"), "a")


def test_kinds_that_cannot_be_merged_are_refused(bert: Made, tmp_path: Path) -> None:
    folder, adapters = bert
    prompts = shutil.copytree(adapters["legal"], tmp_path / "prompts")
    config = {"peft_type": "PROMPT_TUNING", "task_type": "FEATURE_EXTRACTION", "num_virtual_tokens": 4}
    (prompts / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConventionError, match="PROMPT_TUNING, which cannot be merged"):
        vectors(Encoder(folder, adapters={"a": prompts}, device="cpu"), "a")


def test_without_peft_the_extra_is_named(bert: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    folder, adapters = bert
    encoder = Encoder(folder, adapters=adapters, device="cpu", batch_tokens=555)
    with pytest.raises(MissingExtraError, match=r"situate\[adapters\]"):
        vectors(encoder, "legal")
    assert len(vectors(encoder, None)) == len(TEXTS)
