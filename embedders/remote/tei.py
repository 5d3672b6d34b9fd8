"""TEIEncoder: spans and token vectors from a text-embeddings-inference server."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from situate.batches import in_batches
from situate.embedders.remote.encoder import (
    Conversation,
    HttpEncoder,
    answer_bytes,
    checked_options,
    matrix_of,
    positive,
)
from situate.embedders.remote.http import Call, HttpOptions, HttpSettings, Refusal
from situate.embedders.text.windows import windows
from situate.embedders.types import Encoded, OnOverflow, Pooling, Span, SpanText, Vectors
from situate.errors import OverflowLimitError, ServerError, SpanError, TruncationWarning
from situate.vectors import unit

#: Statuses with which text-embeddings-inference refuses a text that is too long.
_TOO_LONG = frozenset({413, 422})


@checked_options
class TEIEncoder(HttpEncoder):
    """Vectors from a text-embeddings-inference server, spans and token vectors included.

    ``/embed`` gives whole texts' vectors by the server's own pooling, ``/embed_all`` gives every token's, so late
    chunking, situated windows and late interaction work as they do locally. ``/tokenize`` says which characters each
    token stands for. Documents longer than the server reads are read in overlapping windows, cut between words.

    The server puts its default prompt, if it has one, before the text that is sent: start it without.

    Args:
        base_url: The server's address, or an `HttpSettings` with the other settings too.
        pooling: How the token vectors of a span become one; the pooling that the model was trained with.
        normalize: Whether vectors get L2 norm 1.
        on_overflow: How a text without spans that is longer than the server reads is treated.
        batch_size: Texts per request; the server's ``max_client_batch_size`` bounds it (32 by default).
        options: Further fields of `HttpSettings`: ``api_key``, ``timeout``, ``retries``, ...

    Raises:
        InputError: ``batch_size`` is less than 1, or `HttpSettings` refuses its values.
    """

    def __init__(
        self,
        base_url: str | HttpSettings,
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        on_overflow: OnOverflow = "warn",
        batch_size: int = 32,
        **options: Unpack[HttpOptions],
    ) -> None:
        super().__init__(base_url, options, batch_size)
        self._pooling: Pooling = pooling
        self._normalize = normalize
        self._on_overflow: OnOverflow = on_overflow
        self._max_tokens: int | None = None

    @property
    def max_tokens(self) -> int:
        """Tokens that the server reads at once, special tokens included. Requested once.

        Raises:
            ServerError: The server cannot be reached.
        """
        if self._max_tokens is None:
            self._max_tokens = self._limit(self._connection.ask([Call("info", None)])[0])
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
        # The server refuses a batch with a text that is too long as a whole: count its tokens, then cut it.
        late = [i for i, answer in enumerate(answers) if isinstance(answer, Refusal)]
        lost: dict[int, list[int]] = {}
        if late:
            (info,) = yield [Call("info", None)]
            self._max_tokens = self._limit(info)
            counted = yield [self._tokenize([item.text for item in batches[i]]) for i in late]
            for i, tokens in zip(late, counted, strict=True):
                with self._understood("tokenize"):
                    lost[i] = [max(0, len(row) - self._max_tokens) for row in tokens]
                if not any(lost[i]):
                    raise ServerError(f"{self.http.shown_url}/embed refused a batch: {answers[i].text}")
            if self._on_overflow == "raise":
                raise OverflowLimitError(
                    f"a text has {max(map(max, lost.values()))} tokens more than the {self._max_tokens} that "
                    f"{self.http.shown_url} reads: split it, or choose on_overflow='window'"
                )
            again = yield [self._embed([item.text for item in batches[i]], truncate=True) for i in late]
            for i, answer in zip(late, again, strict=True):
                if isinstance(answer, Refusal):
                    raise ServerError(f"{self.http.shown_url}/embed refused a batch: {answer.text}")
                answers[i] = answer
            cut = [count for counts in lost.values() for count in counts if count]
            warnings.warn(
                f"{len(cut)} of {len(inputs)} texts are longer than the {self._max_tokens} tokens that "
                f"{self.http.shown_url} reads and lost {sum(cut)} tokens: split them, or choose on_overflow='window'",
                TruncationWarning,
                stacklevel=2,
            )
        results: list[Encoded] = []
        for i, (batch, answer) in enumerate(zip(batches, answers, strict=True)):
            with self._understood("embed"):
                vectors = matrix_of(answer)
            if len(vectors) != len(batch):
                self._miscounted("embed", len(vectors), len(batch))
            vectors = self._checked(vectors, "embed")
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
            _SpanReading.plan(item, tokens, self._max_tokens, index)
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
            with self._understood("embed_all"):
                results.append(reading.encoded(found, self._pooling, self._normalize, token_vectors))
        return results

    def _offsets(self, texts: Sequence[str]) -> Generator[Sequence[Call], list[Any], list[_TokenOffsets]]:
        if not texts:
            return []
        batches = list(in_batches(texts, self._batch_size))
        answers = yield [self._tokenize(batch) for batch in batches]
        with self._understood("tokenize"):
            rows = [row for answer in answers for row in answer]
            return [_TokenOffsets.of(text, row) for text, row in zip(texts, rows, strict=True)]

    def _embed(self, texts: Sequence[str], truncate: bool) -> Call:
        body = {"inputs": list(texts), "normalize": self._normalize, "truncate": truncate}
        return Call("embed", body, _TOO_LONG, answer_bytes(len(texts)))

    def _tokenize(self, texts: Sequence[str]) -> Call:
        return Call("tokenize", {"inputs": list(texts), "add_special_tokens": True})

    def _limit(self, info: Any) -> int:
        with self._understood("info"):
            return positive(info["max_input_length"])

    def _token_matrices(self, answer: Any, count: int) -> list[Vectors]:
        if not isinstance(answer, list) or len(answer) != count:
            raise ServerError(f"{self.http.shown_url}/embed_all did not answer one list of vectors for each text")
        with self._understood("embed_all"):
            matrices = [matrix_of(rows) for rows in answer]
        return [self._checked(matrix, "embed_all", tokens=True) for matrix in matrices]


# -- which text is sent, and which token vectors belong to a span ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _TokenOffsets:
    """The tokens of a text.

    Attributes:
        spans: int64 ``[tokens, 2]``: the characters of each token.
        special: bool ``[tokens]``: whether the tokenizer added it.
    """

    spans: NDArray[np.int64]
    special: NDArray[np.bool_]

    @classmethod
    def of(cls, text: str, tokens: Sequence[Mapping[str, Any]]) -> _TokenOffsets:
        """The tokens in ``/tokenize``'s answer for a text.

        Raises:
            KeyError, TypeError, ValueError, IndexError: It is not of that form.
        """
        ends = [(0, 0) if t["special"] else (int(t["start"] or 0), int(t["stop"] or 0)) for t in tokens]
        if max((stop for _, stop in ends), default=0) > len(text):
            # Offsets beyond the text's characters are offsets into its UTF-8 bytes.
            characters = np.cumsum([(byte & 0xC0) != 0x80 for byte in text.encode(errors="replace")]) - 1
            at = np.append(characters, len(text))
            ends = [(int(at[start]), int(at[stop])) for start, stop in ends]
        spans = [_trimmed(text, start, stop) for start, stop in ends]
        special = [bool(t["special"]) for t in tokens]
        return cls(np.array(spans, dtype=np.int64).reshape(-1, 2), np.array(special, dtype=bool))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One stretch of the text that is read at once.

    Attributes:
        shift: Characters of the text before the stretch, less those of the prefix that leads it.
        own: Characters of the text whose tokens are taken from this piece.
        prefix: Characters of the prefix.
    """

    shift: int
    own: Span
    prefix: int


