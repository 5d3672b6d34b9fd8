"""VLLMEncoder: spans and token vectors from a vLLM server."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from situate.batches import in_batches
from situate.embedders.models.resolve import resolve_model
from situate.embedders.remote.encoder import (
    Conversation,
    HttpEncoder,
    answer_bytes,
    checked_options,
    matrix_of,
    positive,
)
from situate.embedders.remote.http import Call, HttpOptions, HttpSettings
from situate.embedders.text.pooling import SpanOutput
from situate.embedders.text.reading import ReadPlan, ReadRules, pooling_request, read_plans
from situate.embedders.text.requests import PoolingRequest, PoolingResult
from situate.embedders.text.tokenizer import TextTokenizer
from situate.embedders.types import Encoded, OnOverflow, Pooling, SpanText, Vectors
from situate.errors import ConventionError, InputError, ModelNotFoundError, ServerError, TruncationWarning

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@checked_options
class VLLMEncoder(HttpEncoder):
    """Vectors from a vLLM server (``vllm serve MODEL --runner pooling``), spans and token vectors included.

    Texts are tokenized here, by the model's own tokenizer, and sent as token ids. So windows and spans are exactly
    those of a local `Encoder`. Whole texts go to ``/v1/embeddings`` and are pooled there, as the server is configured
    (vLLM reads the model's sentence-transformers files); where spans or token vectors are wanted, ``/pooling`` with
    the task "token_embed" gives every token's vector, without vLLM's normalisation. For texts without spans alone,
    `OpenAIEncoder` does it without a tokenizer.

    Args:
        model: The model's name on the server, and, unless ``tokenizer`` is given, the folder or hub id of its files.
        base_url: The server's address, without ``/v1``, or an `HttpSettings` with the other settings too.
        tokenizer: A folder or hub id with the model's tokenizer.
        pooling: How the token vectors of a span become one; the pooling that the model was trained with.
        normalize: Whether vectors get L2 norm 1.
        on_overflow: How a text without spans that is longer than ``max_tokens`` is treated.
        max_tokens: Tokens read at once, special tokens included; None: the server's own limit.
        add_special_tokens: Whether the tokenizer's special tokens are put around each text.
        end_token: Whether the end token closes each text also where the tokenizer's own files leave it out.
        batch_size: Sequences per request.
        options: Further fields of `HttpSettings`: ``api_key``, ``timeout``, ``retries``, ...

    Raises:
        InputError: ``base_url`` ends in ``/v1``, ``batch_size`` or ``max_tokens`` is less than 1, or `HttpSettings`
            refuses its values.
    """

    def __init__(
        self,
        model: str,
        base_url: str | HttpSettings = "http://localhost:8000",
        *,
        tokenizer: str | os.PathLike[str] | None = None,
        pooling: Pooling = "mean",
        normalize: bool = True,
        on_overflow: OnOverflow = "warn",
        max_tokens: int | None = None,
        add_special_tokens: bool = True,
        end_token: bool = False,
        batch_size: int = 16,
        **options: Unpack[HttpOptions],
    ) -> None:
        super().__init__(base_url, options, batch_size)
        if max_tokens is not None and max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens}: it has to be 1 or more")
        if self.base_url.endswith("/v1"):
            raise InputError(f"base_url {self.http.shown_url!r} ends in /v1: give the server's address without it")
        self.model = model
        self._tokenizer_source = model if tokenizer is None else os.fspath(tokenizer)
        self._pooling: Pooling = pooling
        self._normalize = normalize
        self._on_overflow: OnOverflow = on_overflow
        self._max_tokens = max_tokens
        self._add_special_tokens = add_special_tokens
        self._end_token = end_token
        self._limit: int | None = None
        self._tokenizer: TextTokenizer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}

    def __repr__(self) -> str:
        return f"VLLMEncoder({self.model!r}, {self.http.shown_url!r})"

    @property
    def max_tokens(self) -> int:
        """Tokens that are read at once, special tokens included. Requested from the server once.

        Raises:
            ServerError: The server cannot be reached.
        """
        if self._limit is None:
            self._limit = self._limit_in(self._connection.ask([Call("v1/models", None)])[0])
        return self._limit if self._max_tokens is None else min(self._max_tokens, self._limit)

    @property
    def tokenizer(self) -> Tokenizer:
        """A copy of the model's tokenizer without truncation and padding.

        Raises:
            ModelNotFoundError: Its files cannot be found.
            ConventionError: The model has a tokenizer in plain Python only.
        """
        from tokenizers import Tokenizer

        backend = self._text_tokenizer().backend
        if backend is None:
            raise ConventionError(
                f"{self._tokenizer_source!r} has a tokenizer in plain Python only, which chunkers cannot use: size "
                "chunks in characters (a chunker without a tokenizer), or convert it to a tokenizer.json"
            )
        return Tokenizer.from_str(backend.to_str())

    def _conversation(self, inputs: Sequence[SpanText], token_vectors: bool) -> Conversation:
        if self._limit is None:
            (models,) = yield [Call("v1/models", None)]
            self._limit = self._limit_in(models)
        rules = ReadRules(
            pooling=self._pooling,
            on_overflow=self._on_overflow,
            max_tokens=self._limit if self._max_tokens is None else min(self._max_tokens, self._limit),
            position_limit=self._limit,
        )
        plans = read_plans(inputs, self._text_tokenizer(), rules)
        whole = [
            item.spans is None and not token_vectors and len(plan.sequences) == 1
            for item, plan in zip(inputs, plans, strict=True)
        ]
        done: dict[int, Encoded] = {}
        simple = [i for i, plain in enumerate(whole) if plain]
        for i, vector in zip(simple, (yield from self._embedded([plans[i] for i in simple])), strict=True):
            done[i] = Encoded(vector, None, plans[i].lost_tokens)
        rest = [i for i, plain in enumerate(whole) if not plain]
        parts = yield from self._pooled([plans[i] for i in rest], token_vectors)
        done.update(zip(rest, parts, strict=True))
        self._warn_of_loss(plans, rules.max_tokens)
        return [done[i] for i in range(len(inputs))]

    def _embedded(self, plans: Sequence[ReadPlan]) -> Generator[Sequence[Call], list[Any], list[Vectors]]:
        """float32 ``[1, dimension]`` per text, pooled by the server."""
        batches = list(in_batches([plan.sequences[0] for plan in plans], self._batch_size))
        answers = yield [
            Call("v1/embeddings", self._body(batch), max_bytes=answer_bytes(len(batch))) for batch in batches
        ]
        output = self._output()
        vectors: list[Vectors] = []
        for batch, answer in zip(batches, answers, strict=True):
            rows = self._indexed(answer, len(batch), "v1/embeddings", "results")
            with self._understood("v1/embeddings"):
                matrix = matrix_of([row["embedding"] for row in rows])
            matrix = self._checked(matrix, "v1/embeddings")
            vectors += [output.finished(matrix[k : k + 1]) for k in range(len(matrix))]
        return vectors

    def _pooled(self, plans: Sequence[ReadPlan], token_vectors: bool) -> Conversation:
        """One `Encoded` per text, pooled here."""
        request = pooling_request(plans, self._pooling, token_vectors)
        batches = list(in_batches(request.sequences, self._batch_size))
        task = {"task": "token_embed", "use_activation": False}
        answers = yield [Call("pooling", {**self._body(batch), **task}) for batch in batches]
        hidden: list[Vectors] = []
        for batch, answer in zip(batches, answers, strict=True):
            for ids, row in zip(batch, self._indexed(answer, len(batch), "pooling", "results"), strict=True):
                with self._understood("pooling"):
                    matrix = matrix_of(row["data"])
                if len(matrix) != len(ids):
                    raise ServerError(
                        f"{self.http.shown_url}/pooling answered {len(matrix)} vectors for {len(ids)} tokens: is the "
                        "model served for token_embed, and is this its tokenizer?"
                    )
                hidden.append(self._checked(matrix, "pooling", tokens=True))
        return self._output().encoded(plans, _reduced(request, hidden, self._dimension or 0), token_vectors)

    def _output(self) -> SpanOutput:
        return SpanOutput(
            model=self.model,
            dtype="the server's format",
            pooling=self._pooling,
            heads=None,
            dimension=None,
            normalize=self._normalize,
        )

    def _body(self, batch: Sequence[Any]) -> dict[str, Any]:
        return {"model": self.model, "input": [ids.tolist() for ids in batch], "encoding_format": "float"}

    def _limit_in(self, models: Any) -> int:
        with self._understood("v1/models"):
            served = {str(row["id"]): row for row in models["data"]}
            if self.model not in served:
                raise ServerError(
                    f"{self.http.shown_url} serves {', '.join(map(repr, served))[:300]}, but not {self.model!r}"
                )
            return positive(served[self.model]["max_model_len"])

    def _text_tokenizer(self) -> TextTokenizer:
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

    def _warn_of_loss(self, plans: Sequence[ReadPlan], limit: int) -> None:
        lost = [plan.lost_tokens for plan in plans if plan.lost_tokens]
        if lost:
            warnings.warn(
                f"{len(lost)} of {len(plans)} texts are longer than the {limit} tokens that {self.http.shown_url} "
                f"reads and lost {sum(lost)} tokens: split them, or choose on_overflow='window'",
                TruncationWarning,
                stacklevel=2,
            )


def _reduced(request: PoolingRequest, hidden: Sequence[Vectors], dimension: int) -> PoolingResult:
    """An engine's sums and maxima of token vectors, in numpy."""
    rows: list[Vectors] = []
    for sequence, first, last, weight in request.segments.tolist():
        tokens = hidden[sequence][first:last]
        if request.reduction == "max":
            rows.append(tokens.max(axis=0))
        elif request.reduction == "weighted":
            rows.append(np.arange(weight, weight + len(tokens), dtype=np.float32) @ tokens)
        else:
            rows.append(tokens.sum(axis=0))
    kept = [hidden[sequence][first:last] for sequence, first, last in request.kept.tolist()]
    return PoolingResult(np.stack(rows) if rows else np.zeros((0, dimension), dtype=np.float32), kept)
