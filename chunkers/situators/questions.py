"""Questions that a chunk answers, written by a language model (doc2query)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from situate.chunkers.sentences import is_question
from situate.chunkers.situators.generating import GeneratingSituator
from situate.errors import GenerationError, InputError
from situate.parameters import checked_parameters
from situate.prompting import filled, lines
from situate.types import Chunk, Context

INSTRUCTION = (
    "Write {count} different questions that this passage answers, in the words of somebody who does not know the "
    "document: name what the passage only refers to. One question a line. Answer with nothing else."
)
#: Between a question and its answer, on one line.
_ANSWER = "=>"
#: What a question may be about, as the model is told.
_LEVELS: Mapping[str, str] = MappingProxyType(
    {
        "sentence": "about a detail that a single sentence of the passage tells",
        "passage": "about what the passage says as a whole",
        "topic": "about the subject of the document to which the passage belongs",
    }
)
_LEVEL = re.compile(r"\s*(?:[-*]\s*)?\[?(sentence|passage|topic)\s*(?:\d+\s*)?[\]:]+\s*", re.IGNORECASE)
_LEVEL_LENGTH = 20


@checked_parameters
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class QuestionSituator(GeneratingSituator):
    """Generated questions per chunk (doc2query, Nogueira et al. 2019; docTTTTTquery 2020).

    They become `Context.questions`, which the BM25 side reads by default: they hold the words that people ask with.

    Attributes:
        generator: The language model.
        instruction: The question about the chunk; ``{count}`` stands for the number.
        count: Questions per chunk, at most; of each language and each level, where there are several.
        limit: Characters of a question (and of an answer), at most.
        languages: Languages to ask in, by name ("German"), for people who ask in another one than documents are written
            in (xQG); empty for the instruction's own.
        levels: What questions are about: "sentence" (a detail that one sentence tells), "passage" (what it says as a
            whole), "topic" (its document's subject, to which it belongs), ``count`` of each (FinCPRG, Xu et al. 2024);
            empty for the instruction's own. `Context.levels` tells which a question is.
        answers: Also write each question's answer, as `Context.answers`: a hit by a question then carries its answer
            (QA-Memory, Chen et al. 2023).

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
    languages: Sequence[str] = ()
    answers: bool = False
    levels: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1 or self.limit < 1:
            raise InputError(f"count={self.count} and limit={self.limit} need to be 1 or more")
        if isinstance(self.languages, str):
            raise InputError(f"languages={self.languages!r} is one text: give a list of names, ['{self.languages}']")
        if isinstance(self.levels, str) or not set(self.levels) <= _LEVELS.keys():
            raise InputError(f"levels={self.levels!r}: give a list of {', '.join(map(repr, _LEVELS))}")
        # An instruction that was pickled is complete already, and what it is completed with is part of it.
        instruction = filled(self.instruction, count=str(self.count))
        for more in self._more():
            if more not in instruction:
                instruction += f" {more}"
        object.__setattr__(self, "instruction", instruction)

    def fingerprint(self) -> dict[str, Any]:
        """The settings that decide the answers, as JSON values."""
        return super().fingerprint() | {"count": self.count, "limit": self.limit}

    def _more(self) -> list[str]:
        """Sentences of the instruction for what is asked for beyond questions."""
        more = []
        if self.languages:
            more.append(f"Write {self.count} in each of these languages: {', '.join(self.languages)}.")
        if self.levels:
            about = "; ".join(f"[{level}] {_LEVELS[level]}" for level in self.levels)
            more.append(
                f"Write {self.count} of each of these kinds, its name in brackets at the head of a line: {about}."
            )
        if self.answers:
            more.append(f"Behind each question, on its line, write {_ANSWER} and its short answer from the passage.")
        return more

    def _read(self, answer: str) -> tuple[tuple[str, str, str], ...]:
        """Questions, their answers and levels; "" for none."""
        count = self.count * max(1, len(self.languages)) * max(1, len(self.levels))
        limit = self.limit if not self.answers else 2 * self.limit + len(_ANSWER)
        found = []
        for line in lines(answer, 4 * count, limit + (_LEVEL_LENGTH if self.levels else 0)):
            level = ""
            if self.levels and (named := _LEVEL.match(line)) is not None:
                level, line = named[1].lower(), line[named.end() :]
            question, _, reply = (part.strip() for part in line.partition(_ANSWER)) if self.answers else (line, "", "")
            if is_question(question):
                found.append((question, reply, level if level in self.levels else ""))
        if not found:
            raise GenerationError("the model's answer holds no question")
        return tuple(found[:count])

    def _written(self, chunk: Chunk, value: tuple[tuple[str, str, str], ...]) -> Context:
        questions = tuple(question for question, _, _ in value)
        answers = tuple(reply for _, reply, _ in value) if self.answers else ()
        levels = tuple(level for _, _, level in value) if self.levels else ()
        return replace(chunk.context, questions=questions, answers=answers, levels=levels)