@dataclass(frozen=True, slots=True)
class _SpanReading:
    """One text as the server will read it.

    Attributes:
        texts: The texts to send: the text, or its windows.
    """

    item: SpanText
    texts: tuple[str, ...]
    pieces: tuple[_Piece, ...]

    @classmethod
    def plan(cls, item: SpanText, tokens: _TokenOffsets, limit: int, index: int) -> _SpanReading:
        """How ``item`` is read by a server that reads ``limit`` tokens.

        Args:
            item: The text and its spans.
            tokens: Its tokens, special ones included.
            limit: Tokens that the server reads at once.
            index: The text's place in the caller's list, for messages.

        Raises:
            SpanError: A span is empty, reversed or outside the text.
            OverflowLimitError: The window is wider than the server reads.
        """
        length = len(item.text)
        for number, (start, end) in enumerate(item.spans or ()):
            if not 0 <= start < end <= length:
                raise SpanError(
                    f"span {number} of text {index} is ({start}, {end}), but the text has {length} characters: "
                    "spans need 0 <= start < end <= length"
                )
        if item.window is not None and item.window > limit:
            raise OverflowLimitError(
                f"text {index} asks for a window of {item.window} tokens, but the server reads {limit}"
            )
        room = (item.window or limit) - int(tokens.special.sum())
        words = tokens.spans[~tokens.special]
        if len(words) <= room:
            return cls(item, (item.text,), (_Piece(0, (0, length), 0),))
        body = words[words[:, 1] > item.prefix]
        lead = item.text[: item.prefix]
        texts, pieces = [], []
        for window in windows(len(body), room - (len(words) - len(body)), item.overlap):
            first = int(body[window.start, 0]) if window.start else item.prefix
            last = int(body[window.end - 1, 1]) if window.end < len(body) else length
            own = (
                int(body[window.own_start, 0]) if window.own_start else 0,
                int(body[window.own_end, 0]) if window.own_end < len(body) else length,
            )
            # The server tokenizes each window anew, and half a word has other tokens: begin and end with whole words,
            # as long as no token of this window is lost.
            whole = next((p for p in range(first, own[0] + 1) if p == 0 or item.text[p - 1].isspace()), first)
            first = whole if window.start else first
            last = next((p for p in range(last, own[1] - 1, -1) if p == length or item.text[p].isspace()), last)
            texts.append(lead + item.text[first:last])
            pieces.append(_Piece(first - item.prefix, own, item.prefix))
        return cls(item, tuple(texts), tuple(pieces))

    def encoded(
        self, found: Sequence[tuple[_TokenOffsets, Vectors]], pooling: Pooling, normalize: bool, token_vectors: bool
    ) -> Encoded:
        """The spans' vectors.

        Args:
            found: Per text that was sent, its tokens and their vectors.
            pooling: How token vectors become one.
            normalize: Whether the vectors get L2 norm 1.
            token_vectors: Whether the token vectors are wanted too.

        Raises:
            ValueError: The server answered another number of vectors than the text has tokens.
        """
        rows: list[Vectors] = []
        places: list[NDArray[np.int64]] = []
        specials: list[NDArray[np.bool_]] = []
        for number, (piece, (tokens, vectors)) in enumerate(zip(self.pieces, found, strict=True)):
            if len(vectors) != len(tokens.special):
                raise ValueError(f"{len(vectors)} vectors for {len(tokens.special)} tokens")
            at = tokens.spans + np.where(tokens.spans[:, :1] >= piece.prefix, piece.shift, 0)
            in_prefix = tokens.spans[:, 1] <= piece.prefix
            owned = (at[:, 0] >= piece.own[0]) & (at[:, 0] < piece.own[1])
            kept = np.where(tokens.special | in_prefix, number == 0, owned)
            if number == len(self.pieces) - 1:
                # The last piece brings the special tokens that end the text.
                ending = np.cumsum(~tokens.special[::-1])[::-1] == 0
                kept = kept | ending
            if number == 0 and len(self.pieces) > 1:
                kept = kept & ~(np.cumsum(~tokens.special[::-1])[::-1] == 0)
            rows.append(vectors[kept])
            places.append(at[kept])
            specials.append(tokens.special[kept])
        vectors = np.concatenate(rows)
        at, special = np.concatenate(places), np.concatenate(specials)
        chosen = (
            [np.arange(len(vectors))]
            if self.item.spans is None
            else [_of_span(span, at, special) for span in self.item.spans]
        )
        dense = np.stack([_pooled(vectors[one], pooling) for one in chosen]) if chosen else vectors[:0]
        matrices = tuple(unit(vectors[one]) for one in chosen) if token_vectors else None
        return Encoded(unit(dense) if normalize else dense, matrices)


def _trimmed(text: str, start: int, stop: int) -> Span:
    """A token's characters without the blank that some vocabularies glue to a word."""
    while start < stop - 1 and text[start : start + 1].isspace():
        start += 1
    return start, stop


def _of_span(span: Span, at: NDArray[np.int64], special: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The tokens that share a character with the span; the nearest one where none does."""
    shared = np.flatnonzero(~special & (at[:, 0] < span[1]) & (at[:, 1] > span[0]))
    if len(shared):
        return shared
    words = np.flatnonzero(~special)
    if not len(words):
        return np.arange(len(at))
    gaps = np.maximum(span[0] - at[words, 1], at[words, 0] - span[1])
    return words[[int(np.argmin(gaps))]]


def _pooled(vectors: Vectors, pooling: Pooling) -> Vectors:
    if pooling == "cls":
        first: Vectors = vectors[0]
        return first
    if pooling == "last":
        last: Vectors = vectors[-1]
        return last
    if pooling == "max":
        highest: Vectors = vectors.max(axis=0)
        return highest
    weights = np.arange(1, len(vectors) + 1) if pooling == "weighted_mean" else np.ones(len(vectors))
    mean: Vectors = (weights @ vectors / weights.sum()).astype(np.float32)
    return mean
