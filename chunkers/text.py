"""Plain text, cut at its pauses, every so many tokens, or by a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from situate.chunkers.base import SizedChunker, encodable
from situate.chunkers.spans import chunks_from_spans, recover_spans, trimmed
from situate.errors import InputError
from situate.parameters import checked_parameters

if TYPE_CHECKING:
    from situate.types import Chunk, Document


@checked_parameters
@dataclass(frozen=True)
class TextChunker(SizedChunker):
    """Recursive splitting of plain text: paragraphs, then lines, sentences, words and characters.

    Each chunk takes as many whole units of the highest level as fit (``semantic-text-splitter``, Unicode sentence and
    word boundaries). At an equal budget of retrieved tokens this was the best of the chunkers measured, at 100 to 200
    tokens.

    Attributes:
        size: The most that a chunk holds, in the model's tokens without special tokens; characters without a
            ``tokenizer``.
        overlap: The most that two neighbouring chunks share, in the same unit.
        tokenizer: The embedding model's tokenizer.

    >>> from situate.chunkers import Document
    >>> [chunk.text for chunk in TextChunker(size=12).split(Document("d", "One. Two. Three and four."))]
    ['One. Two.', 'Three and', 'four.']
    """

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        return chunks_from_spans(
            document, self._filled(document.text, self._text_spans(document.text, 0, len(document.text)))
        )


@checked_parameters
@dataclass(frozen=True)
class FixedTokenChunker(SizedChunker):
    """Windows of ``size`` tokens (characters without a tokenizer) that share ``overlap`` of them.

    Cuts through sentences and words, never through a character; a window whose words have more tokens alone than in the
    text is shorter. It exists for comparison, and for text without any structure; `TextChunker`
    finds more at the same size.

    Attributes:
        size: Tokens of a window.
        overlap: Tokens that two windows share.
        tokenizer: The embedding model's tokenizer.
    """

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        text = document.text
        spans: dict[tuple[int, int], None] = {}
        for window in self._windows(text):
            start, end = trimmed(text, *window)
            if start < end:
                spans.update(dict.fromkeys(self._within(text, start, end)))
        return chunks_from_spans(document, self._filled(text, sorted(spans)))

    def _windows(self, text: str) -> Iterator[tuple[int, int]]:
        if self._tokenizer is None:
            last = max(1, len(text) - self.overlap)
            for start in range(0, last, self.size - self.overlap):
                yield start, min(start + self.size, len(text))
            return
        offsets = self._tokenizer.encode(encodable(text), add_special_tokens=False).offsets
        count = len(offsets)

        def place(token: int) -> int:
            # Characters of no token (accents that a normaliser drops, white space) belong to the token before them.
            return 0 if token == 0 else offsets[token][0] if token < count else len(text)

        def whole(token: int, least: int) -> int:
            """The last token up to ``token`` that begins a character, as several tokens may share one."""
            while token > least and token < count and offsets[token][0] < offsets[token - 1][1]:
                token -= 1
            return token

        if not count:
            yield 0, len(text)
        first = 0
        while first < count:
            last = whole(min(first + self.size, count), first)
            # A part of a word can have more tokens alone than inside of its word.
            while last > first and (over := self.count(text[place(first) : place(last)]) - self.size) > 0:
                last = whole(last - over, first)
            if last <= first:
                last = next((n for n in range(first + 1, count) if offsets[n][0] >= offsets[n - 1][1]), count)
            yield place(first), place(last)
            first = max(whole(last - self.overlap, first), first + 1) if last < count else count


@checked_parameters
@dataclass(frozen=True)
class SplitterChunker:
    """A function that cuts a text into strings; the strings' exact places are recovered, even where the text repeats.

    Attributes:
        split_text: Text -> its pieces in order, overlapping or not.

    Raises:
        InputError: ``split_text`` is no function.

    >>> from situate.chunkers import Document
    >>> chunker = SplitterChunker(lambda text: text.split(", "))
    >>> [(chunk.text, chunk.start) for chunk in chunker.split(Document("d", "an egg, an egg, ham"))]
    [('an egg', 0), ('an egg', 8), ('ham', 16)]
    """

    split_text: Callable[[str], Sequence[str]]

    def __post_init__(self) -> None:
        if not callable(self.split_text):
            raise InputError(
                f"a {type(self.split_text).__name__} is no function that cuts a text into strings: pass a method "
                "such as splitter.split_text; a chunker of situate needs no SplitterChunker around it"
            )

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space.

        Raises:
            SpanError: A piece does not stand in the text after the piece before it.
        """
        if not document.text.strip():
            return []
        pieces = [piece for piece in self.split_text(document.text) if piece.strip()]
        spans = [trimmed(document.text, *span) for span in recover_spans(document.text, pieces)]
        return chunks_from_spans(document, spans)
