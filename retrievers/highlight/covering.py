"""Which spans of a text cover what is asked for: greedy matching of token vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from situate.chunkers.sentences import sentence_spans
from situate.embedders.types import Span, Vectors
from situate.errors import InputError
from situate.vectors import check_finite

#: A longer sentence (a table without full stops, say) is cut at white space.
LONGEST_UNIT = 400
#: A line that is an item of a list, a row of a table, a heading or a quotation.
_NEW_ITEM = re.compile(r"[\r\n][ \t]*(?=(?:[-*+\u2022|#>]|\d{1,3}[.)])[ \t]?)")
_SPACES = re.compile(r"\s+")
_LETTER = re.compile(r"[^\W_]")


def units(text: str) -> list[Span]:
    """The spans of a text that may be marked: its sentences, items of lists, rows of tables.

    A longer one than ``LONGEST_UNIT`` characters is cut; one without a letter or digit is left out.
    """
    return [
        unit
        for start, end in sentence_spans(text)
        for item in _cut(text, start, end, _NEW_ITEM)
        for unit in _bounded(text, *item)
        if _LETTER.search(text, *unit)
    ]


def _cut(text: str, start: int, end: int, at: re.Pattern[str]) -> Iterator[Span]:
    """The pieces of ``text[start:end]`` between matches."""
    for match in at.finditer(text, start, end):
        yield start, match.start()
        start = match.end()
    yield start, end


def _bounded(text: str, start: int, end: int) -> Iterator[Span]:
    while end - start > LONGEST_UNIT:
        stop = start + LONGEST_UNIT
        spaces = list(_SPACES.finditer(text, start + LONGEST_UNIT // 2, stop))
        if spaces:
            yield start, spaces[-1].start()
            start = spaces[-1].end()
        else:
            yield start, stop
            start = stop
    if start < end:
        yield start, end


def best_matches(targets: Vectors, spans: Sequence[Vectors]) -> Vectors:
    """Per span and target token, the largest cosine with one of the span's tokens.

    Args:
        targets: float32 ``[targets, dimension]``, rows L2-normalised.
        spans: float32 ``[tokens, dimension]`` each, likewise; a span without tokens matches with -1.

    Returns:
        float32 ``[spans, targets]``.

    Raises:
        InputError: Dimensions differ.
        NonFiniteVectorError: A vector holds NaN or infinity.
    """
    found: Vectors = np.full((len(spans), len(targets)), -1.0, dtype=np.float32)
    filled = [i for i, tokens in enumerate(spans) if len(tokens)]
    if not filled or not len(targets):
        return found
    if any(spans[i].shape[1] != targets.shape[1] for i in filled):
        raise InputError(
            f"token vectors of {targets.shape[1]} numbers are compared with such of "
            f"{sorted({spans[i].shape[1] for i in filled})}: they come from different models"
        )
    starts = np.cumsum([0, *(len(spans[i]) for i in filled[:-1])])
    found[filled] = np.maximum.reduceat(np.concatenate([spans[i] for i in filled]) @ targets.T, starts, axis=0)
    check_finite(found, "a product of token vectors is")
    return found


def covering(matches: Vectors, at_most: int, gain: float) -> list[int]:
    """The spans that together match the targets best, chosen greedily.

    The first is the one with the largest mean over the targets (MaxSim); each further one raises the mean of the best
    matches so far by the most, and by ``gain`` at least.

    Args:
        matches: float32 ``[spans, targets]``, of `best_matches`.
        at_most: How many spans, at most.
        gain: What a further span must add to the mean.

    Returns:
        Rows of ``matches``, in the order of the choice; ties go to the earlier one.
    """
    chosen: list[int] = []
    if not matches.size:
        return chosen
    covered = np.full(matches.shape[1], -np.inf, dtype=np.float32)
    while len(chosen) < at_most:
        means = np.maximum(matches, covered).mean(axis=1)
        best = int(np.argmax(means))
        if chosen and means[best] - covered.mean() < gain:
            break
        chosen.append(best)
        covered = np.maximum(covered, matches[best])
    return chosen
