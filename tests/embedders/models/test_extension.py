"""Longer than trained: each method's positions against its paper's formula, worked out here by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from situate.embedders import Embedder, Extension
from situate.embedders.forward.packing import Packing
from situate.embedders.forward.self_extend import Grouping, self_extended_attention
from situate.embedders.local.encoder import Encoder
from situate.embedders.models.extension import Reach
from situate.embedders.types import SpanText
from situate.errors import ConventionError, InputError
from tests.embedders.forward.test_packed import FAMILIES, SIZES, TEXTS, save

TRAINED, TARGET = 48, 192
WORDS = TEXTS[2].split()
LONG = " ".join(WORDS[(i * i + 3 * i) % len(WORDS)] for i in range(150))


def _qwen3() -> Any:
    sizes = {**SIZES, "max_position_embeddings": TRAINED}
    config = transformers.Qwen3Config(vocab_size=300, num_key_value_heads=2, head_dim=16, pad_token_id=0, **sizes)
    return transformers.Qwen3Model(config)


def _modernbert() -> Any:
    config = transformers.ModernBertConfig(
        vocab_size=300,
        local_attention=16,
        global_attn_every_n_layers=2,
        pad_token_id=0,
        **{**SIZES, "max_position_embeddings": TRAINED},
    )
    return transformers.ModernBertModel(config)


def _nomic() -> Any:
    sizes = {**SIZES, "max_position_embeddings": TRAINED}
    return transformers.NomicBertModel(transformers.NomicBertConfig(vocab_size=300, **sizes))


MODELS: dict[str, Callable[[], Any]] = {"qwen3": _qwen3, "modernbert": _modernbert, "nomic": _nomic}


@pytest.fixture(scope="module", params=sorted(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if transformers.__version__.startswith("4."):
        pytest.skip("transformers has all rotary positions in one place since 5.0")
    torch.manual_seed(3)
    model = MODELS[request.param]()
    with torch.no_grad():  # fresh weights are so small that attention, and so positions, would hardly matter
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(4.0)
    return save(tmp_path_factory.mktemp(request.param), model, TRAINED)


def token_vectors(encoder: Encoder, text: str) -> np.ndarray:
    tokens = encoder.encode([SpanText(text)], token_vectors=True)[0].tokens
    assert tokens is not None
    return tokens[0]


def by_hand(folder: Path, encoder: Encoder, text: str, change: Callable[[Any], dict[str, Any]]) -> np.ndarray:
    """The plain model, alone and unpacked, with its rotary embedding changed by ``change``; it may name arguments."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    ids = torch.tensor([encoder.tokenizer.encode(text).ids])
    with torch.inference_mode():
        out = model(input_ids=ids, **change(model)).last_hidden_state[0]
        return torch.nn.functional.normalize(out, dim=-1).numpy()


def frequencies(model: Any) -> list[tuple[Any, str]]:
    """The rotary buffers of the layers with full attention."""
    rotary = model.rotary_emb
    return [(rotary, name) for name in ("inv_freq", "full_attention_inv_freq") if hasattr(rotary, name)]


def base_of(model: Any) -> float:
    ropes = model.config.rope_parameters
    return float(ropes.get("full_attention", ropes)["rope_theta"])


def test_position_interpolation_equals_a_model_with_fractional_positions(folder: Path) -> None:
    encoder = Encoder(folder, extension="linear", max_tokens=TARGET, dtype="float32", device="cpu")

    def change(model: Any) -> dict[str, Any]:
        for rotary, name in frequencies(model):
            setattr(rotary, name, getattr(rotary, name) * TRAINED / TARGET)
        return {}

    np.testing.assert_allclose(token_vectors(encoder, LONG), by_hand(folder, encoder, LONG, change), atol=1e-4)
    if (folder / "config.json").read_text().count("full_attention") == 0:
        count = len(encoder.tokenizer.encode(LONG).ids)
        fractions = by_hand(
            folder, encoder, LONG, lambda _: {"position_ids": torch.arange(count)[None] * TRAINED / TARGET}
        )
        np.testing.assert_allclose(token_vectors(encoder, LONG), fractions, atol=1e-4)


def test_ntk_raises_the_base_so_that_the_slowest_frequency_is_interpolated(folder: Path) -> None:
    encoder = Encoder(folder, extension="ntk", max_tokens=TARGET, dtype="float32", device="cpu")

    def change(model: Any) -> dict[str, Any]:
        for rotary, name in frequencies(model):
            size = 2 * len(getattr(rotary, name))
            base = base_of(model) * (TARGET / TRAINED) ** (size / (size - 2))
            new = base ** (-torch.arange(0, size, 2) / size)
            assert new[0] == getattr(rotary, name)[0]
            torch.testing.assert_close(new[-1], getattr(rotary, name)[-1] * TRAINED / TARGET)
            setattr(rotary, name, new)
        return {}

    np.testing.assert_allclose(token_vectors(encoder, LONG), by_hand(folder, encoder, LONG, change), atol=1e-4)


