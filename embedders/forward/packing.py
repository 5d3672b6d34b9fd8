"""Sequences laid one behind the other, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Positions of short sequences such as queries, made once.
_POSITIONS = torch.arange(512)


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` neighbouring sequences of ``length`` tokens each, the first of which begins at token ``start``."""

    start: int
    count: int
    length: int


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the sequences of a packed batch begin and end.

    Attributes:
        lengths: Tokens of each sequence.
        runs: The same as runs of equal length.
        position_ids: int64 ``[tokens]``, from 0 in every sequence.
        bounds: int32 ``[sequences + 1]``: where each sequence begins, and the end.
        longest: Tokens of the longest sequence.
        types: int64 ``[tokens]``: 1 in the second text of a pair; None where there are no pairs.
    """

    lengths: tuple[int, ...]
    runs: tuple[Run, ...]
    position_ids: torch.Tensor
    bounds: torch.Tensor
    longest: int
    types: torch.Tensor | None = None
    _kept: dict[object, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, second: Sequence[int] | None = None) -> Packing:
        """The packing of sequences with these lengths, in this order.

        Args:
            lengths: Tokens of each sequence.
            device: Where its tensors go.
            second: Of pairs, where the second text begins in each sequence.
        """
        runs: list[Run] = []
        start = 0
        for length in lengths:
            last = runs[-1] if runs else None
            if last is not None and last.length == length:
                runs[-1] = Run(last.start, last.count + 1, length)
            else:
                runs.append(Run(start, 1, length))
            start += length
        types = None
        if second is not None:
            inside = [np.arange(length) >= begin for length, begin in zip(lengths, second, strict=True)]
            types = on_device(np.concatenate(inside).astype(np.int64), device)
        if len(lengths) == 1:
            on_cpu = device.type == "cpu"
            short = on_cpu and start <= len(_POSITIONS)
            positions = _POSITIONS[:start] if short else torch.arange(start, device=device)
            bounds = np.array([0, start], dtype=np.int32)
        else:
            sizes = np.asarray(lengths, dtype=np.int64)
            ends = np.cumsum(sizes)
            bounds = np.concatenate([[0], ends]).astype(np.int32)
            within = np.arange(start, dtype=np.int64) - np.repeat(ends - sizes, sizes)
            positions = on_device(within, device)
        return cls(
            lengths=tuple(lengths),
            runs=tuple(runs),
            position_ids=positions,
            bounds=on_device(bounds, device),
            longest=max(lengths, default=0),
            types=types,
        )

    def kept(self, key: object, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What ``make`` returns, made once per packing: masks are the same in every layer."""
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = make()
        return found


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array as a tensor there. A GPU is not waited for: only from pinned memory is a copy truly asynchronous."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a GPU's tensor in pinned memory, complete when an event that is `recorded` afterwards has passed."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def recorded(device: torch.device) -> torch.cuda.Event:
    """An event behind all that the GPU has been given so far. Waiting for it leaves the CPU to others."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
