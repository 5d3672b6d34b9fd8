"""HTML source, cut along its blocks."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from situate.chunkers.base import SizedChunker
from situate.chunkers.headings import Heading, HeadingPath
from situate.chunkers.readers.html import FALLBACK, heading_words, left_out
from situate.chunkers.readers.markup import HEADINGS, UNSEEN, Tag, Text, parts
from situate.chunkers.spans import base_context, chunks_from_spans, trimmed
from situate.parameters import checked_parameters

if TYPE_CHECKING:
    from situate.types import Chunk, Context, Document

_BLOCKS = frozenset(
    [
        *("address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details", "div", "dl", "dt"),
        *(
            "figcaption",
            "figure",
            "footer",
            "header",
            "hr",
            "html",
            "li",
            "main",
            "ol",
            "option",
            "p",
            "pre",
            "section",
        ),
        *("summary", "table", "tbody", "thead", "tr", "ul", *HEADINGS),
    ]
)
_SKIPPED = FALLBACK | {"script", "style", "template", "noscript", "nav", "svg", "head", "iframe"}
#: Characters of a heading within which blocks (a line break, a ``<div>``) do not end it.
_HEADING = 1_000


@checked_parameters
@dataclass(frozen=True)
class HtmlChunker(SizedChunker):
    """The text between a page's block tags (paragraphs, items, rows, headings), joined while it fits, per section.

    For documents whose text *is* HTML source and has to stay that: a chunk is a span of the source, so inline tags
    stay in it. Scripts, styles, navigation (``<nav>``, ``role="navigation"``) and hidden elements are left out. Where
    only the words matter, `read_documents` turns HTML into Markdown first, and the vectors are cleaner.

    Attributes:
        size: The most that a chunk holds, in the model's tokens without special tokens; characters without a
            ``tokenizer``. Tags count.
        overlap: The most that parts of a block that is cut share.
        tokenizer: The embedding model's tokenizer.

    >>> from situate.chunkers import Document
    >>> page = "<h1>Leave</h1><p>Ask <b>her</b>.</p><script>x</script><h2>Sick</h2><p>Call.</p>"
    >>> [(chunk.text, chunk.context.headings) for chunk in HtmlChunker().split(Document("d", page))]
    [('Leave</h1><p>Ask <b>her</b>.', ('Leave',)), ('Sick</h2><p>Call.', ('Leave', 'Sick'))]
    """

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or has no text."""
        text = document.text
        page = parts(text)
        reader = _Blocks(text, page, _SKIPPED)
        if not reader.blocks:  # the whole page lies in its navigation
            reader = _Blocks(text, page, _SKIPPED - {"nav"})
        path = HeadingPath(reader.headings)
        opening = {heading.start for heading in reader.headings}
        apart: set[int] = set()
        body = True
        for number, (start, _) in enumerate(reader.blocks):
            # A heading begins a chunk, except right behind another one: those belong together.
            heading = start in opening
            gap = number > 0 and reader.skipped_between(reader.blocks[number - 1][1], start)
            if (heading and body) or gap:
                apart.add(number)
            body = not heading
        base = base_context(document)
        starts = [start for start, _ in reader.blocks]

        def context(start: int, end: int) -> Context:
            # A chunk that opens with headings stands under the last of them.
            place = start
            for block in starts[bisect_left(starts, start) : bisect_left(starts, end)]:
                if block not in opening:
                    break
                place = block
            return replace(base, headings=path.at(place))

        spans = self._packed(text, reader.blocks, frozenset(apart), led=True)
        headings = {(heading.start, heading.end) for heading in reader.headings}
        kept = [(start, end) for start, end in reader.blocks if (start, end) not in headings]

        def bare(start: int, end: int) -> bool:
            at = bisect_left(kept, (start, 0))
            return not any(block[0] < end and block[1] > start for block in kept[max(0, at - 1) : at + 1])

        return chunks_from_spans(document, self._filled(text, spans, bare), context)


class _Blocks:
    """The spans of text between block tags, and the headings among them.

    Args:
        text: HTML source.
        page: Its parts.
        skipped: Elements that are left out.
    """

    def __init__(self, text: str, page: list[Text | Tag], skipped: frozenset[str]) -> None:
        self.text = text
        self.blocks: list[tuple[int, int]] = []
        self.headings: list[Heading] = []
        self._skips: list[tuple[int, int]] = []
        self._open = 0
        self._words: list[str] = []
        self._images: list[str] = []
        self._level = 0
        self._read(page, skipped)

    def skipped_between(self, start: int, end: int) -> bool:
        """Whether something that is left out lies between the places."""
        at = bisect_left(self._skips, (start, 0))
        return at < len(self._skips) and self._skips[at][1] <= end

    def _read(self, page: list[Text | Tag], skipped: frozenset[str]) -> None:
        at = heading = 0
        while at < len(page):
            part = page[at]
            at += 1
            if isinstance(part, Text):
                self._words.append(part.words(self.text))
            elif left_out(part, skipped) and part.last is not None:
                at = part.last
                end = page[at].start if at < len(page) else len(self.text)
                if at < len(page) and isinstance(closing := page[at], Tag) and closing.closing:
                    end, at = (closing.end, at + 1) if closing.name == part.name else (end, at)
                self._cut(part.start, end)
                self._skips.append((part.start, end))
            elif part.name in UNSEEN and not part.closing and part.last is None:
                self._cut(part.start, len(self.text))
            elif part.name in _BLOCKS and at > heading:
                self._cut(part.start, part.end)
                self._level = int(part.name[1]) if part.name in HEADINGS and not part.closing else 0
                if self._level and part.closed and page[part.last or 0].start - part.end <= _HEADING:
                    heading = part.last or 0
            else:
                self._words.append(" ")
                self._images += [part.attributes.get("alt", "")] if part.name == "img" and at <= heading else []
        self._cut(len(self.text), len(self.text))

    def _cut(self, end: int, after: int) -> None:
        """Ends the block that is open at ``end``; the next one opens at ``after``."""
        words = "".join(self._words)
        if not words.strip():
            words = " ".join(self._images)
        if words.replace("\ufeff", "").strip():
            start, stop = trimmed(self.text, self._open, end)
            self.blocks.append((start, stop))
            if self._level and (heading := heading_words(words)):
                self.headings.append(Heading(self._level, heading, start, stop))
        self._open = after
        self._words.clear()
        self._images.clear()
