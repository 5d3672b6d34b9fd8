"""Which lines of a PDF are headings, and of which level: font sizes, boldness, capitals and the outline."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from situate.chunkers.readers.pdf.lines import Line

#: Lines of one heading, letters of one, and the part of a document's letters that headings of a style may have.
_MAX_LINES = 4
_MAX_LETTERS = 250
_MAX_SHARE = 0.25
#: A line of a table of contents.
_LEADERS = re.compile(r"\.{3,}|(?:\. ){3,}|…{2,}|·{3,}|_{4,}")
_NUMBER = re.compile(r"\A(?:(?:[A-Z]|\d{1,3})(?:\.\d{1,3}){0,5}\.?|[IVXLC]+\.|§\s?\d+[a-z]?)\Z")
#: A heading by its words: "Chapter Two", "Item 1A. Risk factors", "3.1 Traces".
_TITLED = re.compile(
    r"(?:chapter|part|section|article|item|appendix|annexe?|schedule|exhibit|kapitel|teil|abschnitt|anhang|chapitre|partie"
    r"|cap[ií]tulo|secci[oó]n|parte)\s+(?:\d+[a-z]?|[ivxlc]+|[a-z]|one|two|three|four|five|six|seven|eight|nine|ten"
    r"|eleven|twelve|\w+teen)\b|\d{1,2}(?:\.\d{1,2}){1,4}\.?\s+[^\W\d_]",
    re.IGNORECASE,
)
_BULLET = re.compile(r"\A[\u2022\u2023\u25aa\u25cf\u25cb\u25e6\u2013\u2014\u00b7*-]\s")
_CAPTION = re.compile(r"\A(?:fig(?:ure|\.)?|table?|tab\.|abb(?:ildung|\.)|tabelle|tableau|listing)\s*\d", re.IGNORECASE)
_ENDS_SENTENCE = re.compile(r"[.!?:]\W*\Z")
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a PDF's outline.

    Attributes:
        level: Depth, from 0.
        title: Its words.
        page: The page it leads to, from 0.
    """

    level: int
    title: str
    page: int


@dataclass(frozen=True, slots=True, order=True)
class _Style:
    """How a heading is set; the larger of two is above the other."""

    size: float
    bold: bool
    italic: bool
    capitals: bool


@dataclass(slots=True)
class _Candidate:
    first: int
    last: int
    text: str
    style: _Style
    level: int | None = None


def headings(lines: Sequence[Line], outline: Sequence[Entry], leading: float) -> dict[int, tuple[int, int]]:
    """The headings of a document: the number of a heading's first line -> the number behind its last, and its level.

    A line is a heading where it is larger than the text around, or bold or in capitals where that is not, and short.
    Styles are levels in the order of their sizes. Where an outline names most of its entries as they stand on their
    pages, those are headings whatever their style, on the outline's levels.

    Args:
        lines: All lines in reading order, without running heads.
        outline: The PDF's own outline; [] where it has none.
        leading: The usual distance of two lines of text, in font sizes.
    """
    body = _Body.of(lines, leading)
    if body is None:
        return {}
    candidates = _candidates(lines, body)
    named = _named(lines, candidates, outline)
    if outline and 2 * len(named) >= len(outline) and len(named) >= 2:
        known = {candidate.first: candidate for candidate in candidates}
        for candidate in named:
            known[candidate.first] = candidate
        inside = {number for c in named for number in range(c.first + 1, c.last)}
        candidates = [known[first] for first in sorted(known) if first not in inside]
    _set_levels(candidates, body.letters)
    return {c.first: (c.last, c.level) for c in candidates if c.level is not None}


@dataclass(frozen=True, slots=True)
class _Body:
    """How most of a document is set, and how many letters it has."""

    size: float
    bold: bool
    italic: bool
    leading: float
    letters: int

    @classmethod
    def of(cls, lines: Sequence[Line], leading: float) -> _Body | None:
        sizes, bold, italic = Counter[float](), Counter[float](), Counter[float]()
        for line in lines:
            if line.rows is None:
                letters = sum(len(cell.text) for cell in line.cells)
                sizes[line.size] += letters
                bold[line.size] += letters * line.bold
                italic[line.size] += letters * line.italic
        if not sizes:
            return None
        size = max(sizes, key=sizes.__getitem__)
        half = sizes[size] / 2
        return cls(size, bold[size] > half, italic[size] > half, leading, sizes.total())


