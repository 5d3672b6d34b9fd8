"""Rows of cells as Markdown tables; CSV."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from io import StringIO
from itertools import islice
from typing import Any

from situate.chunkers.readers.decoding import decoded_text
from situate.errors import InputError

_DELIMITERS = ",;\t|"
#: The line by which Excel tells the delimiter.
_NAMED = re.compile(r"\"?sep=([^\w\s\"]|\t)\"?\s*\Z", re.IGNORECASE)
#: Rows by which a file's delimiter is found.
_SAMPLE = 50
#: Cells of a table that is written, and how many times those of its rows: short rows are filled up to the longest.
MAX_CELLS, _FILLED = 5_000_000, 20


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as a Markdown table, the first one being its header; "" where no cell has text.

    White space in a cell becomes a space: a Markdown row is a line. Rows and columns without any text are left out.

    Raises:
        InputError: Few rows are so long that the table would have many times the cells of its rows.
    """
    kept = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    kept = [row for row in kept if any(row)]
    columns = sorted({n for row in kept for n, cell in enumerate(row) if cell})
    if (cells := len(kept) * len(columns)) > max(MAX_CELLS, _FILLED * sum(map(len, kept))):
        raise InputError(
            f"a table of {len(kept):,} rows and {len(columns):,} columns ({cells:,} cells), nearly all of them empty: "
            "give rows of one length"
        )
    lines = [f"| {' | '.join(row[n] if n < len(row) else '' for n in columns)} |" for row in kept]
    return "\n".join([*lines[:1], f"|{' --- |' * len(columns)}", *lines[1:]]) if lines else ""


def read_csv(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """A CSV or TSV file as a Markdown table, whose first row is its header.

    The delimiter (comma, semicolon, tab, bar) is the one that the file names (Excel's ``sep=;``), or the one that gives
    the first rows the same number of columns.

    Raises:
        InputError: A cell has more than 131,072 characters (the quotes do not match, say).
    """
    # Lines end where CSV's do, and not at a form feed or a separator of lines within a cell.
    lines = list(StringIO(decoded_text(data, name).lstrip("\ufeff"), newline=""))
    if lines and (named := _NAMED.match(lines[0])):
        lines, delimiter = lines[1:], named[1]
    else:
        delimiter = max(_DELIMITERS, key=lambda sign: _fit(lines, sign))
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"no CSV that can be read: {error}") from error
    return markdown_table(rows), {"format": "markdown"}


def _fit(lines: Sequence[str], delimiter: str) -> tuple[int, int]:
    """How many of the first rows have the commonest number of columns, where that is several; and that number."""
    try:
        rows = list(islice(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), _SAMPLE))
    except csv.Error:
        return 0, 0
    widths = Counter(len(row) for row in rows if len(row) > 1)
    width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
    return count, width
