"""Running heads, running feet and page numbers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from situate.chunkers.readers.pdf.lines import Line

#: Baselines at the top and at the bottom of a page that may be running ones.
_LEVELS = 3
#: The part of the text's height, at the top and at the bottom, in which they stand.
_ZONE = 0.14
_MAX_LETTERS = 200
#: Points by which running lines may differ in height.
_STEP = 4.0
_NUMBER = re.compile(r"\d+|\b[ivxlc]+\b", re.IGNORECASE)
_NUMBERED = re.compile(r"\A\W*#|#\W*\Z")


def without_running_lines(pages: Sequence[list[Line]]) -> list[list[Line]]:
    """The pages without what comes again at the same height on several of them, numbers aside.

    A line is a running one where its words, with every number alike, stand at the top or bottom of three pages (of two,
    where the document has no more than four) at the same height; where it stands at the height of such lines and begins
    or ends with a number, as a head with a section's name does; where a fifth of the pages begin or end with its words,
    at whatever height; and where it is a number that counts the pages. What most of its pages say nothing else than
    stays: a file of labels or of certificates is no file of running heads.
    """
    heights = [line.y for page in pages for line in page]
    if len(pages) < 2 or not heights:
        return [list(page) for page in pages]
    low, high = min(heights), max(heights)
    zone = _ZONE * (high - low)
    places: dict[tuple[bool, str], list[tuple[int, float]]] = defaultdict(list)
    outer = [_outer(page, low + zone, high - zone) for page in pages]
    for number, levels in enumerate(outer):
        for level in levels:
            places[level.top, level.pattern].append((number, level.y))
    least = 2 if len(pages) <= 4 else 3
    running: dict[tuple[bool, str], set[int]] = {}
    counts: Counter[tuple[bool, int]] = Counter()
    for key, where in places.items():
        steps = Counter(round(y / _STEP) for _, y in where)
        # A height on the border of two steps counts with both.
        kept = {step for step in steps if steps[step] + max(steps[step - 1], steps[step + 1]) >= least}
        if kept:
            running[key] = kept
            for step in kept:
                counts[key[0], step] += steps[step]
    begun = Counter((level.top, level.pattern) for levels in outer for level in levels if level.outermost)
    often = {key for key, count in begun.items() if count >= max(least, len(pages) / 5) and key[1] != "#"}
    offsets = Counter(
        (level.top, int(level.text) - number)
        for number, levels in enumerate(outer)
        for level in levels
        if level.outermost and level.text.isdecimal() and len(level.text) < 6
    )
    usual = {place for place, count in counts.items() if 2 * count >= len(pages)}

    def runs(level: _Level, number: int) -> bool:
        step = round(level.y / _STEP)
        if step in running.get((level.top, level.pattern), ()):
            return True
        if level.outermost and (level.top, level.pattern) in often:
            return True
        if level.outermost and level.text.isdecimal() and len(level.text) < 6:
            return offsets[level.top, int(level.text) - number] >= least
        return (level.top, step) in usual and bool(_NUMBERED.search(level.pattern)) and len(level.pattern) < 100

    found = [[level for level in levels if runs(level, number)] for number, levels in enumerate(outer)]
    borne: Counter[tuple[bool, str]] = Counter()
    beside: Counter[tuple[bool, str]] = Counter()
    for page, levels in zip(pages, found, strict=True):
        rest = len(page) > sum(len(level.lines) for level in levels)
        borne.update((level.top, level.pattern) for level in levels)
        beside.update((level.top, level.pattern) for level in levels if rest)
    result: list[list[Line]] = []
    for page, levels in zip(pages, found, strict=True):
        furniture = [
            level for level in levels if 2 * beside[level.top, level.pattern] >= borne[level.top, level.pattern]
        ]
        gone = {id(line) for level in furniture for line in level.lines}
        result.append([line for line in page if id(line) not in gone])
    return result


@dataclass(frozen=True, slots=True)
class _Level:
    """The lines of a page that stand at one height, whichever columns they stand in."""

    lines: tuple[Line, ...]
    y: float
    top: bool
    outermost: bool
    text: str
    pattern: str


def _outer(page: Sequence[Line], below: float, above: float) -> list[_Level]:
    """The outer levels of a page, where they stand in its top or bottom zone."""
    heights: dict[int, list[Line]] = defaultdict(list)
    for line in page:
        heights[round(line.y)].append(line)
    found: list[_Level] = []
    levels = sorted(heights)
    for number, height in enumerate(levels):
        top = number >= len(levels) - _LEVELS and height >= above
        if not top and not (number < _LEVELS and height <= below) and number not in (0, len(levels) - 1):
            continue
        top = top or number == len(levels) - 1
        lines = tuple(sorted(heights[height], key=lambda line: line.x0))
        letters = sum(len(cell.text) for line in lines for cell in line.cells)
        if letters <= _MAX_LETTERS and all(line.rows is None for line in lines):
            text = " ".join(" ".join(line.text for line in lines).split())
            outermost = number in (0, len(levels) - 1)
            found.append(_Level(lines, lines[0].y, top, outermost, text, _pattern(text)))
    return found


def _pattern(text: str) -> str:
    """The words with every number alike."""
    return _NUMBER.sub("#", text).casefold()
