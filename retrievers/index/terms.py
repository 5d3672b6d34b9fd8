"""Text as BM25's tokenizer reads it: one normalisation for both sides, so that equal words are equal terms.

Qdrant's tokenizer splits at everything that is no letter or digit and lowers the case. So a combining mark would end a
word, a ligature or a full-width letter would be a different letter, and a sentence of a script that is written without
spaces would be one word.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import chain, pairwise

#: Scripts written without spaces, without their digits and punctuation: Thai, Lao, Burmese, Khmer, Han, Kana.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1000-\u103f\u1050-\u109f\uaa60-\uaa7f\u1780-\u17d3\u17d7"
    "\u17dc\u17dd\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u309d-\u309f"
    "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
#: Letters that stand for combining marks: those of Tangut. Marks of two scripts may share one; words never do.
_MARK, _MARKS = 0x17000, 6113
_LETTER = f"[{_UNSPACED}][{chr(_MARK)}-{chr(_MARK + _MARKS)}]*"
_HANGUL = re.compile("[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]")
#: Marks an n-gram as such, so that it is no word: a letter that no text has in this place.
_NGRAM = "\U00018800"
_RUN, _LETTERS = re.compile(f"(?:{_LETTER})+"), re.compile(_LETTER)
#: Characters that change no word: soft hyphen, grapheme joiner, tatweel, zero-width and direction marks, variation
#: selectors.
_INVISIBLE = dict.fromkeys(
    [
        0xAD,
        0x34F,
        0x61C,
        0x640,
        0xFEFF,
        *range(0x180B, 0x1810),
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)


def normalised(text: str) -> str:
    """``text`` in compatibility form (NFKC) and without case, its words separated as BM25's tokenizer separates them.

    Combining marks stay within their word, characters that cannot be seen are left out, and a run of letters of a
    script that is written without spaces becomes its overlapping pairs of letters.

    >>> normalised("ﬁle Mu\u0308ller")
    'file müller'
    >>> normalised("今日は good")
    ' 今日 日は  good'
    """
    text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).casefold()
    return _RUN.sub(_pairs, text.translate(_INVISIBLE).translate(_marks()))


def ngrams(word: str) -> list[str]:
    """The overlapping 4-grams of a word that is longer, of Hangul the pairs of syllables, each marked as an n-gram.

    Pairs of letters (`normalised`) have none.

    >>> [gram[1:] for gram in ngrams("wohnung")], ngrams("haus")
    (['wohn', 'ohnu', 'hnun', 'nung'], [])
    """
    size = 2 if _HANGUL.match(word) else 4
    if len(word) <= size or _LETTERS.match(word):
        return []
    return [_NGRAM + word[i : i + size] for i in range(len(word) - size + 1)]


def syllables(word: str) -> str:
    """A Hangul word of two syllables as the n-gram that it is of longer ones, which `ngrams` has none of; else "".

    >>> syllables("펌프") in ngrams("펌프는"), syllables("haus")
    (True, '')
    """
    return _NGRAM + word if len(word) == 2 and _HANGUL.match(word) else ""


def _pairs(run: re.Match[str]) -> str:
    letters: list[str] = _LETTERS.findall(run[0])
    pairs = [first + second for first, second in pairwise(letters)]
    return f" {' '.join(pairs or letters)} "


@cache
def _marks() -> dict[int, int]:
    """Combining mark -> the letter that stands for it."""
    # The planes between hold ideographs, and those behind nothing or what is private: walking them takes .2 s.
    planes = chain(range(0x300, 0x20000), range(0xE0000, 0xE1000))
    marks = (point for point in planes if unicodedata.category(chr(point))[0] == "M")
    return {point: _MARK + point % _MARKS for point in marks}
