"""Encoder: text + spans -> vectors, on this machine's CPU or GPU."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from situate.embedders.local.loaded import LoadedModel, ModelKey
from situate.embedders.local.processes import DeviceProcesses
from situate.embedders.local.scheduler import Scheduler
from situate.embedders.models.adapters import Adapter, check_name
from situate.embedders.models.extension import Extension, Method, Reach
from situate.embedders.models.folder import ModelFolder
from situate.embedders.models.prepending import Prepend
from situate.embedders.models.quantized import Weights
from situate.embedders.models.resolve import LoadOptions, resolve_model
from situate.embedders.models.settings import check_mean_layers, check_routing_weight
from situate.embedders.models.variant import Variant
from situate.embedders.text.pooling import SpanOutput
from situate.embedders.text.reading import ReadPlan, ReadRules, pooling_request, read_plans
from situate.embedders.text.requests import PoolingResult
from situate.embedders.text.tokenizer import TextTokenizer
from situate.embedders.types import DType, Encoded, Overflow, Pooling, Role, SpanText, overflow_of
from situate.errors import ConventionError, FallbackWarning, InputError, NonFiniteVectorError, TruncationWarning
from situate.parameters import checked_parameters
from situate.progress import listener
from situate.threads import renew_after_fork

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from situate.embedders.text.token_heads import TokenHeads

#: Texts that are tokenized and run together; it bounds the memory of a call with very many texts.
_SLICE_TEXTS = 4096
_SLICE_CHARACTERS = 4_000_000
#: The first slice for a GPU, which waits while it is tokenized; each further one is twice as large.
_FIRST_SLICE_TEXTS = 512
#: Slices of a call that wait or run while the next is tokenized.
_SLICES_AHEAD = 1
#: So many asynchronous callers at once tokenize in the event loop's own thread.
_INLINE_CALLERS = 4
_POOLINGS = ("mean", "cls", "last", "weighted_mean", "max", "mean_sqrt_len")


@checked_parameters
class Encoder:
    """Reads texts with a transformers model and pools character spans of them into vectors.

    Cheap to construct: weights are loaded by the first `encode`. May be used by many threads and event loops at once;
    one thread owns the model and runs their texts in full batches. Pickles as its configuration. Encoders of one
    process that would load the same weights share them, however they tokenize and pool.

    A token belongs to a span if it shares a character with it; a span without any token (white space, say) gets the
    nearest one. Special tokens belong to no span, and are pooled for a text without spans as the model was trained.
    Of a span, "cls" pooling takes the first token, "last" the last, and "weighted_mean" (SGPT, Muennighoff 2022)
    counts from its first. A text without anything to read gets a zero vector.

    Args:
        model: A model folder or a hub id.
        pooling: How token vectors become one.
        normalize: Whether vectors get L2 norm 1.
        dimensions: Keep only the first so many numbers of a vector (Matryoshka, Kusupati et al. 2022) and normalise
            again.
        layers: Run only the model's first so many layers (2D Matryoshka, Li et al. 2024, for models trained so). What
            stands behind the last layer (a decoder's final norm) stays.
        mean_layers: Take the mean of the token vectors behind these layers, counted from 1, or from -1 back, in place
            of those behind the last one (WhiteningBERT, Huang et al. 2021: ``(1, -1)``): for models that were not
            trained for embeddings.
        device: "auto", or a torch device; or several, each with a process and a copy of the model of its own, among
            which texts are dealt out. The processes are spawned, so a program needs ``if __name__ == "__main__":``.
        dtype: Format of the weights. "auto" is the fastest one that the hardware computes in; "float32" is exact.
            "int8" is for BERT-style models on CPU: faster, at a cosine of about 0.998 to float32.
        adapters: Names of adapters (LoRA, as ``peft`` saves it) and their folders or hub ids. Each is loaded by the
            first `encode` that names it and stays in memory, merged into a copy of the weights. Needs the extra
            ``adapters``.
        extension: How a model reads ``max_tokens``, more than it was trained for: a method's
            name or an `Extension`.
        bidirectional: Let a decoder's tokens see those behind them.
        prepend: Token prepending in a decoder.
        routing_weight: Weight of a mixture's routing, which then follows each vector (MoEE); 0 for none.
        weights: "int8" or "int4": the weights of linear layers in so many bits, for models that are too large
            otherwise. Needs the extra ``quantized``.
        token_heads: Make token vectors by the model's own head, and the weights of words (`Encoded.terms`) by its other
            one, as BGE-M3 was trained to; special tokens before a text without spans have neither.
        on_overflow: How a text without spans that is longer than ``max_tokens`` is treated: cut with a warning, refused
            with an error, or read in windows; "auto" reads documents in windows and cuts queries (`overflow_of`).
        max_tokens: Tokens read at once, special tokens included; None: what the model was trained for.
        add_special_tokens: Whether the tokenizer's special tokens are put around each pass.
        end_token: Whether the end token closes each pass also where the tokenizer's own files leave it out.
        leading: The token that takes the place of those that the tokenizer puts before a text; "": its own.
        position_stride: A number of tokens, and how far apart the positions of texts of up to so many stand.
        pool_prefix: Whether, in a text without spans, ``SpanText.prefix`` and the special tokens before it are pooled
            (INSTRUCTOR does not; sentence-transformers calls this ``include_prompt``).
        revision: A branch, tag or commit of the hub's repository.
        trust_remote_code: Run the Python files of the model's repository.
        allow_pickle: Read pickled weights, which can run any code.
        batch_tokens: Most tokens of one pass over the model; None: a number that suits the device.

    Raises:
        InputError: An argument is not one of its choices.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        dimensions: int | None = None,
        layers: int | None = None,
        mean_layers: Sequence[int] | None = None,
        device: str | Sequence[str] = "auto",
        dtype: DType = "auto",
        adapters: Mapping[str, str | os.PathLike[str]] | None = None,
        extension: Method | Extension | None = None,
        bidirectional: bool = False,
        prepend: Prepend | None = None,
        routing_weight: float = 0.0,
        weights: Weights | None = None,
        token_heads: bool = False,
        on_overflow: Overflow = "warn",
        max_tokens: int | None = None,
        add_special_tokens: bool = True,
        end_token: bool = False,
        leading: str = "",
        position_stride: tuple[int, int] = (0, 1),
        pool_prefix: bool = True,
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        if pooling not in _POOLINGS:
            raise InputError(f"pooling {pooling!r} is not one of {', '.join(map(repr, _POOLINGS))}")
        if on_overflow not in get_args(Overflow):
            raise InputError(f"on_overflow {on_overflow!r} is not one of {', '.join(map(repr, get_args(Overflow)))}")
        numbers = {"dimensions": dimensions, "layers": layers, "max_tokens": max_tokens, "batch_tokens": batch_tokens}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it needs to be 1 or more")
        if not device:
            raise InputError("device is an empty list: name at least one device, or 'auto'")
        self.model = os.fspath(model)
        self.pooling: Pooling = pooling
        self.normalize = normalize
        self.on_overflow: Overflow = on_overflow
        self.add_special_tokens = add_special_tokens
        self.end_token = end_token
        self.leading = leading
        self.position_stride = position_stride
        self.pool_prefix = pool_prefix
        self.load_options = LoadOptions(revision, trust_remote_code, allow_pickle)
        self.batch_tokens = batch_tokens
        self.layers = layers
        self.mean_layers = check_mean_layers(mean_layers) or ()
        self.adapters = {name: os.fspath(folder) for name, folder in dict(adapters or {}).items()}
        self.extension = Extension.of(extension)
        self.bidirectional = bidirectional
        self.prepend = prepend
        self.routing_weight = check_routing_weight(routing_weight)
        self.weights = weights
        self.token_heads = token_heads
        self._dimensions = dimensions
        self._device = device if isinstance(device, str) else tuple(device)
        self._dtype = dtype
        self._max_tokens = max_tokens
        self._forget()

    def _forget(self) -> None:
        self.renew()
        renew_after_fork(self)
        self._folder_: ModelFolder | None = None
        self._tokenizer_: TextTokenizer | None = None
        self._public_tokenizer: Tokenizer | None = None
        self._ready_: dict[str | None, _Ready] = {}
        self._processes_: DeviceProcesses | None = None
        self._wide_ = False

    def renew(self) -> None:
        """A new lock: the forked copy of one that another thread held would stay held."""
        self._lock = threading.RLock()
        self._callers = 0

    def __getstate__(self) -> dict[str, Any]:
        # Private names that end in an underscore are handles.
        handles = ("_lock", "_callers", "_public_tokenizer")
        return {name: value for name, value in self.__dict__.items() if name not in handles and name[-1] != "_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"Encoder({self.model!r}, pooling={self.pooling!r}, device={self._device!r}, dtype={self._dtype!r})"

    @property
    def folder(self) -> ModelFolder:
        """The facts of the model's folder. Loads no weights."""
        with self._lock:
            if self._folder_ is None:
                self._folder_ = ModelFolder.read(resolve_model(self.model, self.load_options).path)
            return self._folder_

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        full = self.folder.dimension + self._routing
        if self._dimensions is None:
            return full
        if self._dimensions > full:
            raise InputError(f"dimensions is {self._dimensions}, but the model's vectors have {full}: ask for fewer")
        return self._dimensions

    @property
    def _routing(self) -> int:
        """How many experts' weights follow a vector.

        Raises:
            ConventionError: The model is no mixture of experts, or has linear layers after the pooling.
        """
        if not self.routing_weight:
            return 0
        routing = sum(self.folder.experts[: self.layers])
        if not routing or self.folder.heads:
            why = "linear layers after its pooling" if routing else "no experts (it is no mixture)"
            raise ConventionError(f"routing_weight: model {self.model!r} has {why}, so leave it out")
        return routing

    @property
    def max_tokens(self) -> int:
        """Tokens read at once, special tokens included.

        Raises:
            InputError: ``max_tokens`` is more than the model has positions for, or an extension reaches no further.
        """
        if self._reach is not None:
            return self._reach.target
        if self._max_tokens is None:
            return self.folder.trained_tokens
        if self._max_tokens > self.folder.position_limit:
            raise InputError(
                f"max_tokens is {self._max_tokens}, but the model has positions for {self.folder.position_limit}: "
                "ask for fewer, or read longer texts in windows (on_overflow='window')"
            )
        return self._max_tokens

    @property
    def trained_tokens(self) -> int:
        """Tokens that the model was trained to read at once, or was extended to, special tokens included."""
        return self.folder.trained_tokens if self._reach is None else self._reach.target

    @property
    def position_limit(self) -> int:
        """Most tokens that the model has positions for; a very large number where its positions have no end."""
        return self.folder.position_limit if self._reach is None else self._reach.target

    @property
    def tokenizer(self) -> Tokenizer:
        """A copy of the model's tokenizer without truncation and padding. Needs no torch.

        Raises:
            ConventionError: The model has a tokenizer in plain Python only.
        """
        from tokenizers import Tokenizer

        with self._lock:
            if self._public_tokenizer is None:
                backend = self._tokenizer.backend
                if backend is None:
                    raise ConventionError(
                        f"model {self.model!r} has no fast tokenizer, only one in plain Python: convert it to a "
                        "tokenizer.json, or size chunks in characters (a chunker without a tokenizer)"
                    )
                self._public_tokenizer = Tokenizer.from_str(backend.to_str())
            return self._public_tokenizer

    @property
    def device(self) -> str:
        """The device that the model runs on, "auto" resolved; several are joined by commas."""
        from situate.embedders.local.devices import chosen_device

        return ",".join(str(chosen_device(device)) for device in self._devices)

    @property
    def dtype(self) -> str:
        """The format of the weights, "auto" resolved."""
        from situate.embedders.local.devices import chosen_device, chosen_dtype

        kind = "" if self._wide_ else self.folder.model_type
        return str(chosen_dtype(self._dtype, chosen_device(self._devices[0]), kind)).removeprefix("torch.")

    def encode(
        self,
        inputs: Sequence[SpanText],
        *,
        token_vectors: bool = False,
        role: Role = "document",
        progress: bool = False,
        adapter: str | None = None,
    ) -> list[Encoded]:
        """One result per input, in order.

        Args:
            inputs: Texts and their spans.
            token_vectors: Also return the token vectors of each span; of a text without spans those of all its
                tokens, special ones included.
            role: "query" goes before "document" where several callers wait.
            progress: Show a progress bar.
            adapter: The adapter to encode with; None: the model itself.

        Raises:
            InputError: There is no such adapter, or the model has fewer dimensions or positions than requested.
            SpanError: A span is empty, reversed or outside its text.
            OverflowLimitError: A text is too long and ``on_overflow="raise"``, or a window is longer than the model
                has positions for.
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: The model cannot be loaded.
        """
        bar = _progress_bar(len(inputs)) if progress else None
        told = listener(1, len(inputs))

        def done(count: int) -> None:
            if bar is not None:
                bar.update(count)
            if told is not None and processes is not None:  # the scheduler tells where there are none
                told(count)

        processes = self._processes
        try:
            if processes is not None:
                check_name(adapter, self.adapters)
                results = processes.map(inputs, _options(token_vectors, role, adapter), done)
            else:
                try:
                    results = self._encoded(inputs, token_vectors, role, adapter, done)
                except NonFiniteVectorError:
                    if not self._widened():
                        raise
                    results = self._encoded(inputs, token_vectors, role, adapter, done)
        finally:
            if bar is not None:
                bar.close()
        self._warn_of_loss(results)
        return results

    def _encoded(
        self,
        inputs: Sequence[SpanText],
        token_vectors: bool,
        role: Role,
        adapter: str | None,
        seen: Callable[[int], object],
    ) -> list[Encoded]:
        ready = self._ready_.get(adapter) or self._load(adapter)
        scheduler, output = ready.scheduler, ready.output
        results: list[Encoded] = []
        running: deque[tuple[list[ReadPlan], Future[PoolingResult]]] = deque()
        whole = _characters(inputs)
        try:
            for start, part in _slices(inputs, _FIRST_SLICE_TEXTS if scheduler.engine.ahead else _SLICE_TEXTS):
                plans = self._read(part, start, role)
                request = pooling_request(plans, self.pooling, token_vectors)
                if len(part) == len(inputs) and (result := scheduler.run_now(request)) is not None:
                    return output.encoded(plans, result, token_vectors)
                future = scheduler.submit(request, role, told=listener(_characters(part), whole))
                assert future is not None
                running.append((plans, future))
                if len(running) > _SLICES_AHEAD:  # the model runs one slice while the next is tokenized
                    plans, future = running.popleft()
                    results += output.encoded(plans, future.result(), token_vectors)
                    seen(len(plans))
            while running:
                plans, future = running.popleft()
                results += output.encoded(plans, future.result(), token_vectors)
                seen(len(plans))
        finally:
            for _, future in running:
                future.cancel()
        return results

    async def aencode(
        self,
        inputs: Sequence[SpanText],
        *,
        token_vectors: bool = False,
        role: Role = "document",
        adapter: str | None = None,
    ) -> list[Encoded]:
        """`encode` without blocking the event loop; cancelling it withdraws the texts that have not run yet."""
        processes = self._processes
        if processes is not None:
            check_name(adapter, self.adapters)
            results = await processes.amap(inputs, _options(token_vectors, role, adapter))
            self._warn_of_loss(results)
            return results
        try:
            results = await self._aencoded(inputs, token_vectors, role, adapter)
        except NonFiniteVectorError:
            if not self._widened():
                raise
            results = await self._aencoded(inputs, token_vectors, role, adapter)
        self._warn_of_loss(results)
        return results

    async def _aencoded(
        self, inputs: Sequence[SpanText], token_vectors: bool, role: Role, adapter: str | None
    ) -> list[Encoded]:
        results: list[Encoded] = []
        ready = self._ready_.get(adapter)
        if ready is None:
            ready = await asyncio.to_thread(self._load, adapter)
        scheduler, output = ready.scheduler, ready.output
        running: deque[tuple[list[ReadPlan], Future[PoolingResult]]] = deque()
        whole = _characters(inputs)
        self._callers += 1
        try:
            for start, part in _slices(inputs, _FIRST_SLICE_TEXTS if scheduler.engine.ahead else _SLICE_TEXTS):
                # A query is tokenized faster than a thread is woken; two hundred at once would block the loop.
                small = self._callers <= _INLINE_CALLERS and sum(len(item.text) for item in part) < 2000
                plans = (
                    self._read(part, start, role) if small else await asyncio.to_thread(self._read, part, start, role)
                )
                request = pooling_request(plans, self.pooling, token_vectors)
                told = listener(_characters(part), whole)
                future = scheduler.submit(request, role, block=False, told=told)
                if future is None:
                    future = await asyncio.to_thread(scheduler.submit, request, role, told=told)
                    assert future is not None
                running.append((plans, future))
                if len(running) > _SLICES_AHEAD:
                    plans, future = running.popleft()
                    results += output.encoded(plans, await asyncio.wrap_future(future), token_vectors)
            while running:
                plans, future = running.popleft()
                results += output.encoded(plans, await asyncio.wrap_future(future), token_vectors)
        finally:
            self._callers -= 1
            for _, future in running:
                future.cancel()
        return results

    def close(self) -> None:
        """Release the model; when no other encoder shares it, its thread ends. The next `encode` loads it again."""
        with self._lock:
            self._ready_ = {}
            processes, self._processes_ = self._processes_, None
        if processes is not None:
            processes.close()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _tokenizer(self) -> TextTokenizer:
        with self._lock:
            if self._tokenizer_ is None:
                self._tokenizer_ = TextTokenizer.load(
                    self.folder.path,
                    self.load_options,
                    add_special_tokens=self.add_special_tokens,
                    end_token=self.end_token,
                    leading=self.leading,
                )
            return self._tokenizer_

    @property
    def _devices(self) -> tuple[str, ...]:
        return (self._device,) if isinstance(self._device, str) else self._device

    @property
    def _reach(self) -> Reach | None:
        if self.extension is None:
            return None
        return Reach.of(self.extension, self.folder.position_limit, self._max_tokens)

    @property
    def _processes(self) -> DeviceProcesses | None:
        if isinstance(self._device, str):
            return None
        with self._lock:
            if self._processes_ is None:
                self._processes_ = DeviceProcesses([self._on(device) for device in self._device])
            return self._processes_

    def _on(self, device: str) -> Encoder:
        """The same encoder on one device."""
        copy = Encoder.__new__(Encoder)
        copy.__setstate__({**self.__getstate__(), "_device": device})
        return copy

    def _key(self) -> ModelKey:
        from situate.embedders.local.devices import chosen_device, is_exact

        resolved = resolve_model(self.model, self.load_options)
        resolved.check_safe(self.load_options)
        return ModelKey(
            folder=self.folder,
            digest=resolved.digest,
            device=self.device,
            dtype=self.dtype,
            exact=is_exact(self._dtype, chosen_device(self._devices[0])),
            variant=Variant(
                layers=self.layers,
                mean_layers=self.mean_layers,
                reach=self._reach,
                bidirectional=self.bidirectional,
                prepending=None if self.prepend is None else self.prepend.of(self._tokenizer),
                routing=self._routing,
                weights=self.weights,
                stride=self.position_stride,
            ),
            options=self.load_options,
            batch_tokens=self.batch_tokens,
        )

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of the model without adapters, shared with all encoders of these weights. Loads them."""
        return self._load(None).scheduler

    def _load(self, adapter: str | None) -> _Ready:
        with self._lock:
            ready = self._ready_.get(adapter)
            if ready is not None:
                return ready
            heads = self._token_heads() if self.token_heads else None  # before the weights, which take longer
            first = next(iter(self._ready_.values()), None)
            model = LoadedModel.of(self._key()) if first is None else first.model
            scheduler = model.scheduler(self._adapter(adapter))
            output = SpanOutput(
                model=self.model,
                dtype=self.dtype,
                pooling=self.pooling,
                heads=model.heads,
                dimension=self.dimension,
                normalize=self.normalize,
                routing=self._routing,
                routing_weight=self.routing_weight,
                token_heads=heads,
            )
            ready = self._ready_[adapter] = _Ready(model, scheduler, output)
            return ready

    def _token_heads(self) -> TokenHeads:
        from situate.embedders.text.token_heads import TokenHeads

        return TokenHeads.load(self.folder.path, self.folder.hidden_size, self._tokenizer, self.load_options)

    def _widened(self) -> bool:
        """Compute in bfloat16 from now on, if float16 that "auto" chose has overflowed; whether that was so."""
        from situate.embedders.local.devices import chosen_device, widens

        with self._lock:
            if not widens(self._dtype, chosen_device(self._devices[0]), self.folder.model_type):
                return False
            if not self._wide_:
                self._wide_, self._ready_ = True, {}
                warnings.warn(
                    f"model {self.model!r} overflowed in float16, which dtype='auto' is for it on this device: it "
                    "computes in bfloat16 from now on. dtype='bfloat16' does so from the beginning",
                    FallbackWarning,
                    stacklevel=3,
                )
            return True

    def _adapter(self, name: str | None) -> Adapter | None:
        if name is None:
            return None
        check_name(name, self.adapters)
        return Adapter.found(name, self.adapters[name], self.load_options)

    def read_plan(self, item: SpanText) -> tuple[ReadPlan, list[list[str]]]:
        """How a text is read: its passes with the tokens that are pooled, and the tokens in words. Loads no weights."""
        found = self._read([item], 0)[0]
        return found, [self._tokenizer.words(ids) for ids in found.sequences]

    def _read(self, inputs: Sequence[SpanText], first: int, role: Role = "document") -> list[ReadPlan]:
        rules = ReadRules(
            pooling=self.pooling,
            on_overflow=overflow_of(self.on_overflow, self.pooling, role),
            max_tokens=self.max_tokens,
            position_limit=self.position_limit,
            pool_prefix=self.pool_prefix,
        )
        return read_plans(inputs, self._tokenizer, rules, first)

    def _warn_of_loss(self, results: Sequence[Encoded]) -> None:
        lost = [result.lost_tokens for result in results if result.lost_tokens]
        if lost:
            warnings.warn(
                f"{len(lost)} of {len(results)} texts are longer than the {self.max_tokens} tokens that the model "
                f"reads and lost {sum(lost)} tokens: split them, or choose on_overflow='window'",
                TruncationWarning,
                stacklevel=3,
            )


@dataclass(frozen=True)
class _Ready:
    """The scheduler of one adapter. It holds the model, which lives as long as its last encoder."""

    model: LoadedModel
    scheduler: Scheduler
    output: SpanOutput


def _options(token_vectors: bool, role: Role, adapter: str | None) -> dict[str, Any]:
    return {"token_vectors": token_vectors, "role": role, "adapter": adapter}


def _slices(inputs: Sequence[SpanText], first: int) -> Iterator[tuple[int, Sequence[SpanText]]]:
    """The inputs in runs of bounded size: the first of at most ``first`` texts, each at most twice the one before."""
    start = characters = 0
    texts = first
    for i, item in enumerate(inputs):
        room = _SLICE_CHARACTERS * texts // _SLICE_TEXTS
        if i > start and (i - start >= texts or characters + len(item.text) > room):
            yield start, inputs[start:i]
            start, characters, texts = i, 0, min(2 * texts, _SLICE_TEXTS)
        characters += len(item.text)
    if start < len(inputs):
        yield start, inputs[start:]


def _characters(inputs: Sequence[SpanText]) -> int:
    return sum(len(item.text) for item in inputs)


def _progress_bar(total: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="encoding", unit="text")
