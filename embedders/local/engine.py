"""Token ids -> pooled token vectors, in torch: batches, memory, reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from situate.embedders.forward import native
from situate.embedders.forward.chooser import ForwardChoice
from situate.embedders.forward.cores import CorePool, release_openmp_threads
from situate.embedders.forward.packing import Packing, on_device, on_host, recorded
from situate.embedders.local.scheduler import Job, Written
from situate.embedders.text.requests import Reduction
from situate.embedders.types import Vectors

#: More spans than this in a batch are summed one by one instead of by a product with a matrix of weights.
_PRODUCT_SEGMENTS = 128


class Engine:
    """A model on one device. Not thread-safe: its owner lets one thread at a time call `forward`.

    Args:
        choice: How the model runs.
        device: Where.
        batch_tokens: Most tokens of one pass over the model; None: a number that suits the device.

    Attributes:
        batch_tokens: Most tokens of one pass; halved when memory does not suffice.
        ahead: Passes that a GPU may have at once: one that it computes, and one to go on with.
        choice: How the model runs; the next pass uses what stands here.
        cores: Threads that sequences are dealt out to; None: one thread runs each pass.
    """

    def __init__(self, choice: ForwardChoice, device: torch.device, batch_tokens: int | None = None) -> None:
        self.device = device
        self.hidden_size = choice.hidden_size
        self.batch_tokens = batch_tokens or (_cpu_budget(choice.hidden_size) if device.type == "cpu" else 32768)
        self.ahead = 2 if device.type == "cuda" else 0
        self.packed = choice.packed
        self.choice = choice
        self.cores = CorePool() if device.type == "cpu" and choice.reentrant else None
        self._unwritten: list[Callable[[], None]] = []

    def forward(self, parts: Sequence[tuple[Job, NDArray[np.int64]]]) -> Written:
        """Run these sequences of these jobs in one pass, or in more where memory does not suffice.

        Returns:
            A function that returns when the results have been written. A GPU's are on their way until then.
        """
        rows = [(job, int(i)) for job, taken in parts for i in taken]
        if len(parts) > 1:
            rows.sort(key=lambda row: -row[0].lengths[row[1]])
        self._unwritten = []
        try:
            self._spread(rows)
        finally:
            release_openmp_threads()
        return partial(_write, self._unwritten, recorded(self.device) if self._unwritten else None)

    def _deliver(self, tensor: torch.Tensor, write: Callable[[Vectors], None]) -> None:
        """Call ``write`` with the tensor's numbers. A GPU's are copied when the pass is over, and written by `Written`:
        waiting for them here would keep the next pass from being prepared meanwhile."""
        if self.device.type != "cuda":
            write(tensor.cpu().numpy())
            return
        host = on_host(tensor)
        self._unwritten.append(lambda: write(host.numpy()))

    def _spread(self, rows: list[tuple[Job, int]]) -> None:
        if self.cores is None:
            self._halving(rows)
            return
        shares = self.cores.shares([int(job.lengths[i]) for job, i in rows])
        if len(shares) > 1:
            self.cores.map([partial(self._halving, [rows[at] for at in share]) for share in shares])
        elif self.choice.shared:
            self._halving(rows)  # whose workers do not wait for one that has no core
        else:
            self.cores.run_alone(partial(self._halving, rows))

    def _halving(self, rows: list[tuple[Job, int]]) -> None:
        """One pass, or as many as memory requires."""
        if self._fits(rows):
            return
        # After the handler of `_fits`, whose traceback keeps the failed pass's tensors. Half a batch may fit; and a
        # batch that did not fit once will not fit the next time either.
        self.batch_tokens = max(256, self.batch_tokens // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(rows) // 2
        self._halving(rows[:middle])
        self._halving(rows[middle:])

    def _fits(self, rows: list[tuple[Job, int]]) -> bool:
        try:
            self._pass(rows)
        except (torch.OutOfMemoryError, MemoryError):
            if len(rows) == 1:
                raise
            return False
        return True

    def _pass(self, rows: list[tuple[Job, int]]) -> None:
        """One pass over ``rows``, which are in order of length."""
        sequences = [job.request.sequences[i] for job, i in rows]
        packing = Packing.of([len(ids) for ids in sequences], self.device)
        ids = on_device(sequences[0] if len(rows) == 1 else np.concatenate(sequences), self.device)
        self._check_ids(sequences)
        with torch.inference_mode():
            hidden = self.choice.forward(ids, packing)
            if self.choice.after is not None:
                self.choice.after()
            places: dict[int, tuple[Job, NDArray[np.int64]]] = {}
            for (job, i), start in zip(rows, accumulate(packing.lengths, initial=0), strict=False):
                if id(job) not in places:
                    places[id(job)] = job, np.full(len(job.lengths), -1, dtype=np.int64)
                places[id(job)][1][i] = start
            self._reduce(hidden, list(places.values()))

    def _check_ids(self, sequences: Sequence[NDArray[np.int64]]) -> None:
        """Refuse an unknown id before it reaches a GPU, where it would end the context of the whole process.

        Raises:
            IndexError: There is no such id.
        """
        if self.device.type != "cpu" and self.choice.vocabulary is not None:
            ids = np.concatenate(sequences)
            if ids.min(initial=0) < 0 or ids.max(initial=0) >= self.choice.vocabulary:
                raise IndexError(f"a token's id is not among the model's {self.choice.vocabulary}")

    def _reduce(self, hidden: torch.Tensor, places: list[tuple[Job, NDArray[np.int64]]]) -> None:
        """Write the results of one pass; ``places`` says where each job's sequences begin in ``hidden``, or -1."""
        found = []
        for job, starts in places:
            rows, segments = np.arange(len(job.request.segments)), job.request.segments[:, 1:]
            if len(starts) > 1 or starts[0] != 0:  # otherwise it is a query, and the numbers are right as they are
                at = starts[job.request.segments[:, 0]]
                rows = np.flatnonzero(at >= 0)
                segments, at = segments[rows], at[rows]
                segments = np.column_stack([at + segments[:, 0], at + segments[:, 1], segments[:, 2]])
            found.append((job, rows, segments))
            if len(job.request.kept):
                self._keep(job, hidden, starts)
        segments = found[0][2] if len(found) == 1 else np.concatenate([f[2] for f in found])
        if not len(segments):
            return
        reduced = reduce_segments(hidden, segments, places[0][0].request.reduction)

        def write(vectors: Vectors) -> None:
            start = 0
            for job, rows, _ in found:
                job.result.reduced[rows] = vectors[start : start + len(rows)]
                start += len(rows)

        self._deliver(reduced, write)

    def _keep(self, job: Job, hidden: torch.Tensor, starts: NDArray[np.int64]) -> None:
        """Write the token vectors that a job asks for."""
        rows = np.flatnonzero(starts[job.request.kept[:, 0]] >= 0).tolist()
        pieces = []
        for row in rows:
            sequence, first, last = job.request.kept[row].tolist()
            begin = int(starts[sequence])
            pieces.append(hidden[begin + first : begin + last])
        if not pieces:
            return
        sizes = [len(piece) for piece in pieces]

        def write(tokens: Vectors) -> None:
            for row, size, end in zip(rows, sizes, accumulate(sizes), strict=True):
                # A copy: a view would keep the whole pass in memory for as long as one of its spans is held.
                job.result.kept[row] = tokens[end - size : end].copy()

        self._deliver((pieces[0] if len(pieces) == 1 else torch.cat(pieces)).float(), write)


