"""A post-norm encoder's pass over one sequence, without the interpreter between its operators.

A query's pass is a hundred operators of some ten to a hundred microseconds, and Python's way from one to the next takes
a fifth of it; handing over FBGEMM's weights, objects of a class of their own, is the longest. TorchScript calls the
same operators out of compiled code, bit for bit, and lets Python's other threads work meanwhile.

torch advises against TorchScript for new code. What it advises instead wants a C++ compiler on the user's machine
(torch.compile) or goes back to Python (torch.export). So the pass is compiled where that works, and compared with the
one in Python; without it, all is as before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from situate.embedders.forward.attention import short_attention

#: int64 ``[tokens]`` ids of one sequence, and what is added to the scores -> float32 ``[tokens, hidden]``.
Pass: TypeAlias = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]

#: What a compiled pass is tried on.
PROBE = torch.arange(7)


class Attention(torch.nn.Module):
    """`_attention.packed_self_attention` of one sequence.

    Args:
        heads: Number of them.
        scale: Factor of the scores.
        short: Up to so many tokens, and in float32, it is `short_attention`.
    """

    def __init__(self, heads: int, scale: float, short: int) -> None:
        super().__init__()
        self.heads, self.scale, self.short = heads, scale, short

    def forward(self, joined: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """``[tokens, 3 * heads * head size]`` -> ``[tokens, heads * head size]``."""
        tokens = joined.shape[0]
        joined = joined.view(tokens, 3, self.heads, -1)
        if bias is None and tokens <= self.short and joined.dtype == torch.float32:
            return short_attention(joined, self.scale)
        query, key, value = joined.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        mask = None if bias is None else bias[:, :tokens, :tokens].to(joined.dtype)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        return out.transpose(1, 2).reshape(tokens, -1)


class Norm(torch.nn.Module):
    """Layer normalisation."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.size = list(weight.shape)
        self.weight, self.bias, self.epsilon = weight, bias, epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., size]`` of the same shape."""
        return torch.layer_norm(x, self.size, self.weight, self.bias, self.epsilon)


class Layer(torch.nn.Module):
    """One layer.

    Args:
        dtype: Format to compute products in.
        attention: The same for all layers.
        inputs: What `Projection.scriptable` returns, as the other projections.
        output: Behind the attention.
        output_norm: Behind that.
        up: With the activation.
        down: Behind it.
        down_norm: Behind that.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        attention: Attention,
        inputs: torch.nn.Module,
        output: torch.nn.Module,
        output_norm: Norm,
        up: torch.nn.Module,
        down: torch.nn.Module,
        down_norm: Norm,
    ) -> None:
        super().__init__()
        self.dtype, self.attention = dtype, attention
        self.inputs, self.output, self.output_norm = inputs, output, output_norm
        self.up, self.down, self.down_norm = up, down, down_norm

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """``[tokens, hidden]`` of the same shape; ``x`` is overwritten."""
        x = self.output_norm(x.add_(self.output(self.attention(self.inputs(x.to(self.dtype)), bias))))
        out: torch.Tensor = self.down_norm(x.add_(self.down(self.up(x.to(self.dtype)))))
        return out


class Stack(torch.nn.Module):
    """All of the model.

    Args:
        dtype: Format to compute products in.
        words: ``[vocabulary, width]``.
        positions: ``[longest, width]``, that of the first token first.
        norm: Behind their sum.
        project: From the width of the embeddings to that of the layers, where they differ.
        layers: In order.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        words: torch.Tensor,
        positions: torch.Tensor,
        norm: Norm,
        project: torch.nn.Module | None,
        layers: Iterable[Layer],
    ) -> None:
        super().__init__()
        self.dtype, self.words, self.positions = dtype, words, positions
        self.norm, self.project = norm, project
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, ids: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """int64 ``[tokens]`` -> ``[tokens, hidden]``."""
        x: torch.Tensor = self.norm(functional.embedding(ids, self.words).add_(self.positions[: ids.shape[0]]))
        if self.project is not None:
            x = self.project(x.to(self.dtype)).to(self.words.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        return x


def compiled(stack: Stack, same: Pass, bias: torch.Tensor | None) -> Pass | None:
    """The pass out of compiled code; None where torch cannot, or where it computes something else.

    Args:
        stack: The model.
        same: What it must compute.
        bias: As a pass over `PROBE` takes it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            script: Any = torch.jit.script(stack.eval())
        # Twice, for it is the second pass in which TorchScript makes its plan: no query shall wait for that.
        found = [script(PROBE, bias) for _ in range(2)]
    except Exception:  # noqa: BLE001  a private corner of torch, and no source to be read in a frozen application
        return None
    wanted = same(PROBE, bias)
    run: Pass = script
    return run if all(torch.allclose(each, wanted, rtol=1e-4, atol=1e-5) for each in found) else None
