"""Language models that answer at once and tell what they were asked, and other things these tests share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CustomLLM


class ScriptedLLM(CustomLLM):
    """A completion model whose answers a function of the prompt gives; remembers prompts and threads."""

    _answer: Any = PrivateAttr()
    _prompts: list[str] = PrivateAttr(default_factory=list)
    _threads: set[int] = PrivateAttr(default_factory=set)

    def __init__(self, answer: Callable[[str], str], **fields: Any) -> None:
        super().__init__(**fields)
        self._answer = answer

    @property
    def prompts(self) -> Sequence[str]:
        return tuple(self._prompts)

    @property
    def threads(self) -> set[int]:
        return set(self._threads)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._prompts.append(prompt)
        self._threads.add(threading.get_ident())
        return CompletionResponse(text=self._answer(prompt))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        yield self.complete(prompt, formatted, **kwargs)


@pytest.fixture
def scripted() -> Callable[[Callable[[str], str]], ScriptedLLM]:
    """Makes a language model of a function from prompt to answer."""
    return ScriptedLLM
