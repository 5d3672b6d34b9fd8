"""The base of the chunkers with a size limit: sizes, the Rust splitters, and packing units into chunks."""

from __future__ import annotations

import hashlib
import math
import re
from bisect import insort
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from situate.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from semantic_text_splitter import TextSplitter
    from tokenizers import Tokenizer

#: A chunk never holds more than this many characters per token of its size. Tokenizers read a "word" of any length
#: (base64, a minified script) as one unknown token, so that a count of tokens alone would let it grow without limit.
MAX_CHARACTERS_PER_TOKEN = 16

#: The splitters take quadratic time within one sentence or paragraph, so that a file of one long line would take hours.
#: Longer texts are split in blocks of at least this many characters, cut where the text pauses.
_BLOCK = 32_768
_PAUSES = ("\n\n", "\r\n\r\n", "\n", "\r", ". ", " ")

#: Chunks of a text that needs only a few are cut this much larger than equal parts would be, because units (sentences,
#: paragraphs) do not come in equal sizes.
_SLACK = 1.15

#: A line that says nothing by itself: a heading, the mark of a fence, a rule, the line below a table's header.
_BARE_LINE = re.compile(
    r"[ \t\ufeff]*(?:#{1,6}(?:[ \t].*)?|(?:`{3,}|~{3,})\w*|(?:[-*_=][ \t]*){3,}|\|[\s|:-]*\|)?[ \t]*\Z"
)

_SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which UTF-8 cannot hold; every offset stays what it was."""
    return _SURROGATE.sub("\ufffd", text)


def is_bare(text: str) -> bool:
    """Whether a text holds nothing but headings, marks of fences and rules.

    >>> is_bare("## Valves\\n\\n---"), is_bare("## Valves\\n\\nThey leak.")
    (True, False)
    """
    return all(_BARE_LINE.match(line) for line in text.splitlines())


def untruncated(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer itself, or a copy that neither truncates nor pads where it does one of them."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    from tokenizers import Tokenizer as Tokenizer_

    copy = Tokenizer_.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def blocks(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """``text[start:end]`` in spans of at most ``size`` characters that end at a pause where there is one."""
    while end - start > size:
        for pause in _PAUSES:
            at = text.rfind(pause, start + size // 2, start + size)
            if at != -1:
                stop = at + len(pause)
                break
        else:
            stop = start + size
        yield start, stop
        start = stop
    if start < end:
        yield start, end


def in_order(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans by their starts: where spans overlap, parts of one may begin behind the next one, or lie in it.

    >>> in_order([(0, 18), (19, 21), (15, 28)])
    [(0, 18), (15, 28)]
    """
    done: list[tuple[int, int]] = []
    for span in spans:
        while done and span <= done[-1] and done[-1][1] <= span[1]:
            done.pop()
        if not done or done[-1] < span:
            done.append(span)
        elif span[0] < done[-1][0]:
            insort(done, span)
    return done


class Splitter(Protocol):
    """A Rust splitter of one size."""

    def chunk_indices(self, text: str, /) -> list[tuple[int, str]]:
        """The pieces of a text with the offsets of their first characters."""
        ...


