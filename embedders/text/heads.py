"""The linear layers that some sentence-transformers models put behind the pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from situate.embedders.models.folder import DenseHead
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.types import Vectors
from situate.errors import ConventionError, UnsafeModelError


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
    def load(cls, heads: Sequence[DenseHead], options: LoadOptions = SAFE) -> Heads:
        """The layers with their weights.

        Raises:
            UnsafeModelError: The weights are pickled, which ``options`` do not allow.
            ConventionError: An activation is not known.
        """
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

    from situate.embedders.local.openmp import computing

    activation = getattr(torch.nn, head.activation, None)
    if not (isinstance(activation, type) and issubclass(activation, torch.nn.Module)):
        raise ConventionError(f"{head.folder.name} has the activation {head.activation!r}, which torch.nn has not")
    function = activation()
    file = head.folder / "model.safetensors"
    if file.is_file():
        from safetensors.torch import load_file

        state = load_file(str(file))
    elif options.allow_pickle:
        state = torch.load(head.folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    else:
        raise UnsafeModelError(
            f"{head.folder} has its weights only as pickle, and reading a pickle can run any code: "
            "pass allow_pickle=True if you trust its author"
        )

    def activated(vectors: Vectors) -> Vectors:
        with computing():
            result: Vectors = function(torch.from_numpy(np.ascontiguousarray(vectors))).numpy()
        return result

    bias = state.get("linear.bias")
    return _Layer(
        weight=state["linear.weight"].float().numpy(),
        bias=None if bias is None else bias.float().numpy(),
        activation=activated,
    )
