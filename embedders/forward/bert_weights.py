"""Where BERT-style encoders keep their weights.

BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT and MPNet are one and the same post-norm encoder: they differ in names, in
where positions begin, and in MPNet's relative positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch

from situate.embedders.forward.linears import Activation

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class _Layout:
    """Dotted names; those of a layer's parts relative to it."""

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
class LayerModules:
    """One layer's modules: the projections to queries, keys and values, the attention's output and the norm behind it,
    the two of the inner layer and the norm behind them."""

    query: Any
    key: Any
    value: Any
    output: Any
    output_norm: Any
    up: Any
    down: Any
    down_norm: Any

    def joined(self, factor: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """The three projections as one, float32 ``[3 * hidden, hidden]`` and ``[3 * hidden]``; queries by a factor."""
        q, k, v = self.query, self.key, self.value
        weight = torch.cat([q.weight.detach().float() * factor, k.weight.detach().float(), v.weight.detach().float()])
        bias = torch.cat([q.bias.detach().float() * factor, k.bias.detach().float(), v.bias.detach().float()])
        return weight, bias


@dataclass(frozen=True)
class PostNormModules:
    """A model's modules. Nothing is copied.

    Attributes:
        words: ``[vocabulary, width]``.
        positions: float32 ``[longest, width]``, that of the first token first; token type 0 is added.
        second: ``[width]``: what a pair's second text has added to its positions; None where texts are not told apart.
        norm: Behind their sum.
        project: From the width of the embeddings to that of the layers, where they differ.
        distances: MPNet's weights of the distance between two tokens.
        heads: Number of attention heads.
        activation: Of the inner layer.
        layers: In order.
    """

    words: torch.Tensor
    positions: torch.Tensor
    second: torch.Tensor | None
    norm: Any
    project: Any
    distances: RelativeBias | None
    heads: int
    activation: Activation
    layers: tuple[LayerModules, ...]

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

    @classmethod
    def of(cls, model: Any) -> PostNormModules:
        """The weights of a model that `fits`."""
        config = model.config
        layout = _LAYOUTS[config.model_type]
        embeddings = model.embeddings
        positions = embeddings.position_embeddings.weight.detach().float()
        embedding = getattr(embeddings, "token_type_embeddings", None)
        types = None if embedding is None else embedding.weight.detach().float()
        if types is not None:
            positions = positions + types[0]
        # Positions begin after the padding id in RoBERTa-style encoders; cutting the table once saves the addition.
        padding = getattr(embeddings, "padding_idx", None)
        return cls(
            words=embeddings.word_embeddings.weight.detach(),
            positions=positions[0 if padding is None else padding + 1 :],
            second=types[1] - types[0] if types is not None and len(types) > 1 else None,
            norm=embeddings.LayerNorm,
            project=getattr(model, "embeddings_project", None),
            distances=RelativeBias(model.encoder) if layout is _MPNET else None,
            heads=int(getattr(config, layout.heads)),
            activation=_ACTIVATIONS[getattr(config, layout.activation)],
            layers=tuple(_layers(model, layout)),
        )


def _layers(model: Any, layout: _Layout) -> Iterator[LayerModules]:
    names = ("query", "key", "value", "output", "output_norm", "up", "down", "down_norm")
    for layer in attrgetter(layout.layers)(model):
        yield LayerModules(*(attrgetter(getattr(layout, name))(layer) for name in names))


class RelativeBias:
    """MPNet's learned weight of the distance between two tokens, the same in every layer."""

    def __init__(self, encoder: Any) -> None:
        self._weights = encoder.relative_attention_bias.weight.detach().float()
        self._bucket = type(encoder).relative_position_bucket
        self._largest = torch.empty(0)

    def __call__(self, longest: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """``[heads, longest, longest]`` or larger, contiguous; it depends on distance alone, so one serves all."""
        largest = self._largest  # read once: another thread may put a smaller one there
        if largest.shape[-1] < longest:
            at = torch.arange(longest)
            # 32 buckets whatever the configuration says: the model itself does not read it from there.
            weights = self._weights[self._bucket(at[None, :] - at[:, None], num_buckets=32)]
            largest = self._largest = weights.permute(2, 0, 1).contiguous().to(device, dtype)
        return largest
