"""Where sentences begin and end."""

from __future__ import annotations

import re

#: Marks that end a sentence with or without white space after them: those of Unicode's property Sentence_Terminal that
#: do not also part numbers or abbreviations. Armenian, Arabic and Urdu, Syriac, N'Ko, Devanagari and its kin, Burmese,
#: Ethiopic, Khmer, Mongolian, Tibetan, the smaller scripts of South and South-East Asia, Chinese and Japanese.
_FINAL = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0964\u0965\u104b\u1362\u1367\u1368\u166e\u17d4\u17d5\u1803\u1809"
    "\u0f0d\u0f0e\u1944\u1945\u1aa8-\u1aab\u1b5a\u1b5b\u1b5e\u1b5f\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d\u2047-\u2049\u2e2e"
    "\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb"
    "\ufe56\ufe57\uff01\uff1f\uff61"
)
_CLOSING = "\"'\u2019\u201d\u00bb)\\]\u300d\u300f\uff09\u3011\u300b\u3009\uff02"
#: Scripts in which no white space follows a question mark, be it an ASCII one: Kana, Han, full-width letters.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff10-\uff5a\U00020000-\U0003ffff"
# A run of marks is matched once, from its first one. Blank lines and Greek question marks end a sentence, too.
_END = re.compile(
    rf"(?<![.!?\u2026])[.!?\u2026]++[{_CLOSING}]*+(?=\s)"
    rf"|[{_FINAL}][{_FINAL}.!?\u2026]*+[{_CLOSING}]*+"
    rf"|(?<![.!?\u2026])[!?]++[{_CLOSING}]*+(?=[{_UNSPACED}])"
    r"|\uff0e(?![0-9\uff10-\uff19])"
    r"|(?<=[\u0370-\u03ff\u1f00-\u1fff])[;\u037e](?=\s)"
    r"|(?:\r\n?|\n)[ \t]*(?=\r|\n)"
)
#: Words whose full stop seldom ends a sentence.
_ABBREVIATION = re.compile(
    r"mr|mrs|ms|dr|prof|st|sr|jr|vs|etc|e\.g|i\.e|cf|al|figs?|nos?|vol|pp?|approx|inc|ltd|dept|est|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|"
    r"z\.b|bzw|d\.h|u\.a|ca|ggf|vgl|abb|usw|nr|bl\.a|f\.eks|t\.ex|bijv|mme|mlle|p\.ex|sra|ud|uds|p\.ej|т\.е|т\.д|т\.п|см|им|ул|np|tzn",
    re.IGNORECASE,
)
#: A day of the month before its name: ordinals are written with a full stop, and what follows them is no new sentence.
_ORDINAL = re.compile(r"\d{1,2}")
_MONTH = re.compile(r"Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember")
#: A question's mark at its end, the Armenian one within its word.
_QUESTION = re.compile(
    rf"[?;\u037e\u061f\u1367\u1945\u203d\u2047-\u2049\u2e2e\ua60f\ua6f7\ufe56\uff1f][{_CLOSING}\s]*\Z|\u055e"
)
#: Letters of scripts that write questions without a mark: Thai, Lao, Tibetan, Burmese, Khmer.
_UNMARKED = re.compile(r"[\u0e01-\u0e2e\u0e81-\u0eae\u0f40-\u0f6c\u1000-\u102a\u1780-\u17b3]")
_WORD = re.compile(r"\S")
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c\u2018]*\Z")


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """The sentences of ``text[start:end]`` as spans without the white space between them.

    A rule of punctuation, in every script that has some: full stops after common abbreviations, initials, ordinals and
    inside numbers do not end a sentence, blank lines do. Thai and Lao, which end sentences with a space as they part
    clauses, are cut at blank lines only. Where a model does better, pass its spans to `chunks_from_spans`.

    >>> [text[s:e] for text in ["Ask Dr. Lee. Then, e.g. by 9.30, call!"] for s, e in sentence_spans(text)]
    ['Ask Dr. Lee.', 'Then, e.g. by 9.30, call!']
    >>> [text[s:e] for text in ["你好!走了。यह घर है। वह?"] for s, e in sentence_spans(text)]
    ['你好!', '走了。', 'यह घर है।', 'वह?']
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


def is_question(text: str) -> bool:
    """Whether a line is a question: by its mark, or, in a script without such a mark, by nothing else than its script.

    >>> is_question("Who?"), is_question("Ո՞վ է նա"), is_question("ใครเป็นคนเขียน"), is_question("He.")
    (True, True, True, False)
    """
    if _QUESTION.search(text):
        return True
    return 2 * len(_UNMARKED.findall(text)) > sum(map(str.isalpha, text))


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
    if _ORDINAL.fullmatch(word) and (following := _WORD.search(text, end, stop)) is not None:
        return following.group().islower() or _MONTH.match(text, following.start(), stop) is not None
    return False
