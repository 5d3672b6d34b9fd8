"""A Markdown document's headings."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

# What markdown-it takes for the end of a line, so that its line numbers lead back to the text as it was given.
_LINE_END = re.compile(r"\r\n?|\n")
_FRONT_MATTER = re.compile(
    r"\A\ufeff?---[ \t]*(?:\r\n?|\n)(?:.*?(?:\r\n?|\n))??(?:---|\.\.\.)[ \t]*(?:\r\n?|\n|\Z)", re.S
)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading and where its line or lines stand.

    Attributes:
        level: 1 to 6.
        text: The words without markup.
        start: First character of its first line.
        end: One past its last line's end.
    """

    level: int
    text: str
    start: int
    end: int


def markdown_headings(text: str) -> list[Heading]:
    """The headings of a Markdown text, in order.

    CommonMark's rules (markdown-it-py): ATX and setext headings count; what looks like one inside a code fence, an
    indented or HTML block, a quote, a list or the front matter does not.
    """
    parser = _parser()
    skipped = front_matter_end(text)
    body = text[skipped:]
    starts = [skipped, *(skipped + match.end() for match in _LINE_END.finditer(body)), len(text) + 1]
    tokens = parser.parse(body)
    headings: list[Heading] = []
    for token, inline in pairwise(tokens):
        if token.type != "heading_open" or token.level or token.map is None:
            continue
        first, last = token.map
        words = _plain(parser, inline.content)
        if words:
            end = min(starts[min(last, len(starts) - 1)], len(text))
            headings.append(Heading(int(token.tag[1:]), words, starts[first], end))
    return headings


def front_matter_end(text: str) -> int:
    """Where the text begins after its front matter (a block between ``---`` lines at the very top); 0 without one."""
    match = _FRONT_MATTER.match(text)
    return match.end() if match else 0


class HeadingPath:
    """Which headings stand above a place."""

    def __init__(self, headings: Sequence[Heading]) -> None:
        self._starts = [heading.start for heading in headings]
        self._paths: list[tuple[str, ...]] = []
        above: list[Heading] = []
        for heading in headings:
            while above and above[-1].level >= heading.level:
                above.pop()
            above.append(heading)
            self._paths.append(tuple(h.text for h in above))

    def at(self, place: int) -> tuple[str, ...]:
        """The headings above the character ``place``, outermost first; a heading stands above its own words."""
        found = bisect_right(self._starts, place)
        return self._paths[found - 1] if found else ()


def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Inline markup is parsed for headings alone: most of a document's characters are none.
    return MarkdownIt("commonmark").disable("inline")


def _plain(parser: MarkdownIt, content: str) -> str:
    """A heading's words without emphasis, links and code marks."""
    words: list[str] = []
    for token in parser.parseInline(content):
        parser.inline.parse(token.content, parser, {}, token.children if token.children is not None else [])
        words.extend(
            child.content if child.type in {"text", "code_inline", "text_special"} else " "
            for child in token.children or []
            if child.type in {"text", "code_inline", "text_special", "softbreak", "hardbreak"}
        )
    return " ".join("".join(words).split())
