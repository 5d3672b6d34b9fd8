"""The demo's questions, and the passage that answers each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from situate.chunkers import Chunk

#: Words of a heading or a passage that a derived question takes.
WORDS = 12


@dataclass(frozen=True)
class Question:
    """A question, and the place of its answer.

    Attributes:
        text: The question.
        document: Id of the document that answers it; None where it is not known.
        heading: The end of the answering section's heading path, joined by `` > ``.
        show: Whether its passages are shown in full.
        chunk: Id of the one chunk that is meant, in place of a section.
    """

    text: str
    document: str | None = None
    heading: str = ""
    show: bool = False
    chunk: str | None = None

    def is_answered_by(self, chunk: Chunk) -> bool:
        """Whether the chunk lies in the answering section, or is the one that is meant."""
        if self.chunk is not None:
            return chunk.id == self.chunk
        return chunk.document_id == self.document and section(chunk).endswith(self.heading)


def section(chunk: Chunk) -> str:
    """The heading path of a chunk as one line."""
    return " > ".join(chunk.context.headings)


def load_questions(file: Path) -> list[Question]:
    """The questions of a JSON file: a list of ``{"question", "document", "heading", "show"}``."""
    return [
        Question(values["question"], values.get("document"), values.get("heading", ""), bool(values.get("show")))
        for values in json.loads(file.read_text(encoding="utf-8"))
    ]


def derived_questions(chunks: Sequence[Chunk], count: int = 5) -> list[Question]:
    """Known-item questions for documents without written questions.

    A passage is looked for by the heading above it, in as many documents as there are; where there are no headings, by
    its first words. This shows how the parts work; it measures nothing.
    """
    by_document: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        by_document.setdefault(chunk.document_id, []).append(chunk)
    groups = list(by_document.values())
    questions: dict[str, Question] = {}
    for turn in range(count):
        for group in groups[:: max(1, len(groups) // count)]:
            headed = [chunk for chunk in group if chunk.context.headings] or group
            chunk = headed[(2 * turn + 1) * len(headed) // (2 * count)]
            words = (chunk.context.headings[-1] if chunk.context.headings else chunk.text).split()[:WORDS]
            text = f"What is said about {' '.join(words)}?" if chunk.context.headings else " ".join(words)
            question = Question(text, chunk.document_id, show=True, chunk=chunk.id)
            questions.setdefault(question.text, question)
            if len(questions) == count:
                return list(questions.values())
    return list(questions.values())
