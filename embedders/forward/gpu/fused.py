"""A sum and the layer normalisation behind it in one pass over memory, by Triton on a GPU.

torch reads and writes the residual stream twice for the two, and rounds the sum in between. Triton comes with torch's
builds for CUDA, and needs a C compiler at its first use; where it is missing or errs, torch computes.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache

import torch


def add_norm(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """``layer_norm(x + y)``, the sum in float32, for which `works` is true.

    Args:
        x: ``[rows, size]``.
        y: Likewise.
        weight: ``[size]``.
        bias: ``[size]``.
        epsilon: Added to the variance.

    Returns:
        A new tensor like ``x``.
    """
    from situate.embedders.forward.gpu.kernels import add_norm_kernel

    x, y = x.contiguous(), y.contiguous()
    out = torch.empty_like(x)
    if len(x):
        size = x.shape[-1]
        width = 1 << (size - 1).bit_length()
        warps = min(16, max(1, width // 256))
        # Triton launches on the current device, wherever its arguments are.
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            add_norm_kernel[(len(x),)](x, y, weight, bias, out, size, epsilon, WIDTH=width, num_warps=warps)
    return out


@lru_cache(maxsize=32)
def works(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether Triton is there for this device and computes `add_norm` of rows of this size as torch does."""
    if device.type != "cuda" or size > 1 << 14 or importlib.util.find_spec("triton") is None:
        return False
    generator = torch.Generator().manual_seed(0)
    x, y = (4 * torch.randn(3, size, generator=generator).to(device, dtype) for _ in range(2))
    weight, bias = (torch.randn(size, generator=generator).to(device, dtype) for _ in range(2))
    try:
        got = add_norm(x, y, weight, bias, 1e-6).float()
    except Exception:  # noqa: BLE001  a compiler of any kind may be missing or fail in any way; torch computes the same
        return False
    wanted = torch.layer_norm(x.float() + y.float(), [size], weight.float(), bias.float(), 1e-6)
    return bool(torch.allclose(got, wanted, rtol=2e-2, atol=2e-2))
