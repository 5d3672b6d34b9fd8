"""What a semantic cache knows while it answers one question: the nearest entry, and the answer that is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Near:
    """A question's vector, and the nearest entry where one is near enough."""

    value: Any = None
    usable: bool = False
    entry: str | None = None
    similarity: float | None = None
    vector: tuple[float, ...] = field(default=(), repr=False)
    unreadable: str | None = None


@dataclass(eq=False)
class Computation:
    """An answer that is being computed, and the documents invalidated meanwhile (None: all of them)."""

    tenant: str
    forgotten: list[frozenset[str] | None] = field(default_factory=list)

    def outdated(self, documents: Sequence[str]) -> bool:
        """Whether an answer that rests on ``documents`` was computed from invalidated ones."""
        return any(ids is None or not ids.isdisjoint(documents) for ids in self.forgotten)


def expected_error(right: Sequence[float], wrong: Sequence[float], similarity: float) -> float:
    """The expected chance that an entry's answer is wrong for a question at this similarity.

    The nearer a question, the more likely the answer is right; so right comparisons farther away count for it, and
    wrong ones nearer count against it: ``(w + 1) / (c + w + 2)``.

    Args:
        right: Similarities at which the answer was right.
        wrong: Similarities at which it was wrong.
        similarity: The question's.
    """
    c = sum(s <= similarity for s in right)
    w = sum(s >= similarity for s in wrong)
    return (w + 1) / (c + w + 2)
