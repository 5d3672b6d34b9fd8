"""One sentence to a chunk, with the span of its neighbours."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from situate.chunkers.base import SizedChunker
from situate.chunkers.sentences import sentence_spans
from situate.chunkers.spans import base_context, chunks_from_spans
from situate.errors import InputError
from situate.parameters import checked_parameters

if TYPE_CHECKING:
    from situate.types import Chunk, Document

#: Key in a chunk's metadata: the ``[start, end]`` of the sentences around it, in the document's text.
WINDOW = "sentence_window"

#: Characters, at most, of the sentence before a chunk that the chunk keeps as context.
_PREVIOUS = 1_000


@checked_parameters
@dataclass(frozen=True)
class SentenceWindowChunker(SizedChunker):
    """A chunk per sentence; a language model reads the window of sentences around it instead.

    The window's span stands in the chunk's metadata under ``sentence_window``: pass ``document.text[start:end]`` to the
    language model. To embed the window with the sentence, embed with late chunking or situated windows.

    Attributes:
        size: The most that a chunk holds; a longer sentence is cut as text.
        overlap: For the parts of a sentence that is cut.
        tokenizer: The embedding model's tokenizer.
        window: Sentences on each side.

    Raises:
        InputError: ``window`` is negative, ``size`` is not positive, or ``overlap`` is negative or not smaller than
            ``size``.

    >>> from situate.chunkers import Document
    >>> document = Document("d", "One. Two. Three. Four.")
    >>> chunk = SentenceWindowChunker(window=1).split(document)[1]
    >>> chunk.text, document.text[slice(*chunk.metadata["sentence_window"])]
    ('Two.', 'One. Two. Three.')
    """

    window: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 0:
            raise InputError(f"window={self.window}: sentences on each side are 0 or more")

    def split(self, document: Document) -> list[Chunk]:
        """The document's sentences in order; [] where it is empty or only white space."""
        text = document.text
        sentences = sentence_spans(text)
        parts = self._filled(text, [part for sentence in sentences for part in self._within(text, *sentence)])
        chunks = chunks_from_spans(document, parts)
        base = base_context(document)
        made: list[Chunk] = []
        starts = [start for start, _ in sentences]
        for chunk in chunks:
            n = bisect_right(starts, chunk.start) - 1
            around = sentences[max(0, n - self.window) : n + self.window + 1]
            before = _shortened(text, *sentences[n - 1]) if n else None
            made.append(
                replace(
                    chunk,
                    context=replace(base, previous=before),
                    metadata={**chunk.metadata, WINDOW: [around[0][0], around[-1][1]]},
                )
            )
        return made


def _shortened(text: str, start: int, end: int) -> str:
    """The sentence on one line, at most its last `_PREVIOUS` characters."""
    words = " ".join(text[max(start, end - 2 * _PREVIOUS) : end].split())
    return words if len(words) <= _PREVIOUS else words[-_PREVIOUS:].split(" ", 1)[-1]
