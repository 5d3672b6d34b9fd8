"""What every reranker does with the scores that it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from situate.retrievers.types import Hit
from situate.vectors import check_finite


def distinct(hits: Sequence[Hit]) -> list[Hit]:
    """The hits without repetitions of a chunk; the first, which is the better one, stays."""
    seen: dict[str, Hit] = {}
    for hit in hits:
        seen.setdefault(hit.chunk.id, hit)
    return list(seen.values())


def has_text(hit: Hit) -> bool:
    """Whether there is anything to judge a hit by."""
    return bool(hit.chunk.text.strip())


def reranked(name: str, hits: Sequence[Hit], scores: Sequence[float | None]) -> list[Hit]:
    """New hits in the order of ``scores``; ties keep their order.

    A hit that could not be judged (None) gets no invented score: it goes behind the others with the lowest score
    that one of them got, which its ``scores`` do not name. If none was judged, the hits stay as they are.

    Raises:
        NonFiniteVectorError: A score is NaN or infinite.
    """
    judged = [score for score in scores if score is not None]
    check_finite(judged, f"nothing is ranked: the reranker {name!r} computed a score that is")
    if not judged:
        return list(hits)
    lowest = min(judged)
    found = [
        (score is None, replace(hit, score=lowest) if score is None else hit.rescored(name, float(score)))
        for hit, score in zip(hits, scores, strict=True)
    ]
    return [hit for _, hit in sorted(found, key=lambda pair: (-pair[1].score, pair[0]))]


def above(name: str, judged: list[Hit], scores: list[float | None], hits: list[Hit]) -> list[Hit]:
    """The judged hits in their new order, and behind them the others in their old one."""
    first = reranked(name, judged, scores)
    others = {hit.chunk.id for hit in judged}
    # what was not judged keeps its place behind the judged, whatever scale its own score has
    lowest = first[-1].score
    return first + [Hit(hit.chunk, min(hit.score, lowest), hit.scores) for hit in hits if hit.chunk.id not in others]


def passage(hit: Hit, context: Sequence[str]) -> str:
    """A hit's text, with the named fields of its context before it."""
    before = hit.chunk.context.render(context) if context else ""
    return f"{before}\n{hit.chunk.text}" if before else hit.chunk.text
