"""VLLMEncoder: spans and token vectors from a vLLM server."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.batches import in_batches
from situate.embedders.local.scheduler import Done, Work
from situate.embedders.models.resolve import resolve_model
from situate.embedders.remote.answers import as_matrix, checked, nonsense
from situate.embedders.remote.http import Call, Conversation, HttpEncoder
from situate.embedders.text.heads import Heads
from situate.embedders.text.pooling import Reading, ReadingRules
from situate.embedders.text.reading import SpanOutput, readings_of, work_of
from situate.embedders.text.tokenizer import TextTokenizer
from situate.embedders.types import Encoded, OnOverflow, Pooling, SpanText, Vectors
from situate.errors import InputError, ModelNotFoundError, ServerError, TruncationWarning

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class VLLMEncoder(HttpEncoder):
    """Vectors from a vLLM server (``vllm serve MODEL --runner pooling``), spans and token vectors included.

    Texts are tokenized here, by the model's own tokenizer, and sent as token ids. So windows and spans are exactly
    those of a local `Encoder`. Whole texts go to ``/v1/embeddings`` and are pooled there, as the server was told
    (vLLM reads the model's sentence-transformers files); where spans or token vectors are wanted, ``/pooling`` with
    the task "token_embed" gives every token's vector, without vLLM's normalisation. For texts without spans alone,
    `OpenAIEncoder` does it without a tokenizer.

    Args:
        model: The model's name on the server, and, unless ``tokenizer`` is given, the folder or hub id of its files.
        base_url: The server's address, without ``/v1``.
        tokenizer: A folder or hub id with the model's tokenizer.
        pooling: How the token vectors of a span become one; what the model was trained with.
        normalize: Whether vectors get L2 norm 1.
        on_overflow: What a text without spans gets that is longer than ``max_tokens``.
        max_tokens: Tokens read at once, special tokens included; None: what the server was started with.
        add_special_tokens: Whether the tokenizer's special tokens are put around each text.
        end_token: Whether the end token closes each text also where the tokenizer's own files leave it out.
        api_key: Sent as a bearer token.
        api_key_env: The environment variable that holds the key.
        batch_size: Sequences per request.
        headers: Sent with every request.
        timeout: Seconds until a request is given up.
        retries: Further tries after a passing trouble.
        backoff: Seconds before the first further try.
        longest_wait: Most seconds between two tries.
        concurrency: Requests of one call that are under way at once.

    Raises:
        InputError: ``base_url`` is no http or https address or ends in ``/v1``, ``batch_size``, ``max_tokens`` or
            ``concurrency`` is less than 1, or ``retries`` is negative.
    """

    def __init__(
        self,
        model: str,
        base_url: str = "http://localhost:8000",
        *,
        tokenizer: str | os.PathLike[str] | None = None,
        pooling: Pooling = "mean",
        normalize: bool = True,
        on_overflow: OnOverflow = "warn",
        max_tokens: int | None = None,
        add_special_tokens: bool = True,
        end_token: bool = False,
        api_key: str | None = None,
        api_key_env: str | None = None,
        batch_size: int = 16,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 0.5,
        longest_wait: float = 30.0,
        concurrency: int = 4,
    ) -> None:
        super().__init__(
            base_url,
            api_key=api_key,
            api_key_env=api_key_env,
            headers=headers,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            longest_wait=longest_wait,
            concurrency=concurrency,
        )
        for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it has to be 1 or more")
        if self.base_url.endswith("/v1"):
            raise InputError(f"base_url {self._shown_url!r} ends in /v1: give the server's address without it")
        self.model = model
        self._tokenizer_source = model if tokenizer is None else os.fspath(tokenizer)
        self._pooling: Pooling = pooling
        self._normalize = normalize
        self._on_overflow: OnOverflow = on_overflow
        self._asked_tokens = max_tokens
        self._add_special_tokens = add_special_tokens
        self._end_token = end_token
        self._batch_size = batch_size
        self._limit: int | None = None

    def _forget(self) -> None:
        super()._forget()
        self._tokenizer_lock = threading.Lock()
        self._tokenizer: TextTokenizer | None = None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_tokenizer_lock", "_tokenizer")}

    def __repr__(self) -> str:
        return f"VLLMEncoder({self.model!r}, {self._shown_url!r})"

    @property
    def max_tokens(self) -> int:
        """Tokens that are read at once, special tokens included. Asks the server once.

        Raises:
            ServerError: The server cannot be asked.
        """
        if self._limit is None:
            self._limit = self._limit_in(self._ask(Call("v1/models", None)))
        return self._limit if self._asked_tokens is None else min(self._asked_tokens, self._limit)

    @property
    def tokenizer(self) -> Tokenizer:
        """A copy of the model's tokenizer without truncation and padding.

        Raises:
            ModelNotFoundError: Its files cannot be found.
            InputError: The model has a tokenizer in plain Python only.
        """
        from tokenizers import Tokenizer

        backend = self._text_tokenizer().backend
        if backend is None:
            raise InputError(f"{self._tokenizer_source!r} has no fast tokenizer: convert it to a tokenizer.json")
        return Tokenizer.from_str(backend.to_str())

    def _conversation(self, inputs: Sequence[SpanText], token_vectors: bool) -> Conversation:
        if self._limit is None:
            (models,) = yield [Call("v1/models", None)]
            self._limit = self._limit_in(models)
        rules = ReadingRules(
            pooling=self._pooling,
            on_overflow=self._on_overflow,
            max_tokens=self._limit if self._asked_tokens is None else min(self._asked_tokens, self._limit),
            position_limit=self._limit,
        )
        readings = readings_of(inputs, self._text_tokenizer(), rules)
        whole = [
            item.spans is None and not token_vectors and len(reading.sequences) == 1
            for item, reading in zip(inputs, readings, strict=True)
        ]
        done: dict[int, Encoded] = {}
        simple = [i for i, plain in enumerate(whole) if plain]
        for i, vector in zip(simple, (yield from self._embedded([readings[i] for i in simple])), strict=True):
            done[i] = Encoded(vector, None, readings[i].lost_tokens)
        rest = [i for i, plain in enumerate(whole) if not plain]
        parts = yield from self._pooled([readings[i] for i in rest], token_vectors)
        done.update(zip(rest, parts, strict=True))
        self._warn_of_loss(readings, rules.max_tokens)
        return [done[i] for i in range(len(inputs))]

    def _embedded(self, readings: Sequence[Reading]) -> Any:
        """float32 ``[1, dimension]`` per text, pooled by the server."""
        batches = list(in_batches([reading.sequences[0] for reading in readings], self._batch_size))
        answers = yield [Call("v1/embeddings", self._body(batch)) for batch in batches]
        output = self._output()
        vectors: list[Vectors] = []
        for batch, answer in zip(batches, answers, strict=True):
            try:
                matrix = as_matrix([row["embedding"] for row in self._rows(answer, len(batch), "v1/embeddings")])
            except (KeyError, TypeError, ValueError) as error:
                raise nonsense(self._shown_url, "v1/embeddings", error) from error
            self._dimension = checked(matrix, self._dimension, self._shown_url)
            vectors += [output.finished(matrix[k : k + 1]) for k in range(len(matrix))]
        return vectors

    def _pooled(self, readings: Sequence[Reading], token_vectors: bool) -> Any:
        """One `Encoded` per text, pooled here."""
        work = work_of(readings, self._pooling, token_vectors)
        batches = list(in_batches(work.sequences, self._batch_size))
        told = {"task": "token_embed", "use_activation": False}
        answers = yield [Call("pooling", {**self._body(batch), **told}) for batch in batches]
        hidden: list[Vectors] = []
        for batch, answer in zip(batches, answers, strict=True):
            for ids, row in zip(batch, self._rows(answer, len(batch), "pooling"), strict=True):
                try:
                    matrix = as_matrix(row["data"])
                except (KeyError, TypeError, ValueError) as error:
                    raise nonsense(self._shown_url, "pooling", error) from error
                if len(matrix) != len(ids):
                    raise ServerError(
                        f"{self._shown_url}/pooling answered {len(matrix)} vectors for {len(ids)} tokens: is the model "
                        "served for token_embed, and is this its tokenizer?"
                    )
                self._dimension = checked(matrix, self._dimension, self._shown_url)
                hidden.append(matrix)
        return self._output().encoded(readings, _reduced(work, hidden, self._dimension or 0), token_vectors)

    def _output(self) -> SpanOutput:
        return SpanOutput(
            model=self.model,
            dtype="the server's format",
            pooling=self._pooling,
            heads=Heads(()),
            dimension=None,
            normalize=self._normalize,
        )

    def _body(self, batch: Sequence[Any]) -> dict[str, Any]:
        return {"model": self.model, "input": [ids.tolist() for ids in batch], "encoding_format": "float"}

    def _rows(self, answer: Any, count: int, path: str) -> list[Any]:
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            indexes = [row["index"] for row in rows]
        except (KeyError, TypeError) as error:
            raise nonsense(self._shown_url, path, error) from error
        if indexes != list(range(count)):
            raise ServerError(f"{self._shown_url}/{path} answered {len(rows)} results for {count} texts")
        return rows

    def _limit_in(self, models: Any) -> int:
        try:
            served = {row["id"]: row for row in models["data"]}
            if self.model not in served:
                raise ServerError(f"{self._shown_url} serves {', '.join(map(repr, served))}, but not {self.model!r}")
            return int(served[self.model]["max_model_len"])
        except (KeyError, TypeError, ValueError) as error:
            raise nonsense(self._shown_url, "v1/models", error) from error

    def _text_tokenizer(self) -> TextTokenizer:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                try:
                    folder = resolve_model(self._tokenizer_source).path
                except ModelNotFoundError as error:
                    raise ModelNotFoundError(
                        f"{self.model!r} is served elsewhere and its tokenizer is not here ({error}): give "
                        "tokenizer= with a folder or hub id that has it, or use OpenAIEncoder for texts without spans"
                    ) from error
                self._tokenizer = TextTokenizer.load(
                    folder, add_special_tokens=self._add_special_tokens, end_token=self._end_token
                )
            return self._tokenizer

    def _warn_of_loss(self, readings: Sequence[Reading], limit: int) -> None:
        lost = [reading.lost_tokens for reading in readings if reading.lost_tokens]
        if lost:
            warnings.warn(
                f"{len(lost)} of {len(readings)} texts are longer than the {limit} tokens that {self._shown_url} "
                f"reads and lost {sum(lost)} tokens: split them, or choose on_overflow='window'",
                TruncationWarning,
                stacklevel=2,
            )


def _reduced(work: Work, hidden: Sequence[Vectors], dimension: int) -> Done:
    """What an engine makes of token vectors, in numpy."""
    rows: list[Vectors] = []
    for sequence, first, last, weight in work.segments.tolist():
        tokens = hidden[sequence][first:last]
        if work.reduction == "max":
            rows.append(tokens.max(axis=0))
        elif work.reduction == "weighted":
            rows.append(np.arange(weight, weight + len(tokens), dtype=np.float32) @ tokens)
        else:
            rows.append(tokens.sum(axis=0))
    kept = [hidden[sequence][first:last] for sequence, first, last in work.kept.tolist()]
    return Done(np.stack(rows) if rows else np.zeros((0, dimension), dtype=np.float32), kept)
