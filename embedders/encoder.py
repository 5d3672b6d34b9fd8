"""Encoder: text + spans -> vectors, on this machine's CPU or GPU."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from situate.chunkers.errors import InputError, NonFiniteVectorError, TruncationWarning
from situate.embedders._folder import ModelFolder
from situate.embedders._pooling import Part, Reading, ReadingRules, combined, normalised, pooled_parts, read
from situate.embedders._scheduler import Done, Priority, Reduction, Scheduler, Work
from situate.embedders._tokens import TextTokenizer
from situate.embedders.models import resolve_model
from situate.embedders.types import Encoded, OnOverflow, Pooling, SpanText, Vectors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from situate.embedders._heads import Heads

#: Texts that are tokenized and run together; what bounds the memory of a call with very many.
_SLICE_TEXTS = 4096
_SLICE_CHARACTERS = 4_000_000
#: So many asynchronous callers at once tokenize in the event loop's own thread.
_INLINE_CALLERS = 4
_POOLINGS = ("mean", "cls", "last", "weighted_mean", "max", "mean_sqrt_len")


class Encoder:
    """Reads texts with a transformers model and pools character spans of them into vectors.

    Cheap to construct: weights are loaded by the first `encode`. May be used by many threads and event loops at once;
    one thread owns the model and runs what they ask for in full batches. Pickles as its configuration.

    A token belongs to a span if it shares a character with it; a span without any token (white space, say) gets the
    nearest one. Special tokens belong to no span, and are pooled for a text without spans as the model was trained.
    Of a span, "cls" pooling takes the first token, "last" the last, and "weighted_mean" (SGPT, Muennighoff 2022)
    counts from its first. A text of which there is nothing to read at all gets a zero vector.

    Args:
        model: A model folder or a hub id.
        pooling: How token vectors become one.
        normalize: Whether vectors get L2 norm 1.
        dimensions: Keep only the first so many numbers of a vector (Matryoshka, Kusupati et al. 2022) and normalise
            again.
        device: "auto", or a torch device.
        dtype: Format of the weights. "auto" is the fastest one that the hardware computes in; "float32" is exact.
        on_overflow: What a text without spans gets that is longer than ``max_tokens``: cut with a warning, an error,
            or read in windows.
        max_tokens: Tokens read at once, special tokens included; None: what the model was trained for.
        add_special_tokens: Whether the tokenizer's special tokens are put around each pass.
        end_token: Whether the end token closes each pass also where the tokenizer's own files leave it out.
        pool_prefix: Whether, in a text without spans, ``SpanText.prefix`` and the special tokens before it are pooled
            (INSTRUCTOR does not; sentence-transformers calls this ``include_prompt``).
        revision: A branch, tag or commit of the hub's repository.
        trust_remote_code: Run the Python files of the model's repository.
        allow_pickle: Read pickled weights, which can run any code.
        batch_tokens: Most tokens of one pass over the model; None: what suits the device.

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
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        on_overflow: OnOverflow = "warn",
        max_tokens: int | None = None,
        add_special_tokens: bool = True,
        end_token: bool = False,
        pool_prefix: bool = True,
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        if pooling not in _POOLINGS:
            raise InputError(f"pooling {pooling!r} is not one of {', '.join(map(repr, _POOLINGS))}")
        if on_overflow not in ("warn", "raise", "window"):
            raise InputError(f"on_overflow {on_overflow!r} is not one of 'warn', 'raise', 'window'")
        for name, value in (("dimensions", dimensions), ("max_tokens", max_tokens), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it needs to be 1 or more")
        self.model = os.fspath(model)
        self.pooling: Pooling = pooling
        self.normalize = normalize
        self.on_overflow: OnOverflow = on_overflow
        self.add_special_tokens = add_special_tokens
        self.end_token = end_token
        self.pool_prefix = pool_prefix
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.allow_pickle = allow_pickle
        self.batch_tokens = batch_tokens
        self._dimensions = dimensions
        self._device = device
        self._dtype = dtype
        self._max_tokens = max_tokens
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.RLock()
        self._folder_: ModelFolder | None = None
        self._tokenizer_: TextTokenizer | None = None
        self._public_tokenizer: Tokenizer | None = None
        self._scheduler_: Scheduler | None = None
        self._callers = 0
        self._heads_: Heads | None = None

    def __getstate__(self) -> dict[str, Any]:
        handles = ("_lock", "_callers", "_folder_", "_tokenizer_", "_public_tokenizer", "_scheduler_", "_heads_")
        return {name: value for name, value in self.__dict__.items() if name not in handles}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"Encoder({self.model!r}, pooling={self.pooling!r}, device={self._device!r}, dtype={self._dtype!r})"

    @property
    def folder(self) -> ModelFolder:
        """What the model's folder says about it. Loads no weights."""
        with self._lock:
            if self._folder_ is None:
                resolved = resolve_model(
                    self.model,
                    self.revision,
                    trust_remote_code=self.trust_remote_code,
                    allow_pickle=self.allow_pickle,
                )
                self._folder_ = ModelFolder.read(resolved.path)
            return self._folder_

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        full = self.folder.dimension
        if self._dimensions is None:
            return full
        if self._dimensions > full:
            raise InputError(f"dimensions is {self._dimensions}, but the model's vectors have {full}: ask for fewer")
        return self._dimensions

    @property
    def max_tokens(self) -> int:
        """Tokens read at once, special tokens included.

        Raises:
            InputError: More were asked for than the model has positions for.
        """
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
        """Tokens that the model was trained to read at once, special tokens included."""
        return self.folder.trained_tokens

    @property
    def position_limit(self) -> int:
        """Most tokens that the model has positions for; a very large number where its positions have no end."""
        return self.folder.position_limit

    @property
    def tokenizer(self) -> Tokenizer:
        """A copy of the model's tokenizer without truncation and padding. Needs no torch.

        Raises:
            InputError: The model has a tokenizer in plain Python only.
        """
        from tokenizers import Tokenizer

        with self._lock:
            if self._public_tokenizer is None:
                backend = self._tokenizer.backend
                if backend is None:
                    raise InputError(f"model {self.model!r} has no fast tokenizer: convert it to a tokenizer.json")
                self._public_tokenizer = Tokenizer.from_str(backend.to_str())
            return self._public_tokenizer

    @property
    def device(self) -> str:
        """The device that the model runs on, "auto" resolved."""
        from situate.embedders._devices import chosen_device

        return str(chosen_device(self._device))

    @property
    def dtype(self) -> str:
        """The format of the weights, "auto" resolved."""
        from situate.embedders._devices import chosen_device, chosen_dtype

        return str(chosen_dtype(self._dtype, chosen_device(self._device))).removeprefix("torch.")

    def encode(
        self,
        inputs: Sequence[SpanText],
        *,
        token_vectors: bool = False,
        priority: Priority = "document",
        progress: bool = False,
    ) -> list[Encoded]:
        """One result per input, in order.

        Args:
            inputs: Texts and their spans.
            token_vectors: Also hand back the token vectors of each span; of a text without spans those of all its
                tokens, special ones included.
            priority: "query" goes before "document" where several callers wait.
            progress: Show a progress bar.

        Raises:
            SpanError: A span is empty, reversed or outside its text.
            OverflowLimitError: A text is too long and ``on_overflow="raise"``, or a window is longer than the model
                has positions for.
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: The model cannot be loaded.
        """
        results: list[Encoded] = []
        scheduler = self._scheduler
        bar = _progress_bar(len(inputs)) if progress else None
        for start, part in _slices(inputs):
            readings = self._read(part, start)
            work = self._work(readings, token_vectors)
            done = scheduler.run_now(work)
            if done is None:
                future = scheduler.submit(work, priority)
                assert future is not None
                done = future.result()
            results += self._finish(readings, done, token_vectors)
            if bar is not None:
                bar.update(len(part))
        if bar is not None:
            bar.close()
        self._warn_of_loss(results)
        return results

    async def aencode(
        self, inputs: Sequence[SpanText], *, token_vectors: bool = False, priority: Priority = "document"
    ) -> list[Encoded]:
        """`encode` without blocking the event loop; cancelling it takes back what has not run yet."""
        results: list[Encoded] = []
        scheduler = self._scheduler_
        if scheduler is None:
            scheduler = await asyncio.to_thread(lambda: self._scheduler)
        self._callers += 1
        try:
            for start, part in _slices(inputs):
                # A query is tokenized faster than a thread is woken; two hundred at once would hold up the loop.
                small = self._callers <= _INLINE_CALLERS and sum(len(item.text) for item in part) < 2000
                readings = self._read(part, start) if small else await asyncio.to_thread(self._read, part, start)
                work = self._work(readings, token_vectors)
                future = scheduler.submit(work, priority, block=False)
                if future is None:
                    future = await asyncio.to_thread(scheduler.submit, work, priority)
                    assert future is not None
                done = await asyncio.wrap_future(future)
                results += self._finish(readings, done, token_vectors)
        finally:
            self._callers -= 1
        self._warn_of_loss(results)
        return results

    def close(self) -> None:
        """Let go of the model and end the thread that owns it; the next `encode` loads it again."""
        with self._lock:
            scheduler, self._scheduler_ = self._scheduler_, None
        if scheduler is not None:
            scheduler.close()

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
                    add_special_tokens=self.add_special_tokens,
                    trust_remote_code=self.trust_remote_code,
                    end_token=self.end_token,
                )
            return self._tokenizer_

    @property
    def _scheduler(self) -> Scheduler:
        with self._lock:
            if self._scheduler_ is None:
                self._scheduler_ = self._loaded()
            return self._scheduler_

    def _loaded(self) -> Scheduler:
        from situate.embedders._devices import chosen_device, chosen_dtype
        from situate.embedders._engine import Engine
        from situate.embedders._heads import Heads

        resolved = resolve_model(
            self.model, self.revision, trust_remote_code=self.trust_remote_code, allow_pickle=self.allow_pickle
        )
        resolved.check_safe(trust_remote_code=self.trust_remote_code, allow_pickle=self.allow_pickle)
        device = chosen_device(self._device)
        engine = Engine(
            self.folder.path,
            device,
            chosen_dtype(self._dtype, device),
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
            batch_tokens=self.batch_tokens,
            max_tokens=self.max_tokens,
        )
        self._heads_ = Heads.load(self.folder.heads, allow_pickle=self.allow_pickle)
        scheduler = Scheduler(engine)
        # The thread must not outlive its encoder, nor the interpreter.
        weakref.finalize(self, scheduler.close, drain=False)
        return scheduler

    def reading(self, item: SpanText) -> tuple[Reading, list[list[str]]]:
        """How a text is read: its passes with the tokens that are pooled, and the tokens in words. Loads no weights."""
        found = self._read([item], 0)[0]
        return found, [self._tokenizer.words(ids) for ids in found.sequences]

    def _read(self, inputs: Sequence[SpanText], first: int) -> list[Reading]:
        rules = ReadingRules(
            pooling=self.pooling,
            on_overflow=self.on_overflow,
            max_tokens=self.max_tokens,
            position_limit=self.position_limit,
            pool_prefix=self.pool_prefix,
        )
        tokenizer = self._tokenizer
        offsets = any(item.spans is not None or item.prefix or item.suffix for item in inputs)
        if any(item.apart for item in inputs):
            tokens = [tokenizer.tokenize_apart(item.text, item.prefix, item.suffix) for item in inputs]
        else:
            tokens = tokenizer.tokenize([item.text for item in inputs], offsets=offsets)
        return [
            read(item, text, tokenizer, rules, first + i)
            for i, (item, text) in enumerate(zip(inputs, tokens, strict=True))
        ]

    def _work(self, readings: Sequence[Reading], token_vectors: bool) -> Work:
        sequences = [ids for reading in readings for ids in reading.sequences]
        segments: list[tuple[int, int, int, int]] = []
        kept: list[tuple[int, int, int]] = []
        first = 0
        for reading in readings:
            for parts in reading.spans:
                segments += [(first + p.sequence, p.start, p.end, p.weight) for p in pooled_parts(parts, self.pooling)]
                if token_vectors:
                    kept += [(first + p.sequence, p.start, p.end) for p in parts]
            first += len(reading.sequences)
        reductions: dict[str, Reduction] = {"weighted_mean": "weighted", "max": "max"}
        return Work(
            sequences=sequences,
            segments=np.array(segments, dtype=np.int64).reshape(-1, 4),
            reduction=reductions.get(self.pooling, "sum"),
            kept=np.array(kept, dtype=np.int64).reshape(-1, 3),
        )

    def _finish(self, readings: Sequence[Reading], done: Done, token_vectors: bool) -> list[Encoded]:
        parts = [pooled_parts(span, self.pooling) for reading in readings for span in reading.spans]
        vectors = self._output(combined(parts, done.reduced, self.pooling), self.normalize)
        results: list[Encoded] = []
        row = at = 0
        for reading in readings:
            tokens: list[Vectors] = []
            if token_vectors:
                for span in reading.spans:
                    tokens.append(self._token_vectors(span, done.kept[at : at + len(span)]))
                    at += len(span)
            rows = vectors[row : row + len(reading.spans)]
            results.append(Encoded(rows, tuple(tokens) if token_vectors else None, reading.lost_tokens))
            row += len(reading.spans)
        return results

    def _token_vectors(self, parts: Sequence[Part], kept: Sequence[Vectors]) -> Vectors:
        if not parts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return self._output(np.concatenate(kept), True)

    def _output(self, vectors: Vectors, normalize: bool) -> Vectors:
        """The model's heads, the Matryoshka cut and the norm."""
        if self._heads_ is not None:
            vectors = self._heads_(vectors)
        if not np.isfinite(vectors).all():
            raise NonFiniteVectorError(
                f"model {self.model!r} computed NaN or infinity in {self.dtype}: its weights are damaged or the "
                "format's range is too small for it; try dtype='float32'"
            )
        if self._dimensions is not None:
            vectors = vectors[:, : self.dimension]
        return normalised(vectors) if normalize else np.ascontiguousarray(vectors)

    def _warn_of_loss(self, results: Sequence[Encoded]) -> None:
        lost = [result.lost_tokens for result in results if result.lost_tokens]
        if lost:
            warnings.warn(
                f"{len(lost)} of {len(results)} texts are longer than the {self.max_tokens} tokens that the model "
                f"reads and lost {sum(lost)} tokens: split them, or choose on_overflow='window'",
                TruncationWarning,
                stacklevel=3,
            )


def _slices(inputs: Sequence[SpanText]) -> Iterator[tuple[int, Sequence[SpanText]]]:
    """The inputs in runs of bounded size."""
    start = characters = 0
    for i, item in enumerate(inputs):
        if i > start and (i - start >= _SLICE_TEXTS or characters + len(item.text) > _SLICE_CHARACTERS):
            yield start, inputs[start:i]
            start, characters = i, 0
        characters += len(item.text)
    if start < len(inputs):
        yield start, inputs[start:]


def _progress_bar(total: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="encoding", unit="text")