def test_yarn_follows_its_paper(folder: Path) -> None:
    encoder = Encoder(folder, extension="yarn", max_tokens=TARGET, dtype="float32", device="cpu")
    factor = TARGET / TRAINED

    def change(model: Any) -> dict[str, Any]:
        for rotary, name in frequencies(model):
            old = getattr(rotary, name)
            size = 2 * len(old)

            def dimension(turns: float, size: int = size) -> float:
                """Which dimension turns so many times within the trained length."""
                return size * math.log(TRAINED / (turns * 2 * math.pi)) / (2 * math.log(base_of(model)))

            low, high = max(math.floor(dimension(32)), 0), min(math.ceil(dimension(1)), size - 1)
            ramp = ((torch.arange(len(old)) - low) / (high - low)).clamp(0, 1)
            setattr(rotary, name, old * (1 - ramp) + old / factor * ramp)
            # Queries and keys are both lengthened: the temperature of the paper, applied to the embedding.
            setattr(rotary, name.replace("inv_freq", "attention_scaling"), 0.1 * math.log(factor) + 1)
        return {}

    np.testing.assert_allclose(token_vectors(encoder, LONG), by_hand(folder, encoder, LONG, change), atol=1e-4)


def grouped_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rates: torch.Tensor, near: int, scale: float, causal: bool
) -> torch.Tensor:
    """SelfExtend pair by pair, in complex float64, on queries and keys that were not rotated yet."""
    length, group = len(q), math.ceil((TARGET - near) / (TRAINED - near)) if near < TRAINED else 1
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    far = i // group - j // group + (near - near // group) * torch.sign(i - j)
    distance = torch.where((i - j).abs() < near, i - j, far)
    half = len(rates)

    def pairs(x: torch.Tensor) -> torch.Tensor:
        return torch.complex(x[..., :half].double(), x[..., half : 2 * half].double())

    turn = torch.polar(torch.ones(length, length, half).double(), distance[..., None] * rates.double())
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = torch.einsum("ihd,ijd,jhd->hij", pairs(q), turn, pairs(k).conj()).real
    scores = scores + torch.einsum("ihd,jhd->hij", q[..., 2 * half :].double(), k[..., 2 * half :].double())
    scores = scores * scale
    if causal:
        scores = scores.masked_fill(i < j, -torch.inf)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v.double()).flatten(1).float()


@pytest.mark.parametrize(("causal", "neighbours", "rotated"), [(True, 12, 16), (False, 12, 16), (False, 30, 8)])
def test_self_extend_equals_its_definition(causal: bool, neighbours: int, rotated: int) -> None:
    torch.manual_seed(4)
    lengths = [150, 60, 40, 40]
    total = sum(lengths)
    q, k, v = torch.randn(total, 4, 16), torch.randn(total, 2, 16), torch.randn(total, 2, 16)
    rates = 100.0 ** (-torch.arange(0, rotated, 2) / rotated)
    reach = Reach("self", TRAINED, TARGET, neighbours)
    grouping = Grouping(rates, reach)
    packing = Packing.of(lengths, torch.device("cpu"))
    at = packing.position_ids
    got = self_extended_attention(
        grouping.moved(q, at), grouping.moved(k, at), v, packing, grouping, scale=0.3, causal=causal
    )
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        # A text within the trained length is read unchanged: every distance is near.
        near = neighbours if length > TRAINED else 1000
        wanted = grouped_attention(q[part], k[part], v[part], rates, near, 0.3, causal)
        torch.testing.assert_close(got[part], wanted, rtol=1e-4, atol=1e-5)
        start += length


def test_no_grouped_distance_is_new_to_the_model() -> None:
    for target in (49, 96, 100, 192, 1000, 3072):
        reach = Reach.of(Extension("self"), TRAINED, target)
        near, group = reach.neighbours, reach.group
        assert (target - 1) // group + near - near // group < TRAINED + 1


