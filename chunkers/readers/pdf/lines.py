"""Words -> lines in reading order, column by column."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from situate.chunkers.readers.pdf.glyphs import Word

#: Lines that have a gap at the same place, at least, for that gap to be a gutter between columns.
_GUTTER_LINES = 4
#: Font sizes of a column's lines on average, at least: what is narrower is a table's cell.
_COLUMN_WIDTH = 8.0
_MAX_DEPTH = 6
#: Numbers of lines that a page has, at least, where it has any.
_LINE_NUMBERS = 12
_AMOUNT = frozenset("0123456789$\u20ac\u00a3\u00a5()%-\u2013\u2014")
_LINE_NUMBER = re.compile(r"[LRS]?\d{1,3}\Z")


@dataclass(frozen=True, slots=True)
class Cell:
    """Words of a line without a wide gap between them."""

    x0: float
    x1: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text, or a table.

    Attributes:
        page: The page's number, from 0.
        y: Baseline, upwards.
        x0: Left edge.
        x1: Right edge.
        size: The font size of most letters.
        bold: Whether all letters are bold.
        italic: Whether all letters are italic.
        opens_bold: Whether its first word is bold.
        code: Whether it is set as program text.
        cells: The parts between wide gaps, in reading order.
        column: Left and right edges of the column that it stands in.
        rows: The rows of a ruled table; None for a line.
        edges: The column boundaries of a table.
        bottom: The lower edge of a table.
        aside: Whether it is turned otherwise than the page's text: a watermark, a stamp in the margin.
    """

    page: int
    y: float
    x0: float
    x1: float
    size: float
    bold: bool = False
    italic: bool = False
    opens_bold: bool = False
    code: bool = False
    cells: tuple[Cell, ...] = ()
    column: tuple[float, float] = (0.0, 0.0)
    rows: tuple[tuple[str, ...], ...] | None = None
    edges: tuple[float, ...] = ()
    bottom: float = 0.0
    aside: bool = False

    @property
    def text(self) -> str:
        """Its words."""
        text = ""
        for cell in self.cells:
            text = spaced(text, cell.text)
        return text


def spaced(before: str, after: str) -> str:
    """The two texts with a space between them, which Chinese and Japanese do not write."""
    if not before or not after:
        return before + after
    return f"{before}{after}" if is_cjk(before[-1]) and is_cjk(after[0]) else f"{before} {after}"


def is_cjk(sign: str) -> bool:
    """Whether a character is of a script that writes no spaces."""
    return (
        "\u2e80" <= sign <= "\u9fff"
        or "\uf900" <= sign <= "\ufaff"
        or "\uff00" <= sign <= "\uffef"
        or ("\U00020000" <= sign <= "\U0003ffff")
    )


@dataclass(slots=True)
class Segment:
    """Words beside each other, or a table, before it is known which column they stand in."""

    words: list[Word]
    x0: float
    x1: float
    y: float
    size: float
    rows: tuple[tuple[str, ...], ...] | None = None
    edges: tuple[float, ...] = ()
    bottom: float = 0.0

    @property
    def letters(self) -> int:
        return sum(len(word.text) for word in self.words)


def lines_of(words: Sequence[Word], tables: Iterable[Segment], page: int) -> list[Line]:
    """The lines of a page in reading order.

    Columns are parted at a gutter: a place at which many lines have a gap, with text on both sides that fills its side.
    Lines across the gutter (a title, a wide figure's caption) part the page into bands, which are read one after the
    other, each column by column.

    Args:
        words: The words of one frame.
        tables: The page's tables.
        page: The page's number.
    """
    rows = [*_rows(_without_line_numbers(words)), *([table] for table in tables)]
    rows.sort(key=lambda row: -row[0].y)
    return [line for column in _columns(rows, 0) for line in _column_lines(column, page)]


def _without_line_numbers(words: Sequence[Word]) -> Sequence[Word]:
    """The words without a column of ascending numbers beside all of the text, as drafts and transcripts have it."""
    for edge in ("x0", "x1"):
        places: dict[int, list[Word]] = {}
        for word in words:
            if _LINE_NUMBER.match(word.text):
                places.setdefault(round(getattr(word, edge) / 3), []).append(word)
        for numbers in places.values():
            numbers.sort(key=lambda word: -word.y)
            values = [int(word.text.lstrip("LRS")) for word in numbers]
            steps = sum(b == a + 1 for a, b in pairwise(values))
            if len(numbers) < _LINE_NUMBERS or steps < 0.8 * len(values):
                continue
            left, right = min(word.x0 for word in numbers), max(word.x1 for word in numbers)
            rest = [w for w in words if not (_LINE_NUMBER.match(w.text) and w.x0 > left - 9 and w.x1 < right + 9)]
            if all(w.x0 > right for w in rest) or all(w.x1 < left for w in rest):
                return rest
    return words


