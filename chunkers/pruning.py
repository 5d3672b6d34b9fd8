"""Leaving chunks out of an index that hold nothing to find: navigation, boilerplate, near-empty ones."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from situate.errors import InputError
from situate.types import Chunk, Chunker, Document

_WORD = re.compile(r"[^\W\d_]{2,}")
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


@dataclass(frozen=True)
class PruningChunker:
    """Any chunker, without the chunks whose `low_value` is at least ``threshold``. Nothing does this by default.

    A document keeps its best chunk whatever its score, so that no document disappears from an index silently.

    Attributes:
        chunker: Cuts the documents.
        threshold: Above 0, at most 1; 0.8 leaves out only chunks that almost certainly hold nothing.

    Raises:
        InputError: ``threshold`` is not above 0 and at most 1.
    """

    chunker: Chunker
    threshold: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold={self.threshold} must be above 0 and at most 1")

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks that are worth finding, numbered anew."""
        chunks = self.chunker.split(document)
        scores = [low_value(chunk.text) for chunk in chunks]
        kept = [chunk for chunk, score in zip(chunks, scores, strict=True) if score < self.threshold]
        if chunks and not kept:
            kept = [chunks[scores.index(min(scores))]]
        return [replace(chunk, index=index) for index, chunk in enumerate(kept)]

    def fingerprint(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        inner = getattr(self.chunker, "fingerprint", None)
        return {
            "chunker": type(self).__name__,
            "threshold": self.threshold,
            "of": inner() if callable(inner) else repr(self.chunker),
        }


def _has_sentence(text: str) -> bool:
    """Whether two letters and twelve more characters stand before a full stop or the like, on one line."""
    pieces = _STOP.split(text)
    return any(
        stop != "\n" and (letters := _LETTERS.search(piece)) is not None and len(piece) - letters.end() >= 12
        for piece, stop in zip(pieces[::2], pieces[1::2], strict=False)
    )
