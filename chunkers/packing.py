"""Units that belong together (sentences, blocks, turns), put into chunks of at most a size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from situate.chunkers.sizing import SizedChunker


def packed(
    sizes: SizedChunker,
    text: str,
    units: Sequence[tuple[int, int]],
    apart: frozenset[int] = frozenset(),
    *,
    led: bool = False,
) -> list[tuple[int, int]]:
    """The units in order, as many to a span as fit.

    Args:
        sizes: Whose size and unit of size hold.
        text: The text.
        units: Sorted spans that do not overlap. One that is too large is cut as plain text.
        apart: Numbers of units that begin a new span, whatever has room.
        led: Put the first part of a unit that is too large behind what is open before it, where that fills less than
            half of a span, so that no question stands alone in front of its long answer, and no heading in front of
            its long paragraph.
    """
    counts = sizes.counts([text[start:end] for start, end in units])
    spans: list[tuple[int, int]] = []
    filled = 0
    fresh = True
    for number, ((start, end), count) in enumerate(zip(units, counts, strict=True)):
        if count > sizes.size:
            room = sizes.size - filled - sizes.count(text[spans[-1][1] : start]) if led and not fresh else 0
            if number not in apart and room > max(sizes.overlap, sizes.size // 2):
                parts = sizes._text_spans(text, start, end, room)
                spans[-1] = (spans[-1][0], parts[0][1])
                spans.extend(parts[1:])
            else:
                spans.extend(sizes._text_spans(text, start, end))
            fresh = True
            continue
        # What stands between two units (line ends, markup) is counted with the second.
        between = sizes.count(text[spans[-1][1] : start]) if not fresh else 0
        if fresh or number in apart or filled + between + count > sizes.size:
            spans.append((start, end))
            filled = count
        else:
            spans[-1] = (spans[-1][0], end)
            filled += between + count
        fresh = False
    return [part for span in spans for part in within(sizes, text, *span)]


def within(sizes: SizedChunker, text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The span, or its parts where its tokens are more than those of its units together."""
    if sizes.count(text[start:end]) <= sizes.size:
        return sizes._capped(text, start, end)
    return sizes._text_spans(text, start, end)
