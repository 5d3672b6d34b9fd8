"""BERT and its kin, run without a module tree.

Most embedding models are post-norm encoders of one and the same shape: BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT and
MPNet differ in names, in where positions begin, and in MPNet's relative positions. Reading their weights into one
plain loop saves the interpreter's way through transformers' modules (most of the time of a single query), joins the
three input projections, and fuses the activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch.nn import functional

from situate.embedders._attention import BASE_2, SHORT, packed_self_attention
from situate.embedders._linears import Activation, Projection
from situate.embedders._packing import Packing
from situate.embedders._torchscript import PROBE, Attention, Layer, Norm, Pass, Stack, compiled

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
#: One sequence of up to so many tokens takes the compiled pass: in longer ones the interpreter's part is small.
_COMPILED = 128


@dataclass(frozen=True)
class _Layout:
    """Where a model keeps its weights; dotted names, those of a layer relative to it."""

    layers: str
    query: str
    key: str
    value: str
    output: str
    output_norm: str
    up: str
    down: str
    down_norm: str
    heads: str = "num_attention_heads"
    activation: str = "hidden_act"


_BERT = _Layout(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    output_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    down_norm="output.LayerNorm",
)
_MPNET = _Layout(
    layers="encoder.layer",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    output_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    down_norm="output.LayerNorm",
)
_DISTILBERT = _Layout(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    output_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    down_norm="output_layer_norm",
    heads="n_heads",
    activation="activation",
)
_LAYOUTS: dict[str, _Layout] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "mpnet": _MPNET,
    "distilbert": _DISTILBERT,
}


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
        config = model.config
        layout = _LAYOUTS[config.model_type]
        self._dtype = dtype
        self._stream = torch.float32 if device.type == "cpu" else dtype
        self._heads = int(getattr(config, layout.heads))
        activation = _ACTIVATIONS[getattr(config, layout.activation)]

        def stream(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.detach().to(device, self._stream).contiguous()

        def norm(module: Any) -> Norm:
            return Norm(stream(module.weight), stream(module.bias), float(module.eps))

        embeddings = model.embeddings
        self._words = stream(embeddings.word_embeddings.weight)
        positions = embeddings.position_embeddings.weight.detach().float()
        types = getattr(embeddings, "token_type_embeddings", None)
        if types is not None:
            positions = positions + types.weight.detach().float()[0]
        # Positions begin behind the padding id in RoBERTa's kin; cutting the table once spares the addition.
        padding = getattr(embeddings, "padding_idx", None)
        self._positions = stream(positions[0 if padding is None else padding + 1 :])
        self._norm = norm(embeddings.LayerNorm)
        project = getattr(model, "embeddings_project", None)
        self._project = None if project is None else _projection(project, dtype, device, exact)
        self._distances = _Distances(model.encoder) if layout is _MPNET else None
        self._bias = torch.empty(0)
        self._compiled: Pass | None = None
        # In bfloat16 a longer sequence has an attention of its own, which is faster than torch's.
        self._most_compiled = _COMPILED if dtype == torch.float32 else SHORT

        self._layers: list[_Layer] = []
        for layer in attrgetter(layout.layers)(model):
            q, k, v = (attrgetter(name)(layer) for name in (layout.query, layout.key, layout.value))
            scale = (q.out_features // self._heads) ** -0.5 / BASE_2
            self._layers.append(
                _Layer(
                    inputs=Projection(
                        torch.cat([q.weight.float() * scale, k.weight.float(), v.weight.float()]),
                        torch.cat([q.bias.float() * scale, k.bias.float(), v.bias.float()]),
                        dtype,
                        device,
                        exact=exact,
                    ),
                    output=_projection(attrgetter(layout.output)(layer), dtype, device, exact),
                    output_norm=norm(attrgetter(layout.output_norm)(layer)),
                    up=_projection(attrgetter(layout.up)(layer), dtype, device, exact, activation),
                    down=_projection(attrgetter(layout.down)(layer), dtype, device, exact),
                    down_norm=norm(attrgetter(layout.down_norm)(layer)),
                )
            )

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether the model is one of those whose weights can be read."""
        config = model.config
        layout = _LAYOUTS.get(config.model_type)
        return (
            layout is not None
            and getattr(config, layout.activation, None) in _ACTIVATIONS
            and not getattr(config, "is_decoder", False)
            and getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
        )

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """``[tokens]`` ids -> ``[tokens, hidden]``."""
        bias = None if self._distances is None else self._relative_bias(self._distances, packing.longest, ids.device)
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
        bias = None if self._distances is None else self._relative_bias(self._distances, len(PROBE), device)
        self._compiled = compiled(stack, lambda ids, bias: self._in_python(ids, packing, bias), bias)
        return self

    def _relative_bias(self, distances: _Distances, longest: int, device: torch.device) -> torch.Tensor:
        """``[heads, longest, longest]`` or larger; it depends on distance alone, so the largest one serves all."""
        bias = self._bias  # read once: another thread may put a smaller one there
        if bias.shape[-1] < longest:
            bias = self._bias = distances(longest, device).to(self._dtype)
        return bias


class _Distances:
    """MPNet's learned weight of the distance between two tokens, the same in every layer."""

    def __init__(self, encoder: Any) -> None:
        self._weights = encoder.relative_attention_bias.weight.detach().float()
        self._bucket = type(encoder).relative_position_bucket

    def __call__(self, length: int, device: torch.device) -> torch.Tensor:
        """float32 ``[heads, length, length]``."""
        at = torch.arange(length)
        # 32 buckets whatever the configuration says: the model itself does not read it from there.
        weights: torch.Tensor = self._weights[self._bucket(at[None, :] - at[:, None], num_buckets=32)]
        return weights.permute(2, 0, 1).to(device)


def _projection(
    linear: Any, dtype: torch.dtype, device: torch.device, exact: bool, activation: Activation = "none"
) -> Projection:
    return Projection(linear.weight, linear.bias, dtype, device, activation, exact=exact)
