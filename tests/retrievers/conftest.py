"""Shared by the tests of a query's steps: a language model whose answers a test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from situate.retrievers.types import Hit
from situate.types import Chunk, Prompt


class Scripted:
    """A `TextGenerator` whose answers a test writes: a function of the prompt, or a list served in turn."""

    def __init__(self, answers: Callable[[Prompt], str] | Sequence[str]) -> None:
        self.answers = answers
        self.calls: list[list[Prompt]] = []

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        self.calls.append(list(prompts))
        if callable(self.answers):
            return [self.answers(prompt) for prompt in prompts]
        served = sum(len(call) for call in self.calls[:-1])
        return list(self.answers[served : served + len(prompts)])

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.generate(prompts)


@pytest.fixture(scope="session", autouse=True)
def held(loaded_once: list[Any]) -> list[Any]:
    """The real weights, which most modules use."""
    return loaded_once


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture
def hits() -> Callable[..., list[Hit]]:
    """Hits with the given texts, best first: scores fall from 1, each from a document of its own."""

    def build(*texts: str) -> list[Hit]:
        return [
            Hit(
                Chunk(f"chunk-{i}", f"document-{i}", 0, text, 0, len(text)),
                1.0 - i / (len(texts) + 1),
                {"search": 1.0 - i / (len(texts) + 1)},
            )
            for i, text in enumerate(texts)
        ]

    return build