def _write(writes: list[Callable[[], None]], over: torch.cuda.Event | None) -> None:
    """Write a pass's results when the device has reached ``over``."""
    if over is not None:
        over.synchronize()
    for write in writes:
        write()
    writes.clear()


def reduce_segments(hidden: torch.Tensor, segments: NDArray[np.int64], reduction: Reduction) -> torch.Tensor:
    """float32 ``[segments, hidden]`` of packed token vectors, whatever their format.

    Args:
        hidden: ``[tokens, hidden]``.
        segments: int64 ``[segments, 3]``: first row of ``hidden``, one past the last, weight of the first.
        reduction: As in `PoolingRequest`.
    """
    device = hidden.device
    compiled = native.library() if device.type == "cpu" and hidden.dtype == torch.float32 else None
    if reduction != "max" and compiled is not None and hidden.is_contiguous():
        # Each sum is added up in the order of its rows, whatever else is in the batch.
        out = torch.empty((len(segments), hidden.shape[1]))
        rows = np.ascontiguousarray(segments)
        weighted = reduction == "weighted"
        compiled.reduce(hidden.data_ptr(), hidden.shape[1], rows.ctypes.data, len(rows), weighted, out.data_ptr())
        return out
    first, last = segments[:, 0], segments[:, 1]
    if reduction != "max" and len(segments) <= _PRODUCT_SEGMENTS and device.type != "cuda":
        weights = np.zeros((len(segments), len(hidden)), dtype=np.float32)
        for row, (a, b, weight) in enumerate(segments.tolist()):
            weights[row, a:b] = 1.0 if reduction == "sum" else np.arange(weight, weight + b - a)
        return on_device(weights, device) @ hidden.float()
    sizes = last - first
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    tokens = hidden[on_device(np.repeat(first, sizes) + within, device)].float()
    if reduction == "weighted":
        weights = (np.repeat(segments[:, 2], sizes) + within).astype(np.float32)
        tokens = tokens * on_device(weights, device)[:, None]
    if device.type not in ("cpu", "cuda"):  # segment_reduce has no other kernels
        owners = on_device(np.repeat(np.arange(len(segments)), sizes), device)
        empty = tokens.new_zeros((len(segments), hidden.shape[1]))
        if reduction != "max":
            return empty.index_add_(0, owners, tokens)
        return empty.scatter_reduce_(0, owners[:, None].expand_as(tokens), tokens, "amax", include_self=False)
    reduced: torch.Tensor = torch.segment_reduce(
        tokens, "max" if reduction == "max" else "sum", lengths=on_device(sizes, device), unsafe=True
    )
    return reduced


def _cpu_budget(hidden_size: int) -> int:
    """Tokens of a pass whose widest intermediate still fits the cache: 3,072 at a hidden size of 384, for two cores."""
    return int(np.clip(3072 * 384 // hidden_size, 1024, 4096)) * max(2, torch.get_num_threads()) // 2
