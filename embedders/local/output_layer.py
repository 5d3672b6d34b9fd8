"""The layer by which a language model turns a hidden state into logits, for the words that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from situate.embedders.models.files import loading, read_object
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.types import Vectors
from situate.errors import ConventionError

#: Endings of the names of an output layer's weights, and of the input embeddings that many models share with it.
_OWN = ("lm_head.weight", "embed_out.weight")
_SHARED = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


class OutputLayer:
    """A language model's output layer, in the format of its file.

    Args:
        weights: ``[vocabulary, hidden]``, a torch tensor.
        bias: ``[vocabulary]``, or None.
        config: transformers' configuration of the model, for what is done to its logits.
    """

    def __init__(self, weights: Any, bias: Any, config: Any) -> None:
        self._weights, self._bias = weights, bias
        scale = getattr(config, "logit_scale", None) or 1.0
        self._scale = float(scale / (getattr(config, "logits_scaling", None) or 1.0))
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)

    @classmethod
    def load(cls, folder: Path, options: LoadOptions = SAFE) -> OutputLayer:
        """The output layer of a model's folder, read from its safetensors files alone.

        Raises:
            ConventionError: The folder holds none: the model was saved without its head.
            ModelError: A file is damaged.
        """
        import transformers
        from safetensors import safe_open

        with loading("the output layer", folder):
            config = transformers.AutoConfig.from_pretrained(
                str(folder),
                local_files_only=not options.trust_remote_code,
                trust_remote_code=options.trust_remote_code,
            ).get_text_config()
            index = read_object(folder / "model.safetensors.index.json").get("weight_map")
            files = sorted(set(index.values())) if isinstance(index, dict) else ["model.safetensors"]
            names: dict[str, str] = {}
            for file in files:
                with safe_open(str(folder / Path(file).name), framework="pt") as tensors:
                    names |= dict.fromkeys(tensors.keys(), Path(file).name)

            def found(name: str) -> Any:
                with safe_open(str(folder / names[name]), framework="pt") as tensors:
                    return tensors.get_tensor(name)

            own = _ending(names, _OWN)
            shared = _ending(names, _SHARED) if getattr(config, "tie_word_embeddings", False) else None
            name = own or shared
            if name is None:
                raise ConventionError(
                    f"{str(folder)!r} holds no output layer ({', '.join(_OWN)}), so there are no logits: name a "
                    "language model as it was published, not one that was saved without its head"
                )
            bias = None if own is None else own.removesuffix("weight") + "bias"
            return cls(found(name), found(bias) if bias in names else None, config)

    def logits(self, state: Vectors, ids: NDArray[np.int64]) -> Vectors:
        """The logits of some words.

        Args:
            state: float32 ``[hidden]``: the last layer's, behind the final norm.
            ids: int64 ``[words]``.

        Returns:
            float32 ``[words]``.
        """
        import torch

        rows = torch.from_numpy(ids)
        logits = self._weights[rows].float() @ torch.from_numpy(np.ascontiguousarray(state))
        if self._bias is not None:
            logits = logits + self._bias[rows].float()
        logits = logits * self._scale
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        result: Vectors = logits.numpy()
        return result


def _ending(names: dict[str, str], endings: tuple[str, ...]) -> str | None:
    return next((name for ending in endings for name in names if name == ending or name.endswith(f".{ending}")), None)
