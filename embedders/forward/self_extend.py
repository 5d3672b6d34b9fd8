"""SelfExtend: attention in which distant tokens share positions, so that no distance is new to the model.

Jin et al. 2024, https://arxiv.org/abs/2401.01325. Tokens less than ``neighbours`` apart see each other as always. Of
others, positions are divided by the size of a group and shifted, so that distances go on growing where the
neighbourhood ends. The paper's models look back only; here the shift is mirrored for tokens that stand behind, as
LongEmbed does for encoders.

Models rotate queries and keys before they call an attention function. Rotations add up, so a token is moved to its
group's position by rotating it by the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from situate.embedders.forward.attention import packed_attention
from situate.embedders.forward.packing import Packing
from situate.embedders.models.extension import Reach
from situate.errors import ConventionError

#: The name under which transformers' models find `transformers_attention`.
NAME = "situate_self_extend"
_RECORDER = "situate_recorder"
#: Scores held at once.
_SCORES = 1 << 24


@dataclass(frozen=True)
class Grouping:
    """A model's rotations and how far they are extended, for its attention.

    Attributes:
        frequencies: float32 ``[rotated dimensions / 2]``: radians per position.
        reach: How far.
    """

    frequencies: torch.Tensor
    reach: Reach

    @classmethod
    def of(cls, model: Any, reach: Reach) -> Grouping:
        """Read from a transformers model's rotary embedding, after checking how it rotates.

        Raises:
            ConventionError: It has none, or rotates otherwise.
        """
        names = ("inv_freq", "full_attention_inv_freq")
        found = {name.rpartition(".")[2]: buffer for name, buffer in model.named_buffers()}
        frequencies = next((found[name] for name in names if name in found), None)
        if frequencies is None:
            raise ConventionError(
                f"extension='self' needs a rotary embedding, which a model of type {model.config.model_type!r} has "
                "none of that is known here: choose 'linear', 'ntk' or 'yarn'"
            )
        register()
        grouping = cls(frequencies.float(), reach)
        _check_rotations(model, grouping)
        return grouping

    def moved(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        """``x``, ``[tokens, heads, head size]``, as if each token stood ``by`` positions further on."""
        angles = by.to(torch.float32)[:, None] * self.frequencies.to(x.device)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        half = cos.shape[-1]
        first, second, rest = x[..., :half].float(), x[..., half : 2 * half].float(), x[..., 2 * half :]
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        return torch.cat([turned.to(x.dtype), rest], -1)


def self_extended_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    grouping: Grouping,
    *,
    scale: float,
    causal: bool = False,
    window: int | None = None,
) -> torch.Tensor:
    """`packed_attention` with grouped distances in the sequences that are longer than the model was trained for."""
    trained = grouping.reach.trained
    if packing.longest <= trained or (window is not None and window <= trained):
        return packed_attention(query, key, value, packing, scale=scale, causal=causal, window=window)
    out = []
    for run in packing.runs:
        for start in range(run.start, run.start + run.count * run.length, run.length):
            q, k, v = (x[start : start + run.length] for x in (query, key, value))
            if run.length <= trained:
                alone = Packing.of([run.length], q.device)
                out.append(packed_attention(q, k, v, alone, scale=scale, causal=causal, window=window))
            else:
                out.append(_grouped(q, k, v, grouping, scale, causal, window))
    return torch.cat(out)


def _grouped(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grouping: Grouping,
    scale: float,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """One long sequence, ``[tokens, heads * head size]``."""
    length, heads = q.shape[:2]
    near, group = grouping.reach.neighbours, grouping.reach.group
    at = torch.arange(length, device=q.device)
    grouped = at // group
    shift = near - near // group
    # A query sees keys before it from further on, and keys behind it from further back.
    queries = [grouping.moved(q, grouped + step - at) for step in ((shift,) if causal else (shift, -shift))]
    queries = [x.transpose(0, 1) for x in (q, *queries)]
    repeat = heads // k.shape[1]
    exact, far, values = (
        x.transpose(0, 1).repeat_interleave(repeat, 0) for x in (k, grouping.moved(k, grouped - at), v)
    )
    rows = max(1, _SCORES // (heads * length))
    out = v.new_empty((heads, length, v.shape[-1]))
    for top in range(0, length, rows):
        part = slice(top, top + rows)
        distance = at[part, None] - at
        scores = queries[0][:, part] @ exact.mT
        scores = torch.where(distance >= near, queries[1][:, part] @ far.mT, scores)
        if causal:
            scores = scores.masked_fill(distance < 0, float("-inf"))
        else:
            scores = torch.where(distance <= -near, queries[2][:, part] @ far.mT, scores)
        if window is not None:
            scores = scores.masked_fill(distance.abs() >= window, float("-inf"))
        out[:, part] = torch.softmax(scores.float() * scale, -1).to(v.dtype) @ values
    return out.transpose(0, 1).flatten(1)


def transformers_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing | None = None,
    grouping: Grouping | None = None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_bias: torch.Tensor | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`self_extended_attention` as transformers' attention interface calls it; further arguments are ignored.

    Raises:
        NotImplementedError: The model needs an option that is not supported here.
    """
    unusual = (position_bias, softcap, s_aux)
    if packing is None or grouping is None or any(x is not None for x in unusual) or query.shape[0] != 1:
        raise NotImplementedError("this model's attention cannot be extended")
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    out = self_extended_attention(
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        packing,
        grouping,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=is_causal,
        window=sliding_window,
    )
    return out.view(1, query.shape[0], query.shape[1], -1), None


class _Seen(Exception):
    """Carries the queries of the first layer that sees the whole text out of a model."""

    def __init__(self, query: torch.Tensor) -> None:
        super().__init__()
        self.query = query


def _recording_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    if sliding_window is None:
        raise _Seen(query)
    # Anything that does not depend on positions lets the next layer see the same, wherever the text stands.
    return value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2).contiguous(), None


def _check_rotations(model: Any, grouping: Grouping) -> None:
    """Move a text by seven positions, and check that the model's queries rotate as `Grouping.moved` rotates them."""
    device = grouping.frequencies.device
    ids = torch.arange(4, device=device)[None] + model.config.get_text_config().vocab_size // 2
    before = model.config._attn_implementation
    model.set_attn_implementation(_RECORDER)
    seen = []
    try:
        for shift in (0, 7):
            try:
                model(input_ids=ids, position_ids=torch.arange(4, device=device)[None] + shift)
            except _Seen as stopped:
                seen.append(stopped.query[0].transpose(0, 1).float())
    finally:
        model.set_attn_implementation(before)
    if not seen:
        raise ConventionError(
            f"extension='self' has nothing to extend: no layer of a model of type {model.config.model_type!r} sees "
            "further than its sliding window"
        )
    turned = grouping.moved(seen[0], torch.full((4,), 7, device=device))
    if not torch.allclose(turned, seen[1], rtol=0.05, atol=0.02 * float(seen[1].abs().max())):
        raise ConventionError(
            f"a model of type {model.config.model_type!r} rotates its queries in a way that extension='self' does not "
            "know: choose 'linear', 'ntk' or 'yarn'"
        )


def register() -> None:
    """Register the attention functions of this module with transformers; repeated calls are harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, transformers_attention)
    AttentionInterface.register(_RECORDER, _recording_attention)
