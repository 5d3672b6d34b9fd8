"""The fused sum and norm, by Triton's interpreter, against torch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from situate.embedders.forward import bert
from situate.embedders.forward.bert import BertForward, FusedNorm
from situate.embedders.forward.gpu import fused
from situate.embedders.forward.packing import Packing
from tests.embedders.forward.test_packed import FAMILIES, sharpened

CPU = torch.device("cpu")


def test_where_triton_or_the_card_is_missing_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fused.works(CPU, torch.float32, 64)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fused.works.cache_clear()
    assert not fused.works(torch.device("cuda", 0), torch.float16, 64)
    fused.works.cache_clear()


def test_a_pass_with_fused_norms_equals_the_pass_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's place is taken by its definition."""
    model = sharpened(FAMILIES["bert"][0]()).eval()
    lengths = [33, 12, 5]
    ids, packing = torch.randint(4, 300, (sum(lengths),)), Packing.of(lengths, CPU)
    calls: list[int] = []

    def defined(x: Any, y: Any, weight: Any, bias: Any, epsilon: float) -> torch.Tensor:
        calls.append(len(x))
        return torch.layer_norm(x + y, list(weight.shape), weight, bias, epsilon)

    with torch.inference_mode():
        wanted = BertForward(model, CPU, torch.float32)(ids, packing)
        monkeypatch.setattr(fused, "add_norm", defined)
        monkeypatch.setattr(bert, "Norm", FusedNorm)
        torch.testing.assert_close(BertForward(model, CPU, torch.float32)(ids, packing), wanted, rtol=0, atol=0)
    assert calls == [sum(lengths)] * (1 + 2 * model.config.num_hidden_layers)


INTERPRETED = """
import torch
from situate.embedders.forward.gpu import fused

for size in (8, 384, 1000):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        torch.manual_seed(0)
        x, y = (3 * torch.randn(5, size).to(dtype) for _ in range(2))
        weight, bias = torch.randn(size).to(dtype), torch.randn(size).to(dtype)
        kept = x.clone()
        got = fused.add_norm(x, y.t().contiguous().t(), weight, bias, 1e-5)
        wanted = torch.layer_norm(x.float() + y.float(), [size], weight.float(), bias.float(), 1e-5).to(dtype)
        error = torch.finfo(dtype).eps
        torch.testing.assert_close(got, wanted, rtol=4 * error, atol=8 * error)
        torch.testing.assert_close(x, kept, rtol=0, atol=0)
print("equal")
"""


def test_the_kernel_equals_torch() -> None:
    pytest.importorskip("triton", reason="it comes with torch's builds for CUDA")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # read when Triton is imported
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "equal", done.stderr
