"""reStructuredText, with its section titles as Markdown headings."""

from __future__ import annotations

import re
from typing import Any

from situate.chunkers.headings import atx_heading, literal_line
from situate.chunkers.readers.decoding import decoded_text

#: A line of one sign, under (and over) a section's title.
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*\Z")
#: The border of a table.
_BORDER = re.compile(r"[-=]+(?: +[-=]+)+\Z")


def read_rst(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """A text whose section titles are written as Markdown headings, and all else as it is.

    Titles are found by the rule of docutils: a line of one sign under it, as long as it or of four signs, and perhaps
    one over it; levels in the order in which the signs come first. Nothing is included or run, and directives and
    roles that only Sphinx knows stay readable, which docutils would report as errors and leave out.
    """
    lines = decoded_text(data, name).lstrip("\ufeff").expandtabs(8).splitlines()
    levels: dict[tuple[str, bool], int] = {}
    written: list[str] = []
    title: str | None = None
    at = 0
    while at < len(lines):
        taken = _title(lines, at, not written or not written[-1].strip())
        if taken is None:
            written.append(_literal(lines[at]))
            at += 1
            continue
        words, style, length = taken
        title = title or words
        written += [atx_heading(min(6, levels.setdefault(style, len(levels) + 1)), words), ""]
        at += length
    return "\n".join(written).strip("\n"), {"format": "markdown", **({"title": title} if title else {})}


def _literal(line: str) -> str:
    """A line that Markdown reads as none of its own: an indented one as code, which a comment in an example is."""
    shown = literal_line(line)
    if shown == line or _BORDER.match(line):
        return line
    return f"    {line.lstrip()}" if line.startswith(" ") else shown


def _title(lines: list[str], at: int, after_blank: bool) -> tuple[str, tuple[str, bool], int] | None:
    """The section title at a line: its words, its sign and whether it stands over it too, and its lines."""
    line, following, third = (lines[at + n].rstrip() if at + n < len(lines) else "" for n in range(3))
    if not after_blank:
        return None
    if _ADORNMENT.match(line) and following.strip() and line == third and len(line) >= min(4, len(following.strip())):
        return following.strip(), (line[0], True), 3
    plain = line.strip() and not line[0].isspace() and not _ADORNMENT.match(line)
    if plain and len(following) > 1 and _ADORNMENT.match(following) and len(following) >= min(4, len(line)):
        return line, (following[0], False), 2
    return None
