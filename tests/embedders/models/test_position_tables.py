"""Longer than trained with a table of positions: each method against a model whose table is written out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from situate.embedders import Embedder, Extension
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from situate.errors import ConventionError
from tests.embedders.forward.test_packed import SIZES, TEXTS, save

TRAINED, TARGET = 48, 180
LONG = " ".join(TEXTS[2].split() * 2)


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    sizes = {**SIZES, "vocab_size": 300}
    model: Any
    if request.param == "bert":
        model = transformers.BertModel(transformers.BertConfig(**sizes | {"max_position_embeddings": TRAINED}))
    else:  # whose table begins behind the padding's place
        config = transformers.RobertaConfig(
            **sizes | {"max_position_embeddings": TRAINED + 2}, pad_token_id=1, type_vocab_size=1
        )
        model = transformers.RobertaModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4.0)
    return save(tmp_path_factory.mktemp(request.param), model, TRAINED)


def row(method: str, rows: np.ndarray, at: int) -> np.ndarray:
    """The vector of position ``at``, by the method's formula."""
    if method == "recurrent":
        return rows[at % TRAINED]
    if method == "grouped":
        return rows[at // 4]  # 180 positions in 48 groups of four
    place = at * TRAINED / TARGET
    low = int(place)
    high = min(low + 1, TRAINED - 1)
    return rows[low] * (1 - (place - low)) + rows[high] * (place - low)


def by_hand(folder: Path, method: str, text: str) -> np.ndarray:
    """The mean of the tokens of a plain model that is configured with the longer table."""
    small = transformers.AutoModel.from_pretrained(folder).eval()
    config = transformers.AutoConfig.from_pretrained(folder)
    first = config.max_position_embeddings - TRAINED
    config.max_position_embeddings = TARGET + first
    table = small.embeddings.position_embeddings.weight.detach().numpy()
    rows = np.stack([row(method, table[first:], at) for at in range(TARGET)])
    state = small.state_dict()
    state["embeddings.position_embeddings.weight"] = torch.from_numpy(np.concatenate([table[:first], rows]))
    large = type(small)(config).eval()
    large.load_state_dict(state)
    ids = Encoder(folder).tokenizer.encode(text).ids
    with torch.inference_mode():
        mean = large(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
    unit: np.ndarray = mean / np.linalg.norm(mean)
    return unit


@pytest.mark.parametrize("method", ["grouped", "recurrent", "interpolated"])
def test_positions_beyond_the_table_are_those_of_the_formula(folder: Path, method: Any) -> None:
    encoder = Encoder(folder, extension=method, max_tokens=TARGET, dtype="float32", device="cpu")
    texts = [LONG, TEXTS[0], TEXTS[2]]
    results = encoder.encode([SpanText(text) for text in texts])
    assert TRAINED < len(encoder.tokenizer.encode(LONG).ids) <= TARGET
    assert not any(result.lost_tokens for result in results)
    for text, result in zip(texts, results, strict=True):
        np.testing.assert_allclose(result.vectors[0], by_hand(folder, method, text), atol=2e-5)
    plain = Encoder(folder, dtype="float32", device="cpu").encode([SpanText(TEXTS[0])])[0].vectors
    assert np.allclose(plain, results[1].vectors, atol=1e-5) == (method == "recurrent"), "short texts stay in one"


@pytest.mark.full
def test_a_table_is_stretched_from_the_length_that_was_trained(minilm_path: str) -> None:
    """MiniLM has 512 positions and was trained on 256."""
    text = "Kiel lies on the Baltic Sea. " * 60
    extended = Embedder(minilm_path, extension=Extension("recurrent", trained=256), max_tokens=1024, dtype="float32")
    assert (extended.max_tokens, extended.trained_tokens) == (1024, 1024)
    (tokens,) = extended.embed_document_tokens([text])
    assert len(tokens) > 256
    short = "Kiel lies on the Baltic Sea."
    np.testing.assert_allclose(
        extended.embed_documents([short]), Embedder(minilm_path, dtype="float32").embed_documents([short]), atol=1e-5
    )


def test_a_model_without_a_table_is_told_what_it_has(tmp_path: Path) -> None:
    config = transformers.Qwen3Config(vocab_size=300, num_key_value_heads=2, head_dim=16, pad_token_id=0, **SIZES)
    folder = save(tmp_path, transformers.Qwen3Model(config))
    with pytest.raises(ConventionError, match="has no table of positions"):
        Encoder(folder, extension="grouped", max_tokens=900, device="cpu").encode([SpanText("x")])
