"""A passage's text with marked spans, and its forms for a terminal, a web page and Markdown."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from situate.errors import SpanError

_BOLD, _PLAIN = "\x1b[1;33m", "\x1b[0m"
#: Control characters but tab and line feed: in a terminal they move the cursor or change colours.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: Characters that begin something in Markdown, anywhere in a line.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>&!|~#$])")
#: A line's beginning that would make it a list, a heading's underline or a block of code.
_LINE = re.compile(r"^[ \t]*(?:([-+=])|(\d{1,9})([.)]))?", re.MULTILINE)
_WORDS = re.compile(r"[^\W_](?:.*[^\W_])?", re.DOTALL)
_LINE_END = re.compile(r"\r\n?|\n")


@dataclass(frozen=True)
class Mark:
    """A span of a passage that matches.

    Attributes:
        start: First character in the passage's text.
        end: One past the last character.
        score: How well it matches: 0 as sentences that have nothing to do with each other, 1 as the same words.
    """

    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Highlight:
    """A passage and the spans of it that match best.

    Attributes:
        text: The passage's text.
        marks: The spans, in the order of the text; they do not overlap.

    Raises:
        SpanError: A span is empty, outside of the text or overlaps the one before.
    """

    text: str
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        before = 0
        for mark in self.marks:
            if not before <= mark.start < mark.end <= len(self.text):
                raise SpanError(
                    f"the mark ({mark.start}, {mark.end}) does not lie within the text of {len(self.text)} characters, "
                    f"behind the mark that ends at {before}"
                )
            before = mark.end

    @property
    def spans(self) -> tuple[str, ...]:
        """The marked texts."""
        return tuple(self.text[mark.start : mark.end] for mark in self.marks)

    def to_ansi(self, color: bool | None = None) -> str:
        """The text for a terminal, with marks in bold yellow; its own control characters are replaced.

        Args:
            color: Whether escape codes are written; else marks stand between ``>>`` and ``<<``. None: unless the
                environment variable ``NO_COLOR`` is set (https://no-color.org).
        """
        colored = not os.environ.get("NO_COLOR") if color is None else color
        before, behind = (_BOLD, _PLAIN) if colored else (">>", "<<")
        return self._written(printable, lambda text: f"{before}{printable(text)}{behind}")

    def to_html(self) -> str:
        """The text as HTML, marks in ``<mark>``; everything of the passage is escaped."""
        return self._written(html.escape, lambda text: f"<mark>{html.escape(text)}</mark>")

    def to_markdown(self) -> str:
        """The text as Markdown, marks in bold; what would be Markdown or HTML in the passage is escaped."""
        return _at_line_starts(self._written(escaped_markdown, _bold))

    def _written(self, plain: Callable[[str], str], marked: Callable[[str], str]) -> str:
        edges = [0, *(edge for mark in self.marks for edge in (mark.start, mark.end)), len(self.text)]
        pieces = [self.text[start:end] for start, end in pairwise(edges)]
        return "".join(marked(piece) if i % 2 else plain(piece) for i, piece in enumerate(pieces))


def printable(text: str) -> str:
    """``text`` with the replacement character in place of control characters."""
    return _CONTROL.sub("\ufffd", text)


def escaped_markdown(text: str) -> str:
    """``text`` as it would be read, with what begins something in Markdown within a line escaped."""
    return _MARKDOWN.sub(r"\\\1", text)


def _bold(text: str) -> str:
    """Each line in bold, from its first to its last letter or digit: CommonMark ends bold nowhere else for certain."""
    return "\n".join(map(_bold_line, _LINE_END.split(text)))


def _bold_line(line: str) -> str:
    words = _WORDS.search(line)
    if words is None:
        return escaped_markdown(line)
    before, within, behind = line[: words.start()], words[0], line[words.end() :]
    return f"{escaped_markdown(before)}**{escaped_markdown(within)}**{escaped_markdown(behind)}"


def _at_line_starts(text: str) -> str:
    def escaped(match: re.Match[str]) -> str:
        sign, number, dot = match.groups()
        return f"\\{sign}" if sign else f"{number}\\{dot}" if number else ""

    return _LINE.sub(escaped, _LINE_END.sub("\n", text))
