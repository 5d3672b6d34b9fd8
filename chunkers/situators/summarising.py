"""A summary in place of a document that is too long to lead every prompt about its chunks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal, TypeAlias

from situate.prompting import one_line, quoted, usable
from situate.types import Chunk, Document, Prompt

#: What stands for a document that is longer than the window: the part around the chunk, or a summary of all of it.
LongDocuments: TypeAlias = Literal["window", "summary"]

#: Key in the metadata of chunks that were situated by the part around them because the summary failed.
SUMMARY_FAILED = "summary_failed"
#: Characters of a summary, at most, and the least that a part of the document is given in it.
SUMMARY_LIMIT = 4_000
_LEAST = 400
#: A summary needs a window that it is clearly shorter than.
LEAST_WINDOW = 1_000
#: Characters on each side of the passage that are shown with the summary: what a pronoun refers to stands near.
_NEAR = 800

_INSTRUCTION = (
    "Summarise it in at most {limit} characters, for somebody who is then shown single passages and has to know what "
    "they speak of: its subject, who and what takes part, by name, and how it is built up. Answer with the summary "
    "alone."
)


def summary_of(document: Document, window: int, system: str) -> Generator[Sequence[Prompt], Sequence[str], str]:
    """Yields prompts, is sent their answers, and returns the document's summary.

    Every part of the document of ``window`` characters is summarised; where the summaries together are too long for
    one, they are summarised in turn.
    """
    text, target = document.text, min(SUMMARY_LIMIT, window // 2)
    while True:
        parts = _parts(text, window)
        limit = min(max(target // len(parts), _LEAST), window // 2) if len(parts) > 1 else target
        answers = yield [_prompt(document, part, window, limit, system) for part in parts]
        text = "\n".join(" ".join(" ".join(usable([answer], limit).texts).split()) for answer in answers)
        if len(text) <= target or len(parts) == 1:
            return text


def summary_prompt(document: Document, chunk: Chunk, summary: str, instruction: str, system: str) -> Prompt:
    """The prompt about a chunk, with the document's summary in its prefix."""
    lead = quoted(summary, "summary", SUMMARY_LIMIT, "surroundings", "passage")
    near = document.text[max(0, chunk.start - _NEAR) : chunk.end + _NEAR]
    surroundings = quoted(near, "surroundings", len(near), "summary", "passage")
    passage = quoted(chunk.text, "passage", len(chunk.text), "summary", "surroundings")
    return Prompt(
        text=f"Here is a part of it:\n{surroundings}\n\nand in that part one passage:\n{passage}\n\n{instruction}",
        prefix=f"{title_line(document)}Here is a summary of a document:\n{lead}\n\n",
        system=system,
    )


def _prompt(document: Document, part: str, window: int, limit: int, system: str) -> Prompt:
    return Prompt(
        text=_INSTRUCTION.format(limit=limit),
        prefix=f"{title_line(document)}{quoted(part, 'document', window)}\n\n",
        system=system,
    )


def title_line(document: Document) -> str:
    """The line of a prompt that names the document; "" where it has no title."""
    return f"Title: {one_line(document.title, 300)}\n" if document.title else ""


def _parts(text: str, window: int) -> list[str]:
    """The text in pieces of at most ``window`` characters, cut at white space where there is some near the end."""
    parts: list[str] = []
    start = 0
    while start < len(text):
        end = start + window
        if end < len(text):
            space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
            end = space if space > start + 0.8 * window else end
        parts.append(text[start:end])
        start = end
    return [part for part in parts if part.strip()]
