"""Spans of the pieces of other splitters, and chunks from spans."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from situate.errors import SpanError
from situate.types import Chunk, Context, Document

#: Combining marks, which are parts of words, for a regular expression's set: accents, points, and the vowel signs of
#: the scripts of India and South-East Asia. Python counts them as no letters.
MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0730-\u074a\u0900-\u0903"
    "\u093a-\u094f\u0951-\u0957\u0962\u0963\u0981-\u0dff\u0e31-\u0e4e\u0eb1-\u0ecd\u0f71-\u0fbc\u102b-\u103e"
    "\u1056-\u1059\u17b4-\u17d3\u1dc0-\u1dff\u3099\u309a\ufe20-\ufe2f"
)
#: Candidate places kept per piece. More than one is only ever needed where the text repeats itself.
_BEAM = 16
#: Places of a piece looked at per step, so that a text of one repeated word stays linear.
_PLACES = 48


def base_context(document: Document) -> Context:
    """The context that a document's metadata gives to each of its chunks: title, path, date, speaker.

    Strings are taken as they are and numbers as text; anything else is left out.
    """

    def text(name: str) -> str | None:
        value = document.metadata.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        return value if isinstance(value, str) and value.strip() else None

    return Context(title=document.title, path=text("path"), date=text("date"), speaker=text("speaker"))


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends; ``start == end`` where nothing is left."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())


def chunks_from_spans(
    document: Document,
    spans: Sequence[tuple[int, int]],
    context: Callable[[int, int], Context] | None = None,
    *,
    overlap: bool = True,
) -> list[Chunk]:
    """The chunks that ``spans`` cut from the document.

    Args:
        document: The document.
        spans: ``[start, end)`` character offsets in the order of the text.
        context: What situates a span; None: `base_context` for all of them.
        overlap: Whether a span may begin before the one before it ends.

    Raises:
        SpanError: A span is empty, reversed, outside the text, twice there, out of order, or overlapping where that
            is not allowed; the message names the first one.
    """
    base = base_context(document)
    chunks: list[Chunk] = []
    before = (-1, -1)
    for index, (start, end) in enumerate(spans):
        if (start, end) <= before:
            raise SpanError(
                f"span {index} of document {document.id!r} is ({start}, {end}) and comes after {before}: "
                "spans must be sorted by start and end, each there once"
            )
        if not overlap and start < before[1]:
            raise SpanError(
                f"span {index} of document {document.id!r} is ({start}, {end}) and overlaps {before}: "
                "cut without overlap, or pass overlap=True"
            )
        chunks.append(Chunk.of(document, index, start, end, context(start, end) if context else base))
        before = (start, end)
    return chunks


@dataclass(frozen=True, slots=True)
class _Place:
    """A piece's place, and the cheapest way there: text left out so far, then how unevenly pieces overlap."""

    start: int
    end: int
    left_out: int = 0
    unevenness: int = 0
    before: _Place | None = None

    @property
    def cost(self) -> tuple[int, int, int]:
        return self.left_out, self.unevenness, self.start


