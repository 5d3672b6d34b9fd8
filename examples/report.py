"""Tables on the terminal: with rich where it is installed, as plain text elsewhere."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any


class Report:
    """Writes headings, lines and tables."""

    def __init__(self) -> None:
        self._console: Any = None
        try:
            from rich.console import Console
        except ImportError:
            self._width = max(80, shutil.get_terminal_size((110, 24)).columns)
        else:
            self._console = Console()
            if not self._console.is_terminal:
                # Piped into a file or a log, eighty columns would cut every second word.
                self._console = Console(width=120)

    def heading(self, text: str) -> None:
        """A line between two parts."""
        if self._console is not None:
            self._console.rule(f"[bold]{_escaped(text)}", align="left")
        else:
            print(f"\n== {text} ==")

    def line(self, text: str = "") -> None:
        """A line of text."""
        if self._console is not None:
            self._console.print(_escaped(text), highlight=False)
        else:
            print(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column that holds words takes the room that is left."""
        if self._console is None:
            self._plain(title, columns, rows)
            return
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(title=_escaped(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for number, column in enumerate(columns):
            numeric = all(_is_number(row[number]) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
        for row in rows:
            table.add_row(*map(_escaped, row))
        self._console.print(table)

    def _plain(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
        # What is too wide is taken from the widest columns, a character at a time.
        while sum(widths) + 2 * len(widths) > self._width and max(widths) > 12:
            widths[widths.index(max(widths))] -= 1
        print(f"\n{title}")
        for row in (columns, ["-" * width for width in widths], *rows):
            cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
            for number in range(max(map(len, cells))):
                parts = [cell[number] if number < len(cell) else "" for cell in cells]
                print("  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip())


def _is_number(text: str) -> bool:
    return text.strip("-+.>* ").isdigit() or not text.strip("-") or text.replace(".", "", 1).isdigit()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
