"""Ruled tables: cells between crossing lines."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from situate.chunkers.readers.pdf.glyphs import Page, Word
from situate.chunkers.readers.pdf.lines import Segment, joined, spaced

#: Points by which lines that belong together may miss each other.
_SNAP = 3.0
_MAX_CELLS = 20_000
_AMOUNT = re.compile(r"[(+\u2212-]?[$\u20ac\u00a3]?\d[\d.,]*[)%]*\Z|[$\u20ac\u00a3(\u2013\u2014)%]+\Z")
_NUMERIC = re.compile(r"[(+\u2212-]?[$\u20ac\u00a3]?\d[\d.,:/-]*[)%]*\Z")

_Rule = tuple[float, float, float]


def ruled_tables(page: Page, words: Sequence[Word]) -> tuple[list[Segment], list[Word]]:
    """The tables of a page whose cells lie between lines, and the words outside of them.

    A table has at least two rows and two columns that hold words. Words belong to the cell that holds their middle.
    Lines that part only some columns of a table are left to `with_aligned_tables`.
    """
    across, down = _merged(page.across), _merged(page.down)
    tables: list[Segment] = []
    rest = list(words)
    for grid in _grids(across, down):
        if len(grid.xs) * len(grid.ys) > _MAX_CELLS:
            continue
        inside = [word for word in rest if grid.holds(word)]
        parts = [(row, firsts) for band, firsts in grid.bands(inside) for row in _split(band) if any(row)]
        rows = [row for row, _ in parts]
        # A row that is one cell is the table's title, and stands before it as text.
        while rows and sum(map(bool, rows[0])) == 1 and len(rows[0]) > 2 and rows[0][0]:
            titled = {id(word) for word in rows[0][0]}
            inside = [word for word in inside if id(word) not in titled]
            rows = rows[1:]
        kept = [c for c in range(len(grid.xs) - 1) if any(row[c] for row in rows)]
        if len(rows) < 2 or len(kept) < 2:
            continue
        taken = {id(word) for word in inside}
        outside = [word for word in rest if id(word) not in taken]
        if _is_part(rows, outside, grid.xs[0]):
            continue
        rest = outside
        written = [[_cell_text(cell) for cell in row] for row in rows]
        _join_header(written, parts[len(parts) - len(rows)][1])
        tables.append(
            Segment(
                words=[],
                x0=grid.xs[0],
                x1=grid.xs[-1],
                y=max(word.y for word in inside),
                size=max(word.size for word in inside),
                rows=tuple(tuple(row[c] for c in kept) for row in written),
                edges=(*(grid.xs[c] for c in kept), grid.xs[-1]),
                bottom=grid.ys[0],
            )
        )
    return tables, rest


#: The words of a row by columns.
_Row = list[list[Word]]


def _is_part(rows: Sequence[_Row], outside: Sequence[Word], left: float) -> bool:
    """Whether lines part only some columns of a table: labels stand left of its numbers, or beside one in its cell.

    Shaded rows and underlined sums have such lines.
    """
    cells = [cell for row in rows for cell in row if cell]
    numbers = sum(all(_AMOUNT.match(word.text) for word in cell) for cell in cells)
    labels = [word.y for word in outside if word.x1 < left]
    labelled = sum(any(abs(word.y - y) < 0.5 * word.size for y in labels) for row in rows for word in _first(row))
    if 2 * labelled > len(rows) and numbers >= 0.8 * len(cells):
        return True
    return len(rows) > 2 and 2 * sum(any(map(_is_label_and_number, row)) for row in rows) > len(rows)


def _first(row: _Row) -> list[Word]:
    return next(cell for cell in row if cell)[:1]


def _is_label_and_number(cell: list[Word]) -> bool:
    words = sorted(cell, key=lambda word: word.x0)
    return any(
        b.x0 - a.x1 > 2 * b.size and abs(a.y - b.y) < 0.5 * b.size and _AMOUNT.match(b.text) is not None
        for a, b in pairwise(words)
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """Lines that cross each other: the boundaries of columns and rows, rising, and where each column's lines run."""

    xs: list[float]
    ys: list[float]
    down: list[_Rule]

    def holds(self, word: Word) -> bool:
        return self.xs[0] < _middle(word) < self.xs[-1] and self.ys[0] < _height(word) < self.ys[-1]

    def bands(self, words: Sequence[Word]) -> list[tuple[_Row, list[int]]]:
        """The words by rows and columns, from top to bottom; cells of a row without a line between them are one.

        With each row come, for each of its columns, the first column of the cell that it belongs to.
        """
        bands: list[_Row] = [[[] for _ in self.xs[1:]] for _ in self.ys[1:]]
        by_row: list[list[Word]] = [[] for _ in self.ys[1:]]
        for word in words:
            by_row[bisect_right(self.ys, _height(word)) - 1].append(word)
        firsts = [self._firsts((low + high) / 2) for low, high in pairwise(self.ys)]
        for row, inside in enumerate(by_row):
            if not any(firsts[row]) and len(_heights(inside)) > 2:
                # Many lines of text with no line between columns: the columns are those of the header.
                firsts[row] = list(range(len(self.xs) - 1))
        for row, word in ((row, word) for row, inside in enumerate(by_row) for word in inside):
            bands[row][firsts[row][bisect_right(self.xs, _middle(word)) - 1]].append(word)
        return list(zip(bands, firsts, strict=True))[::-1]

    def _firsts(self, y: float) -> list[int]:
        """For each column of the row at ``y`` the first one of its cell."""
        found = [0]
        for column in range(1, len(self.xs) - 1):
            x = self.xs[column]
            lined = any(abs(place - x) <= _SNAP and low - _SNAP <= y <= high + _SNAP for low, high, place in self.down)
            found.append(column if lined else found[-1])
        return found


