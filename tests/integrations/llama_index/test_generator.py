"""The adapter for language models: order, concurrency, cancellation, errors without secrets."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, MessageRole
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CustomLLM, MockLLM
from llama_index.core.settings import Settings

from situate.chunkers import Prompt, StreamingGenerator, TextGenerator
from situate.errors import GenerationError, InputError
from situate.integrations.llama_index import LlamaIndexGenerator


class GatedLLM(CustomLLM):
    """Answers asynchronously, when the gate opens."""

    api_key: str = "sk-very-secret"
    gate: Any = Field(default_factory=asyncio.Event)
    started: Any = Field(default_factory=lambda: asyncio.Semaphore(0))
    under_way: int = Field(default=0)
    most: int = Field(default=0)
    cancelled: int = Field(default=0)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="gated")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise ConnectionError(f"no answer with key {self.api_key}")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.started.release()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        if "fail" in prompt:
            raise ConnectionError(f"no answer with key {self.api_key}")
        return CompletionResponse(text=prompt.upper())


class ChatLLM(MockLLM):
    """A chat model that answers with the messages it got."""

    seen: list[Sequence[ChatMessage]] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="chat", is_chat_model=True)

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self.seen.append(messages)
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=str(kwargs)))


def test_is_a_text_generator(scripted: Any) -> None:
    assert isinstance(LlamaIndexGenerator(scripted(str.upper)), TextGenerator)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_answers_in_order(scripted: Any, concurrency: int) -> None:
    generator = LlamaIndexGenerator(scripted(str.upper), concurrency=concurrency)
    prompts = [Prompt(f"ask {i}", prefix="document ") for i in range(7)]
    wanted = [f"DOCUMENT ASK {i}" for i in range(7)]
    assert generator.generate(prompts) == wanted
    assert asyncio.run(generator.agenerate(prompts)) == wanted
    assert asyncio.run(generator.agenerate(prompts)) == wanted, "a second event loop"
    assert generator.generate([]) == []


async def test_a_synchronous_model_never_runs_on_the_event_loop(scripted: Any) -> None:
    model = scripted(str.upper)
    assert await LlamaIndexGenerator(model).agenerate([Prompt("a"), Prompt("b")]) == ["A", "B"]
    assert threading.get_ident() not in model.threads


def test_chat_models_get_messages() -> None:
    model = ChatLLM()
    generator = LlamaIndexGenerator(model, temperature=0.7)
    answers = generator.generate([Prompt("question", prefix="document\n", system="Be brief.")])
    assert answers == ["{'temperature': 0.7}"]
    [messages] = model.seen
    assert [(m.role, m.content) for m in messages] == [
        (MessageRole.SYSTEM, "Be brief."),
        (MessageRole.USER, "document\nquestion"),
    ]
    assert asyncio.run(generator.agenerate([Prompt("question")])) == answers


async def test_requests_are_limited_over_all_calls() -> None:
    model = GatedLLM()
    generator = LlamaIndexGenerator(model, concurrency=3)
    calls = [asyncio.create_task(generator.agenerate([Prompt(f"{i}{j}") for j in range(4)])) for i in range(2)]
    for _ in range(3):
        await model.started.acquire()
    model.gate.set()
    assert await asyncio.gather(*calls) == [[f"{i}{j}" for j in range(4)] for i in range(2)]
    assert model.most == 3


async def test_cancelling_cancels_the_requests() -> None:
    model = GatedLLM()
    task = asyncio.create_task(LlamaIndexGenerator(model, concurrency=2).agenerate([Prompt("a"), Prompt("b")]))
    for _ in range(2):
        await model.started.acquire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.cancelled == 2


async def test_a_failure_stops_the_others_and_names_no_key() -> None:
    model = GatedLLM()
    model.gate.set()
    generator = LlamaIndexGenerator(model)
    with pytest.raises(GenerationError, match="'gated' failed with ConnectionError") as failure:
        await generator.agenerate([Prompt("fail"), Prompt("b")])
    assert "secret" not in str(failure.value)
    with pytest.raises(GenerationError, match="ConnectionError") as failure:
        generator.generate([Prompt("a"), Prompt("b")])
    assert "secret" not in str(failure.value)
    assert "secret" not in repr(generator)


def test_the_settings_model_is_looked_up_at_the_call(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = LlamaIndexGenerator()
    monkeypatch.setattr(Settings, "_llm", scripted(str.upper))
    assert generator.generate([Prompt("late")]) == ["LATE"]
    assert repr(generator) == "LlamaIndexGenerator('Settings.llm', concurrency=8, settings={})"


def test_pickles() -> None:
    again = pickle.loads(pickle.dumps(LlamaIndexGenerator(MockLLM(max_tokens=2), concurrency=2)))
    assert again.concurrency == 2
    assert asyncio.run(again.agenerate([Prompt("x")])) == again.generate([Prompt("x")])


def test_concurrency_is_at_least_one() -> None:
    with pytest.raises(InputError, match="concurrency=0"):
        LlamaIndexGenerator(concurrency=0)


class StreamedLLM(MockLLM):
    """Streams asynchronously, and breaks off."""

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        async def pieces() -> Any:
            yield CompletionResponse(text="one", delta="one")
            yield CompletionResponse(text="one", delta="")
            raise ConnectionError("no route, key sk-secret")

        return pieces()


async def test_streams_piece_by_piece() -> None:
    # MockLLM answers with its prompt, word by word; it is a CustomLLM, whose async methods block
    generator = LlamaIndexGenerator(MockLLM())
    assert isinstance(generator, StreamingGenerator)
    pieces = list(generator.stream(Prompt("chunking", prefix="late ")))
    assert len(pieces) > 1
    assert "".join(pieces) == "late chunking"
    assert [piece async for piece in generator.astream(Prompt("chunking", prefix="late "))] == pieces
    broken = LlamaIndexGenerator(StreamedLLM()).astream(Prompt("question"))
    assert await anext(broken) == "one"
    with pytest.raises(GenerationError, match="ConnectionError") as failure:
        await anext(broken)
    assert "secret" not in str(failure.value)
