"""A passage in its document: the text around it, and the spans that are marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from situate.app.web.store.library import NotFoundError
from situate.retrievers.index.index import Index
from situate.types import Chunk

#: Characters of a document that are shown around a passage, on either side.
AROUND = 20_000


@dataclass(frozen=True)
class Part:
    """A piece of a document's text.

    Attributes:
        text: The text.
        passage: Whether it belongs to the passage.
        marked: Whether it is a span that supports the answer.
    """

    text: str
    passage: bool = False
    marked: bool = False


@dataclass(frozen=True)
class DocumentView:
    """A passage in its document.

    Attributes:
        title: The document's title, or id.
        parts: The text in order, cut at the edges of the passage and of the marked spans.
        cut: Whether text before the first part and behind the last was left out.
    """

    title: str
    parts: tuple[Part, ...]
    cut: tuple[bool, bool]

    def to_dict(self) -> dict[str, Any]:
        """The view as JSON values."""
        return {"title": self.title, "parts": [vars(part) for part in self.parts], "cut": list(self.cut)}


def document_view(
    index: Index, document_id: str, start: int = 0, end: int = 0, marks: Iterable[tuple[int, int]] = ()
) -> DocumentView:
    """A passage in its document, whose text is put together from the chunks that are stored.

    Args:
        index: Where they are stored.
        document_id: The document.
        start: First character of the passage in the document's text.
        end: One past its last one; ``start`` for a document without a passage.
        marks: Spans, in characters of the document's text.

    Raises:
        NotFoundError: There is no such document.
    """
    chunks = index.get_chunks([document_id])
    if not chunks:
        raise NotFoundError("there is no such document: it may have been deleted")
    low, high = max(0, start - AROUND), end + AROUND
    spans = [(max(a, start), min(b, end)) for a, b in marks]
    edges = sorted({low, start, end, high, *(edge for span in spans for edge in span)})
    parts: list[Part] = []
    for at, text, stored in _texts(chunks):
        last = at + len(text) if stored else at
        inner = [edge for edge in edges if at < edge < last]
        for a, b in zip([at, *inner], [*inner, last], strict=True):
            if low <= a and b <= high:
                piece = text[a - at : b - at] if stored else text
                parts.append(Part(piece, start <= a < end and b <= end, any(x <= a < y and b <= y for x, y in spans)))
    first = chunks[0]
    title = first.context.title or document_id
    return DocumentView(title, tuple(_joined(parts)), (first.start < low, max(c.end for c in chunks) > high))


def span_texts(index: Index, document_id: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """The texts of spans of a document, paragraph by paragraph.

    Raises:
        NotFoundError: There is no such document.
    """
    chunks = index.get_chunks([document_id])
    if not chunks:
        raise NotFoundError("there is no such document: it may have been deleted")
    texts: dict[str, None] = {}
    for chunk in chunks:
        for start, end in spans:
            text = chunk.text[max(0, start - chunk.start) : max(0, end - chunk.start)]
            texts |= dict.fromkeys(part for part in text.split("\n\n") if part.strip())
    return list(texts)


def _texts(chunks: Sequence[Chunk]) -> Iterable[tuple[int, str, bool]]:
    """The document's text in pieces: the place of each, its text, and whether it is stored.

    What no chunk holds is white space: a space where it is one character, an empty line where it is more.
    """
    at = chunks[0].start
    for chunk in chunks:
        if chunk.start > at:
            yield at, " " if chunk.start == at + 1 else "\n\n", False
            at = chunk.start
        if chunk.end > at:
            yield at, chunk.text[at - chunk.start :], True
            at = chunk.end


def _joined(parts: Sequence[Part]) -> Iterable[Part]:
    """The parts, neighbours of one kind in one."""
    for (passage, marked), several in groupby(parts, key=lambda part: (part.passage, part.marked)):
        yield Part("".join(part.text for part in several), passage, marked)
