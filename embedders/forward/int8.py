"""Weights in int8 for the compiled pass.

Weights have a scale for each output channel, activations a range for each token, found in the pass: no text's vector
depends on another's, and nothing is calibrated. A few channels of an encoder's activations are many times larger than
the others and would take the precision of all. They are made smaller before they are rounded, and their weights larger
by the same factor (SmoothQuant, Xiao et al. 2023, https://arxiv.org/abs/2211.10438). Behind a norm the sizes of the
channels are known without any text: the norm's own weights give them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_LARGEST = 127
#: Neighbouring weights of one sign are at most so large together: see `int8.h`.
_PAIR = 128
#: Four neighbouring inputs meet four weights of a column in one instruction.
_QUAD = 4
#: Scales that are tried, relative to the one at which a channel's largest weight is 127. Below 1 the largest are cut
#: off, above 1 fewer pairs are.
_SCALES = (2.0, 1.7, 1.5, 1.3, 1.2, 1.1, 1.0, 0.9, 0.8)


@dataclass(frozen=True)
class QuantizedLinear:
    """A linear layer's weights in int8.

    Attributes:
        panels: int8 ``[out / 16, in / 4, 16, 4]``.
        scales: float32 ``[out]``: the unit of a channel's weights.
        sums: float32 ``[out]``: of a channel's weights, as they are after rounding.
        smoothing: float32 ``[in]``: factors of the inputs, by which the weights were divided.
    """

    panels: torch.Tensor
    scales: torch.Tensor
    sums: torch.Tensor
    smoothing: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor, sizes: torch.Tensor | None, panel: int) -> QuantizedLinear:
        """The weights of a layer.

        Args:
            weight: ``[out, in]``.
            sizes: float32 ``[in]``: how large each input channel is, in any unit; None: all are alike.
            panel: Columns of a panel.
        """
        weight = weight.detach().float()
        smoothing = torch.ones(weight.shape[1]) if sizes is None else _smoothing(weight, sizes)
        rounded, scales = _rounded(weight / smoothing)
        rows, columns = weight.shape
        quads = rounded.to(torch.int8).view(rows // panel, panel, columns // _QUAD, _QUAD)
        return cls(
            panels=quads.transpose(1, 2).contiguous(),
            scales=scales,
            sums=rounded.sum(1) * scales,
            smoothing=smoothing,
        )


def _smoothing(weight: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """``sqrt(largest weight / size)`` of each input channel, so that activations and weights share its outliers."""
    smallest = torch.finfo(torch.float16).tiny
    factors = (weight.abs().amax(0).clamp(min=smallest) / sizes.clamp(min=smallest)).sqrt()
    return factors / factors.log().mean().exp()


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 ``[out, in]`` of whole numbers, and ``[out]``: the scales with the least squared error."""
    largest = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny * _PAIR)
    best, chosen, least = weight, largest, torch.full_like(largest, torch.inf)
    for relative in _SCALES:
        scales = relative * largest / _LARGEST
        rounded = _within_pairs((weight / scales[:, None]).round().clamp(-_LARGEST, _LARGEST))
        error = (rounded * scales[:, None] - weight).square().sum(1)
        better = error < least
        best = torch.where(better[:, None], rounded, best)
        chosen, least = torch.where(better, scales, chosen), torch.minimum(error, least)
    return best, chosen


def _within_pairs(rounded: torch.Tensor) -> torch.Tensor:
    """Neighbours of one sign whose sum is too large, the larger one made smaller."""
    left, right = rounded[:, ::2], rounded[:, 1::2]
    over = ((left + right).abs() - _PAIR).clamp(min=0) * (left * right > 0)
    cut = torch.where(left.abs() >= right.abs(), left, right).sign() * over
    first = left.abs() >= right.abs()
    return torch.stack([left - cut * first, right - cut * ~first], 2).view_as(rounded)
