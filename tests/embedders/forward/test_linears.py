"""Prepacked linear layers: there, right, and replaceable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from situate.embedders.forward import linears as _linears
from situate.embedders.forward.linears import (
    Activation,
    Casts,
    HalfProjection,
    LengthProjection,
    PackedProjection,
    PlainProjection,
    activated,
    half_weights_work,
    prepack,
    prepacking_works,
    projection,
)
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText

CPU = torch.device("cpu")
ONEDNN = torch._C._has_mkldnn
#: oneDNN multiplies bfloat16 only where there are instructions for it, or for emulating it.
WIDE = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
HALF = pytest.param(
    torch.bfloat16, marks=pytest.mark.skipif(not WIDE, reason="this CPU has no wide vectors to compute bfloat16 with")
)


@pytest.mark.skipif(not ONEDNN, reason="this torch was built without oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_the_private_operators_are_still_there_and_right(dtype: torch.dtype) -> None:
    """Fails when a new torch changes them: results stay right (the next test), but speed would be lost unnoticed."""
    assert hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert prepacking_works(dtype)


@pytest.mark.parametrize("works", [True, False], ids=["prepacked", "public"])
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_projection_equals_the_public_operator(
    monkeypatch: pytest.MonkeyPatch, works: bool, activation: Activation, bias: bool
) -> None:
    monkeypatch.setattr(_linears, "prepacking_pays", lambda dtype: True)
    if not works:
        monkeypatch.setattr(_linears, "prepacking_works", lambda dtype: False)
    torch.manual_seed(0)
    x, weight = torch.randn(9, 48), torch.randn(32, 48)
    added = torch.randn(32) if bias else None
    product = projection(weight, added, torch.float32, CPU, activation)
    assert isinstance(product, PackedProjection) == (works and ONEDNN)
    with torch.inference_mode():
        torch.testing.assert_close(
            product(x), activated(functional.linear(x, weight, added), activation), rtol=1e-5, atol=1e-5
        )


@pytest.mark.skipif(not ONEDNN, reason="this torch was built without oneDNN")
def test_short_passes_take_the_prepacked_weights_where_long_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linears, "prepacking_pays", lambda dtype: False)
    torch.manual_seed(0)
    x, weight = torch.randn(_linears._SHORT_TOKENS + 1, 48), torch.randn(32, 48)
    product = projection(weight, None, torch.float32, CPU, "gelu")
    assert isinstance(product, LengthProjection)
    with torch.inference_mode():
        expected = functional.gelu(functional.linear(x, weight))
        torch.testing.assert_close(product(x), expected)
        torch.testing.assert_close(product(x[1:]), expected[1:], rtol=1e-5, atol=1e-5)
        product.many.weight = torch.zeros_like(weight)
        assert not product(x).any(), "a long pass does not take the plain weights"
        assert product(x[1:]).any(), "a short pass does not take the prepacked weights"
    monkeypatch.setattr(_linears, "_KEPT_TWICE", weight.nbytes - 1)
    assert isinstance(projection(weight, None, torch.float32, CPU), PlainProjection)


AVX2_ALONE = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX2", reason="only CPUs with AVX2 and not AVX512 keep weights so"
)


@AVX2_ALONE
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 9, 300])
def test_weights_in_float16_cost_only_their_rounding(activation: Activation, bias: bool, tokens: int) -> None:
    assert half_weights_work()
    torch.manual_seed(0)
    x, weight = torch.randn(2, tokens, 48), torch.randn(32, 48)
    added = torch.randn(32) if bias else None
    product = projection(weight, added, torch.float32, CPU, activation, exact=False)
    assert isinstance(product, HalfProjection)
    with torch.inference_mode():
        rounded = functional.linear(x, weight.half().float(), added)
        torch.testing.assert_close(product(x), activated(rounded, activation), rtol=1e-5, atol=1e-5)


@AVX2_ALONE
def test_weights_that_float16_cannot_hold_or_in_exact_mode_stay_as_they_are() -> None:
    weight = torch.ones(32, 48)
    assert not isinstance(projection(weight, None, torch.float32, CPU), HalfProjection)
    assert not isinstance(projection(weight * 1e5, None, torch.float32, CPU, exact=False), HalfProjection)
    model = torch.nn.Sequential(torch.nn.Linear(16, 4))
    assert prepack(model, torch.float32) is None
    assert prepack(model, torch.float32, exact=False) is not None


@AVX2_ALONE
def test_an_encoder_in_explicit_float32_shares_no_rounded_weights(minilm_path: str) -> None:
    fast, exact = Encoder(minilm_path, device="cpu"), Encoder(minilm_path, device="cpu", dtype="float32")
    texts = [SpanText("The river bends twice before the mill."), SpanText("Its wheel is of oak.")]
    got, wanted = fast.encode(texts), exact.encode(texts)
    assert fast.dtype == exact.dtype == "float32"
    for a, b in zip(got, wanted, strict=True):
        assert float((a.vectors * b.vectors).sum()) > 0.999999
        assert not np.array_equal(a.vectors, b.vectors)


def test_operators_that_answer_wrongly_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Changed:
        def _reorder_linear_weight(self, weight: torch.Tensor, tokens: int) -> torch.Tensor:
            return weight

        def _linear_pointwise(self, x: torch.Tensor, weight: torch.Tensor, *_: Any) -> torch.Tensor:
            return functional.linear(x, weight) * 2

    class Ops:
        mkldnn = Changed()

    prepacking_works.cache_clear()
    monkeypatch.setattr(torch, "ops", Ops())
    try:
        assert not prepacking_works(torch.float32)
    finally:
        prepacking_works.cache_clear()


@pytest.mark.skipif(not ONEDNN, reason="this torch was built without oneDNN")
@pytest.mark.skipif(not WIDE, reason="this CPU has no wide vectors to compute bfloat16 with")
def test_a_model_keeps_its_stream_in_float32_around_prepacked_products() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4)).eval()
    x = torch.randn(5, 16)
    with torch.inference_mode():
        wanted = model(x)
        assert prepack(model, torch.bfloat16) is not None
        got = model(x)
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())
    torch.testing.assert_close(got.float(), wanted, rtol=5e-2, atol=5e-2)


def test_one_cast_serves_the_layers_that_read_the_same_tensor() -> None:
    casts = Casts(torch.bfloat16)
    x = torch.randn(3)
    assert casts(x) is casts(x)
    assert casts(x.clone()) is not casts(x)
    half = x.bfloat16()
    assert casts(half) is half
    casts.forget()
    torch.testing.assert_close(casts(x), x.bfloat16())
