"""Language models that answer at once and keep their prompts, and other shared fixtures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import CustomLLM

from situate.integrations.llama_index import SituateEmbedding

T = TypeVar("T")


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


class Collector(BaseEventHandler):
    """Keeps every instrumentation event."""

    _events: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Collector"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self._events.append(event)

    def of(self, name: str) -> list[Any]:
        """The events of the class ``name``, in order."""
        return [event for event in self._events if event.class_name() == name]

    def embedded(self) -> list[str]:
        """Every text that an embedding model got by itself, and not within its document."""
        texts: list[str] = []
        late = False
        for event in self._events:
            if event.class_name() == "EmbeddingStartEvent":
                late = event.model_dict.get("late_chunking", False)
            elif event.class_name() == "EmbeddingEndEvent" and not late:
                texts += event.chunks
        return texts


@pytest.fixture
def events() -> Iterator[Collector]:
    """The events of LlamaIndex's instrumentation during the test."""
    collector, dispatcher = Collector(), get_dispatcher()
    dispatcher.add_event_handler(collector)
    yield collector
    dispatcher.event_handlers.remove(collector)


@pytest.fixture(scope="session")
def embed_model() -> SituateEmbedding:
    """The real weights."""
    return SituateEmbedding(device="cpu", dtype="float32")


@pytest.fixture
def ticking() -> Callable[[Awaitable[T]], Awaitable[tuple[T, int]]]:
    """Awaits something beside a task that counts how often the event loop comes around."""

    async def run(work: Awaitable[T]) -> tuple[T, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.0005)
                ticks += 1

        ticker = asyncio.create_task(tick())
        try:
            return await work, ticks
        finally:
            ticker.cancel()

    return run
