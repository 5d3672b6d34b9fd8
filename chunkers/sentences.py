"""Where sentences begin and end."""

from __future__ import annotations

import re

# A sentence ends with its mark and closing quotes before white space, at a full-width mark, or at a blank line.
# A run of marks is matched once, from its first one.
_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u2019\u201d)\]»]*+(?=\s)|[。！？]+[」』”]*|(?:\r\n?|\n)[ \t]*(?=\r|\n)"
)
#: Words whose full stop seldom ends a sentence.
_ABBREVIATION = re.compile(
    r"mr|mrs|ms|dr|prof|st|sr|jr|vs|etc|e\.g|i\.e|cf|al|figs?|nos?|vol|pp?|approx|inc|ltd|dept|est|z\.b|bzw|d\.h|u\.a|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
_WORD = re.compile(r"\S")
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c\u2018]*\Z")


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """The sentences of ``text[start:end]`` as spans without the white space between them.

    A rule of punctuation: full stops after common abbreviations, initials and inside numbers do not end a sentence,
    blank lines do. Where a model does better, pass its spans to `chunks_from_spans`.

    >>> [text[s:e] for text in ["Ask Dr. Lee. Then, e.g. by 9.30, call!"] for s, e in sentence_spans(text)]
    ['Ask Dr. Lee.', 'Then, e.g. by 9.30, call!']
    """
    stop = len(text) if end is None else end
    spans: list[tuple[int, int]] = []
    first = start
    for match in _END.finditer(text, start, stop):
        if text[match.start()] == "." and _abbreviated(text, first, match.start(), match.end(), stop):
            continue
        _append(spans, text, first, match.end())
        first = match.end()
    _append(spans, text, first, stop)
    return spans


def last_sentence(text: str, start: int, end: int, limit: int = 300) -> str | None:
    """The last sentence of ``text[start:end]``, at most its last ``limit`` characters; None where there is none."""
    spans = sentence_spans(text, max(start, end - 8 * limit), end)
    if not spans:
        return None
    words = " ".join(text[slice(*spans[-1])].split())
    return words if len(words) <= limit else words[-limit:].split(" ", 1)[-1]


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    if stripped := piece.strip():
        start += len(piece) - len(piece.lstrip())
        spans.append((start, start + len(stripped)))


def _abbreviated(text: str, first: int, dot: int, end: int, stop: int) -> bool:
    if end - dot > 1:
        return False
    match = _LAST_WORD.search(text, max(first, dot - 24), dot)
    word = match.group() if match else ""
    if _ABBREVIATION.fullmatch(word) or (len(word) == 1 and word.isupper()):
        # "No." and "etc." do end sentences: what follows then starts a new one in capitals.
        following = _WORD.search(text, end, stop)
        return not (
            following is not None and following.group().isupper() and word.lower() in {"etc", "no", "al", "inc", "ltd"}
        )
    return False
