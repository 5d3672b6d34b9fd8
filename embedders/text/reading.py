"""Before the model: texts -> how each is read (its passes, and the tokens of each span) -> a request to an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from situate.embedders.text.requests import PoolingRequest, Reduction, TokenRange
from situate.embedders.text.tokenizer import Ids, Offsets, TextTokenizer, TokenizedText
from situate.embedders.text.windows import Window, windows
from situate.embedders.types import OnOverflow, Pooling, Span, SpanText
from situate.errors import OverflowLimitError, SpanError

_REDUCTIONS: dict[str, Reduction] = {"weighted_mean": "weighted", "max": "max"}


@dataclass(slots=True)
class ReadPlan:
    """One text as the model will read it.

    Attributes:
        sequences: Token ids of each pass, special tokens included.
        spans: Per vector, where its tokens are taken from, in text order.
        lost_tokens: Tokens that no pass reads.
    """

    sequences: list[Ids] = field(default_factory=list)
    spans: list[list[TokenRange]] = field(default_factory=list)
    lost_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ReadRules:
    """An encoder's settings for all its texts.

    Attributes:
        pooling: How token vectors become one.
        on_overflow: How a text without spans that is longer than ``max_tokens`` is treated.
        max_tokens: Tokens read at once, special tokens included.
        position_limit: Most that the model can read at once.
        pool_prefix: Whether the prefix and the special tokens before it are pooled in a text without spans.
    """

    pooling: Pooling
    on_overflow: OnOverflow
    max_tokens: int
    position_limit: int
    pool_prefix: bool = True


def read_plans(
    inputs: Sequence[SpanText], tokenizer: TextTokenizer, rules: ReadRules, first: int = 0
) -> list[ReadPlan]:
    """How each text is read.

    Args:
        inputs: Texts and their spans.
        tokenizer: The model's.
        rules: The encoder's settings for all of them.
        first: The place of the first text in the caller's list, for messages.

    Raises:
        SpanError: A span is empty, reversed or outside its text.
        OverflowLimitError: A text is too long and ``on_overflow="raise"``, or its window is too wide for the model.
    """
    forms = [form for item in inputs for form in (item, *item.also)]
    offsets = any(item.spans is not None or item.prefix or item.suffix for item in forms)
    if any(item.apart for item in forms):
        tokens = [tokenizer.tokenize_apart(item.text, item.prefix, item.suffix) for item in forms]
    else:
        tokens = tokenizer.tokenize([item.text for item in forms], offsets=offsets)
    found = iter(tokens)
    return [
        _joined([read(form, next(found), tokenizer, rules, first + i) for form in (item, *item.also)])
        for i, item in enumerate(inputs)
    ]


def _joined(plans: Sequence[ReadPlan]) -> ReadPlan:
    """One plan of a text's forms: each span takes its tokens from all of them."""
    whole, *others = plans
    for plan in others:
        shift = len(whole.sequences)
        whole.sequences += plan.sequences
        for ranges, more in zip(whole.spans, plan.spans, strict=True):
            ranges += [replace(each, sequence=each.sequence + shift) for each in more]
        whole.lost_tokens = max(whole.lost_tokens, plan.lost_tokens)
    return whole


def pooling_request(plans: Sequence[ReadPlan], pooling: Pooling, token_vectors: bool) -> PoolingRequest:
    """The request to an engine for these texts; a sequence that occurs several times is run once."""
    sequences: list[Ids] = []
    places: dict[bytes, int] = {}
    segments: list[tuple[int, int, int, int]] = []
    kept: list[tuple[int, int, int]] = []
    for plan in plans:
        at: list[int] = []
        for ids in plan.sequences:
            at.append(places.setdefault(ids.tobytes(), len(sequences)))
            if at[-1] == len(sequences):
                sequences.append(ids)
        for ranges in plan.spans:
            segments += [(at[p.sequence], p.start, p.end, p.weight) for p in pooled_ranges(ranges, pooling)]
            if token_vectors:
                kept += [(at[p.sequence], p.start, p.end) for p in ranges]
    return PoolingRequest(
        sequences=sequences,
        segments=np.array(segments, dtype=np.int64).reshape(-1, 4),
        reduction=_REDUCTIONS.get(pooling, "sum"),
        kept=np.array(kept, dtype=np.int64).reshape(-1, 3),
    )


def pooled_ranges(ranges: list[TokenRange], pooling: Pooling) -> list[TokenRange]:
    """The ranges that ``pooling`` reads: all of them, or the first or the last token alone."""
    if pooling == "cls" and ranges:
        return [TokenRange(ranges[0].sequence, ranges[0].start, ranges[0].start + 1)]
    if pooling == "last" and ranges:
        return [TokenRange(ranges[-1].sequence, ranges[-1].end - 1, ranges[-1].end)]
    return ranges


