"""Ruled tables: cells between crossing lines."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from situate.chunkers.readers.pdf.glyphs import Page, Word
from situate.chunkers.readers.pdf.lines import Segment, joined, spaced

#: Points by which lines that belong together may miss each other.
_SNAP = 3.0
_MAX_CELLS = 20_000

_Rule = tuple[float, float, float]


def ruled_tables(page: Page, words: Sequence[Word]) -> tuple[list[Segment], list[Word]]:
    """The tables of a page whose cells lie between lines, and the words outside of them.

    A table has at least two rows and two columns of cells, of which at least two hold words. Words belong to the cell
    that holds their middle.
    """
    across, down = _merged(page.across), _merged(page.down)
    tables: list[Segment] = []
    rest = list(words)
    for xs, ys in _grids(across, down):
        if len(xs) * len(ys) > _MAX_CELLS:
            continue
        inside = [word for word in rest if xs[0] < _middle(word) < xs[-1] and ys[0] < _height(word) < ys[-1]]
        cells: dict[tuple[int, int], list[Word]] = {}
        for word in inside:
            row = len(ys) - 1 - bisect_right(ys, _height(word))
            cells.setdefault((row, bisect_right(xs, _middle(word)) - 1), []).append(word)
        rows = [[_cell_text(cells.get((r, c), [])) for c in range(len(xs) - 1)] for r in range(len(ys) - 1)]
        rows = [row for row in rows if any(row)]
        kept = [c for c in range(len(xs) - 1) if any(row[c] for row in rows)]
        if len(rows) < 2 or len(kept) < 2:
            continue
        taken = {id(word) for word in inside}
        rest = [word for word in rest if id(word) not in taken]
        size = max(word.size for word in inside)
        tables.append(
            Segment(
                [],
                xs[0],
                xs[-1],
                ys[-1],
                size,
                tuple(tuple(row[c] for c in kept) for row in rows),
                (*(xs[c] for c in kept), xs[-1]),
                ys[0],
            )
        )
    return tables, rest


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


def _grids(across: list[_Rule], down: list[_Rule]) -> list[tuple[list[float], list[float]]]:
    """The places of the lines of each group of lines that cross each other: columns' and rows' boundaries, rising."""
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
    groups: dict[int, tuple[list[float], list[float]]] = {}
    for number in range(len(parents)):
        xs, ys = groups.setdefault(root(number), ([], []))
        if number < len(across):
            ys.append(across[number][2])
        else:
            xs.append(down[number - len(across)][2])
    grids = [(_apart(xs), _apart(ys)) for xs, ys in groups.values()]
    return sorted(((xs, ys) for xs, ys in grids if len(xs) > 2 and len(ys) > 2), key=lambda grid: -grid[1][-1])


def _apart(places: list[float]) -> list[float]:
    kept: list[float] = []
    for place in sorted(places):
        if not kept or place - kept[-1] > _SNAP:
            kept.append(place)
    return kept
