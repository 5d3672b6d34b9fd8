"""Markdown, cut along its sections and blocks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from situate.chunkers.base import SizedChunker, encodable, in_order, is_bare
from situate.chunkers.headings import HeadingPath, front_matter_end, outline
from situate.chunkers.spans import base_context, chunks_from_spans, trimmed
from situate.parameters import checked_parameters

if TYPE_CHECKING:
    from situate.chunkers.headings import Heading, Outline
    from situate.types import Chunk, Context, Document


@checked_parameters
@dataclass(frozen=True)
class MarkdownChunker(SizedChunker):
    """Markdown cut at headings, then blocks (paragraphs, lists, tables, code), then as text.

    A chunk lies in one section, so that the headings kept as its context are exactly those it stands under, its own
    among them. A heading with nothing of its own below it joins the section that follows, the last one that before. No
    chunk holds headings alone, or ends in one or the opening line of a fence, or begins with a fence's closing line. Of
    a table that is longer than a chunk, later chunks keep the column names as context. Front matter is no chunk.

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
        found = outline(encodable(text))
        path = HeadingPath(found.headings)
        base = base_context(document)
        leads, closings = _leads(text, found), {fence.closing: fence.end for fence in found.fences}
        tables = [table.start for table in found.tables]
        parts = sections(text, found.headings)
        spans = [
            span
            for start, end, _ in parts
            for span in self._kept_together(text, self._markdown_spans(text, start, end), leads, closings)
        ]

        def context(start: int, end: int) -> Context:
            # A chunk stands under the headings of the first section of which it holds more than those.
            number = bisect_right(parts, start, key=lambda part: part[0]) - 1
            while number + 1 < len(parts) and parts[number][1] < end and is_bare(text[start : parts[number][1]]):
                number += 1
            at = bisect_left(tables, start) - 1
            columns = found.tables[at].columns if at >= 0 and start < found.tables[at].end else ()
            return replace(base, headings=path.at(parts[number][2]), columns=columns)

        return chunks_from_spans(document, self._filled(text, in_order(spans)), context)

    def _kept_together(
        self, text: str, spans: list[tuple[int, int]], leads: list[tuple[int, int]], closings: dict[int, int]
    ) -> list[tuple[int, int]]:
        """The spans of a section without one that ends in a lead, or begins with the closing line of a fence.

        Args:
            text: The text.
            spans: The spans, in order.
            leads: Headings and opening lines of fences, as spans.
            closings: Ends of the closing lines of fences, by their starts.
        """
        done: list[tuple[int, int]] = []
        waiting = spans[::-1]
        while waiting:
            start, end = waiting.pop()
            if done and (stop := closings.get(text.rfind("\n", 0, start) + 1, start)) > start:
                joined = self._closed(text, done[-1], (start, min(stop, end)))
                if joined:
                    done[-1:] = joined
                    rest = trimmed(text, min(stop, end), end)
                    waiting.extend([rest] if rest[0] < rest[1] else [])
                    continue
            at = bisect_left(leads, (end, 0)) - 1
            if waiting and at >= 0 and start <= leads[at][0] and not text[leads[at][1] : end].strip():
                led = self._led(text, (start, end), leads[at][0], waiting[-1])
                if led:
                    waiting[-1:] = led[::-1]
                    continue
            done.append((start, end))
        return done

    def _led(
        self, text: str, span: tuple[int, int], lead: int, following: tuple[int, int]
    ) -> list[tuple[int, int]] | None:
        """A span that ends in the lead at ``lead`` and the one behind it, cut so that the lead begins a span."""
        first, last = following
        head = trimmed(text, span[0], lead)
        heads = [head] if head[0] < head[1] else []
        if first <= lead:
            return [*heads, following]
        first = max(first, span[1])
        room = self.size - self.count(text[lead:first])
        if room <= self.overlap:
            return None
        fits = self.count(text[lead:last]) <= self.size
        parts = [(first, last)] if fits else self._text_spans(text, first, last, room)
        if not parts or self.count(text[lead : parts[0][1]]) > self.size:
            return None
        return [*heads, (lead, parts[0][1]), *parts[1:]]

    def _closed(self, text: str, span: tuple[int, int], closing: tuple[int, int]) -> list[tuple[int, int]] | None:
        """A span of code with its closing line, cut before its last lines where both are too long together."""
        start, end = span[0], trimmed(text, *closing)[1]
        if self.count(text[start:end]) <= self.size:
            return [(start, end)]
        room = self.size - self.count(text[span[1] : end])
        parts = self._text_spans(text, *span, room) if room > self.overlap else []
        if len(parts) < 2 or self.count(text[parts[-1][0] : end]) > self.size:
            return None
        return [*parts[:-1], (parts[-1][0], end)]


def _leads(text: str, found: Outline) -> list[tuple[int, int]]:
    """Headings and the opening lines of fences; those with nothing between them are one."""
    leads: list[tuple[int, int]] = []
    openings = [(heading.start, heading.end) for heading in found.headings]
    for start, end in sorted(openings + [(fence.start, fence.body) for fence in found.fences]):
        if leads and not text[leads[-1][1] : start].strip():
            leads[-1] = (leads[-1][0], end)
        else:
            leads.append((start, end))
    return leads


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
        if end != len(text) and not text[body:end].replace("\ufeff", "").strip():
            continue
        if text[start:end].strip():
            found.append((start, end, bounds[number]))
        start = end
    return found
