"""Packed execution computes the results of each sequence alone, for every architecture."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from situate.embedders.forward import cores as _cores
from situate.embedders.forward.attention import first_token_attention, packed_attention, packed_self_attention
from situate.embedders.forward.chooser import load_model
from situate.embedders.forward.gpu import groups
from situate.embedders.forward.modules import PackedForward, PaddedForward
from situate.embedders.forward.packing import Packing
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from situate.errors import FallbackWarning
from tests.tiny_models import asks_for_attention

TEXTS = [
    "The river bends twice before the mill.",
    "A short one.",
    "It was built in 1862, burned down and was built again; the second mill is the one that still stands today, "
    "beside the weir, with its wheel of oak and its three floors of stone, and it grinds rye on the first Sunday of "
    "every month, when the water is high enough and the miller is sober enough to open the gate.",
    "Seven barges passed the lock.",
    "A brief one!",
    "",
]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 200,
}


def tiny_tokenizer(bos: str = "[CLS]", eos: str = "[SEP]") -> Tokenizer:
    """A WordPiece tokenizer trained on the texts, with the special tokens of a BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    )
    return tokenizer


def save(folder: Path, model: Any, max_tokens: int = 150) -> Path:
    """The model folder of a tiny random model with the tiny tokenizer."""
    model.eval().save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, **fast}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_tokens}))
    return folder


def _bert(**extra: Any) -> Any:
    return transformers.BertModel(transformers.BertConfig(vocab_size=300, **SIZES, **extra))


def _roberta(kind: str) -> Any:
    sizes = {**SIZES, "max_position_embeddings": 202}
    config = getattr(transformers, f"{kind}Config")(vocab_size=300, pad_token_id=1, type_vocab_size=1, **sizes)
    return getattr(transformers, f"{kind}Model")(config)


def _distilbert() -> Any:
    return transformers.DistilBertModel(
        transformers.DistilBertConfig(
            vocab_size=300, dim=64, n_layers=3, n_heads=4, hidden_dim=128, max_position_embeddings=200
        )
    )


def _electra() -> Any:
    return transformers.ElectraModel(transformers.ElectraConfig(vocab_size=300, embedding_size=32, **SIZES))


def _mpnet() -> Any:
    sizes = {**SIZES, "max_position_embeddings": 202}
    return transformers.MPNetModel(transformers.MPNetConfig(vocab_size=300, pad_token_id=1, **sizes))


def _nomic() -> Any:
    return transformers.NomicBertModel(transformers.NomicBertConfig(vocab_size=300, **SIZES))


def _modernbert() -> Any:
    config = transformers.ModernBertConfig(
        vocab_size=300, local_attention=16, global_attn_every_n_layers=2, pad_token_id=0, **SIZES
    )
    return transformers.ModernBertModel(config)


def _deberta() -> Any:
    config = transformers.DebertaV2Config(
        vocab_size=300, relative_attention=True, position_buckets=16, pos_att_type=["p2c", "c2p"], **SIZES
    )
    return transformers.DebertaV2Model(config)


def _t5() -> Any:
    config = transformers.T5Config(vocab_size=300, d_model=64, d_kv=16, d_ff=128, num_layers=3, num_heads=4)
    return transformers.T5EncoderModel(config)


def _qwen3() -> Any:
    config = transformers.Qwen3Config(vocab_size=300, num_key_value_heads=2, head_dim=16, pad_token_id=0, **SIZES)
    return transformers.Qwen3Model(config)


def _gemma3(bidirectional: bool) -> Any:
    config = transformers.Gemma3TextConfig(
        vocab_size=300,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        use_bidirectional_attention=bidirectional,
        **SIZES,
    )
    return transformers.Gemma3TextModel(config)


