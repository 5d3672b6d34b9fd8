"""Decoders run otherwise: prepending, two-way attention and routing, against plain calls of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from situate.embedders import Embedder, PromptFamily
from situate.embedders.forward.chooser import load_model
from situate.embedders.forward.modules import PackedForward, PaddedForward
from situate.embedders.forward.packing import Packing
from situate.embedders.models.prepending import Prepending
from situate.embedders.models.variant import Variant
from situate.errors import ConventionError, InputError
from tests.tiny_models import PlainModel, unit

TEXTS = ["Bees make honey.", "the cat sat on a mat", "", "old red house, berlin! the dog runs"]


def embedder(folder: str, **settings: Any) -> Embedder:
    return Embedder(folder, device="cpu", dtype="float32", **settings)


def prepended(model: PlainModel, text: str, first: int, last: int) -> np.ndarray:
    """The last token's vector, layer by layer, its state put at the place in front of layers first + 1 to last + 1."""
    ids = [*model.leading, *model.ids(f'This sentence : <pad> "{text}" means in one word:"')]
    assert ids.count(0) == 1
    inner = model.model
    with torch.inference_mode():
        hidden = inner.embed_tokens(torch.tensor([ids]))
        positions = torch.arange(len(ids))[None]
        rotary = inner.rotary_emb(hidden, positions)
        mask = torch.full((len(ids), len(ids)), float("-inf")).triu(1)[None, None]
        for number, layer in enumerate(inner.layers):
            if first <= number <= last:
                hidden = hidden.clone()
                hidden[0, ids.index(0)] = hidden[0, -1]
            hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden  # before transformers 5
        return unit(inner.norm(hidden)[0, -1].numpy())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "olmoe"])
def test_the_last_token_stands_before_the_text_in_the_next_layers(
    kind: str, folders: dict[str, str], plain: dict[str, PlainModel]
) -> None:
    model = plain[kind]
    made = embedder(folders[kind], prompts={"name": "eol", "prepend": [1, 2]})
    wanted = np.stack([prepended(model, text, 1, 2) for text in TEXTS])
    np.testing.assert_allclose(made.embed_documents(TEXTS), wanted, atol=2e-5)
    np.testing.assert_allclose(made.embed_queries(TEXTS[:1]), wanted[:1], atol=2e-5)
    once = embedder(folders[kind], prompts=PromptFamily.eol(prepend=(1, 1))).embed_documents(TEXTS)
    np.testing.assert_allclose(once, np.stack([prepended(model, text, 1, 1) for text in TEXTS]), atol=2e-5)
    assert np.abs(once - wanted).max() > 1e-3
    assert made.fingerprint["prompts"]["prepend"] == [1, 2]


def test_padded_and_packed_passes_prepend_alike(folders: dict[str, str]) -> None:
    variant = Variant(prepending=Prepending(token=0, skipped=0, first=1, last=2))
    lengths, cpu = [9, 4, 12], torch.device("cpu")
    ids = torch.arange(5, 5 + sum(lengths))
    ids[[2, 3, 14]] = 0  # two places in the first sequence, of which one counts; none in the second
    packing = Packing.of(lengths, cpu)
    models = [load_model(Path(folders["llama"]), cpu, torch.float32, variant=variant) for _ in range(2)]
    plain = load_model(Path(folders["llama"]), cpu, torch.float32)
    with torch.inference_mode():
        packed, padded = PackedForward(models[0])(ids, packing), PaddedForward(models[1])(ids, packing)
        usual = PaddedForward(plain)(ids, packing)
    torch.testing.assert_close(packed, padded, atol=2e-5, rtol=0)
    torch.testing.assert_close(packed[9:13], usual[9:13], atol=2e-5, rtol=0)
    assert (packed[8] - usual[8]).abs().max() > 1e-3


