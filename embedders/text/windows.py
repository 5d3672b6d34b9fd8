"""How a text that is longer than the model is read: in overlapping windows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from situate.errors import InputError


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens ``[start, end)`` are read together; of them ``[own_start, own_end)`` are taken from this window."""

    start: int
    end: int
    own_start: int
    own_end: int


def windows(tokens: int, capacity: int, overlap: int) -> list[Window]:
    """The fewest windows of at most ``capacity`` tokens that cover ``tokens``, in which neighbours share ``overlap``.

    The windows are of even length (no short last one whose tokens would see little), and each token is taken from
    the window where it stands most centrally: the border between two neighbours is the middle of what they share.

    Args:
        tokens: Tokens to cover; 0 gives one empty window.
        capacity: Tokens that fit into a window.
        overlap: Tokens that neighbours share; at most half of the capacity is shared, whatever ``overlap`` is.

    Raises:
        InputError: ``capacity`` is not positive or ``overlap`` is negative.
    """
    if capacity < 1:
        raise InputError(
            f"a window has room for {capacity} tokens beside its special tokens and its prefix: "
            "widen the window or shorten the prefix"
        )
    if overlap < 0:
        raise InputError(f"overlap is {overlap}: it needs to be 0 or more tokens")
    if tokens <= capacity:
        return [Window(0, tokens, 0, tokens)]
    shared = min(overlap, capacity // 2)
    count = -(-(tokens - shared) // (capacity - shared))
    # Spread as evenly as integers allow: together the windows read `tokens` once and `shared` again per border.
    total = tokens + (count - 1) * shared
    base, longer = divmod(total, count)
    bounds: list[tuple[int, int]] = []
    start = 0
    for i in range(count):
        end = start + base + (i < longer)
        bounds.append((start, end))
        start = end - shared
    borders = [0, *((b[0] + a[1]) // 2 for a, b in pairwise(bounds)), tokens]
    return [Window(s, e, borders[i], borders[i + 1]) for i, (s, e) in enumerate(bounds)]
