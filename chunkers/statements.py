"""Where a text's statements begin and end: the pieces that are judged, marked and cited one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from situate.chunkers.sentences import sentence_spans

#: A longer sentence (a table without full stops, say) is cut at white space.
LONGEST = 400
#: A line that is an item of a list, a row of a table, a heading or a quotation.
_NEW_ITEM = re.compile(r"[\r\n][ \t]*(?=(?:[-*+\u2022|#>]|\d{1,3}[.)])[ \t]?)")
_SPACES = re.compile(r"\s+")
_LETTER = re.compile(r"[^\W_]")


def statement_spans(text: str) -> list[tuple[int, int]]:
    """The statements of a text as spans: its sentences, items of lists, rows of tables.

    One of more than ``LONGEST`` characters is cut; one without a letter or digit is left out. Takes linear time.

    >>> text = "Bring two things:\\n- a note\\n- a form"
    >>> [text[start:end] for start, end in statement_spans(text)]
    ['Bring two things:', '- a note', '- a form']
    """
    return [
        unit
        for start, end in sentence_spans(text)
        for item in _cut(text, start, end, _NEW_ITEM)
        for unit in _bounded(text, *item)
        if _LETTER.search(text, *unit)
    ]


def _cut(text: str, start: int, end: int, at: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """The pieces of ``text[start:end]`` between matches."""
    for match in at.finditer(text, start, end):
        yield start, match.start()
        start = match.end()
    yield start, end


def _bounded(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > LONGEST:
        stop = start + LONGEST
        spaces = list(_SPACES.finditer(text, start + LONGEST // 2, stop))
        if spaces:
            yield start, spaces[-1].start()
            start = spaces[-1].end()
        else:
            yield start, stop
            start = stop
    if start < end:
        yield start, end
