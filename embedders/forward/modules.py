"""A transformers model, called padded in the usual way, or packed."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch

from situate.embedders.forward import attention, self_extend
from situate.embedders.forward.packing import Packing
from situate.embedders.models.folder import OFFSET_POSITIONS
from situate.embedders.models.variant import AS_IT_IS, Variant

#: Models whose positions are relative.
_RELATIVE = ("t5", "mt5", "umt5")


class PaddedForward:
    """A transformers model called on ``[sequences, longest]`` with a mask: the reference.

    Args:
        model: The model.
        left: Whether the padding stands before the tokens, for decoders whose last token has to stand last.
    """

    def __init__(self, model: Any, *, left: bool = False) -> None:
        self._model, self._left = model, left
        self._pad = int(getattr(model.config, "pad_token_id", None) or 0)
        self._takes, self._more = _takes(model), no_cache(model)
        self._stride: tuple[int, int] | None = getattr(model.config, "position_stride", None)

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """int64 ``[tokens]`` ids -> ``[tokens, hidden]``."""
        inputs = self.inputs(ids, packing)
        hidden: torch.Tensor = self._model(**inputs).last_hidden_state
        return hidden[inputs["attention_mask"].bool()]

    def inputs(self, ids: torch.Tensor, packing: Packing) -> dict[str, Any]:
        """What the model's forward is called with."""
        at = torch.arange(packing.longest, device=ids.device)
        sizes = packing.bounds.diff()[:, None]
        mask = at >= packing.longest - sizes if self._left else at < sizes
        padded = ids.new_full(mask.shape, self._pad)
        padded[mask] = ids
        given: dict[str, Any] = {"input_ids": padded, "attention_mask": mask.long(), **self._more}
        if packing.types is not None and "token_type_ids" in self._takes:
            given["token_type_ids"] = padded.new_zeros(mask.shape)
            given["token_type_ids"][mask] = packing.types
        if self._left:
            given["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        elif self._stride:
            # Padding has the first place: a short sequence's would lie beyond the table.
            given["position_ids"] = _apart(at.expand(mask.shape), sizes, self._stride) * mask
        return given


class PackedForward:
    """A transformers model called on ``[1, all tokens]``, its attention replaced by one that knows the boundaries.

    Args:
        model: The model; it is changed.
        variant: How it differs from what its folder holds.
    """

    def __init__(self, model: Any, variant: Variant = AS_IT_IS) -> None:
        self._more: dict[str, Any] = no_cache(model)
        if variant.groups and variant.reach is not None:
            self._more["grouping"] = self_extend.Grouping.of(model, variant.reach)
            model.set_attn_implementation(self_extend.NAME)
        else:
            attention.register()
            model.set_attn_implementation(attention.NAME)
        self._model = model
        config = model.config
        self._longest = _bounded_bias(model) if config.model_type in _RELATIVE else None
        self._first = int(config.pad_token_id or 0) + 1 if config.model_type in OFFSET_POSITIONS else 0
        self._positions = config.model_type not in _RELATIVE
        self._types = "token_type_ids" in _takes(model)
        self._stride: tuple[int, int] | None = getattr(model.config, "position_stride", None)

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """int64 ``[tokens]`` ids -> ``[tokens, hidden]``."""
        given = dict(self._more)
        if self._positions:
            positions = packing.position_ids
            if self._stride:
                sizes = packing.bounds.diff()
                positions = _apart(positions, sizes.repeat_interleave(sizes), self._stride)
            given["position_ids"] = (positions + self._first)[None]
        if self._types and packing.types is not None:
            given["token_type_ids"] = packing.types[None]
        if self._longest is not None:
            self._longest.tokens = packing.longest
        try:
            hidden: torch.Tensor = self._model(input_ids=ids[None], packing=packing, **given).last_hidden_state
        finally:
            if self._longest is not None:
                self._longest.tokens = None
        return hidden[0]


def _apart(positions: torch.Tensor, lengths: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    """Positions, further apart in sequences of up to so many tokens."""
    return torch.where(lengths <= stride[0], positions * stride[1], positions)


class _Longest(threading.local):
    """Tokens of the longest sequence of the thread's packed pass; None outside one."""

    tokens: int | None = None


def _bounded_bias(model: Any) -> _Longest:
    """Have the model compute its relative bias for the longest sequence, not for all tokens of a pass together: of
    32,768 tokens and twelve heads it would be 26 GB."""
    longest = _Longest()

    def bounded(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def bias(queries: int, keys: int, *arguments: Any, **named: Any) -> torch.Tensor:
            if longest.tokens is not None:
                queries, keys = min(queries, longest.tokens), min(keys, longest.tokens)
            return compute(queries, keys, *arguments, **named)

        return bias

    for module in model.modules():
        if hasattr(module, "relative_attention_bias") and hasattr(module, "compute_bias"):
            module.compute_bias = bounded(module.compute_bias)
    return longest


def no_cache(model: Any) -> dict[str, Any]:
    """``use_cache=False`` for the models that would keep keys and values."""
    parameters = inspect.signature(model.forward).parameters
    known = "use_cache" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return {"use_cache": False} if known and getattr(model.config.get_text_config(), "use_cache", None) else {}


def _takes(model: Any) -> set[str]:
    """The parameters of a model's forward; token types only where they make a difference."""
    names = set(inspect.signature(model.forward).parameters)
    if (getattr(model.config, "type_vocab_size", 0) or 0) < 2:
        names.discard("token_type_ids")
    return names
