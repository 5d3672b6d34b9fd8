"""Linear layers with weights laid out ahead, for oneDNN or for FBGEMM.

oneDNN's are the faster ones with AVX512; without it, in float32, in short passes only. There FBGEMM's are ahead in
passes of any length: float32 products whose weights are stored in float16, half the memory to read. They are for
whoever did not ask for exact results; the rounding of the weights (2^-11) is an eighth of bfloat16's.

The operators are torch's own but private (torch.compile and quantization use them). So everything here is behind
`prepacking_works` and `half_weights_work`, which compare them with the public operator once, and the layers fall back
to that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

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
#: Weights of at most so many bytes are kept in both layouts, where the long passes want the plain one: MiniLM's and
#: their like, 40 MB more in all. A larger model would cost more memory than a query's milliseconds are worth.
_KEPT_TWICE = 4 * 2**20


class Casts(threading.local):
    """Casts a tensor to one format, once for several layers that read the same tensor one after the other.

    Each thread remembers its own: several may be inside the model.
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


class Projection:
    """``activation(x @ weight.T + bias)`` in one format, on prepacked weights where that works and is faster.

    Args:
        weight: ``[out, in]``, any format.
        bias: ``[out]`` or None.
        dtype: Format to compute in.
        device: Where it runs.
        activation: What is applied to the result.
        exact: Do not store float32 weights in float16.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        device: torch.device,
        activation: Activation = "none",
        *,
        exact: bool = True,
    ) -> None:
        weight = weight.detach().to(device, dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(device, dtype).contiguous()
        self.activation = activation
        self._fused = _FUSED[activation]
        self._packed: torch.Tensor | None = None
        self._plain: torch.Tensor | None = None
        self._half = None if exact or device.type != "cpu" else half_weights(weight, self.bias)
        self.prepacked = self._half is not None
        if self.prepacked:
            return
        possible = device.type == "cpu" and prepacking_works(dtype)
        self.prepacked = possible and prepacking_pays(dtype)
        if self.prepacked or (possible and weight.nbytes <= _KEPT_TWICE):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_TOKENS)
        if not self.prepacked:
            self._plain = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``; ``x`` has the format already."""
        if self._half is not None:
            return activated(_half_product()(x, self._half), self.activation)
        plain = self._plain
        if plain is not None and (self._packed is None or x.numel() > _SHORT_TOKENS * x.shape[-1]):
            return activated(functional.linear(x, plain, self.bias), self.activation)
        attribute, scalars, algorithm = self._fused
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self.bias, attribute, scalars, algorithm
        )
        return out

    def scriptable(self) -> torch.nn.Module:
        """The same in a form that TorchScript can read, on the same weights."""
        if self._half is not None:
            return _Half(self._half, self.activation)
        plain = None if self._plain is None else _Plain(self._plain, self.bias, self.activation)
        if self._packed is None:
            assert plain is not None
            return plain
        packed = _Packed(self._packed, self.bias, self.activation)
        return packed if plain is None else _ByLength(packed, plain)


class _Half(torch.nn.Module):
    """A `Projection` on FBGEMM's weights, for TorchScript."""

    def __init__(self, weights: Any, activation: str) -> None:
        super().__init__()
        self.weights, self.activation = weights, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[tokens, in]`` -> ``[tokens, out]``."""
        return activated(torch.ops.quantized.linear_dynamic_fp16(x, self.weights), self.activation)


class _Plain(torch.nn.Module):
    """A `Projection` on weights as they are, for TorchScript."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: str) -> None:
        super().__init__()
        self.weight, self.bias, self.activation = weight, bias, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[tokens, in]`` -> ``[tokens, out]``."""
        return activated(functional.linear(x, self.weight, self.bias), self.activation)


class _Packed(torch.nn.Module):
    """A `Projection` on oneDNN's weights, for TorchScript."""

    def __init__(self, packed: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> None:
        super().__init__()
        self.packed, self.bias = packed, bias
        self.attribute, _, self.algorithm = _FUSED[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[tokens, in]`` -> ``[tokens, out]``."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, self.attribute, [], self.algorithm
        )
        return out


class _ByLength(torch.nn.Module):
    """A `Projection` that keeps its weights twice, for TorchScript."""

    def __init__(self, few: _Packed, many: _Plain) -> None:
        super().__init__()
        self.few, self.many, self.limit = few, many, _SHORT_TOKENS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[tokens, in]`` -> ``[tokens, out]``."""
        out: torch.Tensor = self.many(x) if x.shape[0] > self.limit else self.few(x)
        return out


class PrepackedLinear(torch.nn.Module):
    """Takes the place of a ``torch.nn.Linear`` in a transformers model."""

    def __init__(self, linear: torch.nn.Linear, casts: Casts, device: torch.device, *, exact: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.projection = Projection(linear.weight, linear.bias, casts.dtype, device, exact=exact)
        self.casts = casts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(self.casts(x))


def prepack(model: torch.nn.Module, dtype: torch.dtype, *, exact: bool = True) -> Casts | None:
    """Replace the model's linear layers by prepacked ones that compute in ``dtype``; None where that does not work.

    All else (embeddings, norms, the residual stream) keeps its format: with float32 there, bfloat16 products cost
    next to nothing in accuracy. ``exact`` is `Projection`'s.
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
def _half_product() -> Callable[[torch.Tensor, Any], torch.Tensor]:
    """FBGEMM's product. A query has 24 of them, short enough for torch's search for the overload to show."""
    overload = torch.ops.quantized.linear_dynamic_fp16.default
    found: Callable[[torch.Tensor, Any], torch.Tensor] = getattr(overload, "_op", overload)
    return found


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
