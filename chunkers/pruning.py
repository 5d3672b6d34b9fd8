"""Leaving chunks out of an index that hold nothing to find: navigation, boilerplate, near-empty ones."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from situate.chunkers.spans import MARKS
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.types import Chunk, Chunker, Document

_LOG = logging.getLogger("situate.chunkers.pruning")
_WORD = re.compile(rf"[^\W\d_](?:[^\W\d_]|[{MARKS}])+")
_LETTERS = re.compile(r"[^\W\d_]{2}")
_STOP = re.compile(r"([.!?。！？\n])")
# Brackets and parentheses may nest one level; matching again from inside of one would take quadratic time.
_LINK = re.compile(
    r"\[(?:[^\[\]]++|\[[^\[\]]*+\])*+\]\((?:[^()]++|\([^()]*+\))*+\)|https?://\S+|www\.\S+",
)
_BOILERPLATE = re.compile(
    r"all rights reserved|©|copyright \d{4}|cookie|privacy policy|terms of (?:use|service)|"
    r"(?:sign|log) (?:in|up|out)\b|subscribe|newsletter|skip to (?:main )?content|back to top|table of contents|"
    r"(?:previous|next) page|share (?:on|this)|follow us|powered by|click here|page \d+ of \d+|toggle navigation",
    re.IGNORECASE,
)


def low_value(text: str) -> float:
    """How little a text seems to hold: 0 (full sentences) to 1 (nothing).

    The largest of three signs:

    - near-empty: 1 minus the number of words of two letters or more over 5;
    - navigation: the share of characters in links, and 0.9 where four or more lines hold at most four words each and
      nothing is a sentence;
    - boilerplate: 0.3 for each stock phrase (cookies, copyright, "log in", "back to top") per 25 words, at most 0.9.

    Scripts without letter case or spaces count by their letters, so a Chinese sentence is not near-empty. The phrases
    are English ones.

    >>> low_value("The form goes to Ines four weeks before you leave."), low_value("Home | About | Contact")
    (0.0, 0.4)
    """
    words = _WORD.findall(text)
    # Scripts without spaces write a sentence as one "word": count its letters instead.
    count = sum(1 if word.isascii() else max(1, len(word) // 4) for word in words)
    empty = max(0.0, 1.0 - count / 5)
    stripped = text.strip()
    links = sum(len(match) for match in _LINK.findall(stripped)) / len(stripped) if stripped else 0.0
    lines = [line for line in stripped.splitlines() if line.strip()]
    menu = len(lines) >= 4 and all(len(line.split()) <= 4 for line in lines) and not _has_sentence(stripped)
    stock = min(0.9, 0.3 * len(_BOILERPLATE.findall(text)) * 25 / max(25, count))
    return round(min(1.0, max(empty, links, 0.9 if menu else 0.0, stock)), 4)


#: What a text holds, from 0 (nothing) to 1, of each of several texts: a model's judgement (`QualityT5Model`).
QualityScorer: TypeAlias = Callable[[Sequence[str]], Sequence[float]]
#: The last chunks that were left out are kept for the report, so many of them.
_NOTED = 1_000


class PrunedChunk(NamedTuple):
    """A chunk that was left out, and how little it holds, from 0 to 1."""

    document_id: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class PruningReport:
    """What a `PruningChunker` has left out since it was made.

    Attributes:
        kept: Chunks that were kept.
        dropped: Chunks that were left out.
        last: The last of these, at most 1,000.
    """

    kept: int = 0
    dropped: int = 0
    last: tuple[PrunedChunk, ...] = ()


@checked_parameters
@dataclass(frozen=True)
class PruningChunker:
    """Any chunker, without the chunks that hold little: `low_value`, or 1 minus a scorer's, is at least ``threshold``.

    Nothing does this by default. A document keeps its best chunk whatever its score, so that no document disappears
    from an index silently; `report` tells what was left out, and the log ("situate.chunkers.pruning", INFO) of which
    document.

    Attributes:
        chunker: Cuts the documents.
        threshold: Above 0, at most 1; 0.8 leaves out only chunks that almost certainly hold nothing.
        scorer: How much each of several texts holds, from 0 to 1, in place of `low_value`: static pruning by neural
            quality (Chang et al. 2024), ``situate.embedders.QualityT5Model()``, say, or a function.

    Raises:
        InputError: ``threshold`` is not above 0 and at most 1, ``scorer`` cannot be called, or (on use) gives other
            than a number from 0 to 1 for each text.
    """

    chunker: Chunker
    threshold: float = 0.8
    scorer: QualityScorer | None = None
    _left_out: list[Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold={self.threshold} must be above 0 and at most 1")
        if self.scorer is not None and not callable(self.scorer):
            raise InputError(f"scorer={self.scorer!r} cannot be called: give a function of texts, or a model with one")
        object.__setattr__(self, "_left_out", [0, 0, deque(maxlen=_NOTED)])

    @classmethod
    def of_share(
        cls, chunker: Chunker, documents: Iterable[Document], share: float, scorer: QualityScorer | None = None
    ) -> PruningChunker:
        """One whose threshold leaves out this share of the documents' chunks, or a little less where scores are equal.

        Args:
            chunker: Cuts the documents.
            documents: A sample of the collection.
            share: Between 0 and 1.
            scorer: As of the class.

        Raises:
            InputError: ``share`` is not between 0 and 1, or no threshold leaves out so few.
        """
        if not 0 < share < 1:
            raise InputError(f"share={share} must lie between 0 and 1")
        whole = cls(chunker, scorer=scorer)
        found = [whole.scores(chunker.split(document)) for document in documents]
        scores = sorted((score for own in found for score in own), reverse=True)
        wanted = int(share * len(scores))
        threshold = scores[wanted - 1] if wanted else 0.0
        if wanted < len(scores) and scores[wanted] == threshold:
            threshold = next((score for score in reversed(scores[:wanted]) if score > threshold), 0.0)
        if not threshold:
            raise InputError(
                f"no threshold leaves out {share:.0%} of {len(scores)} chunks: too many have the same score, or there "
                "are too few"
            )
        return cls(chunker, threshold, scorer)

    @property
    def report(self) -> PruningReport:
        """What was left out since the chunker was made."""
        kept, dropped, last = self._left_out
        return PruningReport(kept, dropped, tuple(last))

    def scores(self, chunks: Sequence[Chunk]) -> list[float]:
        """How little each chunk holds, from 0 to 1."""
        texts = [chunk.text for chunk in chunks]
        if self.scorer is None or not texts:
            return [low_value(text) for text in texts]
        given = self.scorer(texts)
        try:
            quality = [float(value) for value in given]
        except (TypeError, ValueError) as error:
            raise InputError(f"scorer={self.scorer!r} gave no numbers, but {given!r:.100}") from error
        if len(quality) != len(texts) or not all(0 <= value <= 1 for value in quality):
            raise InputError(
                f"scorer={self.scorer!r} gave {len(quality)} values for {len(texts)} texts, {quality[:3]}...: a number "
                "from 0 to 1 for each is needed"
            )
        return [1 - value for value in quality]

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks that are worth finding, numbered anew."""
        chunks = self.chunker.split(document)
        scores = self.scores(chunks)
        kept = [chunk for chunk, score in zip(chunks, scores, strict=True) if score < self.threshold]
        if chunks and not kept:
            kept = [chunks[scores.index(min(scores))]]
        self._note(document, chunks, scores, {chunk.index for chunk in kept})
        return [replace(chunk, index=index) for index, chunk in enumerate(kept)]

    def _note(self, document: Document, chunks: Sequence[Chunk], scores: Sequence[float], kept: set[int]) -> None:
        dropped = [
            PrunedChunk(document.id, chunk.start, chunk.end, score)
            for chunk, score in zip(chunks, scores, strict=True)
            if chunk.index not in kept
        ]
        self._left_out[0] += len(chunks) - len(dropped)
        self._left_out[1] += len(dropped)
        self._left_out[2].extend(dropped)
        if dropped:
            _LOG.info("%d of %d chunks of document %r left out", len(dropped), len(chunks), document.id)

    def fingerprint(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        inner = getattr(self.chunker, "fingerprint", None)
        values = {
            "chunker": type(self).__name__,
            "threshold": self.threshold,
            "of": inner() if callable(inner) else repr(self.chunker),
        }
        if self.scorer is not None:
            own = getattr(self.scorer, "fingerprint", None)
            name = getattr(self.scorer, "__qualname__", None) or repr(self.scorer)
            values["scorer"] = own if isinstance(own, dict) else name
        return values


def _has_sentence(text: str) -> bool:
    """Whether two letters and twelve more characters stand before a full stop or the like, on one line."""
    pieces = _STOP.split(text)
    return any(
        stop != "\n" and (letters := _LETTERS.search(piece)) is not None and len(piece) - letters.end() >= 12
        for piece, stop in zip(pieces[::2], pieces[1::2], strict=False)
    )