def _join_header(rows: list[list[str]], firsts: list[int]) -> None:
    """Joins a second row of column names, below a cell over several columns, to the first row."""
    wide = {first for first in firsts if firsts.count(first) > 1 and rows[0][first]}
    below = [column for column, text in enumerate(rows[1]) if text]
    split = any(sum(firsts[column] == first for column in below) > 1 for first in wide)
    if len(rows) < 3 or not split or any(_NUMERIC.match(text) for text in rows[1]):
        return
    rows[0] = [spaced(rows[0][first if first in wide else c], rows[1][c]) for c, first in enumerate(firsts)]
    del rows[1]


def _split(band: _Row) -> list[_Row]:
    """The rows of a band without lines between them: numbers in most of its lines of text; else the band itself."""
    heights = _heights([word for cell in band for word in cell])
    if len(heights) < 3:
        return [band]
    rows: list[_Row] = [[[] for _ in band] for _ in heights]
    rising = [-height for height in heights]
    for column, cell in enumerate(band):
        for word in cell:
            place = bisect_right(rising, -word.y + 0.01) - 1
            rows[max(0, place)][column].append(word)
    numeric = sum(any(_NUMERIC.match(word.text) for cell in row for word in cell[-1:]) for row in rows)
    wide = sum(sum(map(bool, row)) > 1 for row in rows)
    return rows if numeric >= 0.7 * len(rows) and wide >= 0.7 * len(rows) else [band]


def _heights(words: Sequence[Word]) -> list[float]:
    """The baselines of the words, from top to bottom."""
    heights: list[float] = []
    for word in sorted(words, key=lambda word: -word.y):
        if not heights or heights[-1] - word.y > 0.5 * word.size:
            heights.append(word.y)
    return heights


def _middle(word: Word) -> float:
    return (word.x0 + word.x1) / 2


def _height(word: Word) -> float:
    return word.y + word.size / 4


def _cell_text(words: list[Word]) -> str:
    """The words of a cell, line by line."""
    text = ""
    row: list[Word] = []
    for word in sorted(words, key=lambda word: (-word.y, word.x0)):
        if row and row[0].y - word.y > 0.5 * min(word.size, row[0].size):
            text = spaced(text, joined(sorted(row, key=lambda word: word.x0)))
            row = []
        row.append(word)
    return spaced(text, joined(sorted(row, key=lambda word: word.x0)))


def _merged(rules: Sequence[_Rule]) -> list[_Rule]:
    """Rules, those joined that lie on one line and touch; the two edges of a thin area are one rule."""
    found: list[_Rule] = []
    lines: list[list[_Rule]] = []
    for rule in sorted(rules, key=lambda rule: rule[2]):
        if lines and rule[2] - lines[-1][-1][2] < _SNAP:
            lines[-1].append(rule)
        else:
            lines.append([rule])
    for line in lines:
        place = sum(rule[2] for rule in line) / len(line)
        start = end = None
        for a, b, _ in sorted(line):
            if end is None or start is None:
                start, end = a, b
            elif a <= end + _SNAP:
                end = max(end, b)
            else:
                found.append((start, end, place))
                start, end = a, b
        if start is not None and end is not None:
            found.append((start, end, place))
    return found


def _grids(across: list[_Rule], down: list[_Rule]) -> list[_Grid]:
    """The lines that cross each other, from the topmost group to the lowest."""
    parents = list(range(len(across) + len(down)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    places = [rule[2] for rule in across]
    for number, (low, high, x) in enumerate(down, len(across)):
        first = bisect_right(places, low - _SNAP)
        for other in range(first, bisect_right(places, high + _SNAP)):
            left, right, _ = across[other]
            if left - _SNAP <= x <= right + _SNAP:
                parents[root(number)] = root(other)
    groups: dict[int, tuple[list[float], list[_Rule]]] = {}
    for number in range(len(parents)):
        ys, columns = groups.setdefault(root(number), ([], []))
        if number < len(across):
            ys.append(across[number][2])
        else:
            columns.append(down[number - len(across)])
    grids = [_Grid(_apart([x for *_, x in columns]), _apart(ys), columns) for ys, columns in groups.values()]
    return sorted((grid for grid in grids if len(grid.xs) > 2 and len(grid.ys) > 2), key=lambda grid: -grid.ys[-1])


def _apart(places: list[float]) -> list[float]:
    kept: list[float] = []
    for place in sorted(places):
        if not kept or place - kept[-1] > _SNAP:
            kept.append(place)
    return kept