@dataclass(frozen=True)
class SizedChunker:
    """Base of the chunkers with a size limit; cheap to construct, pickled as its configuration.

    Attributes:
        size: The most that a chunk holds: tokens of ``tokenizer`` without its special tokens, or characters where
            there is none.
        overlap: The most that two neighbouring chunks share, in the same unit.
        tokenizer: The embedding model's tokenizer (``embedder.tokenizer``). None counts characters, and 200 of those
            are few: pass a larger ``size`` with it.
        balance: Cut a text that needs a few chunks into about equal ones, instead of full ones and a short rest: a rest
            of a sentence or two ranks for the wrong reasons and has few words to match (Cranfield abstracts in chunks
            of 200 tokens: nDCG@10 .388 balanced, .367 with rests, all-MiniLM-L6-v2).

    Raises:
        InputError: ``size`` is not positive, or ``overlap`` is negative or not smaller than ``size``.
    """

    size: int = 200
    overlap: int = 0
    tokenizer: Tokenizer | None = field(default=None, repr=False, compare=False)
    balance: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size={self.size}: a chunk needs room for at least 1 token or character")
        if not 0 <= self.overlap < self.size:
            raise InputError(f"overlap={self.overlap} with size={self.size}: needs 0 <= overlap < size")

    def __getstate__(self) -> dict[str, Any]:
        # Splitters are rebuilt on first use; the tokenizer pickles as its JSON.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def fingerprint(self) -> dict[str, Any]:
        """The configuration as JSON values; a tokenizer by the SHA-256 of its JSON.

        Two chunkers with the same fingerprint cut every document alike.
        """
        values: dict[str, Any] = {"chunker": type(self).__name__}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "tokenizer":
                value = self._tokenizer_hash
            elif isinstance(value, SizedChunker):
                value = value.fingerprint()
            values[f.name] = value if isinstance(value, str | int | float | dict | list | None) else repr(value)
        return values

    @cached_property
    def _tokenizer_hash(self) -> str | None:
        return None if self.tokenizer is None else hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    def count(self, text: str) -> int:
        """The text's length in the unit of ``size``."""
        tokenizer = self._tokenizer
        return len(text) if tokenizer is None else len(tokenizer.encode(encodable(text), add_special_tokens=False).ids)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """`count` of each text, in one call of the tokenizer."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return [len(text) for text in texts]
        batch = tokenizer.encode_batch_fast([encodable(text) for text in texts], add_special_tokens=False)
        return [len(encoding.ids) for encoding in batch]

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        return None if self.tokenizer is None else untruncated(self.tokenizer)

    @cached_property
    def _splitters(self) -> dict[tuple[str, int], Splitter]:
        return {}

    def _splitter(self, kind: str, size: int) -> Splitter:
        """The Rust splitter for ``kind`` ("text" or "markdown") and a size."""
        known = self._splitters.get((kind, size))
        if known is None:
            from semantic_text_splitter import MarkdownSplitter, TextSplitter

            splitter = MarkdownSplitter if kind == "markdown" else TextSplitter
            if self._tokenizer is None:
                known = splitter(size, overlap=self.overlap)
            else:
                known = splitter.from_callback(self._count_up_to(size), size, overlap=self.overlap)
            self._splitters[kind, size] = known
        return known

    def _count_up_to(self, size: int) -> Callable[[str], int]:
        """`count` for a splitter, which need not know by how much a text is too long.

        For every chunk a splitter asks for the length of the whole sentence or paragraph that it cuts; tokenizing that
        again and again would take quadratic time.
        """
        tokenizer, limit = self._tokenizer, size * MAX_CHARACTERS_PER_TOKEN
        assert tokenizer is not None

        def count(text: str) -> int:
            return size + 1 if len(text) > limit else len(tokenizer.encode(text, add_special_tokens=False))

        return count

    def _even_size(self, text: str, most: int) -> int:
        """The size at which ``text`` falls into about equal chunks; ``most`` where it needs many of them, or one."""
        # Far more characters than this are many chunks, where one short rest does not matter.
        if not self.balance or len(text) > 64 * most:
            return most
        total = self.count(text)
        parts = math.ceil(total / most)
        return most if parts <= 1 else max(self.overlap + 1, min(most, math.ceil(total / parts * _SLACK)))

    def _text_spans(self, text: str, start: int, end: int, most: int | None = None) -> list[tuple[int, int]]:
        """``text[start:end]`` cut at paragraphs, then lines, sentences, words, characters.

        Args:
            text: The document's text.
            start: First character.
            end: One past the last.
            most: The most that a span holds, where that is less than `size`.
        """
        return self._spans("text", text, start, end, most)

    def _markdown_spans(self, text: str, start: int, end: int) -> list[tuple[int, int]]:
        """``text[start:end]`` cut at Markdown blocks, then as text."""
        return self._spans("markdown", text, start, end)

    def _spans(self, kind: str, text: str, start: int, end: int, most: int | None = None) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        size = max(_BLOCK, self.size * (64 if self.tokenizer is None else 256))
        for first, last in blocks(text, start, end, size):
            block = encodable(text[first:last])
            for at, piece in self._splitter(kind, self._even_size(block, most or self.size)).chunk_indices(block):
                # U+001C to U+001F are white space to Python but not to the splitter.
                if piece.strip():
                    spans.extend(self._capped(text, first + at, first + at + len(piece)))
        return spans

    def _capped(self, text: str, start: int, end: int) -> list[tuple[int, int]]:
        limit = self.size * MAX_CHARACTERS_PER_TOKEN
        if self.tokenizer is None or end - start <= limit:
            return [(start, end)]
        spans: list[tuple[int, int]] = []
        for at, piece in self._character_splitter.chunk_indices(encodable(text[start:end])):
            # A word too long to be known is one token; a part of it may be known, and many.
            for inner, part in self._splitter("text", self.size).chunk_indices(piece):
                if part.strip():
                    spans.append((start + at + inner, start + at + inner + len(part)))
        return spans

    @cached_property
    def _character_splitter(self) -> TextSplitter:
        from semantic_text_splitter import TextSplitter

        return TextSplitter(self.size * MAX_CHARACTERS_PER_TOKEN)

    def _packed(
        self,
        text: str,
        units: Sequence[tuple[int, int]],
        apart: frozenset[int] = frozenset(),
        *,
        led: bool = False,
    ) -> list[tuple[int, int]]:
        """The units (sentences, blocks, turns) in order, as many to a span as fit.

        Args:
            text: The text.
            units: Sorted spans that do not overlap. One that is too large is cut as plain text.
            apart: Numbers of units that begin a new span, however much room the one before has.
            led: Join the first part of a unit that is too large to the open span before it, where that fills less
                than half of a chunk, so that no question is separated from its long answer, and no heading from its
                long paragraph.
        """
        counts = self.counts([text[start:end] for start, end in units])
        spans: list[tuple[int, int]] = []
        filled = 0
        fresh = True
        for number, ((start, end), count) in enumerate(zip(units, counts, strict=True)):
            # The separator between two units (line ends, markup) is counted with the second.
            between = 0 if fresh else self.count(text[spans[-1][1] : start])
            if count > self.size:
                room = 0 if fresh or not led else self.size - filled - between
                if number not in apart and room > max(self.overlap, self.size // 2):
                    parts = self._text_spans(text, start, end, room)
                    spans[-1] = (spans[-1][0], parts[0][1])
                    spans.extend(parts[1:])
                else:
                    spans.extend(self._text_spans(text, start, end))
                fresh = True
                continue
            if fresh or number in apart or filled + between + count > self.size:
                spans.append((start, end))
                filled = count
            else:
                spans[-1] = (spans[-1][0], end)
                filled += between + count
            fresh = False
        return [part for span in spans for part in self._within(text, *span)]

    def _filled(
        self, text: str, spans: Sequence[tuple[int, int]], bare: Callable[[int, int], bool] | None = None
    ) -> list[tuple[int, int]]:
        """The spans, those that say nothing by themselves joined to the next one, the last of a text to the one before.

        Where both are too long together the neighbour is cut: its first or last part goes with the bare span. One that
        leaves no room for any of it stays alone.

        Args:
            text: The text.
            spans: Spans in order.
            bare: Whether a span says nothing by itself; None: `is_bare` of its text.
        """
        bare = bare or (lambda start, end: is_bare(text[start:end]))
        done: list[tuple[int, int]] = []
        waiting = list(spans)[::-1]
        while waiting:
            span = waiting.pop()
            if not bare(*span) or not (done or waiting):
                done.append(span)
            elif waiting and (joined := self._with_next(text, span, waiting[-1])):
                waiting[-1:] = joined[::-1]
            elif done and (joined := self._with_last(text, done[-1], span)):
                done[-1:] = joined
            else:
                done.append(span)
        return in_order(done)

    def _with_next(self, text: str, span: tuple[int, int], following: tuple[int, int]) -> list[tuple[int, int]]:
        """A bare span and the first part of the next one that has room with it, then the rest; [] where none has."""
        if self.count(text[span[0] : following[1]]) <= self.size:
            return [(span[0], following[1])]
        room = self.size - self.count(text[span[0] : following[0]])
        parts = self._text_spans(text, *following, room) if room > max(self.overlap, self.size // 4) else []
        fits = parts and self.count(text[span[0] : parts[0][1]]) <= self.size
        return [(span[0], parts[0][1]), *parts[1:]] if fits else []

    def _with_last(self, text: str, before: tuple[int, int], span: tuple[int, int]) -> list[tuple[int, int]]:
        """The span before and its last part with the bare one; [] where that has no room."""
        if self.count(text[before[0] : span[1]]) <= self.size:
            return [(before[0], span[1])]
        room = self.size - self.count(text[before[1] : span[1]])
        parts = self._text_spans(text, *before, room) if room > max(self.overlap, self.size // 4) else []
        fits = len(parts) > 1 and self.count(text[parts[-1][0] : span[1]]) <= self.size
        return [*parts[:-1], (parts[-1][0], span[1])] if fits else []

    def _within(self, text: str, start: int, end: int) -> list[tuple[int, int]]:
        """The span, or its parts where its tokens are more than those of its units together."""
        if self.count(text[start:end]) <= self.size:
            return self._capped(text, start, end)
        return self._text_spans(text, start, end)
