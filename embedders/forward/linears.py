"""Linear layers with weights laid out ahead, for oneDNN or for FBGEMM.

oneDNN's are the faster ones with AVX512; without it, in float32, in short passes only. There FBGEMM's are ahead in
passes of any length: float32 products whose weights are stored in float16, half the memory to read. They are used
unless exact results are requested; the rounding of the weights (2^-11) is an eighth of bfloat16's.

The operators are torch's own but private (torch.compile and quantization use them). So everything here depends on
`prepacking_works` and `half_weights_work`, which compare them with the public operator once; the layers fall back to
that operator.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
from torch.nn import functional

Activation = Literal["none", "gelu", "gelu_tanh", "relu"]

#: (attribute, scalars, algorithm) as torch.ops.mkldnn._linear_pointwise takes them.
_FUSED: dict[Activation, tuple[str, list[float], str]] = {
    "none": ("none", [], ""),
    "gelu": ("gelu", [], "none"),
    "gelu_tanh": ("gelu", [], "tanh"),
    "relu": ("relu", [], ""),
}
_TYPICAL_TOKENS = 2048
#: A pass of so few tokens is faster on prepacked weights, whatever the processor.
_SHORT_TOKENS = 48
#: Weights of at most so many bytes are kept in both layouts where long passes are faster on the plain one: small models
#: such as MiniLM, 40 MB more in all. For a larger model the memory would outweigh a query's milliseconds.
_KEPT_TWICE = 4 * 2**20


class Casts(threading.local):
    """Casts a tensor to one format, once for several layers that read the same tensor one after the other.

    Each thread remembers its own: several may run the model at once.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._source: torch.Tensor | None = None
        self._cast: torch.Tensor | None = None

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == self.dtype:
            return tensor
        if tensor is not self._source or self._cast is None:
            self._source, self._cast = tensor, tensor.to(self.dtype)
        return self._cast

    def forget(self) -> None:
        """Let go of the last tensor."""
        self._source = self._cast = None


def projection(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
    activation: Activation = "none",
    *,
    exact: bool = True,
) -> Projection:
    """``activation(x @ weight.T + bias)`` in one format, on prepacked weights where that works and is faster.

    Args:
        weight: ``[out, in]``, any format.
        bias: ``[out]`` or None.
        dtype: Format to compute in.
        device: Where it runs.
        activation: What is applied to the result.
        exact: Do not store float32 weights in float16.
    """
    weight = weight.detach().to(device, dtype).contiguous()
    bias = None if bias is None else bias.detach().to(device, dtype).contiguous()
    if device.type != "cpu":
        return PlainProjection(weight, bias, activation)
    half = None if exact else half_weights(weight, bias)
    if half is not None:
        return HalfProjection(half, activation)
    possible = prepacking_works(dtype)
    pays = possible and prepacking_pays(dtype)
    if not pays and not (possible and weight.nbytes <= _KEPT_TWICE):
        return PlainProjection(weight, bias, activation)
    packed = PackedProjection(torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_TOKENS), bias, activation)
    return packed if pays else LengthProjection(packed, PlainProjection(weight, bias, activation))


class HalfProjection(torch.nn.Module):
    """A product on FBGEMM's weights."""

    def __init__(self, weights: Any, activation: str) -> None:
        super().__init__()
        self.weights, self.activation = weights, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        return activated(torch.ops.quantized.linear_dynamic_fp16(x, self.weights), self.activation)