def _candidates(lines: Sequence[Line], body: _Body) -> list[_Candidate]:
    found: list[_Candidate] = []
    number = 0
    while number < len(lines):
        style = _style(lines, number, body)
        if style is None:
            number += 1
            continue
        last = number + 1
        while (
            last < len(lines)
            and last - number < _MAX_LINES + 1
            and _follows(lines[last - 1], lines[last], body.leading)
            and _same(style, _style(lines, last, body, within=True))
        ):
            last += 1
        text = " ".join(lines[n].text for n in range(number, last))
        plain = style.size < body.size + 0.8
        # Bold words that open a paragraph, over the end of a line.
        runs_in = plain and style.bold and last < len(lines) and lines[last].opens_bold and not lines[last].bold
        runs_in = runs_in and _follows(lines[last - 1], lines[last], body.leading)
        sentence = text.endswith((".", ",", ";")) and (plain or len(text) > 60)
        if last - number <= _MAX_LINES and len(text) <= _MAX_LETTERS and not sentence and not runs_in:
            found.append(_Candidate(number, last, text, style))
        number = last
    return found


def _style(lines: Sequence[Line], number: int, body: _Body, *, within: bool = False) -> _Style | None:
    """A line's style where it may be a heading's, or go on with one (``within``); None where it is text."""
    line = lines[number]
    if line.rows is not None or not _is_short(line):
        return None
    text = line.text
    alphabetic = sum(map(str.isalpha, text))
    if alphabetic < 2 or 2 * alphabetic < len(text.replace(" ", "")) or _LEADERS.search(text) or _BULLET.match(text):
        return None
    capitals = text.upper() == text and text.lower() != text and alphabetic > 3
    if line.size > body.size + max(0.7, 0.06 * body.size):
        return _Style(line.size, line.bold, line.italic, capitals)
    if line.size < body.size - 0.6 or _CAPTION.match(text):
        return None
    above, below = (_gap(lines, n) / (body.leading * line.size) for n in (number, number + 1))
    # Emphasis within a paragraph begins where the line does by chance.
    begins = within or text[0].isupper() or text[0].isdigit()
    if line.bold and not body.bold:
        return _Style(line.size, True, line.italic, capitals) if begins or above > 1.25 else None
    if line.italic and not body.italic:
        ended = number == 0 or above > 1.25 or bool(_ENDS_SENTENCE.search(lines[number - 1].text))
        short = line.x1 < line.column[1] - 0.15 * (line.column[1] - line.column[0])
        alone = number + 1 >= len(lines) or not lines[number + 1].italic
        return _Style(line.size, False, True, capitals) if within or (begins and ended and short and alone) else None
    if above > 1.25 and below > 1.1 and len(text) < 100 and (capitals or _TITLED.match(text)):
        return _Style(line.size, False, False, capitals)
    return None


def _is_short(line: Line) -> bool:
    """Whether a line is no row of a table or of contents."""
    cells = line.cells
    if not cells or len(cells) > 2:
        return False
    return len(cells) == 1 or bool(_NUMBER.match(cells[0].text))


def _gap(lines: Sequence[Line], number: int) -> float:
    """Points between line ``number`` and the one above it; many at the top of a page or column."""
    if not 0 < number < len(lines):
        return 1000.0
    above, below = lines[number - 1], lines[number]
    if above.page != below.page or above.y <= below.y:
        return 1000.0
    return (above.bottom if above.rows is not None else above.y) - below.y


def _follows(above: Line, below: Line, leading: float) -> bool:
    """Whether two lines stand below each other as lines of one heading do."""
    return above.page == below.page and 0 < above.y - below.y < 1.5 * leading * max(above.size, below.size)


