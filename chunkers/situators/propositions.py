"""The statements of a chunk, each standing alone, written by a language model."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from situate.chunkers.sentences import sentence_spans
from situate.chunkers.situators.generating import GeneratingSituator
from situate.errors import GenerationError, InputError
from situate.parameters import checked_parameters
from situate.prompting import lines
from situate.types import Chunk, Context, Proposition

INSTRUCTION = (
    "Break the passage into simple statements. Each says one thing, is complete without the others, and names what "
    "pronouns and shortened names stand for. One statement a line. Answer with nothing else."
)
_WORD = re.compile(r"\w+")


@checked_parameters
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PropositionSituator(GeneratingSituator):
    """Propositions per chunk (Dense X Retrieval, Chen et al. 2023).

    They become `Context.propositions`, which the signal "propositions" compares with queries. Each keeps the span of
    the sentence that it shares most words with.

    Attributes:
        generator: The language model.
        instruction: The question about the chunk.
        count: Propositions per chunk, at most.
        limit: Characters of a proposition, at most.

    The other settings (``model``, ``window``, ``long_documents``, ``batch``, ``per_minute``, ``attempts``, ``backoff``,
    ``cache``, ``on_error``) are those of `GeneratingSituator`.

    Raises:
        InputError: A number is out of range, ``long_documents`` or ``on_error`` is not one of its choices, or there is
            a ``cache`` but no ``model``.
        StepError: On use with ``on_error="raise"``, where a chunk has no answer.
    """

    instruction: str = INSTRUCTION
    count: int = 20
    limit: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1 or self.limit < 1:
            raise InputError(f"count={self.count} and limit={self.limit} need to be 1 or more")

    def fingerprint(self) -> dict[str, Any]:
        """The settings that decide the answers, as JSON values."""
        return super().fingerprint() | {"count": self.count, "limit": self.limit}

    def _read(self, answer: str) -> tuple[str, ...]:
        found = lines(answer, self.count, self.limit)
        if not found:
            raise GenerationError("the model's answer holds no statement")
        return tuple(found)

    def _written(self, chunk: Chunk, value: tuple[str, ...]) -> Context:
        spans = sentence_spans(chunk.text) or [(0, len(chunk.text))]
        words = [_words(chunk.text[start:end]) for start, end in spans]
        made = []
        for text in value:
            own = _words(text)
            start, end = spans[max(range(len(spans)), key=lambda i: len(own & words[i]))]
            made.append(Proposition(text, chunk.start + start, chunk.start + end))
        return replace(chunk.context, propositions=tuple(made))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))
