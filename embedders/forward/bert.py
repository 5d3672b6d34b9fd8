"""The pass of BERT-style encoders, run by torch on their weights.

One plain loop avoids the calls through transformers' modules (most of the time of a single query), joins the three
input projections, and fuses the activation.

A query's pass is a hundred operators of some ten to a hundred microseconds, and Python's overhead between them is a
sixth of the whole query. So TorchScript calls the same operators out of compiled code for one short sequence, bit for
bit, and lets Python's other threads work meanwhile. torch advises against TorchScript for new code; its replacements
need a C++ compiler on the user's machine (torch.compile) or run in Python (torch.export). The compiled pass is compared
with the one in Python; without it results are the same, but slower.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from situate.embedders.forward.attention import (
    BASE_2,
    SHORT,
    first_token_attention,
    kernel_for,
    packed_self_attention,
    short_attention,
)
from situate.embedders.forward.bert_weights import LayerModules, PostNormModules
from situate.embedders.forward.gpu import fused
from situate.embedders.forward.gpu.graphs import QueryGraphs
from situate.embedders.forward.linears import Activation, Projection, projection
from situate.embedders.forward.packing import Packing

#: One sequence of up to so many tokens takes the compiled pass: in longer ones the interpreter's share is small.
_COMPILED = 128
#: The input that a compiled pass is compared on.
_PROBE = torch.arange(7)


class Attention(torch.nn.Module):
    """`packed_self_attention` of one sequence.

    Args:
        heads: Number of them.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.scale, self.short = heads, BASE_2, SHORT

    def forward(self, joined: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """``[tokens, 3 * heads * head size]`` -> ``[tokens, heads * head size]``."""
        tokens = joined.shape[0]
        joined = joined.view(tokens, 3, self.heads, -1)
        if bias is None and tokens <= self.short and joined.dtype == torch.float32:
            return short_attention(joined, self.scale)
        query, key, value = joined.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        mask = None if bias is None else bias[:, :tokens, :tokens].to(joined.dtype)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        return out.transpose(1, 2).reshape(tokens, -1)


class Norm(torch.nn.Module):
    """Layer normalisation."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.size = list(weight.shape)
        self.weight, self.bias, self.epsilon = weight, bias, epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., size]`` of the same shape."""
        return torch.layer_norm(x, self.size, self.weight, self.bias, self.epsilon)

    def added(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of ``x + y``; ``x`` is overwritten. In a query's short pass the cost of a new tensor is measurable."""
        return torch.layer_norm(x.add_(y), self.size, self.weight, self.bias, self.epsilon)


class FusedNorm(Norm):
    """The same with the sum in the same kernel, where `fused.works`."""

    def added(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of ``x + y``."""
        return fused.add_norm(x, y, self.weight, self.bias, self.epsilon)


class Layer(torch.nn.Module):
    """One layer: `inputs`, attention, `finish`.

    Args:
        dtype: Format to compute products in.
        attention: Of one sequence; the same for all layers.
        inputs: To queries, keys and values; queries are scaled by ``1 / (BASE_2 * sqrt(head size))``.
        output: Behind the attention.
        output_norm: Behind that.
        up: With the activation.
        down: Behind it.
        down_norm: Behind that.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        attention: Attention,
        inputs: Projection,
        output: Projection,
        output_norm: Norm,
        up: Projection,
        down: Projection,
        down_norm: Norm,
    ) -> None:
        super().__init__()
        self.dtype, self.attention = dtype, attention
        self.inputs, self.output, self.output_norm = inputs, output, output_norm
        self.up, self.down, self.down_norm = up, down, down_norm

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        """``[tokens, hidden]`` -> ``[tokens, 3 * hidden]``: queries, keys, values."""
        out: torch.Tensor = self.inputs(x.to(self.dtype))
        return out

    def finish(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """``[tokens, hidden]`` out of the layer's input, which is overwritten, and what its attention saw."""
        x = self.output_norm.added(x, self.output(seen))  # nothing else reads x
        out: torch.Tensor = self.down_norm.added(x, self.down(self.up(x.to(self.dtype))))
        return out

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """One sequence, ``[tokens, hidden]`` of the same shape; ``x`` is overwritten."""
        return self.finish(x, self.attention(self.joined(x), bias))


class Stack(torch.nn.Module):
    """All of the model.

    Args:
        dtype: Format to compute products in.
        words: ``[vocabulary, width]``.
        positions: ``[longest, width]``, that of the first token first.
        norm: Behind their sum.
        project: From the width of the embeddings to that of the layers, where they differ.
        layers: In order.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        words: torch.Tensor,
        positions: torch.Tensor,
        norm: Norm,
        project: Projection | None,
        layers: Iterable[Layer],
    ) -> None:
        super().__init__()
        self.dtype, self.words, self.positions = dtype, words, positions
        self.norm, self.project = norm, project
        self.layers = torch.nn.ModuleList(layers)

    def embedded(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """int64 ``[tokens]``, and the rows of their positions ``[tokens, width]`` -> ``[tokens, hidden]``."""
        x: torch.Tensor = self.norm.added(functional.embedding(ids, self.words), positions)
        if self.project is not None:
            x = self.project(x.to(self.dtype)).to(self.words.dtype)
        return x

    def forward(self, ids: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """One sequence, int64 ``[tokens]`` -> ``[tokens, hidden]``."""
        x = self.embedded(ids, self.positions[: ids.shape[0]])
        for layer in self.layers:
            x = layer(x, bias)
        return x


class BertForward:
    """Token vectors of packed sequences.

    Products are computed in ``dtype``; on CPU the residual stream and the norms stay float32, so that bfloat16's
    rounding does not add up from layer to layer. It costs little: products take most of the time.

    Args:
        model: The transformers model that the weights are read from. It is not kept.
        device: Where it runs.
        dtype: Format of the products.
        exact: As `projection`'s.

    Attributes:
        compiled: The pass that `compile` made for one short sequence on CPU; None: all passes run in Python.
        graphs: The same on a GPU.
    """

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype, *, exact: bool = True) -> None:
        parts = PostNormModules.of(model)
        stream = torch.float32 if device.type == "cpu" else dtype
        self._dtype, self._heads, self._distances = dtype, parts.heads, parts.distances
        self._head_size = parts.layers[0].query.out_features // parts.heads

        def placed(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.detach().to(device, stream).contiguous()

        def norm(module: Any) -> Norm:
            weight = placed(module.weight)
            kind = FusedNorm if device.type == "cuda" and fused.works(device, stream, len(weight)) else Norm
            return kind(weight, placed(module.bias), float(module.eps))

        def product(linear: Any, activation: Activation = "none") -> Projection:
            return projection(linear.weight, linear.bias, dtype, device, activation, exact=exact)

        def layer(modules: LayerModules) -> Layer:
            weight, bias = modules.joined(self._head_size**-0.5 / BASE_2)
            return Layer(
                dtype,
                attention,
                projection(weight, bias, dtype, device, exact=exact),
                product(modules.output),
                norm(modules.output_norm),
                product(modules.up, parts.activation),
                product(modules.down),
                norm(modules.down_norm),
            )

        attention = Attention(parts.heads)
        project = None if parts.project is None else product(parts.project)
        words, positions = placed(parts.words), placed(parts.positions)
        self._layers = layers = [layer(modules) for modules in parts.layers]
        self._stack = Stack(dtype, words, positions, norm(parts.norm), project, layers).eval()
        self.compiled: Any = None
        self.graphs: QueryGraphs | None = None
        # In bfloat16 a longer sequence has an attention of its own, which is faster than torch's.
        self._most_compiled = _COMPILED if dtype == torch.float32 else SHORT

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """``[tokens]`` ids -> ``[tokens, hidden]``."""
        bias = self._relative_bias(packing.longest, ids.device)
        if self.compiled is not None and len(packing.lengths) == 1 and packing.longest <= self._most_compiled:
            out: torch.Tensor = self.compiled(ids, bias)
            return out
        if self.graphs is not None and len(packing.lengths) == 1:
            return self.graphs(ids, packing)
        return self._in_python(ids, packing, bias)

    def compile(self) -> BertForward:
        """Use a compiled pass for single sequences, where that works; returns itself."""
        stack = self._stack
        device = stack.words.device
        if device.type != "cpu":
            if self._distances is None and kernel_for(device, self._dtype, self._head_size) is not None:
                self.graphs = QueryGraphs(partial(self._in_python, bias=None), device, len(stack.positions))
            return self
        bias = self._relative_bias(len(_PROBE), stack.words.device)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                script: Any = torch.jit.script(stack)
            # Twice: TorchScript makes its plan in the second pass, and no query shall wait for that.
            found = [script(_PROBE, bias) for _ in range(2)]
        except Exception:  # noqa: BLE001  a private corner of torch, and no source to be read in a frozen application
            return self
        wanted = self._in_python(_PROBE, Packing.of([len(_PROBE)], stack.words.device), bias)
        if all(torch.allclose(each, wanted, rtol=1e-4, atol=1e-5) for each in found):
            self.compiled = script
        return self

    def _in_python(self, ids: torch.Tensor, packing: Packing, bias: torch.Tensor | None) -> torch.Tensor:
        stack = self._stack
        x = stack.embedded(ids, functional.embedding(packing.position_ids, stack.positions))
        for layer in self._layers:
            joined = layer.joined(x).view(len(ids), 3, self._heads, -1)
            x = layer.finish(x, packed_self_attention(joined, packing, scale=BASE_2, bias=bias))
        return x

    def _relative_bias(self, longest: int, device: torch.device) -> torch.Tensor | None:
        """``[heads, longest, longest]`` or larger, for models that have one."""
        return None if self._distances is None else self._distances(longest, device, self._dtype)


class BertFirstTokens(BertForward):
    """The vectors of each sequence's first token, which is what BERT-style cross-encoders score.

    The last layer is computed for that token alone; the difference between a second and a first text is added through a
    second table of positions.
    """

    def __init__(self, base: Any, device: torch.device, dtype: torch.dtype, *, exact: bool = True) -> None:
        super().__init__(base, device, dtype, exact=exact)
        self._last = self._layers.pop()
        self._shift = 0
        second = PostNormModules.of(base).second
        if second is not None:
            positions = self._stack.positions
            self._shift = len(positions)
            self._stack.positions = torch.cat([positions, positions + second.to(positions)])

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """``[tokens]`` ids, with the packing's token types -> ``[sequences, hidden]``."""
        if self._shift and packing.types is not None:
            packing = replace(packing, position_ids=packing.position_ids + packing.types * self._shift)
        bias = self._relative_bias(packing.longest, ids.device)
        x = self._in_python(ids, packing, bias)
        q, k, v = self._last.joined(x).view(len(ids), 3, self._heads, -1).unbind(1)
        first = packing.bounds[:-1].long()
        seen = first_token_attention(q[first], k, v, packing, scale=BASE_2, bias=bias)
        out: torch.Tensor = self._last.finish(x[first], seen)
        return out
