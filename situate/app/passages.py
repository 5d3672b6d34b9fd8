"""A hit as the value that every program shows: command line, MCP server, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from situate.retrievers.marks import Highlight
from situate.retrievers.types import Hit
from situate.retrievers.where import Where
from situate.types import Chunk


@dataclass(frozen=True)
class Passage:
    """A passage, and where it stands.

    Attributes:
        number: Its place among the passages, from 1.
        where: Its place in its document.
        text: Its words.
        score: By which it was ranked.
        relevance: In [0, 1], on one scale for all queries; None where no step measured it.
        highlight: The spans that match the query; None where nothing has looked for them.
    """

    number: int
    where: Where
    text: str
    score: float | None = None
    relevance: float | None = None
    highlight: Highlight | None = None

    @classmethod
    def of(cls, number: int, chunk: Chunk, hit: Hit | None = None) -> Passage:
        """The passage of a chunk, or of the hit that found it."""
        if hit is None:
            return cls(number, Where.of(chunk), chunk.text)
        relevance = None if hit.relevance is None else round(float(hit.relevance), 4)
        return cls(number, Where.of(chunk), chunk.text, round(float(hit.score), 6), relevance, hit.highlight)

    @property
    def place(self) -> str:
        """Where it stands, on one line: title, headings, pages, and the document's id."""
        named = " ".join(str(self.where).split())
        return named if named.startswith(self.where.document_id) else f"{named} ({self.where.document_id})"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        where = self.where
        return {
            "number": self.number,
            "document_id": where.document_id,
            "title": where.title or where.document_id,
            "headings": list(where.headings),
            "pages": list(where.pages),
            "start": where.start,
            "end": where.end,
            "text": self.text,
            "marks": [[mark.start, mark.end] for mark in self.highlight.marks] if self.highlight else [],
            "score": self.score,
            "relevance": self.relevance,
        }


def passages(hits: Sequence[Hit]) -> list[Passage]:
    """The passages of a search, numbered from 1."""
    return [Passage.of(number, hit.chunk, hit) for number, hit in enumerate(hits, 1)]
