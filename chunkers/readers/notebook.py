"""Jupyter notebooks as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from situate.chunkers.base import encodable
from situate.chunkers.headings import markdown_headings, outline
from situate.chunkers.readers.decoding import decoded_text
from situate.errors import InputError
from situate.outside import load_json

#: Characters of an output that are kept: a loop's progress bar can have millions.
_OUTPUT = 4_000
_TICKS = re.compile("`+")
_LANGUAGE = re.compile(r"[\w+#.-]{1,40}\Z")


def read_notebook(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """A notebook: its text cells as they are, code cells and their printed outputs as fences under the headings.

    Of an output that is longer than 4,000 characters the beginning is kept, and a line says how much is left out.

    Raises:
        InputError: It is no notebook.
    """
    book = load_json(decoded_text(data, name), "the notebook", max_bytes=4 * len(data) + 4)
    if not isinstance(book, Mapping):
        raise InputError("no notebook: its JSON is no object")
    cells = book.get("cells")
    if cells is None and isinstance(sheets := book.get("worksheets"), list):  # before 2015
        cells = [cell for sheet in sheets if isinstance(sheet, Mapping) for cell in sheet.get("cells") or ()]
    if not isinstance(cells, list):
        raise InputError("no notebook: it has no list of cells")
    known = book.get("metadata")
    language = str(_at(known, "language_info", "name") or _at(known, "kernelspec", "language") or "python")
    # It stands behind the sign of a fence, where another line would be one of the document.
    language = language if _LANGUAGE.match(language) else "text"
    parts = [part for cell in cells if isinstance(cell, Mapping) for part in _cell(cell, language)]
    text = "\n\n".join(parts)
    title = next((heading.text for heading in markdown_headings(encodable(text)) if heading.level == 1), None)
    return text, {"format": "markdown", "language": language, **({"title": title} if title else {})}


def _cell(cell: Mapping[str, Any], language: str) -> list[str]:
    source = _text(cell.get("source", cell.get("input"))).strip("\n")
    if cell.get("cell_type") == "heading" and source.strip():
        level = cell.get("level")
        return [f"{'#' * (level if type(level) is int and 1 <= level <= 6 else 1)} {' '.join(source.split())}"]
    if cell.get("cell_type") != "code":
        return [_closed(source)] if source.strip() else []
    parts = [_fence(source, language)] if source.strip() else []
    for output in cell.get("outputs") or ():
        if isinstance(output, Mapping):
            printed = _text(output.get("text") or _at(output, "data", "text/plain")).strip("\n")
            if len(printed) > _OUTPUT:
                printed = f"{printed[:_OUTPUT]}\n[{len(printed) - _OUTPUT:,} more characters are left out]"
            parts += [_fence(printed, "text")] if printed.strip() else []
    return parts


def _closed(cell: str) -> str:
    """A text cell with an end of the fence that it leaves open: the next cell is not code."""
    fences = outline(encodable(cell)).fences
    if not fences or fences[-1].closing < fences[-1].end or fences[-1].end < len(cell):
        return cell
    opening = cell[fences[-1].start :].lstrip()
    closed = f"{cell}\n{opening[: len(opening) - len(opening.lstrip(opening[0]))]}"
    # In a list or a quote, the fence ends with it, and the line would open another one.
    return closed if len(outline(encodable(closed)).fences) == len(fences) else cell


def _fence(text: str, language: str) -> str:
    """A fence around the text, longer than any in it."""
    sign = "`" * max(3, 1 + max(map(len, _TICKS.findall(text)), default=0))
    return f"{sign}{language}\n{text}\n{sign}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