class PlainProjection(torch.nn.Module):
    """A product on weights as they are."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: str) -> None:
        super().__init__()
        self.weight, self.bias, self.activation = weight, bias, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        return activated(functional.linear(x, self.weight, self.bias), self.activation)


class PackedProjection(torch.nn.Module):
    """A product on oneDNN's weights, with the activation fused."""

    def __init__(self, packed: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> None:
        super().__init__()
        self.packed, self.bias = packed, bias
        self.attribute, _, self.algorithm = _FUSED[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, self.attribute, [], self.algorithm
        )
        return out


class LengthProjection(torch.nn.Module):
    """A product whose weights are kept twice: oneDNN's are ahead for few tokens, the plain ones for many."""

    def __init__(self, few: PackedProjection, many: PlainProjection) -> None:
        super().__init__()
        self.few, self.many, self.limit = few, many, _SHORT_TOKENS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        out: torch.Tensor = self.many(x) if x.numel() > self.limit * x.shape[-1] else self.few(x)
        return out


#: The ways to compute a product; TorchScript reads each.
Projection: TypeAlias = HalfProjection | PlainProjection | PackedProjection | LengthProjection


class PrepackedLinear(torch.nn.Module):
    """Takes the place of a ``torch.nn.Linear`` in a transformers model."""

    def __init__(self, linear: torch.nn.Linear, casts: Casts, device: torch.device, *, exact: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.projection = projection(linear.weight, linear.bias, casts.dtype, device, exact=exact)
        self.casts = casts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.projection(self.casts(x))
        return out


def prepack(model: torch.nn.Module, dtype: torch.dtype, *, exact: bool = True) -> Casts | None:
    """Replace the model's linear layers by prepacked ones that compute in ``dtype``; None where that does not work.

    All else (embeddings, norms, the residual stream) keeps its format: with float32 there, bfloat16 products cost
    next to nothing in accuracy. ``exact`` is `projection`'s.
    """
    halved = not exact and dtype == torch.float32 and half_weights_work()
    if not halved and not (prepacking_pays(dtype) and prepacking_works(dtype)):
        return None
    casts = Casts(dtype)
    device = torch.device("cpu")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(parent, name, PrepackedLinear(child, casts, device, exact=exact))
    return casts


def activated(x: torch.Tensor, activation: str) -> torch.Tensor:
    """``activation(x)``, one of `Activation`; TorchScript reads this."""
    if activation == "gelu":
        return functional.gelu(x)
    if activation == "gelu_tanh":
        return functional.gelu(x, approximate="tanh")
    return functional.relu(x) if activation == "relu" else x


def prepacking_pays(dtype: torch.dtype) -> bool:
    """Whether prepacked products are faster in long passes: without AVX512, MKL's in float32 are ahead."""
    without = torch.backends.cpu.get_cpu_capability() == "AVX2" and torch._C.has_mkl
    return dtype != torch.float32 or not without


def half_weights(weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
    """FBGEMM's copy in float16 of a float32 weight ``[out, in]``; None where it would be of no use, or not the same."""
    if weight.dtype != torch.float32 or not half_weights_work() or weight.abs().max() > torch.finfo(torch.float16).max:
        return None
    return torch.ops.quantized.linear_prepack_fp16(weight, bias)


@lru_cache(maxsize=1)
def half_weights_work() -> bool:
    """Whether FBGEMM's float16 weights are there, right, and the faster ones: on a CPU with AVX2 and not AVX512."""
    if torch.backends.cpu.get_cpu_capability() != "AVX2" or "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((7, 96), (64, 96), (64,)))
    try:
        for added in (bias, None):
            got = torch.ops.quantized.linear_dynamic_fp16(x, torch.ops.quantized.linear_prepack_fp16(weight, added))
            if not torch.allclose(got, functional.linear(x, weight, added), rtol=1e-2, atol=1e-2):
                return False
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False  # another torch: the public operator does the same, slower
    return True


@lru_cache(maxsize=8)
def prepacking_works(dtype: torch.dtype) -> bool:
    """Whether the private operators are there, take ``dtype``, and agree with the public one."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch._C._has_mkldnn:
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=generator).to(dtype) for s in ((7, 96), (64, 96), (64,)))
    ops: Any = torch.ops.mkldnn
    try:
        packed = ops._reorder_linear_weight(weight, _TYPICAL_TOKENS)
        for activation, (attribute, scalars, algorithm) in _FUSED.items():
            got = ops._linear_pointwise(x, packed, bias, attribute, scalars, algorithm)
            wanted = activated(functional.linear(x.float(), weight.float(), bias.float()), activation)
            if not torch.allclose(got.float(), wanted, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=2e-2):
                return False
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False  # another torch: the public operator does the same, slower
    return True
