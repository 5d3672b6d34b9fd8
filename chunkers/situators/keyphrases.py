"""The phrases that are typical of a document, by word counts alone: no language model."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from situate.chunkers.spans import MARKS
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.types import Chunk, Document

_WORD = re.compile(rf"[^\W_](?:[^\W_]|[{MARKS}])*+(?:['\u2019-](?:[^\W_]|[{MARKS}])++)*+")
#: What stands between two words of a phrase.
_GAP = re.compile(r"[^\S\n]+")
#: A longer run of letters is none (a sentence of a script without spaces, a key).
_LONGEST = 40


@checked_parameters
class KeyphraseSituator:
    """Notes a document's keyphrases with each of its chunks: frequent in it, and rare elsewhere (tf-idf).

    A phrase is a run of up to ``words`` words, none of which stands in more than ``common`` of the texts of the corpus,
    so that no list of stop words is needed. Its score is how often it occurs, times the sum of its words' inverse
    document frequencies (Spärck Jones 1972). They become `Context.keyphrases`, which are read behind
    `Context.sentence`: by BM25 by default, by dense vectors with ``ChunkScheme(context=("headings", "keyphrases"))``.

    Args:
        corpus: Texts of the collection, by which words are counted; or the file that holds one a line. The counts are
            kept, and decide a document's version: the same texts are to be given whenever documents are added.
        count: Phrases of a document, at most.
        words: Words of a phrase, at most.
        common: Share of the texts in which a word of a phrase may stand.

    Raises:
        InputError: ``corpus`` has no texts, or a number is out of range.

    >>> from situate.types import Chunk, Document
    >>> texts = ["The wing of the plane", "The lift of a wing", "The price of a ticket", "The end of a day"]
    >>> document = Document("d", "The shock wave of a wing: the shock wave bends.")
    >>> situator = KeyphraseSituator(texts, count=2, common=0.6)
    >>> situator.situate(document, [Chunk.of(document, 0, 0, 20)])[0].context.keyphrases
    ('shock wave', 'bends')
    """

    def __init__(
        self, corpus: Sequence[str] | str | Path, *, count: int = 5, words: int = 3, common: float = 0.1
    ) -> None:
        if count < 1 or words < 1 or not 0 < common <= 1:
            raise InputError(
                f"count={count} and words={words} need to be 1 or more, common={common} above 0 and at most 1"
            )
        self.count, self.words, self.common = count, words, common
        self._texts = 0
        counts: Counter[str] = Counter()
        for text in _texts(corpus):
            self._texts += 1
            counts.update({word for word, _, _ in _words(text)})
        if not self._texts:
            raise InputError("corpus has no texts: give texts of the collection, by which rare words are told")
        # A word of one text is as rare as a word of none.
        self._counts = Counter({word: n for word, n in counts.items() if n > 1})

    def __repr__(self) -> str:
        return f"KeyphraseSituator(<{self._texts} texts>, count={self.count}, words={self.words}, common={self.common})"

    def situate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The same chunks with their document's keyphrases."""
        phrases = self.keyphrases(document.text) if chunks else ()
        return [replace(chunk, context=replace(chunk.context, keyphrases=phrases)) for chunk in chunks]

    async def asituate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """`situate` in a thread: a long document takes a while."""
        return await asyncio.to_thread(self.situate, document, chunks)

    def keyphrases(self, text: str) -> tuple[str, ...]:
        """The text's phrases, best first, as they are first written. Takes linear time."""
        found: dict[str, tuple[int, str, float]] = {}
        for run in self._runs(text):
            for start in range(len(run)):
                for end in range(start + 1, min(len(run), start + self.words) + 1):
                    part = run[start:end]
                    key = " ".join(word for word, _, _ in part)
                    times, written, rarity = found.get(key) or (0, text[part[0][1] : part[-1][2]], self._rarity(part))
                    found[key] = times + 1, written, rarity
        # Python's sort is stable: of equal scores the phrase that occurs first stays first.
        ranked = sorted(found, key=lambda key: -found[key][0] * found[key][2])
        chosen: list[str] = []
        used: set[str] = set()
        for key in ranked:
            if len(chosen) == self.count:
                break
            if used.isdisjoint(own := key.split(" ")):  # phrases that share a word say the same
                chosen.append(key)
                used.update(own)
        return tuple(" ".join(found[key][1].split()) for key in chosen)

    def fingerprint(self) -> dict[str, Any]:
        """The settings that decide the phrases, as JSON values."""
        table = "\n".join(f"{word} {n}" for word, n in sorted(self._counts.items()))
        digest = hashlib.sha256(table.encode("utf-8", "replace")).hexdigest()
        numbers = {"count": self.count, "words": self.words, "common": self.common, "texts": self._texts}
        return {"situator": type(self).__name__, **numbers, "corpus": digest}

    def _runs(self, text: str) -> Iterator[list[tuple[str, int, int]]]:
        """Neighbouring words that are not common, with nothing but white space between them."""
        run: list[tuple[str, int, int]] = []
        words = list(_words(text))
        for (word, start, end), following in pairwise([*words, ("", len(text), len(text))]):
            if self._counts[word] <= self.common * self._texts and not word.isdecimal() and len(word) > 1:
                run.append((word, start, end))
            elif run:
                yield run
                run = []
            if run and not _GAP.fullmatch(text, end, following[1]):
                yield run
                run = []

    def _rarity(self, part: Iterable[tuple[str, int, int]]) -> float:
        return sum(math.log((1 + self._texts) / (1 + self._counts[word])) for word, _, _ in part)


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Words in one form, and where they stand."""
    for match in _WORD.finditer(text):
        if match.end() - match.start() <= _LONGEST:
            yield unicodedata.normalize("NFKC", match[0]).casefold(), match.start(), match.end()


def _texts(corpus: Sequence[str] | str | Path) -> Iterator[str]:
    if isinstance(corpus, str | Path):
        path = Path(corpus)
        if not path.is_file():
            raise InputError(f"corpus={str(corpus)!r} is no file: give texts, or a file with one text a line")
        try:
            with path.open(encoding="utf-8-sig") as lines:
                yield from (line for line in lines if line.strip())
        except UnicodeDecodeError as error:
            raise InputError(f"corpus={str(corpus)!r} is no text in UTF-8 ({error}): save it as such") from error
        return
    if not isinstance(corpus, Iterable):
        raise InputError(f"corpus={corpus!r} holds no texts: give some of the collection, or a file with one a line")
    for text in corpus:
        if not isinstance(text, str):
            raise InputError(f"corpus holds a {type(text).__name__}: give the texts themselves")
        if text.strip():
            yield text
