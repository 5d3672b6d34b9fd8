"""What situates a chunk by the document's own structure: no language model, no cost."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from situate.chunkers.base import encodable
from situate.chunkers.headings import Heading, HeadingPath, markdown_headings
from situate.chunkers.sentences import last_sentence
from situate.chunkers.spans import base_context
from situate.parameters import checked_parameters

if TYPE_CHECKING:
    from situate.types import Chunk, Context, Document


@checked_parameters
@dataclass(frozen=True)
class HeadingSituator:
    """Title, headings, path, date and speaker, and the sentence before the chunk.

    Useful after a splitter that knows none of them; fields that a chunk's context already has are kept. Which of the
    fields lead the text that is embedded, and which the text of BM25, is decided by `ChunkScheme.context` and
    `LexicalScheme.context`: the two sides gain from different ones.

    Attributes:
        headings: Read the document as Markdown and note the headings above each chunk.
        title_from_heading: Where the metadata names no title, take the first level-1 heading.
        previous: Characters, at most, of the last sentence before the chunk in its section; 0 for none.
    """

    headings: bool = True
    title_from_heading: bool = True
    previous: int = 300

    def situate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The same chunks with more context."""
        if not chunks:
            return []
        found = markdown_headings(encodable(document.text)) if self.headings or self.title_from_heading else []
        base = base_context(document)
        title = base.title
        if title is None and self.title_from_heading:
            title = next((heading.text for heading in found if heading.level == 1), None)
        path = HeadingPath(found if self.headings else [])
        starts = [heading.start for heading in found]
        base = replace(base, title=title)
        return [replace(chunk, context=self._context(document, chunk, base, path, found, starts)) for chunk in chunks]

    async def asituate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """`situate` in a thread: parsing a long document takes a while."""
        return await asyncio.to_thread(self.situate, document, chunks)

    def _context(
        self,
        document: Document,
        chunk: Chunk,
        base: Context,
        path: HeadingPath,
        headings: Sequence[Heading],
        starts: Sequence[int],
    ) -> Context:
        own = chunk.context
        place = _first_words(
            document.text, chunk, (headings[n] for n in range(bisect_left(starts, chunk.start), len(headings)))
        )
        above = bisect_right(starts, place)
        section = headings[above - 1].end if above else 0
        return replace(
            own,
            title=own.title or base.title,
            headings=own.headings or path.at(place),
            path=own.path or base.path,
            date=own.date or base.date,
            speaker=own.speaker or base.speaker,
            previous=own.previous or self._previous(document, chunk, section),
        )

    def _previous(self, document: Document, chunk: Chunk, section: int) -> str | None:
        return last_sentence(document.text, section, chunk.start, self.previous) if self.previous > 0 else None


def _first_words(text: str, chunk: Chunk, headings: Iterable[Heading]) -> int:
    """Where the section of the chunk's first words begins: at the last of the headings that the chunk opens with."""
    place = end = chunk.start
    for heading in headings:
        if heading.start >= chunk.end or text[end : heading.start].strip():
            break
        place, end = heading.start, heading.end
    return place