def test_where_prepending_has_no_place_is_refused(folders: dict[str, str]) -> None:
    with pytest.raises(InputError, match="ends behind layer 3, but the model runs 3"):
        embedder(folders["llama"], prompts=PromptFamily.eol(prepend=(1, 3))).embed_queries(["a"])
    with pytest.raises(ConventionError, match="sees already"):
        embedder(folders["bert"], prompts=PromptFamily.eol(prepend=(1, 1))).embed_queries(["a"])
    with pytest.raises(ConventionError, match=r"sees already|look back only"):
        embedder(folders["llama"], prompts=PromptFamily.eol(prepend=(1, 1)), bidirectional=True).embed_queries(["a"])
    with pytest.raises(InputError, match="go together"):
        PromptFamily(('"{text}" :',), prepend=(1, 1))
    with pytest.raises(InputError, match="first and the last layer"):
        PromptFamily.eol(prepend=(2, 1))


@pytest.mark.skipif(transformers.__version__.startswith("4."), reason="transformers has the switch since 5.0")
@pytest.mark.parametrize("kind", ["llama", "qwen3", "olmoe"])
def test_two_way_attention_equals_a_mask_that_hides_nothing(
    kind: str, folders: dict[str, str], plain: dict[str, PlainModel]
) -> None:
    model = plain[kind]
    wanted, causal = [], []
    for text in TEXTS[:2]:
        ids = [*model.leading, *model.ids(text), *model.trailing]
        nothing = torch.zeros(1, 1, len(ids), len(ids))
        wanted.append(unit(model.hidden(ids, attention_mask=nothing).mean(axis=0)))
        causal.append(unit(model.hidden(ids).mean(axis=0)))
    settings: dict[str, Any] = {"query_instruction": "", "document_instruction": "", "pooling": "mean"}
    made = embedder(folders[kind], bidirectional=True, **settings)
    np.testing.assert_allclose(made.embed_documents(TEXTS[:2]), np.stack(wanted), atol=2e-5)
    assert np.abs(np.stack(wanted) - np.stack(causal)).max() > 1e-2
    assert made.fingerprint["bidirectional"] is True
    assert "both ways" in made.describe()


def test_routing_follows_the_hidden_state(folders: dict[str, str], plain: dict[str, PlainModel]) -> None:
    model = plain["olmoe"]
    weight = 0.5
    made = embedder(folders["olmoe"], prompts="eol", routing_weight=weight)
    assert made.dimension == 32 + 3 * 6
    wanted = []
    for text in TEXTS:
        out = model.call(model.ids(f'This sentence : "{text}" means in one word:"'), output_router_logits=True)
        hidden = unit(out.last_hidden_state[0, -1].numpy())
        routing = unit(np.concatenate([torch.softmax(layer, -1)[-1].numpy() for layer in out.router_logits]))
        wanted.append(np.concatenate([hidden, weight**0.5 * routing]) / (1 + weight) ** 0.5)
    vectors = made.embed_documents(TEXTS)
    np.testing.assert_allclose(vectors, np.stack(wanted), atol=2e-5)
    # A dot product is the weighted mean of both similarities, which is the paper's sum.
    alone = embedder(folders["olmoe"], prompts="eol").embed_documents(TEXTS)
    tail = np.stack([unit(row[32:]) for row in vectors])
    np.testing.assert_allclose(vectors @ vectors.T, (alone @ alone.T + weight * (tail @ tail.T)) / 1.5, atol=1e-5)
    fewer = embedder(folders["olmoe"], prompts="eol", routing_weight=weight, layers=2)
    assert fewer.embed_queries(["a"]).shape == (1, 32 + 2 * 6)


def test_routing_that_is_not_there_is_refused(folders: dict[str, str]) -> None:
    with pytest.raises(ConventionError, match="no experts"):
        embedder(folders["llama"], prompts="eol", routing_weight=1).embed_queries(["a"])
    with pytest.raises(InputError, match="routing_weight is -1"):
        Embedder(routing_weight=-1)
    with pytest.raises(InputError, match="two parts"):
        Embedder(routing_weight=1, dimensions=8)
