"""HTML source, cut along its blocks."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, replace
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from situate.chunkers.base import SizedChunker
from situate.chunkers.headings import Heading, HeadingPath
from situate.chunkers.readers.html import heading_words
from situate.chunkers.spans import base_context, chunks_from_spans, trimmed

if TYPE_CHECKING:
    from situate.types import Chunk, Context, Document

_BLOCK = re.compile(
    "address|article|aside|blockquote|body|br|caption|dd|details|div|dl|dt|figcaption|figure|footer|h[1-6]|header|hr|"
    "html|li|main|ol|p|pre|section|summary|table|tbody|thead|tr|ul"
)
_SKIPPED = frozenset({"script", "style", "template", "noscript", "nav", "svg", "head", "iframe"})
#: What may stand in a head. Its end tag may be left out; then it ends before anything else.
_IN_HEAD = frozenset({"title", "meta", "link", "base", "script", "style", "noscript", "template"})
#: Where the browser reads on to the end of the page, too, if the end tag is missing.
_RAW = frozenset({"script", "style"})
_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True)
class HtmlChunker(SizedChunker):
    """The text between a page's block tags (paragraphs, items, rows, headings), joined while it fits, per section.

    For documents whose text *is* HTML source and has to stay that: a chunk is a span of the source, so inline tags
    stay in it. Scripts, styles and navigation (``<nav>``, ``role="navigation"``) are left out. Where only the words
    matter, `read_documents` turns HTML into Markdown first, and the vectors are cleaner.

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
        reader = _Blocks(text)
        while reader.unclosed is not None:
            # The rest of the page would be left out with it: what is of this kind is shown instead.
            reader = _Blocks(text, reader.shown | {reader.unclosed})
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

        return chunks_from_spans(document, self._packed(text, reader.blocks, frozenset(apart), led=True), context)


class _Blocks(HTMLParser):
    """The spans of text between block tags, and the headings among them.

    Args:
        text: HTML source.
        shown: Kinds of elements that are not left out: names of tags, and "navigation" for that role.
    """

    def __init__(self, text: str, shown: frozenset[str] = frozenset()) -> None:
        super().__init__(convert_charrefs=False)
        self.text = text
        self.shown = shown
        self.blocks: list[tuple[int, int]] = []
        self.headings: list[Heading] = []
        self._skips: list[tuple[int, int]] = []
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self._open = 0
        self._words = False
        self._skipping: str | None = None
        self._kind = ""
        self._depth = 0
        self._skipped_from = 0
        self._level = 0
        self.feed(text)
        self.close()
        self._cut(len(text), len(text))

    @property
    def unclosed(self) -> str | None:
        """The kind of an element that is left out and has no end."""
        return self._kind if self._skipping is not None and self._skipping not in _RAW else None

    def skipped_between(self, start: int, end: int) -> bool:
        """Whether something that is left out lies between the places."""
        at = bisect_left(self._skips, (start, 0))
        return at < len(self._skips) and self._skips[at][1] <= end

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        place = self._place()
        if self._skipping == "head" and tag not in _IN_HEAD:
            self._end_skip(place)
        if self._skipping is not None:
            self._depth += tag == self._skipping
            return
        after = place + len(self.get_starttag_text() or "")
        kind = tag if tag in _SKIPPED else "navigation" if ("role", "navigation") in attrs else None
        if kind is not None and kind not in self.shown:
            self._cut(place, after)
            self._skipping, self._kind, self._depth, self._skipped_from = tag, kind, 1, place
        elif _BLOCK.fullmatch(tag):
            self._cut(place, after)
            self._level = int(tag[1]) if re.fullmatch("h[1-6]", tag) else 0

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        if self._skipping is None and _BLOCK.fullmatch(tag):
            place = self._place()
            self._cut(place, place + len(self.get_starttag_text() or ""))

    def handle_endtag(self, tag: str) -> None:
        place = self._place()
        closing = self.text.find(">", place)
        after = len(self.text) if closing == -1 else closing + 1
        if self._skipping is not None:
            self._depth -= tag == self._skipping
            if not self._depth:
                self._end_skip(after)
        elif _BLOCK.fullmatch(tag):
            self._cut(place, after)
            self._level = 0

    def handle_data(self, data: str) -> None:
        self._words = self._words or bool(data.strip())

    def handle_entityref(self, name: str) -> None:
        self._words = self._words or name != "nbsp"

    def handle_charref(self, name: str) -> None:
        self._words = True

    def _end_skip(self, after: int) -> None:
        self._skips.append((self._skipped_from, after))
        self._skipping, self._open, self._words = None, after, False

    def _place(self) -> int:
        line, column = self.getpos()
        return min(self._lines[line - 1] + column, len(self.text))

    def _cut(self, end: int, after: int) -> None:
        """Ends the block that is open at ``end``; the next one opens at ``after``."""
        if self._skipping is None and self._words:
            start, stop = trimmed(self.text, self._open, end)
            if start < stop:
                self.blocks.append((start, stop))
                words = heading_words(unescape(_TAG.sub(" ", self.text[start:stop])))
                if self._level and words:
                    self.headings.append(Heading(self._level, words, start, stop))
        self._open, self._words = after, False
