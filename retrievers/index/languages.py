"""The language of a text, as far as BM25 reads languages apart.

A *reading* is what becomes of a text's words: stop words and a stemmer of one language, or, where none helps, each word
beside its n-grams (McNamee and Mayfield 2004). So the detector (py3langid: Naive Bayes over byte n-grams, Lui and
Baldwin 2012) needs to tell only the languages in `STEMMED` from one another and from the rest, and is asked only where
neither the script nor English stop words decide.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import qdrant_edge
    from py3langid.langid import LanguageIdentifier  # type: ignore[import-untyped]

ENGLISH = "english"
#: The readings without a language: words beside their n-grams, and words as they are.
NGRAMS, NONE = "ngrams", "none"
#: Languages whose stop words and stemmer find more than n-grams alone (measured: docs/languages.md).
STEMMED = frozenset({ENGLISH, "danish", "dutch", "french", "german", "italian", "norwegian", "russian", "swedish"})
#: The name of a language -> its code in ISO 639.
LANGUAGES: Mapping[str, str] = MappingProxyType(
    dict(
        re.findall(
            r"(\w+):(\w+)",
            "afrikaans:af albanian:sq amharic:am arabic:ar armenian:hy assamese:as azerbaijani:az basque:eu "
            "belarusian:be bengali:bn bosnian:bs breton:br bulgarian:bg burmese:my catalan:ca chinese:zh "
            "croatian:hr czech:cs danish:da dutch:nl english:en esperanto:eo estonian:et finnish:fi french:fr "
            "galician:gl georgian:ka german:de greek:el gujarati:gu hausa:ha hebrew:he hindi:hi hungarian:hu "
            "icelandic:is indonesian:id irish:ga italian:it japanese:ja kannada:kn kazakh:kk khmer:km korean:ko "
            "kurdish:ku kyrgyz:ky lao:lo latin:la latvian:lv lithuanian:lt macedonian:mk malay:ms malayalam:ml "
            "maltese:mt marathi:mr mongolian:mn nepali:ne norwegian:no pashto:ps persian:fa polish:pl "
            "portuguese:pt punjabi:pa romanian:ro russian:ru serbian:sr sinhala:si slovak:sk slovene:sl somali:so "
            "spanish:es swahili:sw swedish:sv tagalog:tl tajik:tg tamil:ta telugu:te thai:th turkish:tr "
            "turkmen:tk ukrainian:uk urdu:ur uzbek:uz vietnamese:vi welsh:cy yoruba:yo zulu:zu",
        )
    )
)
_BY_CODE = {LANGUAGES[name]: name for name in STEMMED} | {"nn": "norwegian"}
#: No text of any language, to the detector.
_NO_LANGUAGE = "zxx"
#: Letters of the scripts in which the languages of `STEMMED` are written: Latin and Cyrillic.
_SEVERAL = re.compile(r"[a-zA-Z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0400-\u052f\u1e00-\u1eff]")
#: Of this many distinct words or more, so large a share of English stop words makes a text English: in English prose
#: and code it lies between .2 and .5, in texts of twenty other languages below .2.
_WORDS, _SHARE = 20, 0.2
#: The detector's probability, calibrated, below which its answer is chance: of a name, a number, one word.
_CONFIDENT = 0.25
#: A reading of a query that is so much less probable than another one is left out.
_LEAST = 0.1


def reading_of(language: str) -> str:
    """The reading of texts in a language, by its name."""
    return language if language in STEMMED or language == NONE else NGRAMS


def detected(text: str, among: Collection[str] = ()) -> str:
    """The reading of a text: a language of `STEMMED`, or `NGRAMS`.

    Takes about a millisecond for 1,500 characters. A text that does not tell is English where it is ASCII.

    Args:
        text: An excerpt.
        among: Names of the languages that are possible; all, if none is given.

    >>> detected("Die Frist endet vier Wochen nach dem Schreiben."), detected("首都はどこですか")
    ('german', 'ngrams')
    """
    text = text.encode(errors="replace").decode()  # Qdrant's tokenizer takes no lone surrogates
    readings = {reading_of(name) for name in among}
    if len(readings) == 1:
        return readings.pop()
    if _of_another_script(text):
        return NGRAMS if not readings or NGRAMS in readings else min(readings)
    if (not readings or ENGLISH in readings) and _mostly_english(text):
        return ENGLISH
    if among:
        codes = {LANGUAGES[name]: reading_of(name) for name in among}
        return next(codes[code] for code, _ in _detector().rank(text) if code in codes)
    code, probability = _detector().classify(text)
    if probability < _CONFIDENT or code == _NO_LANGUAGE:
        return ENGLISH if text.isascii() else NGRAMS
    return _BY_CODE.get(code, NGRAMS)


def weights(text: str, readings: Collection[str]) -> dict[str, float]:
    """The weight of each reading of a query: how probable it is, against the most probable one, down to a tenth.

    With equal weights, the reading of a few documents would put these first: they alone hold its terms, so that every
    one of these counts as rare.

    Args:
        text: The query.
        readings: Those of the collection's documents; not empty.
    """
    if len(readings) == 1:
        return dict.fromkeys(readings, 1.0)
    if NGRAMS in readings and _of_another_script(text):
        return {NGRAMS: 1.0}
    found = dict.fromkeys(sorted(readings), 0.0)
    for code, probability in _detector().rank(text):
        if (name := _BY_CODE.get(code, NGRAMS)) in found:
            # Not the sum: what is left for a hundred other languages says nothing of a query of names.
            found[name] = max(found[name], probability)
    most = max(found.values())
    return {name: value / most for name, value in found.items() if value >= _LEAST * most}


def _of_another_script(text: str) -> bool:
    """Whether most letters belong to scripts in which no language of `STEMMED` is written."""
    return 2 * len(_SEVERAL.findall(text)) < sum(map(str.isalpha, text))


def _mostly_english(text: str) -> bool:
    everything, without = _tokenizers()
    words = len(everything.embed_query(text).indices)
    return words >= _WORDS and words - len(without.embed_query(text).indices) >= _SHARE * words


@cache
def _tokenizers() -> tuple[qdrant_edge.Bm25, qdrant_edge.Bm25]:
    """All words, and those that are no English stop words."""
    import qdrant_edge

    config, words = qdrant_edge.Bm25Config, qdrant_edge.DisabledStemmer()
    everything = config(stopwords=qdrant_edge.StopwordsSet(), stemmer=words)
    return qdrant_edge.Bm25(everything), qdrant_edge.Bm25(config(language=ENGLISH, stemmer=words))


@cache
def _detector() -> LanguageIdentifier:
    """Loaded from the package's file once in a process: half a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
