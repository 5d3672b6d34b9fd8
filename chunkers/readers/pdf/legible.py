"""Whether glyphs without a map to characters were guessed right."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

#: The part of the letters that has to stand in words, and the scripts beside Latin that one page may mix.
_SHARE = 0.7
_SCRIPTS = 3
_NUMBER = re.compile(r"[-+\u2212(\u2013]?[$\u20ac\u00a3#]?\d[\d.,:/%\u2013-]*[%)kKMx]?\Z")
_AROUND = re.compile(r"\A\W+|\W+\Z")
_MIXED = re.compile(r"[a-z\u00df-\u00ff][A-Z\u00c0-\u00de]")
_INSIDE = re.compile(r"[^\w'\u2019.\-\u2010\u00ad/@:_+]")
_VOWELS = frozenset("aeiouyAEIOUY")


def is_legible(texts: Iterable[str]) -> bool:
    """Whether most letters stand in what may be words or numbers.

    Without a ToUnicode map PDFium takes a glyph's code for its character, which is right for many fonts. Where it is
    wrong, "This" reads as "7KLV", and characters of all kinds stand side by side.
    """
    words = [word for text in texts for word in text.split()]
    scripts: set[str] = set()
    good = total = 0
    for word in words:
        total += len(word)
        if _NUMBER.match(word):
            good += len(word)
            continue
        core = _AROUND.sub("", word)
        found = {_script(sign) for sign in core if sign.isalpha()}
        scripts |= found - {"LATIN"}
        if found == {"LATIN"}:
            good += len(word) * _is_word(core)
        elif len(found) == 1 or (found and found <= {"CJK", "HIRAGANA", "KATAKANA", "LATIN", "FULLWIDTH"}):
            good += len(word)
    return bool(total) and good >= _SHARE * total and len(scripts - {"CJK", "HIRAGANA", "KATAKANA"}) <= _SCRIPTS


def _is_word(word: str) -> bool:
    if _INSIDE.search(word) or len(_MIXED.findall(word)) > 1 or (word[0].isdigit() and len(word) > 4):
        return False
    return len(word) <= 3 or not _VOWELS.isdisjoint(unicodedata.normalize("NFD", word))


def _script(sign: str) -> str:
    return unicodedata.name(sign, "UNKNOWN").split("-", 1)[0].split()[0]
