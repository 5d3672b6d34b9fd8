"""A fixed number of tokens to a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from situate.chunkers.sizing import MAX_CHARACTERS_PER_TOKEN, SizedChunker, blocks, encodable
from situate.chunkers.spans import chunks_from_spans, trimmed

if TYPE_CHECKING:
    from situate.types import Chunk, Document


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
