"""Markdown, cut along its sections and blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from situate.chunkers.base import SizedChunker, encodable
from situate.chunkers.headings import HeadingPath, front_matter_end, markdown_headings
from situate.chunkers.spans import base_context, chunks_from_spans

if TYPE_CHECKING:
    from situate.chunkers.headings import Heading
    from situate.types import Chunk, Context, Document


@dataclass(frozen=True)
class MarkdownChunker(SizedChunker):
    """Markdown cut at headings, then blocks (paragraphs, lists, tables, code), then as text.

    A chunk lies in one section, so that the headings kept as its context are exactly those it stands under, its own
    among them. A heading with nothing of its own below it joins the section that follows. Front matter is no chunk.

    Attributes:
        size: The most that a chunk holds, in the model's tokens without special tokens; characters without a
            ``tokenizer``.
        overlap: The most that two neighbouring chunks of a section share, in the same unit.
        tokenizer: The embedding model's tokenizer.

    >>> from situate.chunkers import Document
    >>> text = "# Leave\\n\\n## Sick leave\\n\\nTell her by nine.\\n"
    >>> MarkdownChunker().split(Document("d", text))[0].context.headings
    ('Leave', 'Sick leave')
    """

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        text = document.text
        if not text.strip():
            return []
        headings = markdown_headings(encodable(text))
        path = HeadingPath(headings)
        base = base_context(document)
        spans: list[tuple[int, int]] = []
        contexts: dict[int, Context] = {}
        for start, end, last in sections(text, headings):
            context = replace(base, headings=path.at(last))
            for span in self._markdown_spans(text, start, end):
                contexts[span[0]] = context
                spans.append(span)
        return chunks_from_spans(document, spans, lambda start, _: contexts[start])


def sections(text: str, headings: list[Heading]) -> list[tuple[int, int, int]]:
    """The text between headings, as ``(start, end, place of the heading it stands under)``.

    A heading with nothing between it and the next one opens the next one's section.
    """
    bounds = [front_matter_end(text), *(heading.start for heading in headings), len(text)]
    found: list[tuple[int, int, int]] = []
    start = bounds[0]
    for number, end in enumerate(bounds[1:]):
        # Section `number` stands under heading `number - 1`; the first one under none.
        body = headings[number - 1].end if number else start
        if end != len(text) and not text[body:end].strip():
            continue
        if text[start:end].strip():
            found.append((start, end, bounds[number]))
        start = end
    return found
