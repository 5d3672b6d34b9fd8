"""Attention over packed sequences: no token sees another sequence, and no padding is computed."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional

from situate.embedders.forward.gpu import groups
from situate.embedders.forward.packing import Packing, Run

#: The name under which transformers' models find `transformers_attention`.
NAME = "situate_packed"

#: The scale at which scores are logarithms to base 2 already: fold ``1 / (BASE_2 * sqrt(head size))`` into the query.
BASE_2 = math.log(2)
#: Scores held at once on CPU: 8 MB in bfloat16.
_CPU_SCORES = 1 << 22
#: A single sequence on CPU up to this length takes the short path: preparing for longer or more ones costs more.
SHORT = 32
#: Sums of exponentials between these have lost nothing that matters to overflow or underflow.
_SMALLEST_SUM, _LARGEST_SUM = 1e-32, 1e35


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    *,
    scale: float,
    causal: bool = False,
    window: int | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Each sequence attends to itself.

    Args:
        query: ``[tokens, heads, head size]``, strided as it may be.
        key: ``[tokens, key heads, head size]``; fewer heads than the query's are shared (grouped queries).
        value: As ``key``.
        packing: Where the sequences lie.
        scale: Factor of the scores.
        causal: A token attends to no later token.
        window: A token attends to another only if they are less than this apart.
        bias: ``[heads, longest, longest]`` or larger, added to the scores; it depends on the distance alone.

    Returns:
        ``[tokens, heads * head size]``.
    """
    if window is not None and packing.longest <= window:
        window = None
    kernel = kernel_for(query.device, query.dtype, query.shape[-1]) if bias is None else None
    if kernel is not None:
        return kernel(query, key, value, packing, scale, causal, window, False).flatten(1)
    if query.device.type != "cpu" and groups.pays(packing, 0 if bias is None else query.shape[1]):
        return groups.grouped_attention(
            query, key, value, packing, scale=scale, causal=causal, window=window, bias=bias
        )
    plain = (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and not causal
        and window is None
        and bias is None
        and query.shape[1] == key.shape[1]
        and (len(packing.lengths) > 1 or packing.longest > SHORT)
    )
    if len(packing.runs) == 1:
        return _run(query, key, value, packing.runs[0], packing, plain, scale, causal, window, bias)
    out = query.new_empty((query.shape[0], query.shape[1] * query.shape[2]))
    for run in packing.runs:
        tokens = slice(run.start, run.start + run.count * run.length)
        parts = query[tokens], key[tokens], value[tokens]
        out[tokens] = _run(*parts, run, packing, plain, scale, causal, window, bias)
    return out


def first_token_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    *,
    scale: float,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """The first token of each sequence attends to all of its sequence.

    Args:
        query: ``[sequences, heads, head size]``: of the first tokens.
        key: ``[tokens, heads, head size]``.
        value: As ``key``.
        packing: Where the sequences lie.
        scale: Factor of the scores.
        bias: As in `packed_attention`.

    Returns:
        ``[sequences, heads * head size]``.
    """
    kernel = kernel_for(query.device, query.dtype, query.shape[-1]) if bias is None else None
    if kernel is not None:
        return kernel(query, key, value, packing, scale, False, None, True).flatten(1)
    if query.device.type != "cpu" and groups.pays(packing, 0 if bias is None else query.shape[1]):
        return groups.grouped_attention(query, key, value, packing, scale=scale, bias=bias, first=True)
    out = query.new_empty((len(packing.lengths), query.shape[1], 1, query.shape[2]))
    done = 0
    for run in packing.runs:
        tokens = slice(run.start, run.start + run.count * run.length)
        rows = slice(done, done + run.count)
        done += run.count
        keys, values = (t[tokens].reshape(run.count, run.length, *t.shape[1:]).transpose(1, 2) for t in (key, value))
        out[rows] = functional.scaled_dot_product_attention(
            query[rows, :, None],
            keys,
            values,
            attn_mask=None if bias is None else bias[:, :1, : run.length].to(query.dtype),
            scale=scale,
        )
    return out.flatten(1)


