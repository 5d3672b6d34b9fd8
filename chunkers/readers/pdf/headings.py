"""Which lines of a PDF are headings, and of which level: font sizes, boldness, capitals and the outline."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from situate.chunkers.readers.pdf.lines import Line

#: Lines of one heading, letters of one, and the part of a document's letters that headings of a style may have.
_MAX_LINES = 4
_MAX_LETTERS = 250
_MAX_SHARE = 0.25
#: The part of all letters that a font size of running text has, and of those on the pages around where it is that.
_BODY_SHARE = 0.1
_LOCAL_SHARE = 0.25
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
_PART = re.compile(r"(?:part|teil|partie|parte)\s+(?:\d+|[ivxlc]+|one|two|three|four|five)\b", re.IGNORECASE)
_CHAPTER = re.compile(r"(?:chapter|item|kapitel|chapitre|cap[ií]tulo)\s+\w+\b", re.IGNORECASE)
_COUNTED = re.compile(r"(?:\d{1,3}|[A-Z])((?:\.\d{1,3})*)\.?\s")
_BULLET = re.compile(r"\A[\u2022\u2023\u25aa\u25cf\u25cb\u25e6\u2013\u2014\u00b7*-]\s")
_CAPTION = re.compile(r"\A(?:fig(?:ure|\.)?|table?|tab\.|abb(?:ildung|\.)|tabelle|tableau|listing)\s*\d", re.IGNORECASE)
_ENDS_SENTENCE = re.compile(r"[.!?:]\W*\Z")
_WORD = re.compile(r"[^\W\d_]{3}|[\u3040-\u9fff]{2}")
_WORDS = re.compile(r"\w+")


#: The rank of a heading without number, until those with a number in its style are known.
_UNCOUNTED = -99


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


@dataclass(frozen=True, slots=True)
class _Style:
    """How a heading is set and counted.

    Attributes:
        size: Points.
        bold: Whether it is bold.
        rank: 0 for parts, -1 for chapters and items, below that for each level of its number.
        capitals: Whether all its letters are capitals.
        upright: Whether it is not italic.
    """

    size: float
    bold: bool
    rank: int
    capitals: bool
    upright: bool


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
    _set_levels(candidates, lines, body.letters)
    return {c.first: (c.last, c.level) for c in candidates if c.level is not None}


@dataclass(frozen=True, slots=True)
class _Body:
    """How most of a document is set, and how many letters it has.

    Attributes:
        size: The font size of most letters.
        local: By page, the font size of the text there: an annex may be set larger or smaller than the rest.
        bold: Whether most of it is bold.
        italic: Whether most of it is italic.
        code: Whether most of it is set as program text is, as on a typewriter.
        leading: The usual distance of two lines, in font sizes.
        letters: Its letters.
    """

    size: float
    local: dict[int, float]
    bold: bool
    italic: bool
    code: bool
    leading: float
    letters: int

    @classmethod
    def of(cls, lines: Sequence[Line], leading: float) -> _Body | None:
        sizes, bold, italic, code = (Counter[float]() for _ in range(4))
        pages: dict[int, Counter[float]] = defaultdict(Counter)
        for line in lines:
            if line.rows is None:
                letters = sum(len(cell.text) for cell in line.cells)
                sizes[line.size] += letters
                pages[line.page][line.size] += letters
                bold[line.size] += letters * line.bold
                italic[line.size] += letters * line.italic
                code[line.size] += letters * line.code
        if not sizes:
            return None
        size, total = max(sizes, key=sizes.__getitem__), sizes.total()
        common = [each for each in sizes if sizes[each] >= _BODY_SHARE * total]
        local: dict[int, float] = {}
        for page in pages:
            near = sum((pages[other] for other in range(page - 2, page + 3) if other in pages), Counter[float]())
            here = [each for each in common if near[each] >= _LOCAL_SHARE * near.total()]
            local[page] = max(here, default=size)
        half = sizes[size] / 2
        return cls(size, local, bold[size] > half, italic[size] > half, code[size] > half, leading, total)


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
    if line.rows is not None or line.aside or not _is_short(line) or (line.code and not body.code):
        return None
    text = line.text
    alphabetic = sum(map(str.isalpha, text))
    if alphabetic < 2 or 2 * alphabetic < len(text.replace(" ", "")) or _LEADERS.search(text) or _BULLET.match(text):
        return None
    capitals = text.upper() == text and text.lower() != text and alphabetic > 3
    if text[0] == "(" and text[-1] == ")":
        return None
    rank = _rank(text)
    above, below = (_gap(lines, n) / (body.leading * line.size) for n in (number, number + 1))
    # Emphasis within a paragraph begins where the line does by chance.
    begins = within or above > 1.25 or text[0].isupper() or text[0].isdigit()
    if text.count(")") > text.count("(") and not within and text[1:2] != ")":
        return None
    local = body.local[line.page]
    size = round(line.size - local + body.size, 1)
    if line.size > local + max(0.7, 0.06 * local) and begins:
        return _Style(size, line.bold, rank, capitals, not line.italic)
    if line.size < local - 0.6 or _CAPTION.match(text):
        return None
    if line.bold and not body.bold:
        return _Style(size, True, rank, capitals, not line.italic) if begins else None
    if line.italic and not body.italic:
        ended = number == 0 or above > 1.25 or bool(_ENDS_SENTENCE.search(lines[number - 1].text))
        short = line.x1 < line.column[1] - 0.15 * (line.column[1] - line.column[0])
        alone = number + 1 >= len(lines) or not lines[number + 1].italic
        # Formulas are in italics, too.
        starts = within or (begins and ended and short and alone and bool(_WORD.search(text)))
        return _Style(size, False, rank, capitals, False) if starts else None
    if above > 1.25 and below > 1.1 and len(text) < 100 and (capitals or _TITLED.match(text)):
        return _Style(size, False, rank, capitals, True)
    return None


def _rank(text: str) -> int:
    if _PART.match(text):
        return 0
    if _CHAPTER.match(text):
        return -1
    counted = _COUNTED.match(text)
    return -2 - counted[1].count(".") if counted else _UNCOUNTED


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
        and (style.bold, style.upright) == (other.bold, other.upright)
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
            if (
                number in found
                or lines[number].rows is not None
                or lines[number].aside
                or _LEADERS.search(lines[number].text)
            ):
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
            if text == wanted or (len(text) >= 0.6 * len(wanted) and wanted.endswith(text)):
                candidate = by_first.get(number)
                plain = _Style(lines[number].size, lines[number].bold, _UNCOUNTED, False, not lines[number].italic)
                style = candidate.style if candidate else plain
                words = " ".join(lines[n].text for n in range(number, last))
                found[number] = _Candidate(number, last, words, style, entry.level + 1)
                break
    return [found[number] for number in sorted(found)]


def _plain(text: str) -> str:
    """The letters of a title without its number, which an outline may have and the page may not."""
    counted = _COUNTED.match(text)
    return "".join(_WORDS.findall(text[counted.end() :] if counted else text)).casefold()


def _set_levels(candidates: list[_Candidate], lines: Sequence[Line], letters: int) -> None:
    """Levels by style, where the outline names none; styles that much of the text has are none of a heading."""
    ranks: dict[_Style, Counter[int]] = defaultdict(Counter)
    for candidate in candidates:
        if _UNCOUNTED < candidate.style.rank <= -2:
            ranks[replace(candidate.style, rank=_UNCOUNTED)][candidate.style.rank] += 1
    for candidate in candidates:
        if candidate.style.rank == _UNCOUNTED:
            counted = ranks[candidate.style].most_common(1)
            candidate.style = replace(candidate.style, rank=counted[0][0] if counted else -2)
    share: Counter[_Style] = Counter()
    for candidate in candidates:
        share[candidate.style] += len(candidate.text)
    given: dict[_Style, Counter[int]] = defaultdict(Counter)
    for candidate in candidates:
        if candidate.level is not None:
            given[candidate.style][candidate.level] += 1
    # In a long document a style of one page, a cover's say, opens no level of its own.
    long = lines[-1].page - lines[0].page > 2
    pages = {(c.style, lines[c.first].page if long else c.first) for c in candidates}
    counts = Counter(style for style, _ in pages)
    levels: dict[_Style, int] = {}
    deepest = max(0, min((level for counted in given.values() for level in counted), default=1) - 1)
    above: _Style | None = None
    first: dict[_Style, int] = {}
    for candidate in candidates:
        first.setdefault(candidate.style, candidate.first)
    usable = [style for style in share if style in given or share[style] <= _MAX_SHARE * letters]
    # Of two styles of one size the one that comes first in the document is above the other.
    for style in sorted(usable, key=lambda style: (-style.size, not style.bold, -style.rank, first[style])):
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
    if above.size - style.size >= 0.6 or (above.bold, above.rank) != (style.bold, style.rank):
        return False
    return style.rank > -2 or (above.capitals, above.upright) == (style.capitals, style.upright)


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
