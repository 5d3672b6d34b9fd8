"""What commands print: text for people, JSON for programs, progress on the standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from situate.app.passages import Passage
from situate.errors import InputError, MissingExtraError
from situate.retrievers.marks import printable

#: Characters of a passage that a list of hits shows.
_SHOWN = 400
#: Kinds of pictures that matplotlib writes.
_PICTURES = (".png", ".svg", ".pdf")


def console(*, stderr: bool = False) -> Console:
    """The terminal. Colours are left out where ``NO_COLOR`` is set or the output is no terminal."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON value, readable by programs and people."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def print_passages(passages: list[Passage], *, full: bool = False) -> None:
    """A numbered list of passages with their places."""
    out = console()
    for passage in passages:
        relevance = "" if passage.relevance is None else f"  {passage.relevance:.0%} relevant"
        out.print(f"[bold cyan]{passage.number}[/] [bold]{escape(printable(passage.place))}[/][dim]{relevance}[/]")
        # Text, not markup: a passage may hold brackets, and control characters that must not steer the terminal.
        text = Text(printable(passage.text))
        for mark in passage.highlight.marks if passage.highlight else ():
            text.stylize("bold yellow", mark.start, mark.end)
        if not full and len(text) > _SHOWN:
            text = text[_window(passage) : _window(passage) + _SHOWN] + Text(" …")
        out.print(text)
        out.print()


def _window(passage: Passage) -> int:
    """The character from which on a long passage is shown: its beginning, or a little before its first mark."""
    first = passage.highlight.marks[0].start if passage.highlight and passage.highlight.marks else 0
    return 0 if first < _SHOWN // 2 else passage.text.rfind(" ", 0, first - _SHOWN // 4) + 1


def checked_plot(path: Path | None) -> None:
    """Refuses a file into which nothing can be drawn, before minutes are spent on what it would show.

    Raises:
        InputError: Its ending names no kind of picture, or its folder does not exist.
        MissingExtraError: matplotlib is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() not in _PICTURES:
        raise InputError(f"--plot {str(path)!r}: its ending is none of {', '.join(_PICTURES)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--plot {str(path)!r}: there is no folder {str(path.parent)!r}")
    if find_spec("matplotlib") is None:
        raise MissingExtraError.of("matplotlib", "evaluation", "drawing a comparison")


@contextmanager
def progress(description: str, total: float, *, shown: bool) -> Iterator[Any]:
    """A progress bar on the standard error, by the work that is done.

    Yields:
        A function that takes the amount of further work that is done, and a note.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),  # names of files
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console(stderr=True), disable=not shown or not sys.stderr.isatty())
    with bar:
        task = bar.add_task(description, total=total, note="")
        yield lambda done, note: bar.update(task, advance=done, note=note)
