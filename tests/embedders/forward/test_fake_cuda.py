"""The CUDA path without a card: shapes, formats and devices by fake tensors, and nothing that waits for the device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from situate.embedders.forward import attention, chooser, packing as packings
from situate.embedders.forward.bert import BertFirstTokens, BertForward
from situate.embedders.forward.bert_weights import PostNormModules
from situate.embedders.forward.chooser import ForwardChoice
from situate.embedders.forward.gpu import groups
from situate.embedders.forward.modules import PackedForward, PaddedForward
from situate.embedders.forward.packing import Packing
from situate.embedders.local import engine as engines
from situate.embedders.local.engine import Engine
from situate.embedders.local.scheduler import Job
from situate.embedders.pairs import engine as pair_engine
from situate.embedders.pairs.engine import PairEngine, pair_request
from situate.embedders.text.requests import PoolingRequest, Reduction
from tests.conftest import short_of
from tests.embedders.forward.test_packed import FAMILIES, sharpened

CUDA = torch.device("cuda", 0)
LENGTHS = [33, 33, 12, 5]
PACKED = sorted(name for name, (_, packs) in FAMILIES.items() if packs)


class NoWaiting(TorchDispatchMode):
    """Fails on operators whose result the host needs before it can go on."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = str(function), kwargs or {}
        assert "_local_scalar_dense" not in name, "a number was read back from the device"
        assert "nonzero" not in name, "a shape depends on what the device computed"
        target = given.get("device")
        if "_to_copy" in name and target is not None and torch.device(target).type == "cpu":
            assert args[0].device.type == "cpu", "a tensor was copied back from the device"
        if "_to_copy" in name and target is not None and torch.device(target).type == "cuda":
            assert args[0].device.type == "cuda" or given.get("non_blocking"), "a copy waited for the device"
        assert "repeat_interleave" not in name or "output_size" in given, "the host needs to know the sum"
        return function(*args, **given)


def strict_varlen(grouped: bool) -> Callable[..., torch.Tensor]:
    """What FlashAttention-2 refuses is refused; with the parameters of torch 2.11, or of 2.12 and later."""

    def checked(q: Any, k: Any, v: Any, bounds: Any, keys: Any, most: int, longest: int, **more: Any) -> torch.Tensor:
        for x in (q, k, v):
            assert x.dtype in (torch.float16, torch.bfloat16)
            assert x.device == CUDA
            assert x.stride(-1) == 1
            assert x.shape[-1] % 8 == 0
            assert x.shape[-1] <= 256
        assert q.dtype == k.dtype == v.dtype
        assert q.shape[1] % k.shape[1] == 0
        assert k.shape == v.shape
        for at in (bounds, keys):
            assert at.dtype == torch.int32
            assert at.device == CUDA
            assert at.is_contiguous()
        assert isinstance(most, int)
        assert isinstance(longest, int)
        return torch.empty_like(q, memory_format=torch.contiguous_format)

    def torch_211(q, k, v, cu_q, cu_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
        return checked(q, k, v, cu_q, cu_k, max_q, max_k)

    def torch_212(  # type: ignore[no-untyped-def]
        q, k, v, cu_q, cu_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1), enable_gqa=False
    ):
        assert enable_gqa == (q.shape[1] != k.shape[1])
        return checked(q, k, v, cu_q, cu_k, max_q, max_k)

    return torch_212 if grouped else torch_211


def item(tensor: torch.Tensor, key: Any) -> torch.Tensor:
    """``tensor[key]`` by operators: Python's indexing needs a device guard, which a build without CUDA lacks."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(each is Ellipsis for each in keys):
        at = next(i for i, each in enumerate(keys) if each is Ellipsis)
        missing = tensor.dim() - sum(each is not None for each in keys) + 1
        keys[at : at + 1] = [slice(None)] * missing
    dimension = 0
    for each in keys:
        if each is None:
            tensor = torch.ops.aten.unsqueeze(tensor, dimension)
        elif isinstance(each, int):
            tensor = torch.ops.aten.select(tensor, dimension, each)
            continue
        elif isinstance(each, slice):
            tensor = torch.ops.aten.slice(tensor, dimension, each.start, each.stop, each.step or 1)
        else:
            tensor = torch.ops.aten.index(tensor, [None] * dimension + [each])
        dimension += 1
    return tensor


def assign(tensor: torch.Tensor, key: Any, value: torch.Tensor) -> None:
    torch.ops.aten.copy_(item(tensor, key), value)


def contiguous(tensor: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.clone(tensor, memory_format=torch.contiguous_format)


def placed(array: Any, device: torch.device) -> torch.Tensor:
    """`on_device`, whose copy a build of torch without CUDA has no code for."""
    return torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, device=device)


@pytest.fixture(params=[False, True], ids=["torch 2.11", "torch 2.12"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A faked Ampere card; how many tokens each call of the kernel had."""
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch has it since 2.10")

    counted: list[int] = []
    kernel = strict_varlen(request.param)

    def counting(*arguments: Any, **named: Any) -> torch.Tensor:
        counted.append(len(arguments[0]))
        return kernel(*arguments, **named)

    counting.__signature__ = __import__("inspect").signature(kernel)  # type: ignore[attr-defined]
    monkeypatch.setattr(varlen, "varlen_attn", counting)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, way in (("__getitem__", item), ("__setitem__", assign), ("contiguous", contiguous)):
        monkeypatch.setattr(FakeTensor, name, way, raising=False)
    for module in (packings, groups, engines, pair_engine):
        monkeypatch.setattr(module, "on_device", placed)
    monkeypatch.setattr(engines, "on_host", lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
    monkeypatch.setattr(engines, "recorded", lambda device: None)
    attention._varlen_kernel.cache_clear()
    yield counted
    attention._varlen_kernel.cache_clear()


def fake(family: str, dtype: torch.dtype) -> tuple[FakeTensorMode, Any]:
    """A model of that family on the faked card."""
    model = FAMILIES[family][0]().eval().to(dtype)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        with mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)

    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            module._parameters[name] = torch.nn.Parameter(moved(weight), requires_grad=False)
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = moved(buffer)
    return mode, model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", short_of(PACKED, 2))
