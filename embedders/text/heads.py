"""The linear layers that some sentence-transformers models put after the pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from situate.embedders.models.files import loading
from situate.embedders.models.folder import DenseHead
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.types import Vectors
from situate.errors import ConventionError, ModelError, UnsafeModelError


@dataclass(frozen=True)
class _Layer:
    weight: Vectors
    bias: Vectors | None
    activation: Callable[[Vectors], Vectors]


class Heads:
    """Applies a model's heads in order, in float32."""

    def __init__(self, layers: Sequence[_Layer]) -> None:
        self._layers = tuple(layers)

    @classmethod
    def load(cls, heads: Sequence[DenseHead], size: int, options: LoadOptions = SAFE) -> Heads:
        """The layers with their weights.

        Args:
            heads: The layers, in order.
            size: Length of the vectors that go into the first.
            options: Whether pickled weights may be read.

        Raises:
            UnsafeModelError: The weights are pickled, which ``options`` do not allow.
            ConventionError: An activation is not known.
            ModelError: The weights are damaged, or of another shape than in the folder's configuration.
        """
        for head in heads:
            if head.in_features != size:
                raise ModelError(
                    f"{head.folder / 'config.json'} has in_features = {head.in_features}, but the vectors before it "
                    f"have {size} numbers: the folder is damaged, fetch the model again"
                )
            size = head.out_features
        return cls([_layer(head, options) for head in heads])

    def __call__(self, vectors: Vectors) -> Vectors:
        """float32 ``[vectors, in]`` -> float32 ``[vectors, out]``."""
        for layer in self._layers:
            vectors = vectors @ layer.weight.T
            if layer.bias is not None:
                vectors = vectors + layer.bias
            vectors = layer.activation(vectors)
        return vectors


def _layer(head: DenseHead, options: LoadOptions) -> _Layer:
    import torch

    from situate.embedders.forward.cores import computing

    activation = getattr(torch.nn, head.activation, None)
    if not (isinstance(activation, type) and issubclass(activation, torch.nn.Module)):
        raise ConventionError(f"{head.folder.name} has the activation {head.activation!r}, which torch.nn has not")
    function = activation()
    state = _weights(head, options)
    weight, bias = state.get("linear.weight"), state.get("linear.bias")
    shape = (head.out_features, head.in_features)
    if weight is None or tuple(weight.shape) != shape or (bias is not None and tuple(bias.shape) != shape[:1]):
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()) or "nothing"
        raise ModelError(
            f"the weights in {str(head.folder)!r} are {found}, but its config.json says {shape[1]} -> {shape[0]} "
            "numbers: the folder is damaged, fetch the model again"
        )

    def activated(vectors: Vectors) -> Vectors:
        with computing():
            result: Vectors = function(torch.from_numpy(np.ascontiguousarray(vectors))).numpy()
        return result

    return _Layer(
        weight=weight.float().numpy(),
        bias=None if bias is None else bias.float().numpy(),
        activation=activated,
    )


def _weights(head: DenseHead, options: LoadOptions) -> dict[str, Any]:
    import torch

    file = head.folder / "model.safetensors"
    with loading("the linear layer", head.folder):
        if file.is_file():
            from safetensors.torch import load_file

            return dict(load_file(str(file)))
        if options.allow_pickle:
            return dict(torch.load(head.folder / "pytorch_model.bin", map_location="cpu", weights_only=True))
    raise UnsafeModelError(
        f"{head.folder} has its weights only as pickle, and reading a pickle can run any code: "
        "pass allow_pickle=True if you trust its author"
    )
