"""Token vectors -> span vectors: which tokens of which pass make up a vector, and the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from situate.embedders.text.tokenizer import Ids, Offsets, TextTokenizer, TokenizedText
from situate.embedders.text.windows import Window, windows
from situate.embedders.types import OnOverflow, Pooling, Span, SpanText, Vectors
from situate.errors import OverflowLimitError, SpanError


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens ``[start, end)`` of one sequence; ``weight`` is that of the first in a weighted mean (then +1 each)."""

    sequence: int
    start: int
    end: int
    weight: int = 1


@dataclass(slots=True)
class Reading:
    """One text as the model will read it.

    Attributes:
        sequences: Token ids of each pass, special tokens included.
        spans: Per vector, where its tokens are taken from, in text order.
        lost_tokens: Tokens that no pass reads.
    """

    sequences: list[Ids] = field(default_factory=list)
    spans: list[list[Part]] = field(default_factory=list)
    lost_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """What an encoder decides for all its texts.

    Attributes:
        pooling: How token vectors become one.
        on_overflow: What a text without spans gets that is longer than ``max_tokens``.
        max_tokens: Tokens read at once, special tokens included.
        position_limit: Most that the model can read at once.
        pool_prefix: Whether the prefix and the special tokens before it are pooled in a text without spans.
    """

    pooling: Pooling
    on_overflow: OnOverflow
    max_tokens: int
    position_limit: int
    pool_prefix: bool = True


def read(item: SpanText, tokens: TokenizedText, tokenizer: TextTokenizer, rules: ReadingRules, index: int) -> Reading:
    """How ``item`` is read: its windows and, per span, the tokens that are pooled.

    Args:
        index: The text's place in the caller's list, for messages.

    Raises:
        SpanError: A span is empty, reversed or outside the text, or the prefix is.
        OverflowLimitError: The text is too long and ``on_overflow="raise"``, or its window is too wide for the model.
    """
    limit = _window_limit(item, rules, index)
    prefix = _prefix_tokens(item, tokens, index)
    tokens, trailing = _closed(item, tokens, prefix, tokenizer, limit)
    closing = len(tokenizer.leading) + len(trailing)
    room = limit - closing
    lost = 0
    if item.spans is None and len(tokens.ids) > room and rules.on_overflow != "window":
        lost = len(tokens.ids) - max(room, 0)
        if rules.on_overflow == "raise":
            raise OverflowLimitError(
                f"text {index} has {len(tokens.ids)} tokens and {closing} around it, but "
                f"max_tokens is {limit}: shorten it, split it into chunks, or choose on_overflow='window'"
            )
        tokens = TokenizedText(tokens.text, tokens.ids[: max(room, 0)], None)
        prefix = min(prefix, len(tokens.ids))
    if len(tokens.ids) <= room:
        # One pass: the prefix is already where it belongs.
        plan = [Window(0, len(tokens.ids) - prefix, 0, len(tokens.ids) - prefix)]
    else:
        plan = windows(len(tokens.ids) - prefix, room - prefix, item.overlap)
    lead = len(tokenizer.leading)
    reading = Reading(lost_tokens=lost)
    if len(tokens.ids) + closing == 0:
        # Nothing to read at all: its vector is zero.
        reading.spans = [[] for _ in (item.spans if item.spans is not None else (None,))]
        return reading
    head, body = tokens.ids[:prefix], tokens.ids[prefix:]
    for window in plan:
        reading.sequences.append(np.concatenate([tokenizer.leading, head, body[window.start : window.end], trailing]))

    def parts(first: int, last: int) -> list[Part]:
        """Where tokens ``[first, last)`` of the text are taken from."""
        found: list[Part] = []
        if first < prefix:
            found.append(Part(0, lead + first, lead + min(last, prefix)))
        for number, window in enumerate(plan):
            lo, hi = max(first - prefix, window.own_start), min(last - prefix, window.own_end)
            if lo < hi:
                shift = lead + prefix - window.start
                found.append(Part(number, lo + shift, hi + shift))
        return found

    if item.spans is None:
        reading.spans = [_whole(prefix, lead, len(trailing), plan, rules)]
        return reading
    for number, span in enumerate(item.spans):
        _check_span(span, item.text, number, index)
    if len(tokens.ids) == 0:
        everything = [Part(0, 0, closing)]
        reading.spans = [everything for _ in item.spans]
        return reading
    for first, last in _token_ranges(item.spans, tokens.offsets):
        reading.spans.append(_weighted(parts(first, last)))
    return _needed(reading)


def _needed(reading: Reading) -> Reading:
    """Without the windows that no span takes a token from: a few spans of a book need not have all of it read."""
    used = sorted({part.sequence for parts in reading.spans for part in parts})
    if len(used) < len(reading.sequences):
        place = {sequence: number for number, sequence in enumerate(used)}
        reading.sequences = [reading.sequences[sequence] for sequence in used]
        reading.spans = [[replace(part, sequence=place[part.sequence]) for part in parts] for parts in reading.spans]
    return reading


def _whole(prefix: int, lead: int, trail: int, plan: list[Window], rules: ReadingRules) -> list[Part]:
    """The parts of a text's own vector: every token once, special tokens of the first and the last pass included."""
    skip = 0 if rules.pool_prefix or prefix == 0 else lead + prefix
    found: list[Part] = []
    weight = 1 + skip
    for number, window in enumerate(plan):
        start = skip if number == 0 else lead + prefix + window.own_start - window.start
        end = lead + prefix + window.own_end - window.start + (trail if number == len(plan) - 1 else 0)
        if start < end:
            found.append(Part(number, start, end, weight))
            weight += end - start
    return found


