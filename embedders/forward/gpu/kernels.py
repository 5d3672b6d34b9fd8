"""Triton's kernels. Importing it takes a while, so this module is imported where a GPU is at hand."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("triton") is not None:
    import triton  # type: ignore[import-not-found, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, unused-ignore]

    @triton.jit  # type: ignore[untyped-decorator, unused-ignore]
    def add_norm_kernel(x, y, weight, bias, out, size, epsilon, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
        """One row: all pointers are to rows of ``size`` numbers, one behind the other; ``WIDTH`` is a power of two."""
        row = tl.program_id(0).to(tl.int64) * size
        at = tl.arange(0, WIDTH)
        inside = at < size
        total = tl.load(x + row + at, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(y + row + at, mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(inside, total - tl.sum(total, 0) / size, 0.0)
        scaled = centred / tl.sqrt(tl.sum(centred * centred, 0) / size + epsilon)
        scaled = scaled * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
        scaled = scaled + tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row + at, scaled.to(out.dtype.element_ty), mask=inside)
