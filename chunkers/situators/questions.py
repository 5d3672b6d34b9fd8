"""Questions that a chunk answers, written by a language model (doc2query)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from situate.chunkers.situators.answer_cache import AnswerCache
from situate.chunkers.situators.generating import GeneratingSituator, OnError
from situate.chunkers.situators.summarising import LongDocuments
from situate.errors import GenerationError, InputError
from situate.prompting import filled, lines
from situate.types import Context, TextGenerator

INSTRUCTION = (
    "Write {count} different questions that this passage answers, in the words of somebody who does not know the "
    "document: name what the passage only refers to. One question a line. Answer with nothing else."
)


class QuestionSituator(GeneratingSituator):
    """Generated questions per chunk (doc2query, Nogueira et al. 2019; docTTTTTquery 2020).

    They become `Context.questions`, which the BM25 side reads by default: they hold the words that people ask with.

    Args:
        generator: The language model.
        model: Its name, by which the cache tells models apart.
        count: Questions per chunk, at most.
        limit: Characters of a question, at most.
        instruction: What is asked about the chunk; ``{count}`` stands for the number.
        window: Characters of the document that are shown.
        long_documents: What leads where a document is longer: "window", the part around the chunk, or "summary".
        batch: Prompts handed to the generator at once.
        per_minute: Prompts per minute, at most; None for no limit.
        attempts: How often a prompt is sent before it has failed.
        backoff: Seconds before the second attempt, at most; the limit doubles each time.
        cache: A SQLite file in which answers are kept; None: nowhere.
        on_error: "degrade" or "raise".

    Raises:
        InputError: A number is out of range (``count``, ``limit``, ``window``, ``batch`` and ``attempts`` from 1,
            ``backoff`` from 0, ``per_minute`` above 0, ``window`` from 1,000 with ``long_documents="summary"``),
            ``long_documents`` or ``on_error`` is not one of its choices, or there is a ``cache`` but no ``model``.
        StepError: On use with ``on_error="raise"``, where a chunk is left without an answer.
    """

    def __init__(
        self,
        generator: TextGenerator,
        *,
        model: str = "",
        count: int = 3,
        limit: int = 200,
        instruction: str = INSTRUCTION,
        window: int = 24_000,
        long_documents: LongDocuments = "window",
        batch: int = 32,
        per_minute: float | None = None,
        attempts: int = 3,
        backoff: float = 1.0,
        cache: str | Path | AnswerCache | None = None,
        on_error: OnError = "degrade",
    ) -> None:
        if count < 1 or limit < 1:
            raise InputError(f"count={count} and limit={limit} need to be 1 or more")
        super().__init__(
            generator,
            model=model,
            instruction=filled(instruction, count=str(count)),
            window=window,
            long_documents=long_documents,
            batch=batch,
            per_minute=per_minute,
            attempts=attempts,
            backoff=backoff,
            cache=cache,
            on_error=on_error,
        )
        self.count = count
        self.limit = limit

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers, as JSON values."""
        return super().fingerprint() | {"count": self.count, "limit": self.limit}

    def _read(self, answer: str) -> tuple[str, ...]:
        # A question mark tells questions from the talk around them, in every script that has one.
        found = [line for line in lines(answer, 4 * self.count, self.limit) if line.endswith(("?", "？", "؟", ";"))]
        if not found:
            raise GenerationError("the model's answer holds no question")
        return tuple(found[: self.count])

    def _written(self, context: Context, value: tuple[str, ...]) -> Context:
        return replace(context, questions=value)
