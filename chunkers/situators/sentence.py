"""A sentence per chunk that says where in the document it stands, written by a language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from situate.chunkers.sentences import sentence_spans
from situate.chunkers.situators.generating import GeneratingSituator
from situate.errors import GenerationError, InputError
from situate.outside import load_json
from situate.parameters import checked_parameters
from situate.prompting import ANSWER_LIMIT, usable
from situate.types import Chunk, Context

INSTRUCTION = (
    "Write one or two short sentences that situate the passage in the whole document, so that a search for what it is "
    "about finds it: name what it speaks of, and what its pronouns and headings leave open. Answer with nothing else."
)


@checked_parameters
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LLMSituator(GeneratingSituator):
    """Contextual retrieval (Anthropic 2024): a language model situates each chunk in its document.

    The sentence becomes `Context.sentence`. It is one line of at most ``limit`` characters, kept apart from the
    chunk's text, and written from a prompt that holds no other document: a hostile document can only change what
    stands in front of its own chunks.

    Attributes:
        generator: The language model.
        instruction: The question about the chunk.
        limit: Characters of the sentence, at most; a longer answer is cut after its last whole sentence that fits.

    The other settings (``model``, ``window``, ``long_documents``, ``batch``, ``per_minute``, ``attempts``, ``backoff``,
    ``cache``, ``on_error``) are those of `GeneratingSituator`.

    Raises:
        InputError: A number is out of range, ``long_documents`` or ``on_error`` is not one of its choices, or there is
            a ``cache`` but no ``model``.
        StepError: On use with ``on_error="raise"``, where a chunk has no answer.
    """

    instruction: str = INSTRUCTION
    limit: int = 400

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit < 1:
            raise InputError(f"limit={self.limit}: a sentence needs room for at least 1 character")

    def fingerprint(self) -> dict[str, Any]:
        """The settings that decide the answers, as JSON values."""
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

    def _written(self, chunk: Chunk, value: str) -> Context:
        return replace(chunk.context, sentence=value)


def _unwrapped(text: str) -> str:
    """The answer itself where a model wrapped it in JSON unasked."""
    if not text.startswith(("{", "[", '"')):
        return text
    try:
        value = load_json(text, "the model's answer", GenerationError)
    except GenerationError as error:
        if isinstance(error.__cause__, ValueError):  # no JSON: a sentence that begins with a bracket or a quote
            return text
        raise
    except RecursionError as error:
        raise GenerationError("the model answered with deeply nested data instead of a sentence") from error
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise GenerationError("the model answered with data instead of a sentence")
    return value