def _rows(words: Sequence[Word]) -> list[list[Segment]]:
    """The words by their baselines, from top to bottom, each row cut at its wide gaps."""
    rows: list[list[Word]] = []
    for word in sorted(words, key=lambda word: -word.y):
        if rows and rows[-1][0].y - word.y < 0.5 * min(word.size, rows[-1][0].size):
            rows[-1].append(word)
        else:
            rows.append([word])
    for upper, lower in pairwise(rows):
        _attach(upper, lower)
    for upper, lower in pairwise(rows):
        _attach(lower, upper)
    return [_segments(row) for row in rows if row]


def _attach(small: list[Word], row: list[Word]) -> None:
    """Moves exponents, indices and marks of footnotes, whose baseline is another one, into the row of their words."""
    if not small or not row:
        return
    row.sort(key=lambda word: word.x1)
    ends = [word.x1 for word in row]
    moved: list[Word] = []
    for word in sorted(small, key=lambda word: word.x0):
        at = bisect_right(ends, word.x0 + 0.15 * word.size) - 1
        before = row[at] if at >= 0 else word
        # An initial over several lines is larger than that.
        smaller = 0.45 < word.size / (before.size or 1.0) < 0.85 and abs(word.y - before.y) < 0.55 * before.size
        follows = bool(moved) and 0 <= word.x0 - moved[-1].x1 < 0.5 * word.size and word.size == moved[-1].size
        if follows or (smaller and word.x0 - before.x1 < 0.25 * before.size):
            moved.append(word)
    taken = {id(word) for word in moved}
    small[:] = [word for word in small if id(word) not in taken]
    row += moved


def _segments(row: list[Word]) -> list[Segment]:
    row.sort(key=lambda word: word.x0)
    found: list[Segment] = []
    for word in row:
        # Shadows and imitated bold letters are the same words again.
        if any(w.text == word.text and abs(w.x0 - word.x0) < 0.3 * word.size for s in found[-1:] for w in s.words[-3:]):
            continue
        if found and word.x0 - found[-1].x1 < _widest_space(found[-1], word):
            found[-1].words.append(word)
            found[-1].x1 = max(found[-1].x1, word.x1)
        else:
            found.append(Segment([word], word.x0, word.x1, word.y, word.size))
    for segment in found:
        sizes = Counter[tuple[float, float]]()
        for word in segment.words:
            sizes[word.size, word.y] += len(word.text)
        segment.size, segment.y = max(sizes, key=sizes.__getitem__)
    return found


def _widest_space(segment: Segment, word: Word) -> float:
    """The widest gap that is a space: numbers of a narrow table stand closer than columns of text do."""
    size = max(word.size, segment.size)
    amounts = segment.words[-1].text[-1:] in _AMOUNT and word.text[:1] in _AMOUNT
    return 0.45 * size if amounts else size


_Rows = list[list[Segment]]


def _columns(rows: _Rows, depth: int) -> list[_Rows]:
    """The rows by columns, in reading order."""
    gutter = _gutter(rows) if depth < _MAX_DEPTH else None
    if gutter is None:
        return [rows] if rows else []
    found: list[_Rows] = []
    band: _Rows = []
    for row in rows:
        if any(segment.x0 < gutter - 1 and segment.x1 > gutter + 1 for segment in row):
            found += _parted(band, gutter, depth)
            band = []
            found.append([row])
        else:
            band.append(row)
    found += _parted(band, gutter, depth)
    # Neighbouring rows outside of columns are one region, as in a page without any.
    merged: list[_Rows] = []
    single = False
    for region in found:
        whole = len(region) == 1 and any(s.x0 < gutter - 1 and s.x1 > gutter + 1 for s in region[0])
        if whole and single:
            merged[-1] += region
        else:
            merged.append(region)
        single = whole
    return merged


def _parted(band: _Rows, gutter: float, depth: int) -> list[_Rows]:
    """A band's columns; the band as it is where it is a table, or too short to have columns."""
    left = [[s for s in row if s.x1 <= gutter + 1] for row in band]
    right = [[s for s in row if s.x1 > gutter + 1] for row in band]
    beside = any(a and b for a, b in zip(left, right, strict=True))
    left, right = [a for a in left if a], [b for b in right if b]
    if left and right:
        beside = beside or min(left[0][0].y, right[0][0].y) > max(left[-1][0].y, right[-1][0].y)
    if not beside or not _is_text(left) or not _is_text(right):
        return [band] if band else []
    return [*_columns(left, depth + 1), *_columns(right, depth + 1)]


def _is_text(rows: _Rows) -> bool:
    """Whether rows on one side of a gutter are a column of text and no cells."""
    low, high = min(row[0].x0 for row in rows), max(row[-1].x1 for row in rows)
    widths = [sum(s.x1 - s.x0 for s in row) for row in rows]
    size = max(row[0].size for row in rows[:1])
    letters = sum(s.letters for row in rows for s in row)
    digits = sum(sign.isdigit() for row in rows for s in row for word in s.words for sign in word.text)
    mean = sum(widths) / len(widths)
    return mean >= _COLUMN_WIDTH * size and mean >= 0.45 * (high - low) and digits < 0.3 * max(1, letters)


