"""Span encoders that ask a server: OpenAI-compatible ones, and text-embeddings-inference with its token vectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from situate.batches import in_batches
from situate.embedders.remote.answers import as_matrix, checked, decoded, nonsense
from situate.embedders.remote.http import Call, Conversation, HttpEncoder, Refusal
from situate.embedders.remote.served_spans import SpanReading, TokenOffsets
from situate.embedders.types import Encoded, OnOverflow, Pooling, SpanText, Vectors
from situate.errors import (
    ConventionError,
    InputError,
    OverflowLimitError,
    ServerError,
    TruncationWarning,
)
from situate.vectors import unit

OPENAI_URL = "https://api.openai.com/v1"
#: Statuses with which text-embeddings-inference refuses a text that is too long.
_TOO_LONG = frozenset({413, 422})


class OpenAIEncoder(HttpEncoder):
    """Vectors from any server with OpenAI's ``/v1/embeddings`` (OpenAI, vLLM, infinity, Ollama, LM Studio, ...).

    Such a server returns one vector per text: spans and token vectors (late chunking, unpooled context) are a
    `ConventionError`. A text that is longer than the model reads is the server's to refuse. An empty text, which
    OpenAI refuses, is sent as one blank.

    Args:
        model: The model's name on the server.
        base_url: The address up to and including ``/v1``.
        api_key: Sent as a bearer token.
        api_key_env: The environment variable that holds the key. None means ``OPENAI_API_KEY`` for OpenAI's own
            address and no key for any other: a key is never sent where it was not meant to go.
        dimensions: Asked of the server (OpenAI's text-embedding-3 and vLLM cut Matryoshka vectors themselves).
        normalize: Normalise what comes back. OpenAI's vectors have norm 1 already.
        batch_size: Texts per request.
        encoding: "base64" moves a quarter of the bytes of "float"; not every server knows it.
        headers: Sent with every request.
        timeout: Seconds until a request is given up.
        retries: Further tries after a passing trouble.
        backoff: Seconds before the first further try.
        longest_wait: Most seconds between two tries.
        concurrency: Requests of one call that are under way at once.

    Raises:
        InputError: ``base_url`` is no http or https address, ``batch_size`` or ``concurrency`` is less than 1, or
            ``retries`` is negative.
    """

    def __init__(
        self,
        model: str,
        base_url: str = OPENAI_URL,
        *,
        api_key: str | None = None,
        api_key_env: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        batch_size: int = 64,
        encoding: Literal["float", "base64"] = "float",
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 0.5,
        longest_wait: float = 30.0,
        concurrency: int = 4,
    ) -> None:
        if api_key is None and api_key_env is None and urlsplit(base_url).hostname == urlsplit(OPENAI_URL).hostname:
            api_key_env = "OPENAI_API_KEY"
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
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: it has to be 1 or more")
        self.model = model
        self._dimensions = dimensions
        self._normalize = normalize
        self._batch_size = batch_size
        self._encoding = encoding

    #: One vector a text.
    pools_spans = False

    def __repr__(self) -> str:
        return f"OpenAIEncoder({self.model!r}, {self._shown_url!r})"

    def _conversation(self, inputs: Sequence[SpanText], token_vectors: bool) -> Conversation:
        if token_vectors or any(item.spans is not None for item in inputs):
            raise ConventionError(
                f"{self._shown_url} returns one vector per text, so it cannot pool spans or return token vectors: for "
                "late chunking use TEIEncoder or the model's own Encoder"
            )
        calls = []
        for batch in in_batches(inputs, self._batch_size):
            body: dict[str, Any] = {"model": self.model, "input": [item.text or " " for item in batch]}
            if self._encoding == "base64":
                body["encoding_format"] = "base64"
            if self._dimensions is not None:
                body["dimensions"] = self._dimensions
            calls.append(Call("embeddings", body))
        answers = yield calls
        results: list[Encoded] = []
        for call, answer in zip(calls, answers, strict=True):
            assert call.body is not None
            vectors = self._vectors(answer, len(call.body["input"]))
            results += [Encoded(vectors[i : i + 1]) for i in range(len(vectors))]
        return results

    def _vectors(self, answer: Any, count: int) -> Vectors:
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            if [row["index"] for row in rows] != list(range(count)):
                raise ServerError(f"{self._shown_url}/embeddings answered {len(rows)} vectors for {count} texts")
            matrix = as_matrix([decoded(row["embedding"]) for row in rows])
        except (KeyError, TypeError, ValueError) as error:
            raise nonsense(self._shown_url, "embeddings", error) from error
        self._dimension = checked(matrix, self._dimension, self._shown_url)
        return unit(matrix) if self._normalize else matrix


class TEIEncoder(HttpEncoder):
    """Vectors from a text-embeddings-inference server, spans and token vectors included.

    ``/embed`` gives whole texts' vectors by the server's own pooling, ``/embed_all`` gives every token's, so late
    chunking, situated windows and late interaction work as they do locally. ``/tokenize`` says which characters each
    token stands for. Documents longer than the server reads are read in overlapping windows, cut between words.

    The server's default prompt, if it was started with one, comes on top of what is sent: start it without.

    Args:
        base_url: The server's address.
        pooling: How the token vectors of a span become one; what the model was trained with.
        normalize: Whether vectors get L2 norm 1.
        on_overflow: What a text without spans gets that is longer than the server reads.
        api_key: Sent as a bearer token.
        api_key_env: The environment variable that holds the key.
        batch_size: Texts per request; the server's ``max_client_batch_size`` bounds it (32 by default).
        headers: Sent with every request.
        timeout: Seconds until a request is given up.
        retries: Further tries after a passing trouble.
        backoff: Seconds before the first further try.
        longest_wait: Most seconds between two tries.
        concurrency: Requests of one call that are under way at once.

    Raises:
        InputError: ``base_url`` is no http or https address, ``batch_size`` or ``concurrency`` is less than 1, or
            ``retries`` is negative.
    """

    def __init__(
        self,
        base_url: str,
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        on_overflow: OnOverflow = "warn",
        api_key: str | None = None,
        api_key_env: str | None = None,
        batch_size: int = 32,
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
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: it has to be 1 or more")
        self._pooling: Pooling = pooling
        self._normalize = normalize
        self._on_overflow: OnOverflow = on_overflow
        self._batch_size = batch_size
        self._max_tokens: int | None = None

    @property
    def max_tokens(self) -> int:
        """Tokens that the server reads at once, special tokens included. Asks it once.

        Raises:
            ServerError: The server cannot be asked.
        """
        if self._max_tokens is None:
            self._max_tokens = self._limit(self._ask(Call("info", None)))
        return self._max_tokens

    def _conversation(self, inputs: Sequence[SpanText], token_vectors: bool) -> Conversation:
        spanned = [item.spans is not None or token_vectors or self._on_overflow == "window" for item in inputs]
        plain = [item for item, wanted in zip(inputs, spanned, strict=True) if not wanted]
        whole = iter((yield from self._whole_texts(plain)) if plain else ())
        parts = [item for item, wanted in zip(inputs, spanned, strict=True) if wanted]
        pooled = iter((yield from self._spans(parts, token_vectors)) if parts else ())
        return [next(pooled) if wanted else next(whole) for wanted in spanned]

    def _whole_texts(self, inputs: Sequence[SpanText]) -> Conversation:
        batches = list(in_batches(inputs, self._batch_size))
        calls = [self._embed([item.text for item in batch], truncate=False) for batch in batches]
        answers = yield calls
        # A batch with a text that is too long is refused as a whole: count its tokens, then have it cut.
        late = [i for i, answer in enumerate(answers) if isinstance(answer, Refusal)]
        lost: dict[int, list[int]] = {}
        if late:
            (info,) = yield [Call("info", None)]
            self._max_tokens = self._limit(info)
            counted = yield [self._tokenize([item.text for item in batches[i]]) for i in late]
            for i, tokens in zip(late, counted, strict=True):
                lost[i] = [max(0, len(row) - self._max_tokens) for row in tokens]
                if not any(lost[i]):
                    raise ServerError(f"{self._shown_url}/embed refused a batch: {answers[i].said}")
            if self._on_overflow == "raise":
                raise OverflowLimitError(
                    f"a text has {max(map(max, lost.values()))} tokens more than the {self._max_tokens} that "
                    f"{self._shown_url} reads: split it, or choose on_overflow='window'"
                )
            again = yield [self._embed([item.text for item in batches[i]], truncate=True) for i in late]
            for i, answer in zip(late, again, strict=True):
                if isinstance(answer, Refusal):
                    raise ServerError(f"{self._shown_url}/embed refused a batch: {answer.said}")
                answers[i] = answer
            cut = [count for counts in lost.values() for count in counts if count]
            warnings.warn(
                f"{len(cut)} of {len(inputs)} texts are longer than the {self._max_tokens} tokens that "
                f"{self._shown_url} reads and lost {sum(cut)} tokens: split them, or choose on_overflow='window'",
                TruncationWarning,
                stacklevel=2,
            )
        results: list[Encoded] = []
        for i, (batch, answer) in enumerate(zip(batches, answers, strict=True)):
            vectors = self._vectors(answer, len(batch), "embed")
            vectors = unit(vectors) if self._normalize else vectors
            counts = lost.get(i, [0] * len(batch))
            results += [Encoded(vectors[k : k + 1], None, count) for k, count in enumerate(counts)]
        return results

    def _spans(self, inputs: Sequence[SpanText], token_vectors: bool) -> Conversation:
        if self._max_tokens is None:
            (info,) = yield [Call("info", None)]
            self._max_tokens = self._limit(info)
        offsets = yield from self._offsets([item.text for item in inputs])
        readings = [
            SpanReading.plan(item, tokens, self._max_tokens, index)
            for index, (item, tokens) in enumerate(zip(inputs, offsets, strict=True))
        ]
        texts = [text for reading in readings for text in reading.texts]
        # A text in one piece has been tokenized already.
        pieces = [text for reading in readings for text in reading.texts if len(reading.texts) > 1]
        cut = iter((yield from self._offsets(pieces)))
        batches = list(in_batches(texts, self._batch_size))
        answers = yield [Call("embed_all", {"inputs": list(batch), "truncate": False}) for batch in batches]
        matrices = iter(
            matrix
            for batch, answer in zip(batches, answers, strict=True)
            for matrix in self._token_matrices(answer, len(batch))
        )
        results = []
        for reading, tokens in zip(readings, offsets, strict=True):
            found = [(tokens if len(reading.texts) == 1 else next(cut), next(matrices)) for _ in reading.texts]
            try:
                results.append(reading.encoded(found, self._pooling, self._normalize, token_vectors))
            except ValueError as error:
                raise nonsense(self._shown_url, "embed_all", error) from error
        return results

    def _offsets(self, texts: Sequence[str]) -> Any:
        if not texts:
            return []
        batches = list(in_batches(texts, self._batch_size))
        answers = yield [self._tokenize(batch) for batch in batches]
        try:
            rows = [row for answer in answers for row in answer]
            return [TokenOffsets.of(text, row) for text, row in zip(texts, rows, strict=True)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise nonsense(self._shown_url, "tokenize", error) from error

    def _embed(self, texts: Sequence[str], truncate: bool) -> Call:
        body = {"inputs": list(texts), "normalize": self._normalize, "truncate": truncate}
        return Call("embed", body, _TOO_LONG)

    def _tokenize(self, texts: Sequence[str]) -> Call:
        return Call("tokenize", {"inputs": list(texts), "add_special_tokens": True})

    def _limit(self, info: Any) -> int:
        try:
            return int(info["max_input_length"])
        except (KeyError, TypeError, ValueError) as error:
            raise nonsense(self._shown_url, "info", error) from error

    def _vectors(self, answer: Any, count: int, path: str) -> Vectors:
        try:
            matrix = as_matrix(answer)
        except (TypeError, ValueError) as error:
            raise nonsense(self._shown_url, path, error) from error
        if len(matrix) != count:
            raise ServerError(f"{self._shown_url}/{path} answered {len(matrix)} vectors for {count} texts")
        self._dimension = checked(matrix, self._dimension, self._shown_url)
        return matrix

    def _token_matrices(self, answer: Any, count: int) -> list[Vectors]:
        if not isinstance(answer, list) or len(answer) != count:
            raise ServerError(f"{self._shown_url}/embed_all did not answer one list of vectors for each text")
        return [self._vectors(rows, len(rows), "embed_all") for rows in answer]
