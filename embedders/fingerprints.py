"""The differences between two fingerprints, as text for an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_LONGEST = 80


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ with both values: ``max_tokens=256 (now 128), scheme.late=False (now True)``.

    Args:
        before: The stored fingerprint; nested settings are named by dots.
        now: The current one.
    """
    return ", ".join(_changes(before, now, "")) or "other settings"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(old, new, f"{path}{name}.")
        elif old != new:
            yield f"{path}{name}={_short(old)} (now {_short(new)})"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."
