"""The encoder on a CUDA device: `pytest -m cuda` where there is one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from situate.embedders.forward import attention as _attention
from situate.embedders.forward.gpu import fused, groups
from situate.embedders.forward.modules import PackedForward, PaddedForward
from situate.embedders.forward.packing import Packing
from situate.embedders.local.devices import chosen_device, chosen_dtype
from situate.embedders.local.encoder import Encoder
from situate.embedders.local.scheduler import Job
from situate.embedders.text.reading import pooling_request
from situate.embedders.types import SpanText
from tests.embedders.forward.test_packed import FAMILIES, TEXTS, naive_attention, save, sharpened

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MANY = [f"{TEXTS[i % 5]} number {i}" for i in range(300)]


def vectors(encoder: Encoder, texts: list[str]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a model runs padded is tested elsewhere
        return np.concatenate([result.vectors for result in encoder.encode([SpanText(text) for text in texts])])


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, bool]:
    torch.manual_seed(1)
    build, packs = FAMILIES[request.param]
    return request.param, save(tmp_path_factory.mktemp(request.param), sharpened(build())), packs


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_every_family_equals_the_cpu(family: tuple[str, Path, bool], dtype: Any) -> None:
    _, folder, packs = family
    encoder = Encoder(folder, device="cuda", dtype=dtype)
    got = vectors(encoder, MANY)
    wanted = vectors(Encoder(folder, device="cpu", dtype="float32"), MANY)
    assert (got * wanted).sum(1).min() > (0.99999 if dtype == "float32" else 0.995)
    if dtype == "float32":
        np.testing.assert_allclose(got, wanted, atol=2e-3)  # TF32 or not is torch's own setting
    assert encoder.scheduler.engine.packed == packs  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("causal", "window", "key_heads"), [(False, None, 4), (True, None, 4), (False, 8, 4), (True, 8, 2), (True, None, 2)]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_varlen_kernel_equals_the_definition(
    dtype: torch.dtype, causal: bool, window: int | None, key_heads: int
) -> None:
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("this card does not compute in bfloat16")
    torch.manual_seed(3)
    lengths = [1, 8, 9, 9, 30, 2, 200]
    q = torch.randn(sum(lengths), 4, 64).to(dtype)
    k, v = (torch.randn(sum(lengths), key_heads, 64).to(dtype) for _ in range(2))
    cuda = torch.device("cuda")
    packing = Packing.of(lengths, cuda)
    rules: dict[str, Any] = {"scale": 0.125, "causal": causal, "window": window}
    got = _attention.packed_attention(q.to(cuda), k.to(cuda), v.to(cuda), packing, **rules)
    wanted = naive_attention(q, k, v, lengths, **rules)
    torch.testing.assert_close(got.float().cpu(), wanted, rtol=2e-2, atol=2e-2)


def test_a_packed_pass_equals_the_padded_one_in_half_precision() -> None:
    torch.manual_seed(4)
    cuda = torch.device("cuda")
    model = sharpened(FAMILIES["modernbert"][0]()).eval().to(cuda, chosen_dtype("auto", cuda))
    lengths = [3, 40, 40, 17, 1, 120]
    ids = torch.randint(4, 300, (sum(lengths),), device=cuda)
    packing = Packing.of(lengths, cuda)
    with torch.inference_mode():
        wanted = PaddedForward(model)(ids, packing).float()
        got = PackedForward(model)(ids, packing).float()
    assert (torch.linalg.vector_norm(got - wanted) / torch.linalg.vector_norm(wanted)).item() < 0.03


def test_auto_is_the_half_precision_that_the_card_computes_in() -> None:
    device = chosen_device("auto")
    assert device.type == "cuda"
    assert device.index is not None
    modern = torch.cuda.get_device_capability(device)[0] >= 8
    assert chosen_dtype("auto", device) == (torch.bfloat16 if modern else torch.float16)
    assert chosen_dtype("auto", device, "bert") == torch.float16
    assert chosen_device("cuda") == device, "two names of one device are one"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that its passes take memory worth counting."""
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048
    )
    folder = save(tmp_path_factory.mktemp("bert"), transformers.BertModel(config), 500)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 512
    return folder