def packed_self_attention(
    joined: torch.Tensor, packing: Packing, *, scale: float, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`packed_attention` of queries, keys and values that one product made.

    A query's pass is one short sequence, where every operator counts, and splitting the product is most of them.

    Args:
        joined: ``[tokens, 3, heads, head size]``.
        packing: Where the sequences lie.
        scale: Factor of the scores.
        bias: As in `packed_attention`.

    Returns:
        ``[tokens, heads * head size]``.
    """
    if len(packing.lengths) > 1 or packing.longest > SHORT or bias is not None or joined.device.type != "cpu":
        query, key, value = joined.unbind(1)
        return packed_attention(query, key, value, packing, scale=scale, bias=bias)
    if joined.dtype != torch.float32:
        query, key, value = joined.unsqueeze(0).permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(query, key, value, scale=scale)
        return out.transpose(1, 2).reshape(joined.shape[0], -1)
    return short_attention(joined, scale)


def short_attention(joined: torch.Tensor, scale: float) -> torch.Tensor:
    """`packed_self_attention` of one short sequence in float32; TorchScript reads this.

    Two products take two thirds of the time of scaled_dot_product_attention, whose tiles are larger than these
    sequences. In bfloat16 they would round the scores.
    """
    query, key, value = joined.permute(1, 2, 0, 3).unbind(0)
    scores = torch.baddbmm(query.new_empty([1]), query, key.transpose(1, 2), beta=0, alpha=scale)
    return torch.bmm(torch.softmax(scores, -1), value).transpose(0, 1).reshape(joined.shape[0], -1)


def transformers_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_bias: torch.Tensor | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`packed_attention` as transformers' attention interface calls it, on ``[1, heads, tokens, head size]``.

    Further keyword arguments are ignored, as the interface requires: models pass arguments for other implementations.

    Raises:
        NotImplementedError: The model needs an option that packing does not support here, or passes no packing.
    """
    if packing is None or softcap is not None or s_aux is not None or query.shape[0] != 1:
        raise NotImplementedError("this model's attention cannot be packed")
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    # Rotary embeddings in float32 lift queries and keys to float32; values keep the format to compute in.
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    query, key = query.to(value.dtype), key.to(value.dtype)
    bias = None if position_bias is None else position_bias[0, :, : packing.longest, : packing.longest]
    out = packed_attention(
        query,
        key,
        value,
        packing,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=is_causal,
        window=sliding_window,
        bias=bias,
    )
    return out.view(1, query.shape[0], query.shape[1], -1), None


def register() -> None:
    """Register `transformers_attention` with transformers under `NAME`; repeated calls are harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, transformers_attention)


def _run(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    run: Run,
    packing: Packing,
    plain: bool,
    scale: float,
    causal: bool,
    window: int | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of the sequences of one run, ``[count * length, heads * head size]``."""
    q, k, v = (x.reshape(run.count, run.length, *x.shape[1:]).transpose(1, 2) for x in (query, key, value))
    if plain:
        return _matmul_attention(q, k, v, scale, packing)
    mask = None
    if window is not None and run.length > window:
        mask = packing.kept(
            (run.length, causal, window), lambda: groups.window_mask(run.length, causal, window, q.device)
        )
        causal = False
    if bias is not None:
        cut = bias[:, : run.length, : run.length].to(q.dtype)
        mask = cut if mask is None else cut.masked_fill(~mask, float("-inf"))
    out = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2).reshape(run.count * run.length, -1)


def _matmul_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, packing: Packing
) -> torch.Tensor:
    """Attention in bfloat16 on CPU by two batched products, in blocks.

    The CPU kernel of scaled_dot_product_attention multiplies small tiles, which is slower. A softmax is its
    exponentials over their sum; subtracting the maximum first only guards against overflow, and means going through
    all scores twice more. So it is left out, and a block whose sums come near the format's limits is computed again
    with it. Powers of 2 are cheaper than those of e. Fresh memory costs page faults, so all blocks of all layers write
    their scores to the same buffer.
    """
    count, heads, length, size = q.shape
    if scale != BASE_2:
        q = q * (scale / BASE_2)
    rows, step = _block(heads, length)
    step = min(step, count)
    room = max(
        heads * run.length * min(run.count, _block(heads, run.length)[1]) * _block(heads, run.length)[0]
        for run in packing.runs
    )
    scores = packing.kept("scores", lambda: q.new_empty(room))
    if step == count and rows == length:
        out = _exponential_attention(q, k, v, scores)
        return out.transpose(1, 2).reshape(count * length, heads * size)
    out = q.new_empty((count, length, heads, size)).transpose(1, 2)
    for first in range(0, count, step):
        block = slice(first, first + step)
        for top in range(0, length, rows):
            part = slice(top, top + rows)
            out[block, :, part] = _exponential_attention(q[block, :, part], k[block], v[block], scores)
    return out.transpose(1, 2).reshape(count * length, heads * size)


