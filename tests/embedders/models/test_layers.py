"""The first n layers of a model (2D Matryoshka) equal a model that has n layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from situate.embedders import Embedder
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from situate.errors import ConventionError, InputError
from tests.embedders.forward.test_packed import FAMILIES, SIZES, TEXTS, save


def vectors(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return np.concatenate([result.vectors for result in encoder.encode([SpanText(text) for text in texts])])


@pytest.mark.parametrize("name", ["bert", "distilbert", "mpnet", "modernbert", "qwen3", "gemma3-causal", "t5"])
def test_fewer_layers_equal_a_transformers_model_that_has_fewer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    folder = save(tmp_path, FAMILIES[name][0]())
    # The reference is configured with fewer layers and never makes the others; the final norm of a pre-norm model
    # stays.
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = 2
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    kind = transformers.T5EncoderModel if name == "t5" else transformers.AutoModel
    model = kind.from_pretrained(folder, config=config).eval()
    encoder = Encoder(folder, layers=2, dtype="float32", device="cpu")
    whole = Encoder(folder, dtype="float32", device="cpu")
    for text, got, full in zip(TEXTS, vectors(encoder, TEXTS), vectors(whole, TEXTS), strict=True):
        ids = torch.tensor([encoder.tokenizer.encode(text).ids])
        with torch.inference_mode():
            wanted = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(got, wanted / np.linalg.norm(wanted), atol=1e-5)
        assert np.abs(got - full).max() > 1e-3


def test_layers_and_dimensions_equal_sentence_transformers_own_way(minilm_path: str) -> None:
    """Its documentation cuts the list of layers, and the vector by truncate_dim."""
    reference = SentenceTransformer(minilm_path, device="cpu", truncate_dim=96)
    bert = reference[0].auto_model
    bert.encoder.layer = bert.encoder.layer[:3]
    texts = ["Kiel lies on the Baltic Sea.", "", "a longer one, " * 30]
    wanted = reference.encode(texts, normalize_embeddings=True)
    encoder = Encoder(minilm_path, layers=3, dimensions=96, dtype="float32", device="cpu")
    np.testing.assert_allclose(vectors(encoder, texts), wanted, atol=1e-5)
    embedder = Embedder(minilm_path, layers=3, dimensions=96, dtype="float32", device="cpu")
    np.testing.assert_allclose(embedder.embed_documents(texts), wanted, atol=1e-5)


def test_spans_and_bfloat16_run_on_fewer_layers_too(minilm_path: str) -> None:
    item = SpanText("Berlin is the capital. Kiel lies on the sea.", ((0, 22), (23, 44)))
    exact = Encoder(minilm_path, layers=2, dtype="float32", device="cpu").encode([item])[0].vectors
    half = Encoder(minilm_path, layers=2, dtype="bfloat16", device="cpu").encode([item])[0].vectors
    assert (exact * half).sum(1).min() > 0.9995


def test_layers_are_part_of_the_fingerprint(minilm_path: str) -> None:
    plain, cut = Embedder(minilm_path), Embedder(minilm_path, layers=4)
    assert "layers" not in plain.fingerprint, "an index that was built before is still the same"
    assert cut.fingerprint == {**plain.fingerprint, "layers": 4}
    assert "4 of its layers" in cut.describe()


def test_impossible_numbers_of_layers_are_refused(minilm_path: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layers is 0: it needs to be 1 or more"):
        Encoder(minilm_path, layers=0)
    with pytest.raises(InputError, match="layers is 7, but the model has 6"):
        Encoder(minilm_path, layers=7, device="cpu").encode([SpanText("x")])
    sizes = {**SIZES, "embedding_size": 32}
    albert = save(tmp_path, transformers.AlbertModel(transformers.AlbertConfig(vocab_size=300, **sizes)))
    with pytest.raises(ConventionError, match="ALBERT shares one"):
        Encoder(albert, layers=1, device="cpu").encode([SpanText("x")])
