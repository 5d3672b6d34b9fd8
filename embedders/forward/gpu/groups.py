"""Attention of packed sequences in groups that are padded to one length, by torch's public operator.

For a GPU where the kernel for sequences of unequal length does not apply: with an added bias (MPNet, T5), in float32,
on older cards. One call for each length, of which a mixed batch has a hundred, would leave the device waiting for
Python; of groups there are at most eight up to 512 tokens, and the padding is computed in the attention alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from situate.embedders.forward.packing import Packing, on_device

#: Sequences whose lengths are between the same two multiples of this are padded to the longest of them.
_STEP = 64
#: Most numbers of the masks of a group that differ from head to head: 128 MiB in half precision.
_MASK_NUMBERS = 1 << 26


@dataclass(frozen=True)
class Group:
    """``count`` neighbouring sequences from number ``first`` on, padded to ``length`` tokens."""

    first: int
    count: int
    length: int


def groups_of(lengths: Sequence[int], mask_heads: int = 0) -> list[Group]:
    """The groups of sequences of these lengths, in this order.

    Args:
        lengths: Tokens of each sequence.
        mask_heads: Heads that have masks of their own; it bounds how large a group is.
    """
    groups: list[Group] = []
    for at, length in enumerate(lengths):
        last = groups[-1] if groups else None
        if last is not None and -(-last.length // _STEP) == -(-length // _STEP):
            longest = max(last.length, length)
            if mask_heads * (last.count + 1) * longest**2 <= _MASK_NUMBERS:
                groups[-1] = Group(last.first, last.count + 1, longest)
                continue
        groups.append(Group(at, 1, length))
    return groups


def pays(packing: Packing, mask_heads: int = 0) -> bool:
    """Whether there are so many fewer groups than lengths that they outweigh the copies."""
    return len(packing.runs) > 2 and len(packing.runs) > 3 * len(groups_of(packing.lengths, mask_heads))


def grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    *,
    scale: float,
    causal: bool = False,
    window: int | None = None,
    bias: torch.Tensor | None = None,
    first: bool = False,
) -> torch.Tensor:
    """As `packed_attention`.

    Args:
        query: ``[tokens, heads, head size]``, or of each sequence's first token ``[sequences, heads, head size]``.
        key: ``[tokens, key heads, head size]``.
        value: As ``key``.
        packing: Where the sequences lie.
        scale: Factor of the scores.
        causal: A token attends to no later token.
        window: A token attends to another only if they are less than this apart.
        bias: ``[heads, longest, longest]`` or larger, added to the scores.
        first: Whether the queries are those of the first tokens.

    Returns:
        ``[tokens or sequences, heads * head size]``.
    """
    heads, device = query.shape[1], query.device
    groups = groups_of(packing.lengths, 0 if bias is None else heads)
    parts = []
    for group in groups:
        rows = packing.kept(("rows", group), partial(_rows, packing, group, device))
        which = ("seen", group, causal, window, first)
        seen = packing.kept(which, partial(_seen, packing, group, device, causal, window, first))
        k, v = (x[rows].view(group.count, group.length, *x.shape[1:]).transpose(1, 2) for x in (key, value))
        if first:
            q = query[group.first : group.first + group.count].unsqueeze(2)
        else:
            q = query[rows].view(group.count, group.length, *query.shape[1:]).transpose(1, 2)
        if k.shape[1] != heads:  # of torch's kernels only FlashAttention shares them, which takes no mask
            k, v = (x.unsqueeze(2).expand(-1, -1, heads // x.shape[1], -1, -1).flatten(1, 2) for x in (k, v))
        mask = seen
        if bias is not None:
            cut = bias[:, : q.shape[2], : group.length].to(q.dtype)
            mask = torch.where(seen, cut, float("-inf"))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        parts.append(out.transpose(1, 2).reshape(group.count * q.shape[2], -1))
    joined = torch.cat(parts)
    if first:
        return joined
    back = packing.kept(("back", len(groups)), lambda: on_device(_places(packing.lengths, groups), device))
    return joined[back]


def window_mask(length: int, causal: bool, window: int | None, device: torch.device) -> torch.Tensor:
    """bool ``[length, length]``: which token attends to which."""
    at = torch.arange(length, device=device)
    distance = at[:, None] - at[None, :]
    mask = distance.abs() < window if window is not None else torch.ones_like(distance, dtype=torch.bool)
    return mask & (distance >= 0) if causal else mask


def _rows(packing: Packing, group: Group, device: torch.device) -> torch.Tensor:
    """int64 ``[count * length]``: the tokens of a padded group.

    In the padding stands a sequence's first token again: as a key it is masked, and its own result is not read.
    """
    lengths = np.asarray(packing.lengths, dtype=np.int64)
    chosen = slice(group.first, group.first + group.count)
    begins, at = (np.cumsum(lengths) - lengths)[chosen, None], np.arange(group.length)[None]
    return on_device(np.where(at < lengths[chosen, None], begins + at, begins).ravel(), device)


def _seen(
    packing: Packing, group: Group, device: torch.device, causal: bool, window: int | None, first: bool
) -> torch.Tensor:
    """bool ``[count, 1, 1 or length, length]``: which token attends to which."""
    lengths = np.asarray(packing.lengths[group.first : group.first + group.count])
    seen = on_device(np.arange(group.length) < lengths[:, None, None, None], device)
    if first or (not causal and window is None):
        return seen
    return seen & window_mask(group.length, causal, window, device)


def _places(lengths: Sequence[int], groups: Sequence[Group]) -> np.ndarray:
    """int64 ``[tokens]``: where each token's result stands among those of the padded groups."""
    places, start = [], 0
    for group in groups:
        for length in lengths[group.first : group.first + group.count]:
            places.append(np.arange(start, start + length))
            start += group.length
    return np.concatenate(places)