def test_every_family_runs_on_the_card_without_waiting_for_it(
    family: str, dtype: torch.dtype, calls: list[int]
) -> None:
    mode, model = fake(family, dtype)
    with mode, torch.inference_mode():
        forward = BertForward(model, CUDA, dtype) if PostNormModules.fits(model) else PackedForward(model)
        packing = Packing.of(LENGTHS, CUDA)
        ids = torch.zeros(sum(LENGTHS), dtype=torch.int64, device=CUDA)
        with NoWaiting():
            out = forward(ids, packing)
    assert isinstance(out, FakeTensor)
    assert out.shape == (sum(LENGTHS), model.config.get_text_config().hidden_size)
    assert out.device == CUDA
    assert out.dtype == dtype
    assert set(calls) <= {sum(LENGTHS)}
    biased = model.config.model_type in ("mpnet", "t5", "mt5", "umt5")
    assert bool(calls) != biased, "every family without an additive bias takes the kernel"


def test_the_first_tokens_of_pairs(calls: list[int]) -> None:
    mode, model = fake("bert", torch.bfloat16)
    with mode, torch.inference_mode():
        forward = BertFirstTokens(model, CUDA, torch.bfloat16)
        packing = Packing.of(LENGTHS, CUDA, [length // 2 for length in LENGTHS])
        ids = torch.zeros(sum(LENGTHS), dtype=torch.int64, device=CUDA)
        with NoWaiting():
            out = forward(ids, packing)
    assert (out.shape, out.device, out.dtype) == ((len(LENGTHS), 64), CUDA, torch.bfloat16)
    assert calls == [sum(LENGTHS)] * (model.config.num_hidden_layers - 1) + [len(LENGTHS)]


@pytest.mark.parametrize(
    ("family", "dtype"), [("mpnet", torch.bfloat16), ("t5", torch.float16), ("qwen3", torch.float32)]
)
def test_many_lengths_are_attended_in_a_few_groups(
    family: str, dtype: torch.dtype, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    attend, counted = torch.nn.functional.scaled_dot_product_attention, []

    def counting(*arguments: Any, **named: Any) -> torch.Tensor:
        counted.append(arguments[0].shape)
        return attend(*arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    mode, model = fake(family, dtype)
    lengths = list(range(120, 40, -1))
    with mode, torch.inference_mode():
        forward = BertForward(model, CUDA, dtype) if PostNormModules.fits(model) else PackedForward(model)
        with NoWaiting():
            out = forward(torch.zeros(sum(lengths), dtype=torch.int64, device=CUDA), Packing.of(lengths, CUDA))
    assert out.shape == (sum(lengths), 64)
    assert len(counted) == 2 * model.config.num_hidden_layers, "two groups in each layer, and not eighty lengths"
    assert not calls


@pytest.mark.parametrize("reduction", ["sum", "weighted", "max"])
def test_a_pass_leaves_its_results_on_the_card(reduction: Reduction, calls: list[int]) -> None:
    mode, model = fake("bert", torch.bfloat16)
    sequences = [np.ones(length, dtype=np.int64) for length in LENGTHS]
    segments = np.array([[i, 0, length, 1] for i, length in enumerate(LENGTHS)], dtype=np.int64)
    kept = np.array([[1, 0, 4]], dtype=np.int64)
    job = Job(PoolingRequest(sequences, segments, reduction, kept), 64)
    with mode, torch.inference_mode():
        choice = ForwardChoice(BertForward(model, CUDA, torch.bfloat16), 64, True, True, vocabulary=300)
        engine = Engine(choice, CUDA)
        with NoWaiting():
            engine.forward([(job, job.order)])
    assert len(engine._unwritten) == 2, "the sums and the token vectors are written when the pass is over"


def test_a_pass_of_pairs_leaves_its_scores_on_the_card(calls: list[int]) -> None:
    mode, model = fake("bert", torch.bfloat16)
    sequences = [np.ones(length, dtype=np.int64) for length in LENGTHS]
    job = Job(pair_request(sequences, np.array([length // 2 for length in LENGTHS])), 1)
    engine = PairEngine.__new__(PairEngine)  # its constructor reads numbers back, to compare ways to run the model
    with mode, torch.inference_mode():
        choice = ForwardChoice(BertFirstTokens(model, CUDA, torch.bfloat16), 64, True, True, vocabulary=300)
        Engine.__init__(engine, choice, CUDA)
        engine.head, engine._representation = (lambda features: torch.ops.aten.sum(features, [1])), False
        with NoWaiting():
            engine.forward([(job, job.order)])
    assert len(engine._unwritten) == 1
    assert calls


def test_half_precision_is_judged_by_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes in bfloat16 may both be right and differ by nearly the limit."""
    torch.manual_seed(5)
    model = sharpened(FAMILIES["qwen3"][0]()).eval().to(torch.bfloat16)
    ids, packing = torch.randint(4, 300, (sum(LENGTHS),)), Packing.of(LENGTHS, torch.device("cpu"))
    with torch.inference_mode():
        own = PaddedForward(model)(ids, packing).float()
        wanted = PaddedForward(copy.deepcopy(model).float())(ids, packing)
        got, limit = chooser._reference(model, ids, packing, 0.05)
        assert model.dtype == torch.bfloat16
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)
        assert (own - wanted).norm() > 1e-3 * wanted.norm(), "the two are told apart"
        assert limit == 0.05
        monkeypatch.setattr(chooser, "_REFERENCE_BYTES", 1000)
        got, limit = chooser._reference(model, ids, packing, 0.05)
        torch.testing.assert_close(got, own, rtol=0, atol=0)
        assert limit == 0.1, "two roundings, twice the limit"


@pytest.mark.parametrize("wrong", [-1, 300])
def test_an_unknown_id_never_reaches_the_card(wrong: int) -> None:
    def never(*_: Any) -> torch.Tensor:
        raise AssertionError("launched")

    job = Job(PoolingRequest([np.array([1, wrong])], np.zeros((0, 4), np.int64), "sum", np.zeros((0, 3), np.int64)), 64)
    engine = Engine(ForwardChoice(never, 64, True, True, vocabulary=300), torch.device("meta"))
    with pytest.raises(IndexError, match="300"):
        engine.forward([(job, job.order)])


@pytest.mark.parametrize(("capability", "size"), [((7, 5), 16), ((9, 0), 12), ((9, 0), 264)])
def test_what_the_kernel_refuses_runs_packed_without_it(
    capability: tuple[int, int], size: int, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    with FakeTensorMode(allow_non_fake_inputs=True):
        packing = Packing.of(LENGTHS, CUDA)
        q, k, v = (torch.empty(sum(LENGTHS), 4, size, dtype=torch.float16, device=CUDA) for _ in range(3))
        out = attention.packed_attention(q, k, v, packing, scale=1.0)
    assert out.shape == (sum(LENGTHS), 4 * size)
    assert not calls


@pytest.mark.parametrize("reduction", ["sum", "weighted", "max"])
@pytest.mark.parametrize("count", [3, 200])
def test_devices_without_segment_reduce_reduce_all_the_same(
    reduction: Reduction, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Apple's GPUs: everything is on the CPU here, patched to have no such kernel."""

    class Elsewhere:
        type = "mps"

    class Hidden(torch.Tensor):
        @property
        def device(self) -> Any:  # type: ignore[override]
            return Elsewhere()

    def refuses(*_: Any, **__: Any) -> torch.Tensor:
        raise NotImplementedError("no kernel")

    hidden = torch.randn(50, 8)
    first = np.random.default_rng(0).integers(0, 40, count)
    segments = np.stack([first, first + np.arange(count) % 9 + 1, np.ones(count, np.int64)], axis=1)
    wanted = engines.reduce_segments(hidden, segments, reduction)
    monkeypatch.setattr(torch, "segment_reduce", refuses)
    monkeypatch.setattr(engines, "on_device", lambda array, device: torch.from_numpy(array))
    got = engines.reduce_segments(hidden.as_subclass(Hidden), segments, reduction)  # type: ignore[arg-type]
    torch.testing.assert_close(got.as_subclass(torch.Tensor), wanted, rtol=1e-5, atol=1e-4)
