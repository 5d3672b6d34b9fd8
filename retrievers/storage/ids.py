"""Point ids as numbers.

A search compares some two hundred points by id to return ten, and making the text of a UUID takes longer than finding
the point.
"""

from __future__ import annotations

from uuid import UUID


def point_key(point: int | str | UUID) -> int:
    """The number of a point's id: a UUID's 128 bits; a number n is -1 - n, so that it is never a UUID's as well."""
    if isinstance(point, int):
        return -1 - point
    return int(point.replace("-", ""), 16) if isinstance(point, str) else point.int


def point_id(key: int) -> int | str:
    """The id whose number it is; UUIDs as text."""
    return -1 - key if key < 0 else str(UUID(int=key))