def _gutter(rows: _Rows) -> float | None:
    """The place at which most rows have a gap between two parts of text; None where few have."""
    gaps: list[tuple[float, float]] = []
    for row in rows:
        if any(segment.rows is not None for segment in row):
            continue
        gaps += [(a.x1, b.x0) for a, b in pairwise(row) if b.x0 - a.x1 > 0.8 * a.size]
    gaps += _staggered(rows)
    if len(gaps) < _GUTTER_LINES:
        return None
    starts, ends = sorted(start for start, _ in gaps), sorted(end for _, end in gaps)
    best, place = 0, 0.0
    for start in starts:
        inside = bisect_right(starts, start) - bisect_right(ends, start)
        if inside > best:
            best = inside
            # The middle of what is free from there on.
            place = (start + ends[bisect_right(ends, start)]) / 2
    if best < _GUTTER_LINES:
        return None
    sides = [row for row in rows if not any(s.x0 < place - 1 and s.x1 > place + 1 for s in row)]
    left = [a for row in sides if (a := [s for s in row if s.x1 <= place + 1])]
    right = [b for row in sides if (b := [s for s in row if s.x1 > place + 1])]
    return place if left and right and _is_text(left) and _is_text(right) else None


def _staggered(rows: _Rows) -> Iterator[tuple[float, float]]:
    """The gaps between two columns whose baselines alternate, so that each row holds one line of one of them."""

    def gap(one: list[Segment], other: list[Segment]) -> tuple[float, float] | None:
        left, right = sorted((one, other), key=lambda row: row[0].x0)
        found = left[-1].x1, right[0].x0
        return found if found[1] - found[0] > 0.8 * left[0].size else None

    for four in zip(rows, rows[1:], rows[2:], rows[3:], strict=False):
        close = all(a[0].y - b[0].y < 0.9 * min(a[0].size, b[0].size) for a, b in pairwise(four))
        alternate = close and not gap(four[0], four[2]) and not gap(four[1], four[3])
        if alternate and (found := gap(four[0], four[1])) and gap(four[1], four[2]) and gap(four[2], four[3]):
            yield found


def _column_lines(rows: _Rows, page: int) -> list[Line]:
    low = min(segment.x0 for row in rows for segment in row)
    high = max(segment.x1 for row in rows for segment in row)
    return [_line(row, (low, high), page) for row in rows]


def _line(row: list[Segment], column: tuple[float, float], page: int) -> Line:
    first = row[0]
    if first.rows is not None:
        return Line(
            page=page,
            y=first.y,
            x0=first.x0,
            x1=first.x1,
            size=first.size,
            column=column,
            rows=first.rows,
            edges=first.edges,
            bottom=first.bottom,
        )
    words = [word for segment in row for word in segment.words]
    sizes, ys = Counter[float](), Counter[float]()
    for word in words:
        sizes[word.size] += len(word.text)
        ys[word.y] += len(word.text)
    right_to_left = _is_right_to_left(words)
    lettered = [word for word in words if any(map(str.isalpha, word.text))]
    cells = tuple(Cell(s.x0, s.x1, joined(s.words, right_to_left)) for s in (row[::-1] if right_to_left else row))
    return Line(
        page=page,
        y=max(ys, key=ys.__getitem__),
        x0=first.x0,
        x1=row[-1].x1,
        size=max(sizes, key=sizes.__getitem__),
        bold=all(word.bold for word in lettered),
        italic=all(word.italic for word in lettered),
        opens_bold=words[0].bold,
        code=all(word.code for word in words),
        cells=cells,
        column=column,
    )


def joined(words: Sequence[Word], right_to_left: bool = False) -> str:
    """Words that stand beside each other, as text."""
    # PDFium has put letters that are written from right to left into the order in which they are read.
    ordered = sorted(words, key=lambda word: word.place) if right_to_left else words
    text = ""
    before: Word | None = None
    for word in ordered:
        if before is None:
            text = word.text
        else:
            gap = word.x0 - before.x1 if not right_to_left else 0.0
            apart = word.spaced or gap > 0.25 * min(word.size, before.size) or word.place < before.place
            text = spaced(text, word.text) if apart else text + word.text
        before = word
    # Many fonts call their hyphen a soft one; at the end of a line it may part a word.
    return text[:-1].replace("\u00ad", "-") + text[-1:]


def _is_right_to_left(words: Sequence[Word]) -> bool:
    letters = [unicodedata.bidirectional(sign) for word in words for sign in word.text if sign.isalpha()]
    return 2 * sum(kind in ("R", "AL") for kind in letters) > len(letters)
