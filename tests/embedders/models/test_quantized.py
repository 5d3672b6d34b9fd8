"""Weights of 8 and 4 bits: what transformers computes with the same weights, text by text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from situate.embedders import Embedder
from situate.errors import ConventionError, InputError, MissingExtraError
from tests.tiny_models import tiny_language_model, unit

TEXTS = ["Bees make honey.", "the cat sat on a mat", "old red house, berlin! the dog runs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of 64 numbers: blocks of quantised weights are that long."""
    return str(tiny_language_model(tmp_path_factory.mktemp("tiny") / "llama", "llama", size=64))


def by_hand(folder: str, config: Any) -> np.ndarray:
    model = transformers.AutoModel.from_pretrained(
        folder, quantization_config=config, device_map={"": "cpu"}, dtype=torch.float32
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in TEXTS:
        ids = tokenizer(f'This sentence : "{text}" means in one word:"').input_ids
        with torch.inference_mode():
            rows.append(unit(model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].numpy()))
    return np.stack(rows)


@pytest.mark.parametrize(("weights", "least"), [("int8", 0.999), ("int4", 0.9)])
def test_vectors_are_those_of_the_quantised_weights(folder: str, weights: Any, least: float) -> None:
    config = transformers.BitsAndBytesConfig
    made = (
        config(load_in_8bit=True, llm_int8_threshold=0.0)
        if weights == "int8"
        else config(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    )
    settings: dict[str, Any] = {"prompts": "eol", "device": "cpu", "dtype": "float32"}
    embedder = Embedder(folder, weights=weights, **settings)
    got = embedder.embed_documents(TEXTS)
    np.testing.assert_allclose(got, by_hand(folder, made), atol=2e-3)
    exact = Embedder(folder, **settings).embed_documents(TEXTS)
    cosines = (got * exact).sum(axis=1)
    assert least < cosines.min() < 1 - 1e-6
    assert embedder.fingerprint["weight_bits"] == int(weights[3:])
    assert f"in {weights[3:]} bits" in embedder.describe()


def test_what_quantised_weights_cannot_do_is_refused(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="weights 'int2' is not one of 'int8', 'int4'"):
        Embedder(folder, weights="int2")  # type: ignore[arg-type]
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    adapted = Embedder(folder, weights="int8", prompts="eol", adapters={"law": adapter}, adapter="law", device="cpu")
    with pytest.raises(ConventionError, match="cannot be merged into weights of int8"):
        adapted.embed_queries(["a"])
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match="quantized"):
        Embedder(folder, weights="int4", prompts="eol", device="cpu", layers=2).embed_queries(["a"])
