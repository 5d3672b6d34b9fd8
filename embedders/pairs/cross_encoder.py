"""CrossEncoderModel: query and passage read together, one score per pair (Nogueira and Cho 2019)."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from situate.embedders.models.folder import ModelFolder
from situate.embedders.models.resolve import LoadOptions, resolve_model
from situate.embedders.pairs.tokens import TEMPLATES, Aggregation, DecoderTemplate, Pair, PairWriter, WrittenPairs
from situate.embedders.text.tokenizer import TextTokenizer
from situate.embedders.types import DType, Vectors
from situate.errors import ConventionError, InputError
from situate.parameters import checked_parameters
from situate.threads import renew_after_fork
from situate.vectors import check_finite

if TYPE_CHECKING:
    from situate.embedders.local.scheduler import Scheduler
    from situate.embedders.pairs.engine import PairEngine
    from situate.embedders.text.requests import PoolingRequest, PoolingResult

Output: TypeAlias = Literal["model", "logit", "probability"]

DEFAULT_CROSS_ENCODER = "cross-encoder/ms-marco-MiniLM-L6-v2"
#: Windows of a passage whose probabilities are added by the aggregation "sum".
_SUMMED = 3


@dataclass(frozen=True, slots=True)
class PairScores:
    """The scores of pairs.

    Attributes:
        scores: float32 ``[pairs]``; always finite.
        windows: int64 ``[pairs]``: in how many windows each passage was read.
        tokens: Tokens that the model read.
        lost_tokens: Tokens that it did not read, because a query or a passage was too long.
        spread: float32 ``[pairs]``: the standard error of each score, where the model has one: two passages whose
            scores differ by less are not told apart.
    """

    scores: Vectors
    windows: NDArray[np.int64]
    tokens: int
    lost_tokens: int
    spread: Vectors | None = None


@runtime_checkable
class PairScorer(Protocol):
    """Anything that scores (query, passage) pairs; a server, say."""

    def score(self, pairs: Sequence[Pair]) -> PairScores:
        """One score per pair, in order."""
        ...

    async def ascore(self, pairs: Sequence[Pair]) -> PairScores:
        """`score` without blocking the event loop."""
        ...


@checked_parameters
class CrossEncoderModel:
    """A cross-encoder on this machine.

    Loads what sentence-transformers' `CrossEncoder` loads: sequence classifiers (MiniLM, BGE, Jina, ModernBERT, ...)
    and decoders that answer yes or no (Qwen3-Reranker, bge-reranker-v2-gemma). Pairs are run packed, without padding,
    in batches of a number of tokens, longest first; out of memory halves a batch. Short of overflow, the scores equal
    ``CrossEncoder.predict`` in float32.

    A passage that is too long is read in overlapping windows and its windows' scores become one:

    - "max": the best window's (MaxP, Dai and Callan 2019).
    - "first": only the first window is read, as truncation does.
    - "sum": the probabilities of its best three added (SumP); divided by three for probabilities.
    - "parade": the windows' vectors, by element the largest, are scored (PARADE-Max, Li et al. 2020).

    Cheap to construct; pickles as its configuration; loads the model for the first pairs. May be used by many
    threads and event loops at once: they share batches.

    Args:
        model: A model folder or hub id.
        output: "model": what ``CrossEncoder.predict`` returns (the model's own activation); "logit": the raw
            number; "probability": its sigmoid, in [0, 1].
        aggregation: How the windows of a long passage become one score.
        max_tokens: Tokens of a window, query and special tokens included; None for the model's own.
        overlap: Tokens that neighbouring windows share.
        max_windows: At most so many windows of a passage; the rest of it is not read and is counted.
        instruction: The task, for decoders that take one; for others what stands before the query. None: the default
            prompt of the model's folder, which sentence-transformers uses too, or nothing.
        template: A decoder's prompt; None for the one of its family.
        device: "auto", or a torch device.
        dtype: Format to compute in. "auto" is the fastest that the hardware computes in; "float32" is exact. "int8" is
            for BERT-style models on CPU.
        batch_tokens: Most tokens of one pass; None: a number that suits the device.
        revision: A branch, tag or commit of the hub's repository.
        trust_remote_code: Run the Python files of the model's repository.
        allow_pickle: Read pickled weights, which can run any code.

    Raises:
        InputError: ``output`` or ``aggregation`` is not one of its choices, ``max_tokens``, ``max_windows`` or
            ``batch_tokens`` is less than 1, or ``overlap`` is negative.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_CROSS_ENCODER,
        *,
        output: Output = "probability",
        aggregation: Aggregation = "max",
        max_tokens: int | None = None,
        overlap: int = 64,
        max_windows: int = 8,
        instruction: str | None = None,
        template: DecoderTemplate | None = None,
        device: str = "auto",
        dtype: DType = "auto",
        batch_tokens: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        if output not in ("model", "logit", "probability"):
            raise InputError(f"output={output!r} is not one of 'model', 'logit', 'probability'")
        if aggregation not in ("max", "first", "sum", "parade"):
            raise InputError(f"aggregation={aggregation!r} is not one of 'max', 'first', 'sum', 'parade'")
        for name, value in (("max_tokens", max_tokens), ("max_windows", max_windows), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise InputError(f"{name}={value} must be 1 or more")
        if overlap < 0:
            raise InputError(f"overlap={overlap} must be 0 or more")
        self.model = os.fspath(model)
        self.output: Output = output
        self.aggregation: Aggregation = aggregation
        self.overlap = overlap
        self.max_windows = max_windows
        self.instruction = instruction
        self.template = template
        self.batch_tokens = batch_tokens
        self.load_options = LoadOptions(revision, trust_remote_code, allow_pickle)
        self._max_tokens = max_tokens
        self._device = device
        self._dtype: DType = dtype
        self._forget()

    def _forget(self) -> None:
        self.renew()
        renew_after_fork(self)
        self._loaded_: _Loaded | None = None

    def renew(self) -> None:
        """A new lock: the forked copy of one that another thread held would stay held."""
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_loaded_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"CrossEncoderModel({self.model!r}, output={self.output!r}, aggregation={self.aggregation!r})"

    def instructed(self, instruction: str) -> PairScorer:
        """The same model with another task, for decoders that take one; the scores of others do not change.

        Args:
            instruction: The task.
        """
        return _Instructed(self, instruction)

    def score(self, pairs: Sequence[Pair], *, instruction: str | None = None) -> PairScores:
        """One score per (query, passage), in order.

        Args:
            pairs: Queries and passages.
            instruction: The task of these pairs, in place of the model's; for decoders that take one.

        Raises:
            ModelNotFoundError: There is no such model.
            ModelError: It cannot be loaded, or does not give one score per pair.
            NonFiniteVectorError: The model computed NaN or infinity.
        """
        if not pairs:
            return _NOTHING
        loaded = self._loaded()
        written = loaded.writer_for(instruction).write(pairs)
        request = loaded.request(written)
        result = loaded.scheduler.run_now(request)
        if result is None:
            future = loaded.scheduler.submit(request, "query")
            assert future is not None
            result = future.result()
        return self._scores(loaded, written, result, len(pairs))

    async def ascore(self, pairs: Sequence[Pair], *, instruction: str | None = None) -> PairScores:
        """`score` without blocking the event loop; cancelling it withdraws the batches that have not run."""
        if not pairs:
            return _NOTHING

        def prepared() -> tuple[_Loaded, WrittenPairs, Future[PoolingResult]]:
            loaded = self._loaded()
            written = loaded.writer_for(instruction).write(pairs)
            future = loaded.scheduler.submit(loaded.request(written), "query")
            assert future is not None
            return loaded, written, future

        preparation = asyncio.ensure_future(asyncio.to_thread(prepared))
        try:
            loaded, written, future = await asyncio.shield(preparation)
        except asyncio.CancelledError:
            # the thread cannot be stopped, but the requests that it is about to queue can be withdrawn
            preparation.add_done_callback(_taken_back)
            raise
        result = await asyncio.wrap_future(future)
        return self._scores(loaded, written, result, len(pairs))

    def close(self) -> None:
        """Release the model; the next `score` loads it again."""
        with self._lock:
            loaded, self._loaded_ = self._loaded_, None
        if loaded is not None:
            loaded.scheduler.close()

    def __enter__(self) -> CrossEncoderModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _scores(self, loaded: _Loaded, written: WrittenPairs, result: PoolingResult, pairs: int) -> PairScores:
        starts = np.searchsorted(written.owner, np.arange(pairs))
        values: Vectors = result.reduced
        if self.aggregation == "parade":
            values = loaded.engine.logits(np.maximum.reduceat(values, starts, axis=0))
        else:
            values = values[:, 0]
        check_finite(values, f"cross-encoder {self.model!r} computed")
        if self.aggregation == "sum":
            scores = _summed(_sigmoid(values), written.owner, starts)
            if self.output == "probability":
                scores = scores / np.float32(_SUMMED)
        else:
            if self.aggregation != "parade":
                values = np.maximum.reduceat(values, starts)
            if self.output == "probability" or (self.output == "model" and loaded.sigmoid):
                scores = _sigmoid(values)
            else:
                scores = values
        return PairScores(
            scores.astype(np.float32),
            np.diff(starts, append=len(written.owner)),
            int(sum(map(len, written.sequences))),
            written.lost_tokens,
        )

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that runs the model. Loads the weights."""
        return self._loaded().scheduler

    def _loaded(self) -> _Loaded:
        with self._lock:
            if self._loaded_ is None:
                self._loaded_ = self._load()
            return self._loaded_

    def _load(self) -> _Loaded:
        resolved = resolve_model(self.model, self.load_options)
        resolved.check_safe(self.load_options)

        import torch

        from situate.embedders.forward.chooser import is_reentrant
        from situate.embedders.local.devices import chosen_device, chosen_dtype, is_exact
        from situate.embedders.local.scheduler import Scheduler
        from situate.embedders.pairs.engine import PairEngine, load_cross_encoder

        device = chosen_device(self._device)
        dtype = chosen_dtype(self._dtype, device)
        encoder = load_cross_encoder(resolved.path, device, dtype, self.load_options)
        model = encoder.model.eval()
        folder = ModelFolder.read(resolved.path)
        max_tokens = min(self._max_tokens or folder.trained_tokens, folder.position_limit)
        template = self.template
        if template is None and type(model).__name__.endswith("ForCausalLM"):
            template = TEMPLATES.get(folder.model_type)
            if template is None:
                raise ConventionError(
                    f"model {self.model!r} is a decoder of the type {folder.model_type!r}, whose prompt for "
                    "a pair is not known: pass template=DecoderTemplate(...), from its model card"
                )
        write = partial(
            PairWriter,
            TextTokenizer.load(folder.path, self.load_options),
            max_tokens=max_tokens,
            overlap=self.overlap,
            max_windows=1 if self.aggregation == "first" else self.max_windows,
            template=template,
        )
        writer = write(
            instruction=_default_prompt(encoder) if self.instruction is None else self.instruction,
        )
        answers = None
        if template is not None:
            answers = (writer.token_id(template.yes), None if template.no is None else writer.token_id(template.no))
        engine = PairEngine(
            model,
            device,
            dtype,
            answers=answers,
            max_tokens=max_tokens,
            batch_tokens=self.batch_tokens,
            representation=self.aggregation == "parade",
            reentrant=is_reentrant(model, self.load_options),
            exact=is_exact(self._dtype, device),
        )
        scheduler = Scheduler(engine)
        # The thread ends with its model.
        weakref.finalize(self, scheduler.close, drain=False).atexit = False
        # of two classes predict returns both logits; the log odds' sigmoid is the second's probability
        sigmoid = isinstance(encoder.activation_fn, torch.nn.Sigmoid)
        takes_task = template is not None and "{instruction}" in template.body
        return _Loaded(writer, write if takes_task else None, engine, scheduler, sigmoid)


@dataclass(frozen=True)
class _Loaded:
    writer: PairWriter
    write: Callable[..., PairWriter] | None
    engine: PairEngine
    scheduler: Scheduler
    sigmoid: bool

    def writer_for(self, instruction: str | None) -> PairWriter:
        """The writer of pairs with a task of their own, where the model takes one."""
        return self.writer if instruction is None or self.write is None else self.write(instruction=instruction)

    def request(self, written: WrittenPairs) -> PoolingRequest:
        from situate.embedders.pairs.engine import pair_request

        return pair_request(written.sequences, written.second)


@dataclass(frozen=True)
class _Instructed:
    """A cross-encoder with a task of its own."""

    model: CrossEncoderModel
    instruction: str

    @property
    def output(self) -> Output:
        return self.model.output

    def score(self, pairs: Sequence[Pair]) -> PairScores:
        return self.model.score(pairs, instruction=self.instruction)

    async def ascore(self, pairs: Sequence[Pair]) -> PairScores:
        return await self.model.ascore(pairs, instruction=self.instruction)


_NOTHING = PairScores(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64), 0, 0)


def _default_prompt(encoder: Any) -> str | None:
    """What sentence-transformers' `CrossEncoder` writes before the query of each pair."""
    name = encoder.default_prompt_name
    return None if name is None else encoder.prompts.get(name)


def _taken_back(preparation: asyncio.Future[Any]) -> None:
    if not preparation.cancelled() and preparation.exception() is None:
        preparation.result()[2].cancel()


def _sigmoid(x: Vectors) -> Vectors:
    # by halves, so that no exponential overflows
    small = np.exp(-np.abs(x))
    out: Vectors = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return out


def _summed(values: Vectors, owner: NDArray[np.int64], starts: NDArray[np.int64]) -> Vectors:
    """The best few windows of each pair, added."""
    order = np.lexsort((-values, owner))
    place = np.arange(len(values)) - starts[owner]
    out: Vectors = np.add.reduceat(np.where(place < _SUMMED, values[order], 0), starts)
    return out
