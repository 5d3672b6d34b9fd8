"""Pooling spans out of token vectors that a server computed: which text is sent, and which rows belong to a span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from situate.embedders.text.windows import windows
from situate.embedders.types import Encoded, Pooling, Span, SpanText, Vectors
from situate.errors import OverflowLimitError, SpanError
from situate.vectors import unit


@dataclass(frozen=True, slots=True)
class TokenOffsets:
    """The tokens of a text.

    Attributes:
        spans: int64 ``[tokens, 2]``: the characters of each token.
        special: bool ``[tokens]``: whether the tokenizer added it.
    """

    spans: NDArray[np.int64]
    special: NDArray[np.bool_]

    @classmethod
    def of(cls, text: str, tokens: Sequence[Mapping[str, Any]]) -> TokenOffsets:
        """From what ``/tokenize`` answers for a text.

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
class SpanReading:
    """One text as the server will read it.

    Attributes:
        texts: What is sent: the text, or its windows.
    """

    item: SpanText
    texts: tuple[str, ...]
    pieces: tuple[_Piece, ...]

    @classmethod
    def plan(cls, item: SpanText, tokens: TokenOffsets, limit: int, index: int) -> SpanReading:
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
            # The server tokenizes each window anew, and half a word is other tokens: begin and end with whole words,
            # as far as no token is lost that is taken from this window.
            whole = next((p for p in range(first, own[0] + 1) if p == 0 or item.text[p - 1].isspace()), first)
            first = whole if window.start else first
            last = next((p for p in range(last, own[1] - 1, -1) if p == length or item.text[p].isspace()), last)
            texts.append(lead + item.text[first:last])
            pieces.append(_Piece(first - item.prefix, own, item.prefix))
        return cls(item, tuple(texts), tuple(pieces))

    def encoded(
        self, found: Sequence[tuple[TokenOffsets, Vectors]], pooling: Pooling, normalize: bool, token_vectors: bool
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
