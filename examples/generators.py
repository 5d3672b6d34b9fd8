"""Language models for the examples: answers from a file, or any server with an OpenAI-compatible interface."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from situate.chunkers import Prompt
from situate.errors import GenerationError
from situate.prompting import generation_error


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


class ChatEndpoint:
    """A `TextGenerator` over ``POST {url}/chat/completions`` (OpenAI, vLLM, llama.cpp, Ollama, ...).

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
        self.url = url.rstrip("/")
        self.model = model
        self.temperature = temperature
        self.timeout = timeout
        self.max_tokens = max_tokens
        self.concurrency = concurrency
        self.usage: Counter[str] = Counter()
        self._key = key

    @classmethod
    def from_environment(cls) -> ChatEndpoint | None:
        """The server of SITUATE_LLM_URL, SITUATE_LLM_MODEL and SITUATE_LLM_KEY; None without the first two."""
        url, model = os.environ.get("SITUATE_LLM_URL"), os.environ.get("SITUATE_LLM_MODEL")
        return cls(url, model, os.environ.get("SITUATE_LLM_KEY", "")) if url and model else None

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer per prompt, in order.

        Raises:
            GenerationError: The server refused, timed out or answered nothing that can be read.
        """
        return asyncio.run(self.agenerate(prompts))

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        """`generate` without blocking the event loop."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        gate = asyncio.Semaphore(self.concurrency)
        async with httpx.AsyncClient(timeout=self.timeout, headers=headers) as client:

            async def ask(prompt: Prompt) -> str:
                async with gate:
                    return await self._ask(client, prompt)

            return list(await asyncio.gather(*map(ask, prompts)))

    async def _ask(self, client: httpx.AsyncClient, prompt: Prompt) -> str:
        messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
        messages.append({"role": "user", "content": prompt.prefix + prompt.text})
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        try:
            response = await client.post(f"{self.url}/chat/completions", json=body)
            response.raise_for_status()
            values: Any = response.json()
            answer = str(values["choices"][0]["message"]["content"] or "")
            used = values.get("usage") or {}  # not every server counts
            self.usage.update({name: int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")})
            return answer
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise generation_error(f"the language model at {self.url} failed: {type(error).__name__}", error) from error
