"""A sentence per chunk that says where in the document it stands, written by a language model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from situate.chunkers.sentences import sentence_spans
from situate.chunkers.situators.answer_cache import AnswerCache
from situate.chunkers.situators.generating import GeneratingSituator, OnError
from situate.chunkers.situators.summarising import LongDocuments
from situate.errors import GenerationError, InputError
from situate.prompting import ANSWER_LIMIT, usable
from situate.types import Context, TextGenerator

INSTRUCTION = (
    "Write one or two short sentences that situate the passage in the whole document, so that a search for what it is "
    "about finds it: name what it speaks of, and what its pronouns and headings leave open. Answer with nothing else."
)


class LLMSituator(GeneratingSituator):
    """Contextual retrieval (Anthropic 2024): a language model situates each chunk in its document.

    The sentence becomes `Context.sentence`. It is one line of at most ``limit`` characters, kept apart from the
    chunk's text, and written from a prompt that holds no other document: whatever a hostile document makes the model
    say can only stand in front of that document's own chunks.

    Args:
        generator: The language model.
        model: Its name, by which the cache tells models apart.
        limit: Characters of the sentence, at most; a longer answer is cut after its last whole sentence that fits.
        instruction: What is asked about the chunk.
        window: Characters of the document that are shown.
        long_documents: What leads where a document is longer: "window", the part around the chunk, or "summary".
        batch: Prompts handed to the generator at once.
        per_minute: Prompts per minute, at most; None for no limit.
        attempts: How often a prompt is sent before it has failed.
        backoff: Seconds before the second attempt, at most; the limit doubles each time.
        cache: A SQLite file in which answers are kept; None: nowhere.
        on_error: "degrade" or "raise".

    Raises:
        InputError: A number is out of range (``limit``, ``window``, ``batch`` and ``attempts`` from 1, ``backoff`` from
            0, ``per_minute`` above 0, ``window`` from 1,000 with ``long_documents="summary"``), ``long_documents`` or
            ``on_error`` is not one of its choices, or there is a ``cache`` but no ``model``.
        StepError: On use with ``on_error="raise"``, where a chunk is left without an answer.
    """

    def __init__(
        self,
        generator: TextGenerator,
        *,
        model: str = "",
        limit: int = 400,
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
        super().__init__(
            generator,
            model=model,
            instruction=instruction,
            window=window,
            long_documents=long_documents,
            batch=batch,
            per_minute=per_minute,
            attempts=attempts,
            backoff=backoff,
            cache=cache,
            on_error=on_error,
        )
        if limit < 1:
            raise InputError(f"limit={limit}: a sentence needs room for at least 1 character")
        self.limit = limit

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers, as JSON values."""
        return super().fingerprint() | {"limit": self.limit}

    def _read(self, answer: str) -> str:
        texts = usable([answer], ANSWER_LIMIT).texts
        if not texts:
            raise GenerationError("the model's answer was empty or a refusal")
        line = " ".join(_unwrapped(texts[0]).split())
        if len(line) > self.limit:
            ends = [end for _, end in sentence_spans(line) if end <= self.limit]
            line = line[: ends[-1]] if ends else line[: self.limit].rsplit(" ", 1)[0]
        if not any(character.isalnum() for character in line):
            raise GenerationError("the model's answer was empty")
        return line

    def _written(self, context: Context, value: str) -> Context:
        return replace(context, sentence=value)


def _unwrapped(text: str) -> str:
    """The answer itself where a model put it into JSON, though nobody asked for that."""
    if not text.startswith(("{", "[", '"')):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise GenerationError("the model answered with data instead of a sentence")
    return value
