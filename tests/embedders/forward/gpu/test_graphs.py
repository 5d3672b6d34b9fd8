"""Queries padded to a few lengths and replayed, on CPU: a capture that runs the pass again stands for CUDA's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch

from situate.embedders.forward import attention
from situate.embedders.forward.bert import BertForward
from situate.embedders.forward.gpu.graphs import QueryGraphs, Replay
from situate.embedders.forward.packing import Packing
from tests.embedders.forward.test_fake_cuda import CUDA
from tests.embedders.forward.test_packed import FAMILIES, sharpened

CPU = torch.device("cpu")


def by_bounds(q: Any, k: Any, v: Any, packing: Packing, scale: float, *_: Any) -> torch.Tensor:
    """As the kernel: it reads the bounds on the device alone, and leaves what lies outside of them undefined."""
    out = torch.full_like(q, torch.nan)
    edges = packing.bounds.tolist()
    for a, b in pairwise(edges):
        scores = torch.einsum("ihd,jhd->hij", q[a:b], k[a:b]) * scale
        out[a:b] = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v[a:b])
    return out


def again(run: Callable[[], torch.Tensor], device: torch.device) -> tuple[Replay, torch.Tensor]:
    out = run().clone()
    return lambda: out.copy_(run()), out


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> BertForward:
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "kernel_for", lambda *_: by_bounds)
    return BertForward(sharpened(FAMILIES["bert"][0]()).eval(), CPU, torch.float32)


def query(length: int) -> tuple[torch.Tensor, Packing]:
    return torch.randint(4, 300, (length,)), Packing.of([length], CPU)


@torch.inference_mode()
def test_every_length_equals_the_pass_itself(forward: BertForward) -> None:
    made: list[int] = []

    def counted(run: Callable[[], torch.Tensor], device: torch.device) -> tuple[Replay, torch.Tensor]:
        replay, out = again(run, device)
        made.append(len(out))
        return replay, out

    plain = partial(forward._in_python, bias=None)
    replayed = QueryGraphs(plain, CPU, 200, counted)
    for length in (128, 3, 8, 1, 9, 64, 5, 33, 127, 16, 2, 150):
        ids, packing = query(length)
        torch.testing.assert_close(replayed(ids, packing), plain(ids, packing), rtol=1e-4, atol=1e-4)
    assert made == [128, 8, 16, 64], "one for each length that came up, and none above the longest"


@torch.inference_mode()
@pytest.mark.parametrize("wrong", [True, False])
def test_what_cannot_be_captured_or_differs_runs_as_it_is(wrong: bool, forward: BertForward) -> None:
    tried: list[int] = []

    def failing(run: Callable[[], torch.Tensor], device: torch.device) -> tuple[Replay, torch.Tensor]:
        tried.append(1)
        if not wrong:
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda: None, 1.1 * run()

    plain = partial(forward._in_python, bias=None)
    replayed = QueryGraphs(plain, CPU, 200, failing)
    for length in (5, 7):
        ids, packing = query(length)
        torch.testing.assert_close(replayed(ids, packing), plain(ids, packing), rtol=0, atol=0)
    assert tried == [1], "it is not tried again"


@torch.inference_mode()
def test_a_model_has_no_graph_beyond_its_positions(forward: BertForward) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("captured")

    plain = partial(forward._in_python, bias=None)
    ids, packing = query(10)
    torch.testing.assert_close(QueryGraphs(plain, CPU, 15, never)(ids, packing), plain(ids, packing), rtol=0, atol=0)


@torch.inference_mode()
def test_single_sequences_alone_are_replayed(forward: BertForward, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        seen.append(len(ids))
        return torch.zeros(len(ids), 64)

    forward.graphs = noted  # type: ignore[assignment]
    forward(*query(9))
    forward(torch.randint(4, 300, (9,)), Packing.of([5, 4], CPU))
    assert seen == [9]
    monkeypatch.undo()
    assert forward.compile().compiled is not None, "a CPU has no graphs of its own"
    assert attention.kernel_for(CUDA, torch.float32, 64) is None
