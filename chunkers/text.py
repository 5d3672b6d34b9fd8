"""Plain text, cut at its pauses, every so many tokens, or where a function says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from situate.chunkers.base import MAX_CHARACTERS_PER_TOKEN, SizedChunker, blocks, encodable
from situate.chunkers.spans import chunks_from_spans, recover_spans, trimmed

if TYPE_CHECKING:
    from situate.types import Chunk, Document


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
        return chunks_from_spans(document, self._text_spans(document.text, 0, len(document.text)))


@dataclass(frozen=True)
class FixedTokenChunker(SizedChunker):
    """Windows of ``size`` tokens (characters without a tokenizer) that share ``overlap`` of them.

    Cuts through sentences and words. It exists to compare with, and for text without any structure; `TextChunker`
    finds more at the same size.

    Attributes:
        size: Tokens of a window.
        overlap: Tokens that two windows share.
        tokenizer: The embedding model's tokenizer.
    """

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        text = document.text
        limit = self.size * MAX_CHARACTERS_PER_TOKEN
        spans: dict[tuple[int, int], None] = {}
        for start, end in self._windows(text):
            for part in blocks(text, start, end, limit) if self.tokenizer is not None else [(start, end)]:
                first, last = trimmed(text, *part)
                if first < last:
                    spans[first, last] = None
        return chunks_from_spans(document, sorted(spans))

    def _windows(self, text: str) -> list[tuple[int, int]]:
        step = self.size - self.overlap
        if self._tokenizer is None:
            last = max(1, len(text) - self.overlap)
            return [(start, min(start + self.size, len(text))) for start in range(0, last, step)]
        offsets = self._tokenizer.encode(encodable(text), add_special_tokens=False).offsets
        # A character that several byte tokens share goes whole to each window that touches it.
        windows = [offsets[at : at + self.size] for at in range(0, max(1, len(offsets) - self.overlap), step)]
        return [(min(s for s, _ in window), max(e for _, e in window)) for window in windows if window]


@dataclass(frozen=True)
class SplitterChunker:
    """A function that cuts a text into strings; the strings' exact places are recovered, even where the text repeats.

    Attributes:
        split_text: Text -> its pieces in order, overlapping or not.

    >>> from situate.chunkers import Document
    >>> chunker = SplitterChunker(lambda text: text.split(", "))
    >>> [(chunk.text, chunk.start) for chunk in chunker.split(Document("d", "an egg, an egg, ham"))]
    [('an egg', 0), ('an egg', 8), ('ham', 16)]
    """

    split_text: Callable[[str], Sequence[str]]

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
