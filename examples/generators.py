"""Language models for the examples: answers from a file, or any server with an OpenAI-compatible interface."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from situate.chunkers import Prompt
from situate.embedders import HttpSettings, OpenAIGenerator
from situate.errors import GenerationError


class CannedAnswers:
    """A `TextGenerator` that reads its answers from a file: they were written beforehand, by people.

    It stands in for a language model where none is configured, for the questions that the file knows.

    Args:
        answers: Question -> hypothetical answers.
    """

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        self.answers = answers

    @classmethod
    def load(cls, file: Path) -> CannedAnswers:
        """From a JSON object of lists."""
        return cls(json.loads(file.read_text(encoding="utf-8")))

    def knows(self, question: str) -> bool:
        """Whether there is an answer."""
        return question in self.answers

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer per prompt, in order."""
        return [self._answer(prompt, number) for number, prompt in enumerate(prompts)]

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        """`generate`, which does not block."""
        return self.generate(prompts)

    def _answer(self, prompt: Prompt, number: int) -> str:
        for question, answers in self.answers.items():
            if question in prompt.text:
                return answers[number % len(answers)]
        raise GenerationError("no answer was written for this question: configure a language model")


class ChatEndpoint(OpenAIGenerator):
    """An `OpenAIGenerator` that counts tokens, with the settings of HyDE's paper.

    Args:
        url: The server's base, such as ``http://localhost:11434/v1``.
        model: The model's name there.
        key: The API key, if any; it is in no repr and no error.
        temperature: 0.7 as in HyDE's paper, so that drafts differ.
        timeout: Seconds for one answer.
        max_tokens: Length of an answer, at most.
        concurrency: Requests of one call at the same time. On a server that answers one after the other the rest waits,
            and its timeout runs.

    Attributes:
        usage: Tokens of all answers so far, as the server counted them ("prompt_tokens", "completion_tokens").
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str = "",
        *,
        temperature: float = 0.7,
        timeout: float = 60.0,
        max_tokens: int = 300,
        concurrency: int = 8,
    ) -> None:
        http = HttpSettings(
            url, api_key=key or None, timeout=timeout, concurrency=concurrency, retries=0, key_over_http=True
        )
        super().__init__(model, http, temperature=temperature, max_tokens=max_tokens)
        self.usage: Counter[str] = Counter()

    @classmethod
    def from_environment(cls) -> ChatEndpoint | None:
        """The server of SITUATE_LLM_URL, SITUATE_LLM_MODEL and SITUATE_LLM_KEY; None without the first two."""
        url, model = os.environ.get("SITUATE_LLM_URL"), os.environ.get("SITUATE_LLM_MODEL")
        return cls(url, model, os.environ.get("SITUATE_LLM_KEY", "")) if url and model else None

    def _text(self, answer: Any, *, streamed: bool = False) -> str:
        text = super()._text(answer, streamed=streamed)
        used = answer.get("usage") or {}  # not every server counts
        self.usage.update({name: int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")})
        return text
