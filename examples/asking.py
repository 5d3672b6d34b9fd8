"""The demo's questions, and the passage that answers each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from situate.chunkers import Chunk


@dataclass(frozen=True)
class Question:
    """A question, and where its answer stands.

    Attributes:
        text: The question.
        document: Id of the document that answers it; None where nobody knows.
        heading: The end of the answering section's heading path, joined by `` > ``.
        show: Whether its passages are shown in full.
    """

    text: str
    document: str | None = None
    heading: str = ""
    show: bool = False

    def is_answered_by(self, chunk: Chunk) -> bool:
        """Whether the chunk lies in the answering section."""
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
    """Known-item questions for documents that nobody wrote questions for.

    A section is looked for by its heading, one section of as many documents as there are; where there are no headings,
    a document is looked for by its first words. This shows how the parts work; it measures nothing.
    """
    by_document: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        by_document.setdefault(chunk.document_id, []).append(chunk)
    groups = list(by_document.values())
    questions: dict[str, Question] = {}
    for turn in range(count):
        for group in groups[:: max(1, len(groups) // count)]:
            headed = [chunk for chunk in group if chunk.context.headings]
            if headed:
                chunk = headed[(2 * turn + 1) * len(headed) // (2 * count)]
                text = f"What is said about {chunk.context.headings[-1]}?"
                question = Question(text, chunk.document_id, section(chunk), show=True)
            elif turn == 0:
                question = Question(" ".join(group[0].text.split()[:12]), group[0].document_id, show=True)
            else:
                continue
            questions.setdefault(question.text, question)
            if len(questions) == count:
                return list(questions.values())
    return list(questions.values())