#: Name -> (model, whether it can be packed).
FAMILIES: dict[str, tuple[Callable[[], Any], bool]] = {
    "bert": (_bert, True),
    "bert-relu": (lambda: _bert(hidden_act="relu"), True),
    "roberta": (lambda: _roberta("Roberta"), True),
    "xlm-roberta": (lambda: _roberta("XLMRoberta"), True),
    "distilbert": (_distilbert, True),
    "electra": (_electra, True),
    "mpnet": (_mpnet, True),
    "modernbert": (_modernbert, True),
    "t5": (_t5, True),
    "qwen3": (_qwen3, True),
    "gemma3-bidirectional": (lambda: _gemma3(True), True),
    "gemma3-causal": (lambda: _gemma3(False), True),
    "deberta-v2": (_deberta, False),
}
if hasattr(transformers, "NomicBertModel"):  # not in transformers 4
    FAMILIES["nomic"] = _nomic, True


def sharpened(model: Any) -> Any:
    """The model with its weights multiplied by 4.

    Fresh models have tiny weights, with which attention is nearly uniform: a wrong mask or scale would hardly show. T5
    does not scale its scores, so there they are sharp already.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            fixed = weight.ndim != 2 or "embed" in name or "relative" in name
            if model.config.model_type != "t5" and not fixed:
                weight.mul_(4.0)
    return model


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, bool]:
    torch.manual_seed(1)
    build, packs = FAMILIES[request.param]
    return request.param, save(tmp_path_factory.mktemp(request.param), sharpened(build())), packs


def token_vectors_alone(folder: Path, ids: list[np.ndarray]) -> list[np.ndarray]:
    """Each sequence through transformers' own model, alone: no padding, no packing, no mask."""
    cpu = torch.device("cpu")
    model = load_model(folder, cpu, torch.float32)
    with torch.inference_mode():
        return [model(input_ids=torch.from_numpy(i)[None]).last_hidden_state[0].numpy() for i in ids]