def _same(style: _Style, other: _Style | None) -> bool:
    return (
        other is not None
        and abs(style.size - other.size) < 0.6
        and (style.bold, style.italic) == (other.bold, other.italic)
    )


def _named(lines: Sequence[Line], candidates: Sequence[_Candidate], outline: Sequence[Entry]) -> list[_Candidate]:
    """The lines that the outline's entries name, each on its page or the next one, with the outline's levels."""
    starts = [line.page for line in lines]
    by_first = {candidate.first: candidate for candidate in candidates}
    found: dict[int, _Candidate] = {}
    for entry in outline:
        wanted = _plain(entry.title)
        if not wanted:
            continue
        for number in range(bisect_left(starts, entry.page), bisect_left(starts, entry.page + 2)):
            if number in found or lines[number].rows is not None or _LEADERS.search(lines[number].text):
                continue
            text = _plain(lines[number].text)
            if not text or not (wanted.endswith(text) or wanted.startswith(text)):
                continue
            last = number + 1
            while text != wanted and last < min(len(lines), number + _MAX_LINES):
                more = text + _plain(lines[last].text)
                if not (wanted.startswith(more) or wanted.endswith(more)):
                    break
                text, last = more, last + 1
            # The number of a section may be missing on one of the two sides.
            if text == wanted or (len(text) >= 0.6 * len(wanted) and wanted.endswith(text)):
                candidate = by_first.get(number)
                style = (
                    candidate.style
                    if candidate
                    else _Style(lines[number].size, lines[number].bold, lines[number].italic, False)
                )
                words = " ".join(lines[n].text for n in range(number, last))
                found[number] = _Candidate(number, last, words, style, entry.level + 1)
                break
    return [found[number] for number in sorted(found)]


def _plain(text: str) -> str:
    return "".join(_WORDS.findall(text)).casefold()


def _set_levels(candidates: list[_Candidate], letters: int) -> None:
    """Levels by style, where the outline names none; styles that much of the text has are none of a heading."""
    share: Counter[_Style] = Counter()
    for candidate in candidates:
        share[candidate.style] += len(candidate.text)
    given: dict[_Style, Counter[int]] = defaultdict(Counter)
    for candidate in candidates:
        if candidate.level is not None:
            given[candidate.style][candidate.level] += 1
    counts = Counter(candidate.style for candidate in candidates)
    levels: dict[_Style, int] = {}
    deepest = max(0, min((level for counted in given.values() for level in counted), default=1) - 1)
    above: _Style | None = None
    for style in sorted((s for s in share if s in given or share[s] <= _MAX_SHARE * letters), reverse=True):
        if style in given:
            levels[style] = deepest = given[style].most_common(1)[0][0]
        elif above is not None and _alike(above, style):
            levels[style] = levels[above]
        elif counts[style] > 1 or not levels:
            levels[style] = deepest = deepest + 1
        else:
            # A style that comes once opens no level of its own, except at the top: a title, a sign on a cover.
            levels[style] = deepest + 1
            continue
        above = style
    for candidate in candidates:
        if candidate.level is None and candidate.style in levels:
            candidate.level = min(6, levels[candidate.style])
        elif candidate.level is not None:
            candidate.level = min(6, candidate.level)


def _alike(above: _Style, style: _Style) -> bool:
    return above.size - style.size < 0.6 and (above.bold, above.italic, above.capitals) == (
        style.bold,
        style.italic,
        style.capitals,
    )


def usual_leading(lines: Iterable[Line]) -> float:
    """The usual distance of two lines of text, in font sizes."""
    counts: Counter[float] = Counter()
    before: Line | None = None
    for line in lines:
        if before is not None and before.page == line.page and before.size == line.size and line.rows is None:
            gap = (before.y - line.y) / max(line.size, 0.1)
            if 0.8 < gap < 2.5:
                counts[round(gap, 1)] += len(line.cells[0].text) if line.cells else 0
        before = line
    return max(counts, key=counts.__getitem__, default=1.2)