def recover_spans(text: str, pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where the pieces that a splitter returned stand in the text that it was given.

    Splitters return strings; the place of a string is ambiguous as soon as the text repeats itself, and a search for
    the first match is then silently wrong. The pieces are therefore placed together: in their order, so that they
    leave as little of the text uncovered as possible and overlap as evenly as possible.

    Args:
        text: The text that was split.
        pieces: The splitter's pieces in the order of the text, overlapping or not. White space at a piece's ends may
            have been stripped, and white space inside may have been rewritten.

    Returns:
        One ``(start, end)`` per piece, in strictly increasing order. ``text[start:end]`` is the piece, except for
        white space that the splitter changed.

    Raises:
        SpanError: A piece is empty, or does not stand in the text after the piece before it; the message names the
            first such piece.

    >>> recover_spans("aX b aX c", ["aX", "b", "aX c"])
    [(0, 2), (3, 4), (5, 9)]
    """
    states = [_Place(-1, 0)]
    # What two neighbours share on average: in a text that repeats itself, pieces that were placed with less would run
    # out of text before the last one.
    spaced = any(piece != piece.strip() for piece in (*pieces[:1], *pieces[-1:]))
    covered = text if spaced else text.strip()  # the blank ends of the text are in the pieces, or in none
    usual = max(0, sum(map(len, pieces)) - len(covered)) // max(1, len(pieces) - 1)
    for number, piece in enumerate(pieces):
        if not piece:
            raise SpanError(f"piece {number} is empty: leave empty pieces out before their spans are recovered")
        states = _places_after(text, piece, states, usual)
        if not states:
            shown = piece if len(piece) <= 60 else piece[:57] + "..."
            raise SpanError(
                f"piece {number} ({shown!r}) does not stand in the text after piece {number - 1}: the splitter "
                "rewrote it, or returned its pieces out of order; use one that cuts without changing words"
            )
    best = min(states, key=lambda place: (place.left_out + _words_in(text, place.end, len(text)), *place.cost[1:]))
    spans: list[tuple[int, int]] = []
    place: _Place | None = best
    while place is not None and place.before is not None:
        spans.append((place.start, place.end))
        place = place.before
    return spans[::-1]


def _places_after(text: str, piece: str, states: Sequence[_Place], usual: int) -> list[_Place]:
    """The best places of ``piece`` that come after one of ``states``, of which it usually shares so many characters."""
    low = max(0, min(state.start for state in states))
    high = max(_next_word(text, state.end) for state in states)
    found: list[_Place] = []
    gaps: dict[tuple[int, int], int] = {}
    for start, end in _occurrences(text, piece, low, high, states, usual):
        best: _Place | None = None
        for state in states:
            # A piece may begin where the one before it does and go on: overlap can take up a whole short piece.
            if (start, end) <= (state.start, state.end):
                continue
            key = (state.end, start)
            if key not in gaps:
                gaps[key] = _words_in(text, *key)
            shared = max(0, state.end - start)
            uneven = state.unevenness + (shared - usual) ** 2
            place = _Place(start, end, state.left_out + gaps[key], uneven, state)
            if best is None or place.cost < best.cost:
                best = place
        if best is not None:
            found.append(best)
    if len(found) <= _BEAM:
        return found
    # The leftmost place is always kept: as long as any order of places exists, the leftmost ones are one.
    leftmost = min(found, key=lambda place: place.start)
    kept = sorted(found, key=lambda place: place.cost)[:_BEAM]
    return kept if leftmost in kept else [*kept[:-1], leftmost]


def _occurrences(
    text: str, piece: str, low: int, high: int, states: Sequence[_Place], usual: int
) -> list[tuple[int, int]]:
    """Places of ``piece`` from ``low`` on: those up to ``high``, and the first one after it."""
    variants = [piece] if piece == piece.strip() else [piece, piece.strip()]
    for wanted in filter(None, variants):
        starts = {
            start
            for state in states
            for start in (state.end, _next_word(text, state.end))
            if start >= low and text.startswith(wanted, start)
        }
        if usual:
            # The places that share what is usual, or a little more or less.
            size = len(wanted)
            for shared in (state.end - usual for state in states if state.end - usual >= low):
                near = (
                    text.find(wanted, shared, shared + 2 * size),
                    text.rfind(wanted, max(low, shared - size), shared + size),
                )
                starts.update(start for start in near if start != -1)
        at = text.find(wanted, low)
        while at != -1 and len(starts) < _PLACES:
            starts.add(at)
            if at > high:
                break
            at = text.find(wanted, at + 1)
        if starts:
            return [(start, start + len(wanted)) for start in sorted(starts)]
    return sorted(_loose_occurrences(text, piece, low, high))


def _loose_occurrences(text: str, piece: str, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Places of the piece's words whatever white space stands between them."""
    words = piece.split()
    if not words:
        return
    pattern = re.compile(r"\s+".join(re.escape(word) for word in words))
    for count, match in enumerate(pattern.finditer(text, low)):
        yield match.span()
        if match.start() > high or count >= _PLACES:
            return


def _next_word(text: str, at: int) -> int:
    """The first place from ``at`` on that is not white space."""
    match = _WORD.search(text, at)
    return match.start() if match else len(text)


def _words_in(text: str, start: int, end: int) -> int:
    """Characters between the places that are not white space."""
    return sum(map(len, text[start:end].split())) if start < end else 0


_WORD = re.compile(r"\S")
