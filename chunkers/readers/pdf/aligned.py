"""Tables without ruling lines: rows of a label and numbers that stand below each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from situate.chunkers.readers.pdf.lines import Cell, Line, spaced

#: Rows with numbers that a table has, at least.
_LEAST = 3
#: Lines above the first row that may name the columns, and characters of each.
_HEADER_LINES = 5
_HEADER_LETTERS = 160
#: Lines with a label alone between the names of the columns and the first row.
_LABELS = 3
#: Lines with a label alone between two rows.
_BETWEEN = 5
#: Row distance at most, in font sizes.
_APART = 3.2
_NUMBER = re.compile(
    r"[-+\u2212\u2013\u2014(]?\s*(?:[$\u20ac\u00a3\u00a5]|[A-Z]{1,3}\$)?\s*\(?\s*[-+\u2212\u2013]?"
    r"\d[\d,.\u2019' ]*\s*\)?\s*(?:%|x|bps?|pts?|M|bn|million)?\s*\)?"
    r"(?:\s?\([0-9a-z]{1,2}\)|[*\u2020\u2021])?\Z|[-\u2013\u2014]+\s*%?\Z"
    r"|(?:N/?A|N/?M|nm|n\.[am]\.)\Z"
)
_YEAR = re.compile(r"(?:FY|CY)?\s*(?:19|20)\d\d[EAF]?\Z")
_SIGN = re.compile(r"[$\u20ac\u00a3\u00a5(]+\Z|[A-Z]{1,3}\$\Z")
_CLOSING = re.compile(r"(?:\)\s*%?|%|%\s*\)|pts)\Z")
_UNFINISHED = re.compile(r"(?:[,;(\u2013\u2014-]|\b(?:and|or|of|for|to|the|in|by|with|from))\s*\Z")
_LEADERS = re.compile(r"(?:\s?[.\u2026\u00b7_]){3,}\s*")


def with_aligned_tables(lines: Sequence[Line]) -> list[Line]:
    """The lines of a page, tables of aligned numbers among them as tables.

    A row is a label and numbers; numbers of a column share their right edge. The lines above the first row that stand
    over the numbers are the header, joined per column; lines with a label alone between rows are rows without numbers.

    Args:
        lines: The lines in reading order.
    """
    found: list[Line] = []
    number = 0
    while number < len(lines):
        last = number
        while last < len(lines) and (last == number or _below(lines[last - 1], lines[last])):
            last += 1
        found += _region(lines[number:last])
        number = last
    return found


def _below(above: Line, below: Line) -> bool:
    """Whether two lines stand below each other in one column of the page."""
    return above.rows is None and below.rows is None and above.y > below.y and above.column == below.column


def _region(lines: Sequence[Line]) -> list[Line]:
    if len(lines) < _LEAST:
        return list(lines)
    cells = [_joined_signs(line) for line in lines]
    body = [_is_row(row) for row in cells]
    found: list[Line] = []
    number = taken = 0
    while number < len(lines):
        if not body[number]:
            found.append(lines[number])
            number += 1
            continue
        last = number + 1
        while last < len(lines) and (after := _next_row(lines, cells, body, last)):
            last = after
        # The rows of the table before are no header of this one.
        table = _table(lines, cells, body, number, last, number - taken)
        if table is None:
            found += lines[number:last]
        else:
            made, header = table
            del found[len(found) - header :]
            found.append(made)
            taken = last
        number = last
    return found


def _joined_signs(line: Line) -> list[Cell]:
    """The cells of a line, currency and percent signs with their numbers, without leaders."""
    found: list[Cell] = []
    for cell in line.cells:
        text = _LEADERS.sub(" ", cell.text).strip()
        if not text:
            continue
        if found and _SIGN.match(found[-1].text):
            before = found.pop()
            text, cell = f"{before.text}{text}", Cell(before.x0, cell.x1, "")
        elif found and _CLOSING.match(text):
            before = found.pop()
            # A closing sign stands beyond the edge that its column's numbers share.
            found.append(Cell(before.x0, before.x1, f"{before.text}{text}"))
            continue
        found.append(Cell(cell.x0, cell.x1, text))
    return found


def _is_row(cells: Sequence[Cell]) -> bool:
    """Whether a line is a label and numbers, or numbers alone, of which not all are years."""
    numbers = [cell for cell in cells if _NUMBER.match(cell.text)]
    if not numbers or all(_YEAR.match(cell.text) for cell in numbers):
        return False
    first = 0 if _NUMBER.match(cells[0].text) else 1
    return len(cells) > 1 and len(cells) - first <= len(numbers) + 1 and bool(numbers)


def _next_row(lines: Sequence[Line], cells: Sequence[Sequence[Cell]], body: Sequence[bool], number: int) -> int:
    """The number behind the next row, over lines with a label alone; 0 where the table ends."""
    above = number - 1
    while number < len(lines) and number - above <= _BETWEEN + 1:
        line = lines[number]
        if lines[number - 1].y - line.y > _APART * max(line.size, lines[number - 1].size):
            return 0
        if body[number]:
            return number + 1
        left, right = line.column
        if len(cells[number]) != 1 or line.x1 - line.x0 > 0.75 * (right - left):
            return 0
        if line.size > 1.1 * lines[number - 1].size:  # a heading
            return 0
        number += 1
    return 0


def _table(
    lines: Sequence[Line],
    cells: Sequence[Sequence[Cell]],
    body: Sequence[bool],
    first: int,
    last: int,
    before: int,
) -> tuple[Line, int] | None:
    """The table of the rows ``first`` to ``last``, and how many of the ``before`` lines above it are its header."""
    rows = [number for number in range(first, last) if body[number]]
    numbers = [cell for number in rows for cell in cells[number] if _NUMBER.match(cell.text)]
    if len(rows) < _LEAST:
        return None
    size = lines[first].size
    edges = _edges(numbers, size, len(rows))
    if not edges or _is_contents(numbers, edges):
        return None
    columns = [(_left(numbers, edge, size), edge) for edge in edges]
    labels = [cell.x1 for number in rows for cell in cells[number][:1] if not _NUMBER.match(cell.text)]
    if not labels:
        return None
    header = _header(lines, cells, first, before, columns, size)
    written: list[list[str]] = [[""] * (len(edges) + 1)]
    for number in range(first - header, last):
        row = [""] * (len(edges) + 1)
        above = number < first and _names_columns(cells[number], columns, size)
        for cell in cells[number]:
            alone = len(cells[number]) == 1
            for place in _covered(cell, columns, size, alone) if above else [_column(cell, columns, size)]:
                target = written[0] if above else row
                target[place] = spaced(target[place], cell.text)
        if above:
            continue
        if len(written) > 1 and _wraps(written[-1], row):
            row = [spaced(a, b) for a, b in zip(written.pop(), row, strict=True)]
        written.append(row)
    part = lines[first - header : last]
    return (
        replace(
            part[0],
            x0=min(line.x0 for line in part),
            x1=max(line.x1 for line in part),
            cells=(),
            rows=tuple(map(tuple, written)),
            edges=(min(line.x0 for line in part), *edges),
            bottom=part[-1].y,
        ),
        header,
    )


def _wraps(above: Sequence[str], below: Sequence[str]) -> bool:
    """Whether two rows are one, whose label takes two lines, with its numbers in one of them."""
    if any(above[1:]) and (any(below[1:]) or below[0].endswith(":")):
        return False
    return below[0][:1].islower() or (not any(above[1:]) and _UNFINISHED.search(above[0]) is not None)


def _edges(numbers: Sequence[Cell], size: float, rows: int) -> list[float]:
    """The right edges that numbers of several rows share, from left to right."""
    found: list[list[float]] = []
    for edge in sorted(cell.x1 for cell in numbers):
        if found and edge - found[-1][-1] < 0.8 * size:
            found[-1].append(edge)
        else:
            found.append([edge])
    least = max(2, 0.25 * rows)
    kept = [edges for edges in found if len(edges) >= least]
    # Most numbers have to stand in these columns.
    return [max(edges) for edges in kept] if 10 * sum(map(len, kept)) >= 8 * len(numbers) else []


def _left(numbers: Sequence[Cell], edge: float, size: float) -> float:
    return min(cell.x0 for cell in numbers if -2 * size < cell.x1 - edge <= 0.1)


def _is_contents(numbers: Sequence[Cell], edges: Sequence[float]) -> bool:
    """Whether the numbers are the page numbers of a table of contents."""
    if len(edges) > 1:
        return False
    values = [int(cell.text) for cell in numbers if cell.text.isdigit()]
    rising = sum(a <= b for a, b in pairwise(values))
    return len(values) >= 0.8 * len(numbers) and rising >= 0.9 * (len(values) - 1)


def _column(cell: Cell, columns: Sequence[tuple[float, float]], size: float) -> int:
    """The column of a cell, from 1; 0 for a label."""
    if not _NUMBER.match(cell.text) and cell.x0 < columns[0][0] - size:
        return 0
    shared = [min(cell.x1, right) - max(cell.x0, left) for left, right in columns]
    best = max(range(len(columns)), key=shared.__getitem__)
    if shared[best] > 0:
        return best + 1
    return 1 + min(range(len(columns)), key=lambda n: abs(columns[n][1] - cell.x1))


def _covered(cell: Cell, columns: Sequence[tuple[float, float]], size: float, alone: bool) -> list[int]:
    """The columns below a cell of the header, all of them where it stands alone over their middle; 0 for the labels."""
    left, right = columns[0][0], columns[-1][1]
    if alone and abs(cell.x0 + cell.x1 - left - right) < 0.3 * (right - left):
        return list(range(1, len(columns) + 1))
    below = [
        n for n, (left, right) in enumerate(columns, 1) if cell.x0 < right + size / 2 and cell.x1 > left - size / 2
    ]
    if below:
        return below
    return [0] if cell.x1 < columns[0][0] else [_column(cell, columns, size)]


def _header(
    lines: Sequence[Line],
    cells: Sequence[Sequence[Cell]],
    first: int,
    most: int,
    columns: Sequence[tuple[float, float]],
    size: float,
) -> int:
    """How many lines above the first row belong to the table: those that name the columns, and labels below them."""
    count = labels = 0
    for above in range(1, min(most, _HEADER_LINES) + 1):
        line, row = lines[first - above], cells[first - above]
        gap = line.y - lines[first - above + 1].y
        if not row or line.rows is not None or gap > _APART * size:
            break
        if _names_columns(row, columns, size):
            count = above
        elif count or labels == _LABELS or len(row) > 1 or len(row[0].text) > _HEADER_LETTERS / 2:
            break
        else:
            labels += 1
    return count


def _names_columns(row: Sequence[Cell], columns: Sequence[tuple[float, float]], size: float) -> bool:
    """Whether words stand over the numbers, and none of them comes from over the labels as a title or text does."""
    over = [cell for cell in row if cell.x1 > columns[0][0] - size]
    short = sum(len(cell.text) for cell in row) <= _HEADER_LETTERS
    return bool(over) and short and not any(c.x0 < columns[0][0] - 4 * size and len(c.text) > 25 for c in over)