def test_self_extend_through_a_whole_model(folder: Path) -> None:
    """A reference that undoes the model's rotations and computes every pair by the definition."""
    encoder = Encoder(folder, extension=Extension("self", neighbours=12), max_tokens=TARGET, dtype="float32")
    reach = Reach("self", TRAINED, TARGET, 12)

    def reference(module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **options: Any) -> Any:
        window = options.get("sliding_window")
        causal = bool(getattr(module, "is_causal", True))
        if window is not None:
            near = (torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])).abs() < window
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near, scale=options["scaling"])
            return out.transpose(1, 2), None
        back = Grouping(rates, reach)
        at = -torch.arange(q.shape[2])
        q, k = (back.moved(x[0].transpose(0, 1), at) for x in (q, k))
        out = grouped_attention(q, k, v[0].transpose(0, 1), rates, 12, options["scaling"], causal)
        return out.view(1, len(q), q.shape[1], -1), None

    transformers.AttentionInterface.register("tests_self_extend", reference)
    rates = torch.empty(0)

    def change(model: Any) -> dict[str, Any]:
        nonlocal rates
        ((rotary, name),) = frequencies(model)
        rates = getattr(rotary, name)
        model.set_attn_implementation("tests_self_extend")
        return {}

    np.testing.assert_allclose(token_vectors(encoder, LONG), by_hand(folder, encoder, LONG, change), atol=2e-4)


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn", "self"])
def test_a_vector_does_not_depend_on_its_batch(folder: Path, method: Any) -> None:
    """transformers' "dynamic" NTK scales by the longest text of a pass, which is why it is not used."""
    encoder = Encoder(folder, extension=method, max_tokens=TARGET, dtype="float32", device="cpu")
    texts = [TEXTS[0], LONG, TEXTS[2], LONG[:400]]
    together = encoder.encode([SpanText(text) for text in texts])
    plain = Encoder(folder, dtype="float32", device="cpu")
    for text, result in zip(texts, together, strict=True):
        alone = encoder.encode([SpanText(text)])[0]
        assert alone.lost_tokens == 0
        np.testing.assert_allclose(result.vectors, alone.vectors, atol=1e-5)
    if method == "self":
        short = plain.encode([SpanText(TEXTS[0])])[0].vectors
        np.testing.assert_allclose(together[0].vectors, short, atol=1e-5)


def test_lengths_follow_and_are_part_of_the_fingerprint(folder: Path) -> None:
    encoder = Encoder(folder, extension="ntk", max_tokens=TARGET)
    assert (encoder.max_tokens, encoder.trained_tokens, encoder.position_limit) == (TARGET, TARGET, TARGET)
    settings: dict[str, Any] = {"pooling": "mean", "query_instruction": "", "document_instruction": ""}
    plain = Embedder(folder, **settings)
    extended = Embedder(folder, extension="ntk", max_tokens=TARGET, **settings)
    assert (extended.max_tokens, extended.trained_tokens) == (TARGET, TARGET)
    assert "extension" not in plain.fingerprint
    assert extended.fingerprint["extension"]["method"] == "ntk"
    other = Embedder(folder, extension="self", max_tokens=TARGET, **settings)
    assert other.fingerprint != extended.fingerprint
    assert f"extended to {TARGET} tokens" in extended.describe()


def test_impossible_extensions_are_refused(folder: Path, minilm_path: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'rope' is not one of 'linear', 'ntk', 'yarn', 'self'"):
        Encoder(folder, extension="rope")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="neighbours belongs to the method 'self'"):
        Extension("ntk", neighbours=3)
    with pytest.raises(InputError, match="trained is 0"):
        Extension("ntk", trained=0)
    with pytest.raises(InputError, match="give max_tokens="):
        _ = Encoder(folder, extension="ntk").max_tokens
    with pytest.raises(InputError, match=f"max_tokens is 40, but the model reads {TRAINED} tokens as it is"):
        _ = Encoder(folder, extension="ntk", max_tokens=40).max_tokens
    with pytest.raises(InputError, match="neighbours is 50, but has to be less than the 48"):
        _ = Encoder(folder, extension=Extension("self", neighbours=50), max_tokens=99).max_tokens
    with pytest.raises(ConventionError, match="'bert' has no rotary positions"):
        Encoder(minilm_path, extension="ntk", max_tokens=1024, device="cpu").encode([SpanText("x")])


def test_positions_that_are_scaled_already_are_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    config = transformers.Qwen3Config(
        vocab_size=300, num_key_value_heads=2, head_dim=16, pad_token_id=0, rope_parameters=rope, **SIZES
    )
    scaled = save(tmp_path, transformers.Qwen3Model(config))
    with pytest.raises(ConventionError, match=r"scaled already .rope_type 'linear'"):
        Encoder(scaled, extension="ntk", max_tokens=900, device="cpu").encode([SpanText("x")])


@pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="transformers has all rotary positions in one place since 5.0"
)
def test_layers_that_see_no_further_than_a_window_have_nothing_to_group(tmp_path: Path) -> None:
    config = transformers.MistralConfig(
        vocab_size=300, num_key_value_heads=2, head_dim=16, sliding_window=16, pad_token_id=0, **SIZES
    )
    folder = save(tmp_path, transformers.MistralModel(config))
    with pytest.raises(ConventionError, match=r"no layer .* sees further than its sliding window"):
        Encoder(folder, extension="self", max_tokens=900, device="cpu").encode([SpanText("x")])


@pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="transformers has all rotary positions in one place since 5.0"
)
def test_gemma_reads_further_in_its_global_layers(tmp_path: Path) -> None:
    folder = save(tmp_path, FAMILIES["gemma3-bidirectional"][0]())
    encoder = Encoder(folder, extension=Extension("self", trained=40), max_tokens=200, dtype="float32", device="cpu")
    assert encoder.encode([SpanText(LONG)])[0].lost_tokens == 0
