"""BERT-style encoders in compiled code (`_native.c`), where it was built and the processor has AVX2.

torch follows each product with separate passes over bias and activation, and on several cores each of a hundred
operators begins and ends with the cores waiting for one another. Here workers share one pass from its first product to
its last. Every number is added up in one order, whatever else is in the batch and however many workers there
are: a text has the same vector, bit for bit, alone and among others.
"""

from __future__ import annotations

import ctypes
import importlib
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch

from situate.embedders.forward.bert_weights import PostNormModules
from situate.embedders.forward.int8 import QuantizedLinear
from situate.embedders.forward.packing import Packing
from situate.errors import ConventionError
from situate.threads import ThreadPool

#: Columns of a panel of weights, and activations in the order of `_native.c`.
_PANEL = 16
_ACTIVATIONS = ("gelu", "gelu_tanh", "relu")
_STAGES_OF_A_LAYER = 8
#: Sequences of so many tokens together share a pass: what it writes still fits the cache then, and the weights, which
#: are read once a pass, are read seldom enough.
_TOKENS = 192
#: Memory for longer passes is not kept.
_KEPT_TOKENS = 1024
#: Workers of one pass. More were not measured.
_MOST_WORKERS = 4


class _Matrix(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("panels", "bias", "scales", "sums", "smoothing"))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Matrix) for name in ("inputs", "output", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("norm", "norm_bias", "last_norm", "last_norm_bias")),
        ("epsilon", ctypes.c_double),
        ("last_epsilon", ctypes.c_double),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_void_p) for name in ("words", "positions", "norm", "norm_bias")),
        ("epsilon", ctypes.c_double),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("hidden", "inner", "heads", "depth", "activation", "vocabulary")),
        *((name, ctypes.c_int64) for name in ("second", "kernel")),
    )


class _Job(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("ids", "types", "bounds", "bias", "x", "sum", "seen", "inner", "scratch")
        ),
        *((name, ctypes.c_void_p) for name in ("x8", "wide8", "x_ranges", "wide_ranges")),
        *((name, ctypes.c_void_p) for name in ("taken", "done")),
        *((name, ctypes.c_int64) for name in ("sequences", "tokens", "bias_size", "workers", "scratch_size")),
        *((name, ctypes.c_int) for name in ("begun", "inside", "unknown")),
    )


@lru_cache(maxsize=1)
def library() -> Any:
    """The compiled module; None where it was not built, is of another version, or the processor lacks what it needs."""
    try:
        found: Any = importlib.import_module("situate.embedders.forward._native")
    except ImportError:
        return None
    layout = (ctypes.sizeof(_Layer), ctypes.sizeof(_Model), ctypes.sizeof(_Job), _PANEL)
    return found if found.supported() and found.layout() == layout else None


def int8_kernels() -> dict[str, int]:
    """The kernels of products in int8 that run here, best first, and their numbers in the compiled module."""
    compiled = library()
    return {} if compiled is None else dict(compiled.kernels())


def int8_forward(model: Any) -> NativeForward:
    """The model with products in int8, by the best kernel that runs here.

    Raises:
        ConventionError: It cannot be computed in int8 here.
    """
    if library() is None:
        why = "it needs a processor with AVX2, and a C compiler when situate was installed"
    elif not PostNormModules.fits(model):
        kinds = "BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT and MPNet"
        why = f"models of the type {model.config.model_type!r} have no such pass, only {kinds} do"
    elif not NativeForward.fits(model):
        why = f"the sizes of its heads and layers must be multiples of {_PANEL}, and all its layers have a bias"
    else:
        return NativeForward(model, next(iter(int8_kernels())))
    raise ConventionError(f"dtype='int8' cannot be used: {why}; use dtype='auto'")