@pytest.mark.parametrize(("dtype", "cores"), [("float32", 1), ("float32", 3), ("bfloat16", 2)])
def test_every_family_equals_each_sequence_alone(
    family: tuple[str, Path, bool], dtype: Any, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder, packs = family
    packs = packs and (name not in ("modernbert", "t5") or asks_for_attention(name))
    encoder = Encoder(folder, dtype=dtype, device="cpu", normalize=False)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        monkeypatch.setattr(_cores, "_SMALLEST_SHARE", 1)
        encoder.scheduler.engine.cores = _cores.CorePool(cores)  # type: ignore[attr-defined]
        results = encoder.encode([SpanText(text) for text in TEXTS], token_vectors=True)
    encodings = encoder.tokenizer.encode_batch(TEXTS)
    alone = token_vectors_alone(folder, [np.array(e.ids) for e in encodings])
    for result, wanted in zip(results, alone, strict=True):
        mean = wanted.mean(0)
        error = np.linalg.norm(result.vectors[0] - mean) / np.linalg.norm(mean)
        assert error < (1e-5 if dtype == "float32" else 0.03)
        assert result.tokens is not None
        cosines = (result.tokens[0] * wanted).sum(1) / np.linalg.norm(wanted, axis=1)
        assert cosines.min() > (0.99999 if dtype == "float32" else 0.995)
    fallbacks = [w for w in given if issubclass(w.category, FallbackWarning)]
    assert len(fallbacks) == (0 if packs else 1)
    assert encoder.scheduler.engine.packed == packs  # type: ignore[attr-defined]
    encoder.close()


@pytest.mark.parametrize("name", ["bert", "modernbert", "qwen3", "gemma3-bidirectional", "t5", "roberta"])
def test_models_run_packed_through_the_attention_interface(name: str) -> None:
    """Without the plain loop of BERT-style encoders, and without prepacked layers."""
    if not asks_for_attention(name.partition("-")[0]):
        pytest.skip("transformers asks it for this model since 5.0")
    torch.manual_seed(2)
    model = FAMILIES[name][0]().eval()
    lengths = [3, 40, 40, 17, 1]
    ids = torch.randint(4, 300, (sum(lengths),))
    packing = Packing.of(lengths, torch.device("cpu"))
    with torch.inference_mode():
        wanted = PaddedForward(model)(ids, packing)
        got = PackedForward(model)(ids, packing)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def naive_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], **rules: Any
) -> torch.Tensor:
    """The definition, sequence by sequence, in float64."""
    out, start = [], 0
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    for length in lengths:
        a, b, c = (x[start : start + length].double().transpose(0, 1) for x in (q, k, v))
        scores = a @ b.transpose(1, 2) * rules["scale"]
        if rules.get("bias") is not None:
            scores = scores + rules["bias"][:, :length, :length]
        at = torch.arange(length)
        distance = at[:, None] - at[None]
        if rules.get("causal"):
            scores = scores.masked_fill(distance < 0, -torch.inf)
        if rules.get("window"):
            scores = scores.masked_fill(distance.abs() >= rules["window"], -torch.inf)
        out.append((scores.softmax(-1) @ c).transpose(0, 1).flatten(1))
        start += length
    return torch.cat(out).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("causal", "window", "key_heads", "bias"),
    [
        (False, None, 4, False),
        (True, None, 4, False),
        (False, 8, 4, False),
        (True, 8, 2, False),
        (False, None, 4, True),
    ],
)
def test_packed_attention_equals_its_definition(
    dtype: torch.dtype, causal: bool, window: int | None, key_heads: int, bias: bool
) -> None:
    torch.manual_seed(3)
    lengths = [1, 8, 9, 9, 30, 2]
    q = torch.randn(sum(lengths), 4, 16).to(dtype)
    k, v = (torch.randn(sum(lengths), key_heads, 16).to(dtype) for _ in range(2))
    added = torch.randn(4, 30, 30).to(dtype) if bias else None
    packing = Packing.of(lengths, torch.device("cpu"))
    got = packed_attention(q, k, v, packing, scale=0.25, causal=causal, window=window, bias=added)
    wanted = naive_attention(q, k, v, lengths, scale=0.25, causal=causal, window=window, bias=added)
    tolerance = 2e-6 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got.float(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("causal", "window", "key_heads", "bias"),
    [(False, None, 4, False), (True, None, 2, False), (False, 8, 4, False), (True, 8, 4, True), (False, None, 4, True)],
)
def test_attention_in_padded_groups_equals_its_definition(
    causal: bool, window: int | None, key_heads: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    lengths = [90, 70, 66, 30, 9, 8, 1, 1]
    q = 3 * torch.randn(sum(lengths), 4, 16)
    k, v = (torch.randn(sum(lengths), key_heads, 16) for _ in range(2))
    added = 3 * torch.randn(4, 95, 95) if bias else None
    packing = Packing.of(lengths, torch.device("cpu"))
    rules: dict[str, Any] = {"scale": 0.25, "causal": causal, "window": window, "bias": added}
    wanted = naive_attention(q, k, v, lengths, **rules)
    got = groups.grouped_attention(q, k, v, packing, **rules)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(groups, "_MASK_NUMBERS", 2 * 4 * 90**2)
    torch.testing.assert_close(groups.grouped_attention(q, k, v, packing, **rules), wanted, rtol=1e-5, atol=1e-5)
    if not causal and window is None:
        at = packing.bounds[:-1].long()
        for attend in (lambda *a, **r: groups.grouped_attention(*a, first=True, **r), first_token_attention):
            first = attend(q[at], k, v, packing, scale=0.25, bias=added)
            torch.testing.assert_close(first, wanted[at], rtol=1e-5, atol=1e-5)


def test_groups_are_few_and_bounded() -> None:
    lengths = list(range(512, 0, -1))
    assert len(groups.groups_of(lengths)) == 8
    assert sum(group.count for group in groups.groups_of(lengths, 12)) == 512
    assert all(12 * g.count * g.length**2 <= 1 << 26 for g in groups.groups_of(lengths, 12))
    assert groups.pays(Packing.of(lengths, torch.device("cpu")))
    assert not groups.pays(Packing.of([300, 200, 100], torch.device("cpu")))


def test_the_relative_bias_of_t5_is_made_for_the_longest_sequence() -> None:
    if not asks_for_attention("t5"):
        pytest.skip("transformers packs it since 5.0")
    model = FAMILIES["t5"][0]().eval()
    sizes: list[tuple[int, int]] = []
    layer = model.encoder.block[0].layer[0].SelfAttention
    compute = layer.compute_bias

    def counted(queries: int, keys: int, *arguments: Any, **named: Any) -> torch.Tensor:
        sizes.append((queries, keys))
        return compute(queries, keys, *arguments, **named)

    layer.compute_bias = counted
    lengths = [40, 17, 3]
    ids, packing = torch.randint(4, 300, (60,)), Packing.of(lengths, torch.device("cpu"))
    padded, packed = PaddedForward(model), PackedForward(model)
    with torch.inference_mode():
        got = packed(ids, packing)
        model.set_attn_implementation("sdpa")
        wanted = padded(ids, packing)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert sizes[0] == (40, 40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[1], [21], [33], [21, 21], [30, 8]])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_of_what_one_product_made_is_the_same(dtype: torch.dtype, lengths: list[int], bias: bool) -> None:
    torch.manual_seed(3)
    joined = torch.randn(sum(lengths), 3, 4, 16).to(dtype)
    added = torch.randn(4, 33, 33).to(dtype) if bias else None
    got = packed_self_attention(joined, Packing.of(lengths, torch.device("cpu")), scale=0.25, bias=added)
    q, k, v = joined.unbind(1)
    wanted = naive_attention(q, k, v, lengths, scale=0.25, bias=added)
    tolerance = 2e-6 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got.float(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [60.0, 120.0, 400.0, 30000.0])
