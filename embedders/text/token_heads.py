"""A model's own heads over its tokens: a vector of each for late interaction, a weight of each for sparse search.

Chen et al. 2024, "BGE M3-Embedding: Multi-Lingual, Multi-Functionality, Multi-Granularity Text Embeddings Through
Self-Knowledge Distillation", https://arxiv.org/abs/2402.03216; files and formulas as in FlagEmbedding's
`BGEM3FlagModel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from situate.embedders.models.files import loading
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.text.tokenizer import Ids, TextTokenizer
from situate.embedders.types import SparseVector, Vectors
from situate.errors import ConventionError, ModelError, UnsafeModelError

#: FlagEmbedding's names for the two linear layers, beside the model's own files.
_VECTORS, _WEIGHTS = "colbert_linear", "sparse_linear"


@dataclass(frozen=True)
class TokenHeads:
    """The two linear layers, and the tokens that they leave out.

    Attributes:
        vectors: Weight float32 ``[dimension, hidden]`` and bias ``[dimension]`` of the layer that makes token vectors.
        weights: Weight float32 ``[1, hidden]`` and bias ``[1]`` of the layer whose positive results weigh tokens.
        leading: How many special tokens stand before a text; they have no token vector.
        ignored: int64: ids of tokens without a weight.
    """

    vectors: tuple[Vectors, Vectors]
    weights: tuple[Vectors, Vectors]
    leading: int
    ignored: NDArray[np.int64]

    @classmethod
    def load(cls, folder: Path, size: int, tokenizer: TextTokenizer, options: LoadOptions = SAFE) -> TokenHeads:
        """The heads of a model's folder.

        Args:
            folder: The model's.
            size: Length of a token's state, which is the length of its token vector, too.
            tokenizer: The model's, for the special tokens.
            options: Whether pickled weights may be read: those of BGE-M3 are.

        Raises:
            ConventionError: The folder holds no such heads.
            UnsafeModelError: They are pickled, which ``options`` do not allow.
            ModelError: They are damaged, or of another shape.
        """
        return cls(
            vectors=_layer(folder, _VECTORS, (size, size), options),
            weights=_layer(folder, _WEIGHTS, (1, size), options),
            leading=len(tokenizer.leading),
            ignored=np.unique(np.concatenate([tokenizer.leading, tokenizer.trailing, tokenizer.meaningless(folder)])),
        )

    def token_vectors(self, states: Vectors) -> Vectors:
        """float32 ``[tokens, hidden]``, the last layer's -> float32 ``[tokens, dimension]``, of any length."""
        weight, bias = self.vectors
        return states @ weight.T + bias

    def terms(self, states: Vectors, ids: Ids) -> SparseVector:
        """A text's tokens, each weighed by its largest result.

        Args:
            states: float32 ``[tokens, hidden]``.
            ids: The tokens.
        """
        weight, bias = self.weights
        weights = np.maximum(states @ weight[0] + bias[0], 0).astype(np.float32)
        active = (weights > 0) & ~np.isin(ids, self.ignored)
        indices, places = np.unique(np.asarray(ids, dtype=np.int64)[active], return_inverse=True)
        largest: Vectors = np.zeros(len(indices), dtype=np.float32)
        np.maximum.at(largest, places, weights[active])
        return SparseVector(indices, largest)


def _layer(folder: Path, name: str, shape: tuple[int, int], options: LoadOptions) -> tuple[Vectors, Vectors]:
    state = _state(folder, name, options)
    weight, bias = state.get("weight"), state.get("bias")
    if weight is None or tuple(weight.shape) != shape or bias is None or tuple(bias.shape) != shape[:1]:
        found = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in state.items()) or "nothing"
        raise ModelError(
            f"{name} in {str(folder)!r} holds {found}, but a layer of {shape[1]} -> {shape[0]} numbers is needed, with "
            "its bias: leave token_heads out, or fetch the model again"
        )
    return weight.float().numpy(), bias.float().numpy()


def _state(folder: Path, name: str, options: LoadOptions) -> dict[str, Any]:
    import torch

    safe, pickled = folder / f"{name}.safetensors", folder / f"{name}.pt"
    with loading("a head over tokens", folder):
        if safe.is_file():
            from safetensors.torch import load_file

            return dict(load_file(str(safe)))
        if pickled.is_file() and options.allow_pickle:
            return dict(torch.load(pickled, map_location="cpu", weights_only=True))
    if pickled.is_file():
        raise UnsafeModelError(
            f"{pickled} is a pickle, and reading one can run any code: pass allow_pickle=True if you trust its author"
        )
    raise ConventionError(
        f"token_heads=True, but {str(folder)!r} holds no {name}.safetensors or {name}.pt: the model has no heads of "
        "its own over tokens, as BGE-M3 has; leave token_heads out"
    )