def _weighted(parts: list[Part]) -> list[Part]:
    """A span's parts with their weights: a weighted mean counts from the span's own first token."""
    found: list[Part] = []
    weight = 1
    for part in parts:
        found.append(Part(part.sequence, part.start, part.end, weight))
        weight += part.end - part.start
    return found


def pooled_parts(parts: list[Part], pooling: Pooling) -> list[Part]:
    """The parts that ``pooling`` reads: all of them, or the first or the last token alone."""
    if pooling == "cls" and parts:
        return [Part(parts[0].sequence, parts[0].start, parts[0].start + 1)]
    if pooling == "last" and parts:
        return [Part(parts[-1].sequence, parts[-1].end - 1, parts[-1].end)]
    return parts


def _window_limit(item: SpanText, rules: ReadingRules, index: int) -> int:
    if item.window is None:
        return rules.max_tokens
    if item.window > rules.position_limit:
        raise OverflowLimitError(
            f"text {index} asks for a window of {item.window} tokens, but the model has positions for "
            f"{rules.position_limit}: choose a window of at most that"
        )
    return item.window


def _prefix_tokens(item: SpanText, tokens: TokenizedText, index: int) -> int:
    if not 0 <= item.prefix <= len(item.text):
        raise SpanError(
            f"text {index} has a prefix of {item.prefix} characters, but {len(item.text)} characters in all: "
            "the prefix is the first characters of the text itself"
        )
    if not item.prefix:
        return 0
    # A token that reaches over the end of the prefix belongs to what follows.
    return int(np.searchsorted(np.maximum.accumulate(tokens.offsets[:, 1]), item.prefix, side="right"))


def _closed(
    item: SpanText, tokens: TokenizedText, prefix: int, tokenizer: TextTokenizer, limit: int
) -> tuple[TokenizedText, Ids]:
    """The tokens without those of the suffix, and what closes each pass: those, then the special ones."""
    if not item.suffix:
        return tokens, tokenizer.trailing
    # A token that begins in the text belongs to it.
    count = len(tokens.ids) - int(np.searchsorted(tokens.offsets[:, 0], len(item.text) - item.suffix, side="left"))
    first = max(len(tokens.ids) - count, prefix)
    if len(tokens.ids) - first + tokenizer.special_count >= limit:
        return tokens, tokenizer.trailing  # nothing of the text would fit beside it
    own = TokenizedText(tokens.text, tokens.ids[:first], tokens.offsets[:first])
    return own, np.concatenate([tokens.ids[first:], tokenizer.trailing])


def _check_span(span: Span, text: str, number: int, index: int) -> None:
    start, end = span
    if not 0 <= start < end <= len(text):
        raise SpanError(
            f"span {number} of text {index} is ({start}, {end}), but the text has {len(text)} characters: "
            "spans need 0 <= start < end <= length"
        )


def _token_ranges(spans: Sequence[Span], offsets: Offsets) -> list[tuple[int, int]]:
    """Per span, the range of tokens that share a character with it; the nearest token where none does."""
    bounds = np.array(spans, dtype=np.int64).reshape(-1, 2)
    starts = offsets[:, 0]
    ends = np.maximum.accumulate(offsets[:, 1])
    first = np.searchsorted(ends, bounds[:, 0], side="right")
    last = np.searchsorted(starts, bounds[:, 1], side="left")
    for i in np.flatnonzero(first >= last):
        before, after = int(first[i]) - 1, int(last[i])
        if before < 0:
            nearest = after
        elif after >= len(offsets):
            nearest = before
        else:
            gap_before, gap_after = bounds[i, 0] - ends[before], starts[after] - bounds[i, 1]
            nearest = before if gap_before <= gap_after else after
        first[i], last[i] = nearest, nearest + 1
    return list(zip(first.tolist(), last.tolist(), strict=True))


def combined(parts: Sequence[Sequence[Part]], reduced: Vectors, pooling: Pooling) -> Vectors:
    """Span vectors out of the parts' reductions.

    Args:
        parts: Per span, its parts.
        reduced: float32 ``[all parts, hidden]`` in the same order: sums of token vectors, weighted by position where
            pooling is "weighted_mean", or maxima where it is "max".

    Returns:
        float32 ``[spans, hidden]``; zeros for a span without parts.
    """
    counts = np.array([len(p) for p in parts], dtype=np.int64)
    lengths: Vectors = np.array([part.end - part.start for p in parts for part in p], dtype=np.float32)
    if pooling == "mean_sqrt_len":
        # sentence-transformers' "mean_sqrt_len_tokens": the sum over the root of the number of tokens.
        totals = np.array([sum(part.end - part.start for part in p) for p in parts for _ in p], dtype=np.float32)
        lengths = (lengths / np.sqrt(totals)).astype(np.float32)
    if pooling == "weighted_mean":
        first = np.array([part.weight for p in parts for part in p], dtype=np.float32)
        lengths = (lengths * (first + (lengths - 1) / 2)).astype(np.float32)
    if not len(counts) or (counts == 1).all():
        return reduced if pooling == "max" or not len(counts) else (reduced / lengths[:, None]).astype(np.float32)
    out = np.zeros((len(parts), reduced.shape[1]), dtype=np.float32)
    begin = 0
    for row, count in enumerate(counts.tolist()):
        if count:
            rows = reduced[begin : begin + count]
            total = lengths[begin : begin + count].sum()
            out[row] = rows.max(axis=0) if pooling == "max" else rows.sum(axis=0) / total
        begin += count
    return out
