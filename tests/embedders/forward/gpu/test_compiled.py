"""Layers that are compiled in the background compute what transformers' do; dynamo is real, its backend runs the graphs
as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from situate.embedders.forward import chooser
from situate.embedders.forward.gpu.compiled import CompiledForward, _parts
from situate.embedders.forward.modules import PackedForward, PaddedForward
from situate.embedders.forward.packing import Packing
from situate.embedders.models.variant import Variant
from tests.embedders.forward.test_packed import FAMILIES, sharpened

CPU = torch.device("cpu")


def batch(lengths: list[int]) -> tuple[torch.Tensor, Packing]:
    return torch.randint(4, 300, (sum(lengths),)), Packing.of(lengths, CPU)


@pytest.mark.skipif(
    transformers.__version__.startswith("4."),
    reason="its layers are wrapped in a function that dynamo compiles for each number of runs of a packing",
)
@pytest.mark.parametrize("family", ["qwen3", pytest.param("gemma3-causal", marks=pytest.mark.full)])
def test_layers_are_compiled_once_for_all_sizes(family: str) -> None:
    torch.manual_seed(0)
    model = sharpened(FAMILIES[family][0]()).eval()
    graphs: list[Any] = []
    runs: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)

        def run(*arguments: Any) -> Any:
            runs.append(1)
            return graph.forward(*arguments)

        return run

    padded = PaddedForward(sharpened(FAMILIES[family][0]()).eval())
    padded._model.load_state_dict(model.state_dict())
    forward = CompiledForward(PackedForward(model), model, after=100, backend=counting)
    with torch.inference_mode():
        forward(*batch([30, 20]))
        assert forward._thread is None, "too few tokens to pay"
        forward(*batch([40, 30, 20]))
        assert forward.wait(120)
        made = len(graphs)
        assert made > 0
        for lengths in ([50, 40, 33, 8], [61], [90, 2], [7, 5, 3]):
            ids, packing = batch(lengths)
            before = len(runs)
            torch.testing.assert_close(forward(ids, packing), padded(ids, packing), rtol=1e-3, atol=1e-3)
            assert len(runs) >= before + model.config.num_hidden_layers, "every layer runs compiled"
        assert len(graphs) == made, "no pass waits for a compilation"


def test_what_cannot_be_compiled_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model = sharpened(FAMILIES["qwen3"][0]()).eval()

    def failing(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C compiler")

    forward = CompiledForward(PackedForward(model), model, after=1, backend=failing)
    ids, packing = batch([9, 4])
    with torch.inference_mode():
        wanted = forward(ids, packing)
        assert not forward.wait(120)
        torch.testing.assert_close(forward(ids, packing), wanted, rtol=0, atol=0)
    assert "could not be compiled" in caplog.text


def test_models_of_layers_of_one_kind_fit() -> None:
    assert CompiledForward.fits(FAMILIES["qwen3"][0]())
    assert not CompiledForward.fits(FAMILIES["t5"][0]())


@pytest.mark.parametrize(
    ("device", "dtype", "variant", "kind"),
    [
        ("cuda", torch.bfloat16, Variant(), CompiledForward),
        ("cuda", torch.float32, Variant(), PackedForward),
        ("cuda", torch.bfloat16, Variant(routing=4), PackedForward),
        ("cpu", torch.bfloat16, Variant(), PackedForward),
    ],
)
def test_a_card_compiles_the_layers_of_decoders(device: str, dtype: Any, variant: Variant, kind: type) -> None:
    model = FAMILIES["qwen3"][0]().eval()
    way = next(chooser._ways(model, torch.device(device), dtype, True, variant))
    assert type(way.forward) is kind


def test_trials_leave_memory_for_the_passes_beside_them() -> None:
    assert _parts((512,) * 64) == [(512,) * 8, (512,) * 2, (512,)]
    assert _parts((9000, 3)) == [(9000,), (9000,), (9000,)]