def _block(heads: int, length: int) -> tuple[int, int]:
    """Query rows and sequences whose scores are held at once."""
    rows = min(length, max(32, _CPU_SCORES // (heads * length)))
    return rows, max(1, _CPU_SCORES // (heads * length * rows))


def _exponential_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """One block of `_matmul_attention`; the query is scaled to base 2."""
    keys = k.transpose(-1, -2)
    shape = (*q.shape[:3], k.shape[2])
    weights = torch.matmul(q, keys, out=scores[: math.prod(shape)].view(shape)).exp2_()
    sums = weights.sum(-1, keepdim=True)
    low, high = torch.aminmax(sums)
    if low.item() < _SMALLEST_SUM or not high.item() < _LARGEST_SUM:
        return torch.matmul(torch.softmax(torch.matmul(q, keys) * BASE_2, -1), v)
    return torch.matmul(weights, v).div_(sums)


#: Queries, keys, values, packing, scale, causal, window, and whether the queries are those of the first tokens alone.
_Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Packing, float, bool, int | None, bool], torch.Tensor]


def kernel_for(device: torch.device, dtype: torch.dtype, size: int) -> _Kernel | None:
    """The kernel for sequences of unequal length, where FlashAttention-2 computes this: half precision on Ampere and
    later, heads of a multiple of 8 and at most 256 numbers."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or size % 8 or size > 256:
        return None
    return _varlen_kernel() if torch.cuda.get_device_capability(device) >= (8, 0) else None


def _sizes(packing: Packing, first: bool) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """Bounds of the queries' and of the keys' sequences, and the longest of each."""
    if not first:
        return packing.bounds, packing.bounds, packing.longest, packing.longest
    count = len(packing.lengths) + 1
    bounds = packing.kept("first", lambda: torch.arange(count, dtype=torch.int32, device=packing.bounds.device))
    return bounds, packing.bounds, 1, packing.longest


@lru_cache(maxsize=1)
def _varlen_kernel() -> _Kernel | None:
    """A CUDA kernel for sequences of unequal length: flash-attn's where it is installed, else torch's own."""
    if importlib.util.find_spec("flash_attn") is not None:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found, unused-ignore]

        def flash(
            q: torch.Tensor,
            k: torch.Tensor,
            v: torch.Tensor,
            packing: Packing,
            scale: float,
            causal: bool,
            window: int | None,
            first: bool,
        ) -> torch.Tensor:
            side = -1 if window is None else window - 1
            out: torch.Tensor = flash_attn_varlen_func(
                q,
                k,
                v,
                *_sizes(packing, first),
                softmax_scale=scale,
                causal=causal,
                window_size=(side, 0 if causal else side),
            )
            return out

        return flash
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    attend: Any = varlen_attn
    parameters = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= parameters.keys():
        return None
    # The kernel itself shares key heads among query heads; before torch 2.12 there is no parameter to say so.
    grouped = "enable_gqa" in parameters

    def varlen(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        packing: Packing,
        scale: float,
        causal: bool,
        window: int | None,
        first: bool,
    ) -> torch.Tensor:
        side = -1 if window is None else window - 1
        # Only the numbers of a head have to lie side by side, so thirds of one product are taken as they are.
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        more = {"enable_gqa": q.shape[1] != k.shape[1]} if grouped else {}
        sides = (side, 0 if causal else side)
        out: torch.Tensor = attend(q, k, v, *_sizes(packing, first), scale=scale, window_size=sides, **more)
        return out

    return varlen
