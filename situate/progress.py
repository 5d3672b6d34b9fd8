"""Progress by the work that is done: a bar over documents that a model moves while it reads them.

Between the bar and the scheduler that runs the model lie interfaces that users implement (`SpanEncoder`), so the
function that is told of the work travels in the context of the call and not in their parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, TypeAlias

#: Takes each further share of the work that is done, all of which is 1. Any thread may call it.
Told: TypeAlias = Callable[[float], object]

_TOLD: ContextVar[Told | None] = ContextVar("situate_told", default=None)


def listener(part: int, whole: int) -> Told | None:
    """What is told of the shares of a step that does ``part`` of ``whole``; None where no caller listens."""
    told = _TOLD.get()
    return None if told is None or not whole else lambda share: told(share * part / whole)


@contextmanager
def listening(told: Told | None) -> Iterator[None]:
    """Tell ``told`` of the work that is done in this block."""
    before = _TOLD.set(told)
    try:
        yield
    finally:
        _TOLD.reset(before)


class DocumentBar:
    """A progress bar over documents. A document's share of it is its characters, and grows with each pass of the model.

    Args:
        description: What is done.
        sizes: Characters of each document; None: not known before.
        shown: Whether it is shown; or a function that is called with each further number of characters instead.
    """

    def __init__(self, description: str, sizes: Sequence[int] | None, shown: bool | Callable[[int], object]) -> None:
        self._bar, self._moved = None, shown
        if shown is True:
            self._bar = _bar(description, sizes)
            self._moved = self._bar.update

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @contextmanager
    def batch(self, sizes: Sequence[int]) -> Iterator[None]:
        """Documents of these sizes are worked on in this block, after which all of their shares are done."""
        done, at, characters = 0.0, 0, sum(sizes)

        def told(share: float) -> None:
            nonlocal done, at
            done = min(1.0, done + share)
            self._move(int(done * characters) - at)
            at = int(done * characters)

        with listening(told if callable(self._moved) else None):
            yield
        if self._bar is not None:
            self._bar.documents += len(sizes)
        # Unchanged documents, and engines that tell nothing.
        self._move(characters - at)

    def _move(self, characters: int) -> None:
        if characters and callable(self._moved):
            self._moved(characters)


def _bar(description: str, sizes: Sequence[int] | None) -> Any:
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        documents = 0

        @property
        def format_dict(self) -> Any:
            return {**super().format_dict, "documents": self.documents, "of": len(sizes or ())}

    counted = "{documents}document" if sizes is None else "{percentage:3.0f}%|{bar}| {documents}/{of}"
    return Bar(
        total=None if sizes is None else sum(sizes),
        desc=description,
        unit="character",
        unit_scale=True,
        bar_format="{desc}: " + counted + " [{elapsed}<{remaining}, {rate_fmt}]",
    )
