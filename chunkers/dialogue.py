"""Conversations, cut at the turns of their speakers."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from situate.chunkers.base import SizedChunker
from situate.chunkers.spans import MARKS, base_context, chunks_from_spans, trimmed
from situate.parameters import checked_parameters

if TYPE_CHECKING:
    from situate.types import Chunk, Context, Document

# "Ann Lee:", "**Ann:**", "[10:32] Ann:", "10:32:07 Ann Lee (host):", "> Ann:" and "<ann> ..." at the start of a line.
_TURN = re.compile(
    r"^[ \t>*_-]*+(?:[\[(]?\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?(?:\s*[AaPp][Mm])?[\])]?[ \t]*[-–]?[ \t]*)?"
    r"(?:<(?P<angle>[^<>\n]{1,40})>|(?P<name>[^\W\d_]" + rf"[\w{MARKS}.'’-]*+(?:[ \t][\w{MARKS}.'’()&/-]++){{0,4}}+)"
    r"[ \t]*+[*_]*+(?::(?=[*_\s]|$)|：))",
    re.MULTILINE,
)


@checked_parameters
@dataclass(frozen=True)
class DialogueChunker(SizedChunker):
    """Transcripts, chats and interviews, cut between turns; who speaks is kept as context.

    A turn begins at a line like ``Ann:``, ``[10:32] Ann Lee (host):``, ``**Ann:**`` or ``<ann>``. Neighbouring turns
    share a chunk while they fit, unless ``merge`` is off; then each turn is its own. A turn that is too long is cut as
    text, and each part knows its speaker. Lines before the first turn have no speaker.

    Attributes:
        size: The most that a chunk holds, in the model's tokens without special tokens; characters without a
            ``tokenizer``.
        overlap: The most that parts of a turn that is cut share.
        tokenizer: The embedding model's tokenizer.
        merge: Whether turns share chunks; `Context.speaker` then names them in order, joined by commas.

    >>> from situate.chunkers import Document
    >>> chunks = DialogueChunker(merge=False).split(Document("d", "Ann: Hello.\\nBo: Hi, Ann.\\nHow are you?"))
    >>> [(chunk.context.speaker, chunk.text) for chunk in chunks]
    [('Ann', 'Ann: Hello.'), ('Bo', 'Bo: Hi, Ann.\\nHow are you?')]
    """

    merge: bool = True

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        text = document.text
        found = [(match.start(), (match["angle"] or match["name"]).strip()) for match in _TURN.finditer(text)]
        starts = [0, *(start for start, _ in found), len(text)]
        names = [None, *(name for _, name in found)]
        turns: list[tuple[int, int]] = []
        speakers: list[str | None] = []
        for start, end, name in zip(starts, starts[1:], names, strict=False):
            span = trimmed(text, start, end)
            if span[0] < span[1]:
                turns.append(span)
                speakers.append(name)
        apart = frozenset() if self.merge else frozenset(range(len(turns)))
        base = base_context(document)
        begins = [start for start, _ in turns]

        def context(start: int, end: int) -> Context:
            first = max(0, bisect_right(begins, start) - 1)
            heard = dict.fromkeys(filter(None, speakers[first : bisect_left(begins, end)]))
            return replace(base, speaker=", ".join(heard) or base.speaker)

        spans = self._filled(text, self._packed(text, turns, apart, led=self.merge))
        return chunks_from_spans(document, spans, context)
