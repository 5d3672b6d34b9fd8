"""The mean of several layers, against transformers' hidden states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from situate.embedders import Embedder, EmbedderSettings
from situate.embedders.forward.chooser import load_model
from situate.embedders.forward.modules import PackedForward, PaddedForward
from situate.embedders.forward.packing import Packing
from situate.embedders.models.variant import Variant
from situate.errors import ConventionError, InputError
from situate.integrations.langchain import SituateEmbeddings
from situate.integrations.llama_index import SituateEmbedding
from tests.tiny_models import PlainModel, asks_for_attention, unit

TEXTS = ["Bees make honey.", "the cat sat on a mat", "old red house, berlin! the dog runs"]


def embedder(folder: str, **settings: Any) -> Embedder:
    plain: dict[str, Any] = {"query_instruction": "", "document_instruction": "", "pooling": "mean"}
    return Embedder(folder, device="cpu", dtype="float32", **plain, **settings)


@pytest.mark.parametrize("kind", ["bert", "llama", "olmoe"])
@pytest.mark.parametrize("layers", [(1, -1), (2, 1), (-1,)])
def test_vectors_are_pooled_from_the_mean_of_hidden_states(
    kind: str, layers: tuple[int, ...], folders: dict[str, str], plain: dict[str, PlainModel]
) -> None:
    model, wanted = plain[kind], []
    for text in TEXTS:
        ids = [*model.leading, *model.ids(text), *model.trailing]
        states = model.call(ids, output_hidden_states=True).hidden_states
        wanted.append(unit(torch.stack([states[layer][0] for layer in layers]).mean(0).mean(0).numpy()))
    made = embedder(folders[kind], mean_layers=list(layers))
    np.testing.assert_allclose(made.embed_documents(TEXTS), np.stack(wanted), atol=5e-5)
    assert made.fingerprint["mean_layers"] == list(layers)
    assert f"behind its layers {layers[0]}" in made.describe()


def test_padded_and_packed_passes_agree_and_fewer_layers_count_from_their_own_end(folders: dict[str, str]) -> None:
    if not asks_for_attention("bert"):
        pytest.skip("transformers packs it since 5.0")
    lengths, cpu = [9, 4, 12], torch.device("cpu")
    ids, packing = torch.arange(5, 5 + sum(lengths)), Packing.of(lengths, cpu)

    def model(variant: Variant) -> Any:
        return load_model(Path(folders["bert"]), cpu, torch.float32, variant=variant)

    with torch.inference_mode():
        padded = PaddedForward(model(Variant(layers=2, mean_layers=(1, -1))))(ids, packing)
        packed = PackedForward(model(Variant(layers=2, mean_layers=(1, -1))))(ids, packing)
        parts = [PaddedForward(model(Variant(layers=count)))(ids, packing) for count in (1, 2)]
    torch.testing.assert_close(packed, padded, atol=2e-5, rtol=0)
    torch.testing.assert_close(padded, torch.stack(parts).mean(0), atol=2e-5, rtol=0)


def test_wrong_layers_are_refused(folders: dict[str, str]) -> None:
    for wrong in ((), (0, 1), (1, 1), "1", (1.5,), (True,)):
        with pytest.raises(InputError, match="mean_layers is"):
            Embedder(mean_layers=wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="mean_layers is"):
            EmbedderSettings(mean_layers=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has 9, but the model runs 3"):
        embedder(folders["bert"], mean_layers=(1, 9)).embed_queries(["a"])
    with pytest.raises(InputError, match="names one twice"):
        embedder(folders["bert"], mean_layers=(3, -1)).embed_queries(["a"])
    made = replace(embedder(folders["bert"], mean_layers=(-1, -2)).settings, dtype="int8")
    with pytest.raises(ConventionError, match="computes the last layer alone"):
        Embedder.from_settings(made).embed_queries(["a"])


def test_one_parameter_reaches_it_from_both_frameworks(folders: dict[str, str]) -> None:
    wanted = embedder(folders["bert"], mean_layers=(1, -1)).embed_queries(["bees"])[0]
    given: dict[str, Any] = {"device": "cpu", "dtype": "float32", "pooling": "mean", "mean_layers": [1, -1]}
    given |= {"query_instruction": "", "document_instruction": ""}
    made = SituateEmbedding(folders["bert"], **given).get_query_embedding("bees")
    assert made == pytest.approx(wanted.tolist())
    assert SituateEmbeddings(model=folders["bert"], **given).embed_query("bees") == pytest.approx(wanted.tolist())
