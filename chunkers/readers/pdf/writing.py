"""Lines -> Markdown, with the place at which each page begins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from situate.chunkers.headings import atx_heading
from situate.chunkers.readers.pdf.lines import Line, is_cjk, spaced

_LIST_ITEM = re.compile(
    r"\A(?:[\u2022\u2023\u25aa\u25ab\u25a0\u25cf\u25cb\u25e6\u2219\u00b7]|[-\u2013\u2014*](?=\s))\s*"
)
_NUMBERED = re.compile(r"\A(?:\(?(?:\d{1,3}|[a-zA-Z]|[ivxlc]{1,5})[.)]|\[\d{1,3}\])\s")
_ENDS_SENTENCE = re.compile(r"[.!?\u3002\uff01\uff1f\u061f][\"'\u201d\u2019)\]]*\Z")
_HYPHEN = re.compile(r"(\w+)[-\u00ad\u2010]\Z")
_FIRST_WORD = re.compile(r"\A[^\W\d_]+")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
#: What Markdown would read as markup at the beginning of a paragraph.
_MARKUP = re.compile(r"#{1,6}(?:\s|\Z)|```|~~~|<|\||>|={2,}\s*\Z|-{2,}\s*\Z")
_RULE = re.compile(r"[\W_]+\Z")


def markdown(
    lines: Sequence[Line], headings: Mapping[int, tuple[int, int]], leading: float, pages: int
) -> tuple[str, list[int]]:
    """The text of a document and the character at which each of its pages begins.

    Args:
        lines: All lines in reading order.
        headings: As `headings` finds them.
        leading: The usual distance of two lines, in font sizes.
        pages: How many pages there are.
    """
    writer = _Writer(_words_of(lines))
    number = 0
    while number < len(lines):
        line = lines[number]
        if number in headings:
            last, level = headings[number]
            writer.heading(level, lines[number:last])
            number = last
        elif line.rows is not None:
            number = _write_table(writer, lines, number)
        else:
            last = number + 1
            while last < len(lines) and last not in headings and _continues(lines[last - 1], lines[last], leading):
                last += 1
            writer.paragraph(lines[number:last])
            number = last
    return writer.finished(pages)


def _words_of(lines: Sequence[Line]) -> frozenset[str]:
    """The words of the document, without those at the ends of lines, which may be parts of words."""
    words: set[str] = set()
    for line in lines:
        for cell in line.cells:
            words.update(word.casefold() for word in _WORD.findall(cell.text.rstrip("-\u00ad\u2010"))[:-1])
    return frozenset(words)


def _continues(above: Line, below: Line, leading: float) -> bool:
    """Whether two lines are of one paragraph."""
    if below.rows is not None or abs(above.size - below.size) > 0.15 * below.size:
        return False
    before, after = above.text, below.text
    if _LIST_ITEM.match(after) or _NUMBERED.match(after):
        return False
    ended = bool(_ENDS_SENTENCE.search(before))
    if above.page != below.page or below.y >= above.y:
        # The next column or page: a paragraph goes on in the middle of its sentence.
        goes_on = after[:1].islower() or before.endswith(("-", "\u00ad", ",")) or is_cjk(after[:1] or " ")
        return goes_on and not ended
    if above.y - below.y > 1.35 * leading * max(above.size, below.size):
        return False
    left, right = below.column
    width = max(right - left, 1.0)
    if len(below.cells) > 2 or len(above.cells) > 2:
        return False
    short = right - above.x1 > 0.2 * width
    indented = below.x0 - above.x0 > 0.8 * below.size
    return not (ended and (short or indented)) and not (indented and not _NUMBERED.match(before) and short)


def _write_table(writer: _Writer, lines: Sequence[Line], number: int) -> int:
    """Writes the table at ``number``, with its parts on the following pages; the number behind it."""
    first = before = lines[number]
    parts = [first]
    number += 1
    while number < len(lines) and _goes_on(before, lines[number]):
        before = lines[number]
        parts.append(before)
        number += 1
    writer.table(parts)
    return number


def _goes_on(table: Line, other: Line) -> bool:
    """Whether a table is the part of another one that stands on the next page, or below it without a header."""
    if table.rows is None or other.rows is None or len(table.rows[0]) != len(other.rows[0]):
        return False
    below = other.page == table.page and other.y < table.y and not any(other.rows[0])
    if other.page != table.page + 1 and not below:
        return False
    shift = other.edges[0] - table.edges[0]
    near = all(abs(b - a - shift) < 10 for a, b in zip(table.edges, other.edges, strict=True))
    return near or (not below and table.rows[0] == other.rows[0])


class _Writer:
    """Blocks of Markdown, and where the pages begin in them."""

    def __init__(self, words: frozenset[str]) -> None:
        self._words = words
        self._parts: list[str] = []
        self._length = 0
        self._starts: list[int] = []

    def finished(self, pages: int) -> tuple[str, list[int]]:
        """The text, and the beginning of each page; that of a page without text is that of the next one."""
        text = "".join(self._parts)
        return text, self._starts + [len(text)] * (pages - len(self._starts))

    def heading(self, level: int, lines: Sequence[Line]) -> None:
        text = ""
        for line in lines:
            text = self._joined(text, line.text)
        self._block(atx_heading(level, " ".join(text.split())), [(lines[0].page, 0)])

    def paragraph(self, lines: Sequence[Line]) -> None:
        text = lines[0].text
        marks = [(lines[0].page, 0)]
        if item := _LIST_ITEM.match(text):
            text = f"- {text[item.end() :]}"
        for line in lines[1:]:
            text = self._joined(text, line.text)
            if line.page != marks[-1][0]:
                # The words that are joined on begin behind what stood before, whatever became of a hyphen.
                marks.append((line.page, len(text) - len(line.text)))
        if _RULE.match(text):
            return
        if _MARKUP.match(text):
            text = f"\\{text}"
            marks = [(page, at + 1 if at else 0) for page, at in marks]
        self._block(text, marks)

    def table(self, parts: Sequence[Line]) -> None:
        text = ""
        marks: list[tuple[int, int]] = []
        header: tuple[str, ...] | None = None
        for part in parts:
            assert part.rows is not None
            repeated = header is not None and part.rows[0] in (header, ("",) * len(header))
            rows = part.rows[1:] if repeated else part.rows
            if text:
                text += "\n"
            marks.append((part.page, len(text)))
            if header is None:
                header, rows = rows[0], rows[1:]
                text = f"{_row(header)}\n|{' --- |' * len(header)}"
                text += "\n" if rows else ""
            text += "\n".join(map(_row, rows))
        self._block(text, marks)

    def _joined(self, before: str, after: str) -> str:
        """Two lines as one, without the hyphen that parts a word."""
        if before.endswith("\u00ad"):
            before = f"{before[:-1]}-"
        parted, first = _HYPHEN.search(before), _FIRST_WORD.match(after)
        if not parted or not first or not before[-2].isalpha():
            return spaced(before, after)
        whole = f"{parted[1]}{first[0]}".casefold()
        compound = f"{parted[1]}-{first[0]}".casefold()
        if first[0][0].islower() and (whole in self._words or compound not in self._words):
            return before[:-1] + after
        return f"{before[:-1]}-{after}"

    def _block(self, text: str, marks: Sequence[tuple[int, int]]) -> None:
        if self._parts:
            self._parts.append("\n\n")
            self._length += 2
        for page, at in marks:
            self._starts += [self._length + at] * (page + 1 - len(self._starts))
        if text.endswith("\u00ad"):
            text = f"{text[:-1]}-"
        self._parts.append(text)
        self._length += len(text)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
