"""The work that a call does, and how it grows with its input."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps(call: Callable[..., Any], *arguments: Any) -> int:
    """Lines of Python that run while ``call(*arguments)`` does."""
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return line

    before = sys.gettrace()
    sys.settrace(line)
    try:
        call(*arguments)
    finally:
        sys.settrace(before)
    return count


def grows_linearly(call: Callable[[str], Any], piece: str, length: int) -> bool:
    """Whether four times the input takes clearly less CPU time than the sixteen times of quadratic work.

    Work that happens in compiled code (regular expressions, splitters) has no lines to count. A machine that is busy
    with other things spoils single measurements and not several in a row; a long input that takes next to nothing is
    fine.
    """

    def seconds(characters: int) -> float:
        text = (piece * (characters // len(piece) + 1))[:characters]
        start = time.process_time()
        call(text)
        return time.process_time() - start

    def linear() -> bool:
        long = seconds(4 * length)
        return long < 0.5 or long < 10 * max(seconds(length) for _ in range(3))

    seconds(length // 8)
    return any(linear() for _ in range(4))