def test_a_card_without_room_halves_the_passes(bert: Path) -> None:
    texts = [TEXTS[2] * 3] * 1500
    encoder = Encoder(bert, device="cuda", batch_tokens=400_000)
    wanted = vectors(Encoder(bert, device="cuda", batch_tokens=4_000), texts)
    engine = encoder.scheduler.engine
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        # Half a gigabyte more than is allocated already: a pass of 400,000 tokens needs several.
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (512 << 20)) / total)
        got = vectors(encoder, texts)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.batch_tokens < 400_000
    assert (got * wanted).sum(1).min() > 0.999


def test_nothing_waits_for_the_card_before_the_results_are_read(bert: Path) -> None:
    encoder = Encoder(bert, device="cuda")
    vectors(encoder, MANY)
    engine = encoder.scheduler.engine
    inputs = [SpanText(text, ((0, 5), (3, 11))) for text in MANY]
    for reduction in ("mean", "weighted_mean", "max"):
        work = pooling_request(encoder._read(inputs, 0), reduction, True)  # type: ignore[arg-type]
        job = Job(work, engine.hidden_size)
        torch.cuda.set_sync_debug_mode("error")
        try:
            written = engine.forward([(job, job.order)])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        written()
        assert np.isfinite(job.result.reduced).all()
        assert all(len(tokens) for tokens in job.result.kept)


def test_first_tokens_attend_in_one_call() -> None:
    torch.manual_seed(3)
    lengths = [9, 8, 30, 2, 200]
    cuda = torch.device("cuda")
    packing = Packing.of(lengths, cuda)
    q, k, v = (torch.randn(sum(lengths), 4, 64) for _ in range(3))
    at = packing.bounds[:-1].long().cpu()
    wanted = naive_attention(q, k, v, lengths, scale=0.125)[at]
    for dtype in (torch.float16, torch.float32):
        given = (x.to(cuda, dtype) for x in (q[at], k, v))
        got = _attention.first_token_attention(*given, packing, scale=0.125)
        torch.testing.assert_close(got.float().cpu(), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attention_in_groups_equals_the_definition(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(3)
    cuda, lengths = torch.device("cuda"), list(range(120, 40, -1))
    q, k, v = (torch.randn(sum(lengths), 4, 64) for _ in range(3))
    added = torch.randn(4, 120, 120) if bias else None
    packing = Packing.of(lengths, cuda)
    assert groups.pays(packing, 4 if bias else 0)
    got = groups.grouped_attention(
        *(x.to(cuda, dtype) for x in (q, k, v)), packing, scale=0.125, bias=None if added is None else added.to(cuda)
    )
    wanted = naive_attention(q, k, v, lengths, scale=0.125, bias=added)
    torch.testing.assert_close(got.float().cpu(), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("size", [64, 384, 1000, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_fused_sum_and_norm_is_taken(dtype: torch.dtype, size: int) -> None:
    pytest.importorskip("triton")
    assert fused.works(torch.device("cuda", torch.cuda.current_device()), dtype, size)


def test_single_queries_are_replayed(bert: Path) -> None:
    if torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("this card lacks the kernel that reads bounds on the device")
    encoder = Encoder(bert, device="cuda")
    wanted = vectors(encoder, MANY)
    got = np.concatenate([vectors(encoder, [text]) for text in MANY[:60]])
    assert (got * wanted[:60]).sum(1).min() > 0.999
    made = encoder.scheduler.engine.choice.forward.graphs._graphs  # type: ignore[attr-defined]
    assert len(made) > 1
    assert all(graph is not None for graph in made.values())


def test_threads_share_the_card(bert: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    encoder = Encoder(bert, device="cuda")
    wanted = vectors(encoder, MANY)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: encoder.encode([SpanText(text)], role="query")[0].vectors[0], MANY))
    assert (np.stack(found) * wanted).sum(1).min() > 0.999


def test_each_card_gets_a_process(bert: Path) -> None:
    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] * (2 if torch.cuda.device_count() == 1 else 1)
    wanted = vectors(Encoder(bert, device="cuda"), MANY)
    with Encoder(bert, device=devices) as team:
        assert (vectors(team, MANY) * wanted).sum(1).min() > 0.999


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn", "self"])
def test_longer_than_trained_equals_the_cpu(method: Any, tmp_path: Path) -> None:
    torch.manual_seed(6)
    folder = save(tmp_path, sharpened(FAMILIES["qwen3"][0]()))
    text = TEXTS[2] * 20
    settings: dict[str, Any] = {"extension": method, "max_tokens": 800, "dtype": "float32"}
    got, wanted = (vectors(Encoder(folder, device=device, **settings), [text]) for device in ("cuda", "cpu"))
    assert (got * wanted).sum() > 0.999
