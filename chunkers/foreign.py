"""Anybody's splitter as a chunker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from situate.chunkers.spans import chunks_from_spans, recover_spans, trimmed
from situate.types import Chunk, Document


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