@pytest.mark.parametrize("lowest", [False, True])
def test_attention_survives_scores_beyond_the_range_of_exponentials(size: float, lowest: bool) -> None:
    """Scores are +-size: all weight is on the tokens with the largest, however large or small that is."""
    torch.manual_seed(4)
    heavy = torch.arange(40) % 3 == 0
    q, k = torch.zeros(40, 2, 8), torch.zeros(40, 2, 8)
    q[:, :, 0] = 1.0
    k[:, :, 0] = torch.where(heavy, -size if lowest else size, -2 * size if lowest else -size)[:, None]
    v = torch.randn(40, 2, 8)
    got = packed_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), Packing.of([40], torch.device("cpu")), scale=1.0)
    wanted = v.bfloat16().float()[heavy].mean(0).flatten().expand(40, 16)
    torch.testing.assert_close(got.float(), wanted, rtol=1e-2, atol=1e-2)


def test_long_sequences_are_attended_in_blocks() -> None:
    torch.manual_seed(5)
    q, k, v = (torch.randn(3000, 2, 8).bfloat16() for _ in range(3))
    got = packed_attention(q, k, v, Packing.of([3000], torch.device("cpu")), scale=0.35)
    wanted = naive_attention(q, k, v, [3000], scale=0.35)
    torch.testing.assert_close(got.float(), wanted, rtol=5e-2, atol=1e-2)


def test_a_packing_knows_its_runs_and_positions() -> None:
    packing = Packing.of([2, 2, 3], torch.device("cpu"))
    assert [(r.start, r.count, r.length) for r in packing.runs] == [(0, 2, 2), (4, 1, 3)]
    assert packing.position_ids.tolist() == [0, 1, 0, 1, 0, 1, 2]
    assert packing.bounds.tolist() == [0, 2, 4, 7]
    assert packing.longest == 3
