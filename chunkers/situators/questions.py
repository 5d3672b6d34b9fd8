"""Questions that a chunk answers, written by a language model (doc2query)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from situate.chunkers.situators.generating import GeneratingSituator
from situate.errors import GenerationError, InputError
from situate.prompting import filled, lines
from situate.types import Context

INSTRUCTION = (
    "Write {count} different questions that this passage answers, in the words of somebody who does not know the "
    "document: name what the passage only refers to. One question a line. Answer with nothing else."
)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class QuestionSituator(GeneratingSituator):
    """Generated questions per chunk (doc2query, Nogueira et al. 2019; docTTTTTquery 2020).

    They become `Context.questions`, which the BM25 side reads by default: they hold the words that people ask with.

    Attributes:
        generator: The language model.
        instruction: The question about the chunk; ``{count}`` stands for the number.
        count: Questions per chunk, at most.
        limit: Characters of a question, at most.

    The other settings (``model``, ``window``, ``long_documents``, ``batch``, ``per_minute``, ``attempts``, ``backoff``,
    ``cache``, ``on_error``) are those of `GeneratingSituator`.

    Raises:
        InputError: A number is out of range, ``long_documents`` or ``on_error`` is not one of its choices, or there is
            a ``cache`` but no ``model``.
        StepError: On use with ``on_error="raise"``, where a chunk has no answer.
    """

    instruction: str = INSTRUCTION
    count: int = 3
    limit: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1 or self.limit < 1:
            raise InputError(f"count={self.count} and limit={self.limit} need to be 1 or more")
        object.__setattr__(self, "instruction", filled(self.instruction, count=str(self.count)))

    def fingerprint(self) -> dict[str, Any]:
        """The settings that decide the answers, as JSON values."""
        return super().fingerprint() | {"count": self.count, "limit": self.limit}

    def _read(self, answer: str) -> tuple[str, ...]:
        # A question mark tells questions from the sentences around them, in every script that has one.
        found = [line for line in lines(answer, 4 * self.count, self.limit) if line.endswith(("?", "？", "؟", ";"))]
        if not found:
            raise GenerationError("the model's answer holds no question")
        return tuple(found[: self.count])

    def _written(self, context: Context, value: tuple[str, ...]) -> Context:
        return replace(context, questions=value)