def read(item: SpanText, tokens: TokenizedText, tokenizer: TextTokenizer, rules: ReadRules, index: int) -> ReadPlan:
    """How ``item`` is read: its windows and, per span, the tokens that are pooled.

    Args:
        index: The text's place in the caller's list, for messages.

    Raises:
        SpanError: A span is empty, reversed or outside the text, or the prefix is.
        OverflowLimitError: The text is too long and ``on_overflow="raise"``, or its window is too wide for the model,
            or the prompt around it is.
    """
    limit = _window_limit(item, rules, index)
    prefix = _prefix_tokens(item, tokens, index)
    tokens, trailing, answer = _closed(item, tokens, prefix, tokenizer, limit)
    closing = len(tokenizer.leading) + len(trailing)
    room = limit - closing
    between = None if item.again is None else tokenizer.tokenize([item.again], offsets=False)[0].ids
    if between is not None:
        while prefix and item.text[slice(*tokens.offsets[prefix - 1])] == " ":
            prefix -= 1  # a blank with a token of its own stands before the second copy, too
        room = prefix + max(0, room - prefix - len(between)) // 2
    if (between is not None or answer is not None) and room <= prefix < len(tokens.ids):
        raise OverflowLimitError(
            f"text {index} stands in a prompt of {prefix + closing + (0 if between is None else len(between))} tokens, "
            f"but max_tokens is {limit}, which leaves no room for it: shorten the prompt"
        )
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
        passes = [Window(0, len(tokens.ids) - prefix, 0, len(tokens.ids) - prefix)]
    else:
        passes = windows(len(tokens.ids) - prefix, room - prefix, item.overlap)
    lead = len(tokenizer.leading)
    plan = ReadPlan(lost_tokens=lost)
    if len(tokens.ids) + closing == 0:
        # Nothing to read at all: its vector is zero.
        plan.spans = [[] for _ in (item.spans if item.spans is not None else (None,))]
        return plan
    head, body = tokens.ids[:prefix], tokens.ids[prefix:]
    for window in passes:
        text = body[window.start : window.end]
        copies = [text] if between is None else [text, between, text]
        plan.sequences.append(np.concatenate([tokenizer.leading, head, *copies, trailing]))

    def ranges(first: int, last: int) -> list[TokenRange]:
        """Where tokens ``[first, last)`` of the text are taken from."""
        found: list[TokenRange] = []
        if first < prefix:
            found.append(TokenRange(0, lead + first, lead + min(last, prefix)))
        for number, window in enumerate(passes):
            lo, hi = max(first - prefix, window.own_start), min(last - prefix, window.own_end)
            if lo < hi:
                shift = lead + prefix - window.start
                if between is not None:
                    shift += window.end - window.start + len(between)
                found.append(TokenRange(number, lo + shift, hi + shift))
        return found

    if item.spans is None and answer is not None:
        ends = [len(ids) - len(trailing) for ids in plan.sequences]
        plan.spans = [[TokenRange(n, end + answer[0], end + answer[1]) for n, end in enumerate(ends)]]
        return plan
    if item.spans is None and between is not None and len(body):
        plan.spans = [_weighted(ranges(prefix, len(tokens.ids)))]
        return plan
    if item.spans is None:
        plan.spans = [_whole(prefix, lead, len(trailing), passes, rules)]
        return plan
    for number, span in enumerate(item.spans):
        _check_span(span, item.text, number, index)
    if len(tokens.ids) == 0:
        everything = [TokenRange(0, 0, closing)]
        plan.spans = [everything for _ in item.spans]
        return plan
    for first, last in _token_ranges(item.spans, tokens.offsets):
        plan.spans.append(_weighted(ranges(first, last)))
    return _needed(plan)


def _needed(plan: ReadPlan) -> ReadPlan:
    """The plan without the windows that no span takes a token from: a few spans of a book need a few passes."""
    used = sorted({each.sequence for ranges in plan.spans for each in ranges})
    if len(used) < len(plan.sequences):
        place = {sequence: number for number, sequence in enumerate(used)}
        plan.sequences = [plan.sequences[sequence] for sequence in used]
        plan.spans = [[replace(each, sequence=place[each.sequence]) for each in ranges] for ranges in plan.spans]
    return plan


def _whole(prefix: int, lead: int, trail: int, passes: list[Window], rules: ReadRules) -> list[TokenRange]:
    """The ranges of a text's own vector: every token once, special tokens of the first and the last pass included."""
    skip = 0 if rules.pool_prefix or prefix == 0 else lead + prefix
    found: list[TokenRange] = []
    weight = 1 + skip
    for number, window in enumerate(passes):
        start = skip if number == 0 else lead + prefix + window.own_start - window.start
        end = lead + prefix + window.own_end - window.start + (trail if number == len(passes) - 1 else 0)
        if start < end:
            found.append(TokenRange(number, start, end, weight))
            weight += end - start
    return found


def _weighted(ranges: list[TokenRange]) -> list[TokenRange]:
    """A span's ranges with their weights: a weighted mean counts from the span's own first token."""
    found: list[TokenRange] = []
    weight = 1
    for each in ranges:
        found.append(TokenRange(each.sequence, each.start, each.end, weight))
        weight += each.end - each.start
    return found


def _window_limit(item: SpanText, rules: ReadRules, index: int) -> int:
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
) -> tuple[TokenizedText, Ids, tuple[int, int] | None]:
    """The tokens without those of the suffix, and what closes each pass: those, then the special ones; and which of
    these are the answer."""
    special = tokenizer.trailing if item.closed else tokenizer.trailing[:0]
    if not item.suffix:
        return tokens, special, None
    # A token that begins in the text belongs to it.
    count = len(tokens.ids) - int(np.searchsorted(tokens.offsets[:, 0], len(item.text) - item.suffix, side="left"))
    first = max(len(tokens.ids) - count, prefix)
    if item.answer is None and len(tokens.ids) - first + tokenizer.special_count >= limit:
        return tokens, special, None  # nothing of the text would fit beside it
    answer = None
    if item.answer is not None:
        ((begin, end),) = _token_ranges([item.answer], tokens.offsets)
        # A token that begins in the text belongs to it, unless it is the answer's.
        first = max(min(first, begin), prefix)
        answer = begin - first, end - first
    own = TokenizedText(tokens.text, tokens.ids[:first], tokens.offsets[:first])
    return own, np.concatenate([tokens.ids[first:], special]), answer


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
