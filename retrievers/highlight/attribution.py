"""Which passages support the sentences of an answer, as a value, and its forms for readers."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass

from situate.retrievers.marks import Mark, escaped_markdown, printable
from situate.retrievers.types import Hit


@dataclass(frozen=True)
class Evidence:
    """A span of a passage that supports a sentence.

    Attributes:
        hit: The passage; ``hit.where`` tells its place.
        mark: The span in ``hit.chunk.text``, and its score: the mean over the sentence's tokens of each one's best
            match in the span.
    """

    hit: Hit
    mark: Mark

    @property
    def text(self) -> str:
        """The words of the span."""
        return self.hit.chunk.text[self.mark.start : self.mark.end]


@dataclass(frozen=True)
class Claim:
    """A sentence of an answer, and its support.

    Attributes:
        start: First character in the answer.
        end: One past the last character.
        score: The mean over the sentence's tokens of each one's best match in the evidence, or in the best spans where
            the sentence is not supported: 0 as sentences that have nothing to do with each other, 1 as the same words.
        evidence: The spans that support it, the best first; () where none reaches the threshold.
    """

    start: int
    end: int
    score: float
    evidence: tuple[Evidence, ...] = ()

    @property
    def supported(self) -> bool:
        """Whether a passage supports the sentence."""
        return bool(self.evidence)


@dataclass(frozen=True)
class Attribution:
    """An answer whose sentences are attributed to passages.

    Attributes:
        answer: The answer.
        claims: Its sentences, in order.
    """

    answer: str
    claims: tuple[Claim, ...] = ()

    @property
    def sources(self) -> tuple[Hit, ...]:
        """The passages that support a sentence, each once, in the order in which the answer needs them."""
        hits = {evidence.hit.chunk.id: evidence.hit for claim in self.claims for evidence in claim.evidence}
        return tuple(hits.values())

    @property
    def unsupported(self) -> tuple[str, ...]:
        """The sentences that no passage supports."""
        return tuple(self.answer[claim.start : claim.end] for claim in self.claims if not claim.supported)

    def to_text(self) -> str:
        """The answer with the numbers of its sources, and the sources; control characters are replaced."""
        lines = [f"[{i}] {printable(str(hit.where))}" for i, hit in enumerate(self.sources, 1)]
        return "\n".join([self._cited(printable, lambda numbers: f" [{', '.join(numbers)}]"), "", *lines]).rstrip()

    def to_markdown(self) -> str:
        """The same as Markdown; what would be Markdown or HTML in the answer or a title is escaped."""
        lines = [f"\\[{i}\\] {escaped_markdown(str(hit.where))}  " for i, hit in enumerate(self.sources, 1)]
        text = self._cited(escaped_markdown, lambda numbers: f" \\[{', '.join(numbers)}\\]")
        return "\n".join([text, "", *lines]).rstrip()

    def to_html(self) -> str:
        """The same as HTML: numbers in ``<sup>``, sources in ``<ol>``; everything else is escaped."""
        items = "".join(f"<li>{html.escape(str(hit.where))}</li>" for hit in self.sources)
        text = self._cited(html.escape, lambda numbers: f"<sup>[{', '.join(numbers)}]</sup>")
        return f"<p>{text}</p>" + (f"<ol>{items}</ol>" if items else "")

    def _cited(self, written: Callable[[str], str], cited: Callable[[list[str]], str]) -> str:
        """The answer with the numbers of the sources behind each sentence."""
        numbers = {hit.chunk.id: str(i) for i, hit in enumerate(self.sources, 1)}
        pieces: list[str] = []
        done = 0
        for claim in self.claims:
            pieces.append(written(self.answer[done : claim.end]))
            done = claim.end
            if own := sorted({numbers[each.hit.chunk.id] for each in claim.evidence}, key=int):
                pieces.append(cited(own))
        return "".join([*pieces, written(self.answer[done:])])
