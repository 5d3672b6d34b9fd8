"""Single queries on a GPU as CUDA graphs.

Nearly all of a query's millisecond is Python's, launching a hundred kernels of a few microseconds. A graph launches
them at once, but with the shapes and addresses that it was captured with. So there is one for each of a few lengths: a
query is padded to the next of them, and the padding is a sequence of its own, which the bounds keep apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from situate.embedders.forward.packing import Packing, Run, on_device

#: Tokens that queries are padded to.
LENGTHS = (8, 16, 32, 64, 128)

#: Runs a captured pass again.
Replay: TypeAlias = Callable[[], object]
#: Captures a pass on a device: how to run it again, and where its results stand then.
Capture: TypeAlias = Callable[[Callable[[], torch.Tensor], torch.device], tuple[Replay, torch.Tensor]]


def captured(run: Callable[[], torch.Tensor], device: torch.device) -> tuple[Replay, torch.Tensor]:
    """`Capture` as a CUDA graph. Other threads may use the device meanwhile."""
    with torch.cuda.device(device):
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(2):  # what libraries prepare at a first call may not be captured
                run()
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            out = run()
    return graph.replay, out


@dataclass(frozen=True)
class _Graph:
    """One length's pass: its ids, the bounds of the query and of the padding behind it, and the results."""

    ids: torch.Tensor
    bounds: torch.Tensor
    out: torch.Tensor
    replay: Replay

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        count = len(ids)
        # What an earlier query left behind this one is padding as good as any.
        self.ids[:count].copy_(ids, non_blocking=True)
        self.bounds.copy_(_bounds(count, len(self.ids), self.bounds.device), non_blocking=True)
        self.replay()
        return self.out[:count]


class QueryGraphs:
    """A pass over one short sequence, replayed.

    Args:
        forward: The pass; of the packing it reads on the host nothing but `Packing.longest`.
        device: Where it runs.
        most: Tokens that the model has positions for.
        capture: Makes a graph.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor, Packing], torch.Tensor],
        device: torch.device,
        most: int,
        capture: Capture = captured,
    ) -> None:
        self._forward, self._device, self._capture = forward, device, capture
        self._lengths = [length for length in LENGTHS if length <= most]
        self._graphs: dict[int, _Graph | None] = {}

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """int64 ``[tokens]`` of one sequence -> ``[tokens, hidden]``, which the next call overwrites."""
        length = next((length for length in self._lengths if length >= len(ids)), None)
        if length is None:
            return self._forward(ids, packing)
        if length not in self._graphs:
            self._graphs[length] = self._made(length, ids, packing)
        graph = self._graphs[length]
        return self._forward(ids, packing) if graph is None else graph(ids)

    def _made(self, length: int, ids: torch.Tensor, packing: Packing) -> _Graph | None:
        """The graph of one length; None if it cannot be captured, or computes something else than the pass itself."""
        with torch.inference_mode(False), torch.no_grad():  # buffers that may be written in any mode
            fixed = torch.zeros(length, dtype=torch.int64, device=self._device)
            bounds = _bounds(len(ids), length, self._device)
            at = torch.arange(length, device=self._device)
            fixed[: len(ids)].copy_(ids)
        padded = Packing((len(ids), length - len(ids)), (Run(0, 1, length),), at, bounds, length)
        try:
            replay, out = self._capture(lambda: self._forward(fixed, padded), self._device)
            graph = _Graph(fixed, bounds, out, replay)
            got, wanted = graph(ids).float(), self._forward(ids, packing).float()
            right = bool(torch.linalg.vector_norm(got - wanted) <= 0.02 * torch.linalg.vector_norm(wanted))
        except RuntimeError:  # an operator that refuses to be captured; the pass itself has no such limits
            return None
        return graph if right else None


def _bounds(count: int, length: int, device: torch.device) -> torch.Tensor:
    return on_device(np.array([0, count, length], dtype=np.int32), device)
