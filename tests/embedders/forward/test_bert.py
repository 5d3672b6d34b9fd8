"""One sequence through a compiled pass: the bits of the one in Python, or that one itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from situate.embedders.forward import native as _native_forward
from situate.embedders.forward.bert import BertForward
from situate.embedders.forward.linears import projection
from situate.embedders.forward.modules import PaddedForward
from situate.embedders.forward.packing import Packing
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from tests.embedders.forward.test_packed import FAMILIES

CPU = torch.device("cpu")
POST_NORM = ["bert", "bert-relu", "roberta", "distilbert", "electra", "mpnet"]
#: Around the lengths at which attention, weights and the way through the layers change.
LENGTHS = [1, 2, 9, 31, 32, 33, 48, 49, 128, 129]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def sequence(length: int) -> tuple[torch.Tensor, Packing]:
    return torch.randint(4, 300, (length,)), Packing.of([length], CPU)


@pytest.mark.parametrize("family", POST_NORM)
@pytest.mark.parametrize(
    ("dtype", "exact"), [(torch.float32, True), (torch.float32, False), (torch.bfloat16, True)], ids=str
)
def test_one_sequence_gets_the_same_bits(family: str, dtype: torch.dtype, exact: bool) -> None:
    torch.manual_seed(4)
    model = FAMILIES[family][0]().eval()
    in_python = BertForward(model, CPU, dtype, exact=exact)
    forward = BertForward(model, CPU, dtype, exact=exact).compile()
    assert in_python.compiled is None
    assert forward.compiled is not None
    for length in LENGTHS:
        ids, packing = sequence(length)
        got = forward(ids, packing)
        torch.testing.assert_close(got, in_python(ids, packing), rtol=0, atol=0)
        if dtype == torch.float32:
            wanted = PaddedForward(model)(ids, packing)
            torch.testing.assert_close(got, wanted, rtol=1e-4 if exact else 1e-2, atol=1e-5 if exact else 1e-2)


def test_short_sequences_alone_take_the_compiled_pass_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = BertForward(FAMILIES["bert"][0]().eval(), CPU, torch.float32).compile()
    compiled_pass, through = forward.compiled, []
    assert compiled_pass is not None

    def counted(ids: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        through.append(len(ids))
        return compiled_pass(ids, bias)

    monkeypatch.setattr(forward, "compiled", counted)
    for lengths in ([5], [128], [129], [5, 5], [40, 3]):
        forward(torch.randint(4, 300, (sum(lengths),)), Packing.of(lengths, CPU))
    assert through == [5, 128]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize(("out", "into"), [(24, 16), (16, 24)])
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kept", ["half", "packed", "plain", "both"])
def test_every_projection_can_be_compiled(
    out: int, into: int, activation: Any, bias: bool, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the processor would have chosen."""
    from situate.embedders.forward import linears as _linears

    torch.manual_seed(5)
    monkeypatch.setattr(_linears, "prepacking_works", lambda dtype: kept in ("packed", "both"))
    monkeypatch.setattr(_linears, "prepacking_pays", lambda dtype: kept == "packed")
    if kept != "half":
        monkeypatch.setattr(_linears, "half_weights_work", lambda: False)
    weight, added = torch.randn(out, into), torch.randn(out) if bias else None
    product = projection(weight, added, torch.float32, CPU, activation, exact=kept != "half")
    script: Any = torch.jit.script(product)
    for tokens in (1, 48, 49):
        x = torch.randn(tokens, into)
        torch.testing.assert_close(script(x), product(x), rtol=0, atol=0)


def test_a_pass_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["bert"][0]().eval()
    script = torch.jit.script

    def differs(stack: Any) -> Any:
        compiled: Any = script(stack)
        return lambda ids, bias: compiled(ids, bias) + 1e-2

    monkeypatch.setattr(torch.jit, "script", differs)
    assert BertForward(model, CPU, torch.float32).compile().compiled is None
    monkeypatch.undo()
    assert BertForward(model, CPU, torch.float32).compile().compiled is not None


def test_where_torch_cannot_compile_the_vectors_are_the_same(minilm_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [[SpanText("a query")], [SpanText("another, somewhat longer query about rivers and mills")]]
    monkeypatch.setattr(_native_forward, "library", lambda: None)

    def vectors(with_compiled: bool) -> list[list[float]]:
        # A number of its own: weights that another test has loaded would be shared, and with them the pass.
        with Encoder(minilm_path, batch_tokens=1001 + with_compiled) as encoder:
            found = [encoder.encode(text)[0].vectors[0].tolist() for text in texts]
            forward = encoder.scheduler.engine.choice.forward  # type: ignore[attr-defined]
            assert (forward.compiled is not None) == with_compiled
            return found

    wanted = vectors(True)

    def refuses(*_: Any, **__: Any) -> None:
        raise RuntimeError("TorchScript is gone")

    monkeypatch.setattr(torch.jit, "script", refuses)
    assert vectors(False) == wanted
