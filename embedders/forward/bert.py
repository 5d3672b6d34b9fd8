"""BERT and its kin, run by torch without a module tree.

Reading their weights into one plain loop saves the interpreter's way through transformers' modules (most of the time of
a single query), joins the three input projections, and fuses the activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from situate.embedders.forward.attention import BASE_2, SHORT, packed_self_attention
from situate.embedders.forward.bert_weights import PostNormModules
from situate.embedders.forward.linears import Activation, Projection
from situate.embedders.forward.packing import Packing
from situate.embedders.forward.torchscript import PROBE, Attention, Layer, Norm, Pass, Stack, compiled

#: One sequence of up to so many tokens takes the compiled pass: in longer ones the interpreter's part is small.
_COMPILED = 128


@dataclass(frozen=True)
class _Layer:
    inputs: Projection
    output: Projection
    output_norm: Norm
    up: Projection
    down: Projection
    down_norm: Norm


class PostNormForward:
    """Token vectors of packed sequences.

    Products are computed in ``dtype``; on CPU the residual stream and the norms stay float32, so that bfloat16's
    rounding does not add up from layer to layer. It costs little: products take most of the time.

    Args:
        model: The transformers model that the weights are read from. It is not kept.
        device: Where it runs.
        dtype: Format of the products.
        exact: As `Projection`'s.
    """

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype, *, exact: bool = True) -> None:
        parts = PostNormModules.of(model)
        self._dtype = dtype
        self._stream = torch.float32 if device.type == "cpu" else dtype
        self._heads = parts.heads

        def stream(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.detach().to(device, self._stream).contiguous()

        def norm(module: Any) -> Norm:
            return Norm(stream(module.weight), stream(module.bias), float(module.eps))

        self._words = stream(parts.words)
        self._positions = stream(parts.positions)
        self._norm = norm(parts.norm)
        self._project = None if parts.project is None else _projection(parts.project, dtype, device, exact)
        self._distances = parts.distances
        self._compiled: Pass | None = None
        # In bfloat16 a longer sequence has an attention of its own, which is faster than torch's.
        self._most_compiled = _COMPILED if dtype == torch.float32 else SHORT

        self._layers: list[_Layer] = []
        for layer in parts.layers:
            weight, bias = layer.joined((layer.query.out_features // self._heads) ** -0.5 / BASE_2)
            self._layers.append(
                _Layer(
                    inputs=Projection(weight, bias, dtype, device, exact=exact),
                    output=_projection(layer.output, dtype, device, exact),
                    output_norm=norm(layer.output_norm),
                    up=_projection(layer.up, dtype, device, exact, parts.activation),
                    down=_projection(layer.down, dtype, device, exact),
                    down_norm=norm(layer.down_norm),
                )
            )

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """``[tokens]`` ids -> ``[tokens, hidden]``."""
        bias = self._relative_bias(packing.longest, ids.device)
        if self._compiled is not None and len(packing.lengths) == 1 and packing.longest <= self._most_compiled:
            return self._compiled(ids, bias)
        return self._in_python(ids, packing, bias)

    def _in_python(self, ids: torch.Tensor, packing: Packing, bias: torch.Tensor | None) -> torch.Tensor:
        dtype, heads, tokens = self._dtype, self._heads, ids.shape[0]
        x = functional.embedding(ids, self._words) + functional.embedding(packing.position_ids, self._positions)
        x = self._norm(x)
        if self._project is not None:
            x = self._project(x.to(dtype)).to(self._stream)
        for layer in self._layers:
            joined = layer.inputs(x.to(dtype)).view(tokens, 3, heads, -1)
            seen = packed_self_attention(joined, packing, scale=BASE_2, bias=bias)
            # In place: x is nobody else's, and a query's pass is short enough for a new tensor to show.
            x = layer.output_norm(x.add_(layer.output(seen)))
            x = layer.down_norm(x.add_(layer.down(layer.up(x.to(dtype)))))
        return x

    def compile(self) -> PostNormForward:
        """Let sequences that come alone take a compiled pass, where that works; returns itself."""
        device = self._words.device
        if device.type != "cpu":
            return self
        attention = Attention(self._heads, BASE_2, SHORT)
        layers = [
            Layer(
                self._dtype,
                attention,
                layer.inputs.scriptable(),
                layer.output.scriptable(),
                layer.output_norm,
                layer.up.scriptable(),
                layer.down.scriptable(),
                layer.down_norm,
            )
            for layer in self._layers
        ]
        project = None if self._project is None else self._project.scriptable()
        stack = Stack(self._dtype, self._words, self._positions, self._norm, project, layers)
        packing = Packing.of([len(PROBE)], device)
        bias = self._relative_bias(len(PROBE), device)
        self._compiled = compiled(stack, lambda ids, bias: self._in_python(ids, packing, bias), bias)
        return self

    def _relative_bias(self, longest: int, device: torch.device) -> torch.Tensor | None:
        """``[heads, longest, longest]`` or larger, for models that have one."""
        return None if self._distances is None else self._distances(longest, device, self._dtype)


def _projection(
    linear: Any, dtype: torch.dtype, device: torch.device, exact: bool, activation: Activation = "none"
) -> Projection:
    return Projection(linear.weight, linear.bias, dtype, device, activation, exact=exact)