class NativeForward:
    """Token vectors of packed sequences. Products are computed in float32 on weights stored in float16, or in int8.

    Args:
        model: The transformers model that the weights are read from; one that `fits`. It is not kept.
        kernel: Of products in int8, one of `int8_kernels`; all compute the same numbers. None: float32.

    Attributes:
        helpers: Threads that compute a pass with its caller.
    """

    def __init__(self, model: Any, kernel: str | None = None) -> None:
        parts = PostNormModules.of(model)
        self._quantized = kernel is not None
        self._tensors: list[torch.Tensor] = []  # what the structures point to
        self._distances = parts.distances
        self._positions = len(parts.positions)
        self._layers = (_Layer * len(parts.layers))()
        before = parts.norm
        for layer, modules in zip(self._layers, parts.layers, strict=True):
            layer.inputs = self._matrix(*modules.joined(), before)
            layer.output = self._matrix(modules.output.weight, modules.output.bias)
            layer.up = self._matrix(modules.up.weight, modules.up.bias, modules.output_norm)
            layer.down = self._matrix(modules.down.weight, modules.down.bias)
            before = modules.down_norm
            for name, module in (("norm", modules.output_norm), ("last_norm", modules.down_norm)):
                setattr(layer, name, self._floats(module.weight))
                setattr(layer, f"{name}_bias", self._floats(module.bias))
            layer.epsilon, layer.last_epsilon = modules.output_norm.eps, modules.down_norm.eps
        inner, self._hidden = parts.layers[0].up.weight.shape
        second = 0 if parts.second is None else len(parts.positions)
        tables = (
            parts.positions if parts.second is None else torch.cat([parts.positions, parts.positions + parts.second])
        )
        self._model = _Model(
            layers=self._layers,
            words=self._floats(parts.words),
            positions=self._floats(tables),
            norm=self._floats(parts.norm.weight),
            norm_bias=self._floats(parts.norm.bias),
            epsilon=parts.norm.eps,
            scale=(self._hidden // parts.heads) ** -0.5,
            hidden=self._hidden,
            inner=inner,
            heads=parts.heads,
            depth=len(parts.layers),
            activation=_ACTIVATIONS.index(parts.activation),
            vocabulary=len(parts.words),
            second=second,
            kernel=0 if kernel is None else int8_kernels()[kernel],
        )
        self._free: deque[_Scratch] = deque(maxlen=_MOST_WORKERS)
        self.helpers = ThreadPool(_MOST_WORKERS - 1, "situate-helper")

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether the model can run here: the library is built, shapes are whole panels, float16 holds the weights."""
        if library() is None or not PostNormModules.fits(model):
            return False
        parts = PostNormModules.of(model)
        largest = torch.finfo(torch.float16).max
        linears = [
            module
            for layer in parts.layers
            for module in (layer.query, layer.key, layer.value, layer.output, layer.up, layer.down)
        ]
        head = linears[0].out_features // parts.heads if linears else 0
        return (
            parts.project is None
            and bool(linears)
            and head % _PANEL == 0
            and all(size % _PANEL == 0 for linear in linears for size in linear.weight.shape)
            and all(
                linear.bias is not None and float(linear.weight.detach().abs().max()) <= largest for linear in linears
            )
        )

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """int64 ``[tokens]`` ids -> float32 ``[tokens, hidden]``.

        Raises:
            IndexError: There is no such id, or no such position.
        """
        if packing.longest > self._positions:
            raise IndexError(
                f"a sequence has {packing.longest} tokens, but the model has positions for {self._positions}"
            )
        ids, bounds = ids.contiguous(), packing.bounds
        out = torch.empty((len(ids), self._hidden))
        bias = None if self._distances is None else self._distances(packing.longest, ids.device, torch.float32)
        workers = min(torch.get_num_threads(), _MOST_WORKERS)
        unknown, begin = False, 0
        for first, last, tokens in _groups(packing.lengths):
            scratch = self._scratch(tokens, last - first, workers)
            scratch.held = (ids, packing.types, bounds, bias, out)
            job = scratch.job
            job.ids, job.bounds = ids.data_ptr() + 8 * begin, bounds.data_ptr() + 4 * first
            job.x, job.sequences, job.tokens = out.data_ptr() + 4 * begin * self._hidden, last - first, tokens
            job.types = None if packing.types is None else packing.types.data_ptr() + 8 * begin
            job.bias, job.bias_size = (None, 0) if bias is None else (bias.data_ptr(), bias.shape[-1])
            unknown |= self._run(scratch, workers)
            begin += tokens
        if unknown:
            raise IndexError(f"a token's id is not among the model's {self._model.vocabulary}")
        return out

    def _run(self, scratch: _Scratch, workers: int) -> bool:
        """One pass by this thread and by the helpers that are free. Whether an id was unknown."""
        run, model, job = library().run, ctypes.addressof(self._model), ctypes.addressof(scratch.job)

        def take_part() -> bool:
            last, unknown = run(model, job)
            if last:
                scratch.held = ()
                if scratch.tokens <= _KEPT_TOKENS:
                    self._free.append(scratch)  # another pass may use it from here on
            return bool(unknown)

        helpers = self.helpers.free(workers - 1)
        scratch.job.inside = 1 + helpers
        # `take_part` holds the model (`self`), the job and all that it points to (`scratch`): an interrupt may end this
        # call anywhere, and helpers then compute the pass to its end without it.
        self.helpers.share(take_part, helpers)
        return take_part()

    def _scratch(self, tokens: int, sequences: int, workers: int) -> _Scratch:
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = None
        if scratch is None or not scratch.suffices(tokens, sequences, workers):
            scratch = _Scratch(self._model, max(tokens, _TOKENS), max(sequences, 16), workers)
        scratch.clear()
        return scratch

    def _matrix(self, weight: torch.Tensor, bias: torch.Tensor, norm: Any = None) -> _Matrix:
        """A linear layer, the input of which comes out of ``norm``."""
        if not self._quantized:
            return _Matrix(panels=self._panels(weight), bias=self._floats(bias))
        # What a norm gives has its bias as mean and its weight as deviation.
        sizes = None if norm is None else (norm.weight.detach().square() + norm.bias.detach().square()).sqrt().float()
        layer = QuantizedLinear.of(weight, sizes, _PANEL)
        self._tensors.append(layer.panels)
        return _Matrix(
            panels=layer.panels.data_ptr(),
            bias=self._floats(bias),
            scales=self._floats(layer.scales),
            sums=self._floats(layer.sums),
            smoothing=self._floats(layer.smoothing),
        )

    def _floats(self, tensor: torch.Tensor) -> int:
        kept = tensor.detach().float().contiguous()
        self._tensors.append(kept)
        return kept.data_ptr()

    def _panels(self, weight: torch.Tensor) -> int:
        """``[out, in]`` -> float16 ``[out / 16, in, 16]``."""
        rows, columns = weight.shape
        halved = weight.detach().to(torch.float16).view(rows // _PANEL, _PANEL, columns)
        kept = halved.transpose(1, 2).contiguous()
        self._tensors.append(kept)
        return kept.data_ptr()


class _Scratch:
    """A job, and the memory that its workers write to: reused, because fresh memory costs page faults.

    Attributes:
        tokens: Room for so many.
        job: What the workers read.
        held: The tensors of the caller that the job points to, until the last worker has left.
    """

    def __init__(self, model: _Model, tokens: int, sequences: int, workers: int) -> None:
        self.tokens = tokens
        self.held: tuple[torch.Tensor | None, ...] = ()
        self._room = tokens, sequences, workers
        stages = 1 + model.depth * _STAGES_OF_A_LAYER
        size = model.hidden // model.heads
        # Of a worker: a place for each token, queries, values, keys from a multiple of 8 on, four rows of weights.
        padded = tokens + 7 * sequences
        own = -(-(2 * tokens + 2 * tokens * size + padded * (size + 4)) // _PANEL) * _PANEL
        self._counters = torch.zeros(2 * stages, dtype=torch.int32)
        self._floats = torch.empty(tokens * (2 * model.hidden + model.inner) + workers * own)
        wide = max(model.hidden, model.inner)  # a model's inner layer may be the narrower one
        self._bytes = torch.empty(tokens * (model.hidden + wide) if model.kernel else 0, dtype=torch.uint8)
        self._ranges = torch.empty(4 * tokens if model.kernel else 0)
        begin, rows8, ranges = (memory.data_ptr() for memory in (self._floats, self._bytes, self._ranges))
        self.job = _Job(
            x8=rows8,
            wide8=rows8 + tokens * model.hidden,
            x_ranges=ranges,
            wide_ranges=ranges + 8 * tokens,
            sum=begin,
            seen=begin + 4 * tokens * model.hidden,
            inner=begin + 8 * tokens * model.hidden,
            scratch=begin + 4 * tokens * (2 * model.hidden + model.inner),
            taken=self._counters.data_ptr(),
            done=self._counters.data_ptr() + 4 * stages,
            workers=workers,
            scratch_size=own,
        )

    def suffices(self, tokens: int, sequences: int, workers: int) -> bool:
        """Whether there is room for a pass."""
        return all(room >= wanted for room, wanted in zip(self._room, (tokens, sequences, workers), strict=True))

    def clear(self) -> None:
        """Ready for the next pass."""
        ctypes.memset(self._counters.data_ptr(), 0, self._counters.nbytes)
        self.job.begun = self.job.unknown = 0


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbouring sequences that share a pass: the first, one past the last, and their tokens."""
    first = tokens = 0
    for i, length in enumerate(lengths):
        if tokens and tokens + length > _TOKENS:
            yield first, i, tokens
            first, tokens = i, 0
        tokens += length
    if tokens:
        yield first, len(lengths), tokens
