"""Rows of tables as sentences."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from situate.chunkers.base import encodable
from situate.chunkers.headings import Row, table_rows
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.types import Chunk, Document


@checked_parameters
@dataclass(frozen=True)
class RowSituator:
    """Writes each row of a Markdown table as a sentence: ``Town is Rome, Limit is 210 euros.``

    A model that was trained on sentences sees a row as words without relations; a sentence names the column of each
    value. The sentences are in ``context.rows``, which dense vectors read where the scheme says so:
    ``ChunkScheme(context=("headings", "rows"), pool_context=True)``. It costs about twice the tokens. BM25 gains
    nothing: it has the same words already.

    Attributes:
        characters: Of a chunk's sentences at most; the rows after that have none.

    Raises:
        InputError: ``characters`` is less than 1.

    >>> from situate.chunkers import Document, MarkdownChunker
    >>> table = "| Town | Limit |\\n| --- | --- |\\n| Rome | 210 |\\n| Oslo | |"
    >>> document = Document("d", table, {"format": "markdown"})
    >>> RowSituator().situate(document, MarkdownChunker().split(document))[0].context.rows
    ('Town is Rome, Limit is 210.', 'Town is Oslo.')
    """

    characters: int = 2_000

    def __post_init__(self) -> None:
        if self.characters < 1:
            raise InputError(f"characters={self.characters} must be 1 or more")

    def situate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The same chunks with the rows that stand in them whole."""
        rows = table_rows(encodable(document.text)) if chunks else []
        starts = [row.start for row in rows]
        return [
            replace(chunk, context=replace(chunk.context, rows=self._sentences(document.text, chunk, rows, starts)))
            if rows
            else chunk
            for chunk in chunks
        ]

    async def asituate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """`situate` in a thread: parsing a long document takes a while."""
        return await asyncio.to_thread(self.situate, document, chunks)

    def _sentences(self, text: str, chunk: Chunk, rows: Sequence[Row], starts: Sequence[int]) -> tuple[str, ...]:
        sentences: list[str] = []
        room = self.characters
        for row in rows[bisect_left(starts, chunk.start) : bisect_left(starts, chunk.end)]:
            words = ", ".join(f"{name} is {value}" if name else value for name, value in row.cells)
            room -= len(words) + 1
            if room < 0 or text[chunk.end : row.end].strip():
                break
            if words:
                sentences.append(f"{words}.")
        return tuple(sentences)
