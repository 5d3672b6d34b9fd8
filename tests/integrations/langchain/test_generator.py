"""LangChain models as situate's text generator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage

from situate.errors import GenerationError
from situate.integrations.langchain import LangChainGenerator
from situate.types import Prompt, StreamingGenerator, TextGenerator


class Seen(BaseCallbackHandler):
    """Notes a model's messages."""

    def __init__(self) -> None:
        self.messages: list[list[BaseMessage]] = []
        self.prompts: list[str] = []

    def on_chat_model_start(self, serialized: Any, messages: list[list[BaseMessage]], **_: Any) -> None:
        self.messages += messages

    def on_llm_start(self, serialized: Any, prompts: list[str], **_: Any) -> None:
        self.prompts += prompts


class Broken(FakeListChatModel):
    """A model whose provider quotes the key in its error."""

    def _call(self, *args: Any, **kwargs: Any) -> str:
        raise ConnectionError("no route to host, key sk-secret")


def test_chat_model() -> None:
    seen = Seen()
    model = FakeListChatModel(responses=["one"])
    generator = LangChainGenerator(model, config={"callbacks": [seen]})
    assert isinstance(generator, TextGenerator)
    assert generator.generate([Prompt("question", prefix="document ", system="be brief")]) == ["one"]
    (messages,) = seen.messages
    assert isinstance(messages[0], SystemMessage)
    assert [m.content for m in messages] == ["be brief", "document question"]


async def test_answers_stay_in_order() -> None:
    prompts = [Prompt(str(number)) for number in range(20)]

    class Echo(FakeListChatModel):
        def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
            return str(messages[-1].content)

    generator = LangChainGenerator(Echo(responses=["unused"]), max_concurrency=3)
    assert generator.generate(prompts) == [prompt.text for prompt in prompts]
    assert await generator.agenerate(prompts) == [prompt.text for prompt in prompts]


def test_prefix_as_a_block_of_its_own() -> None:
    seen = Seen()
    model = GenericFakeChatModel(messages=iter([AIMessage("answer")]))
    options = {"cache_control": {"type": "ephemeral"}}
    generator = LangChainGenerator(model, prefix_options=options, config={"callbacks": [seen]})
    assert generator.generate([Prompt("question", prefix="document")]) == ["answer"]
    assert seen.messages[0][0].content == [
        {"type": "text", "text": "document", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "question"},
    ]


def test_llm() -> None:
    seen = Seen()
    generator = LangChainGenerator(FakeListLLM(responses=["one"]), config={"callbacks": [seen]})
    assert generator.generate([Prompt("question", prefix="document ", system="be brief")]) == ["one"]
    assert seen.prompts == ["be brief\n\ndocument question"]


async def test_no_prompts_ask_nothing() -> None:
    generator = LangChainGenerator(Broken(responses=["never"]))
    assert generator.generate([]) == []
    assert await generator.agenerate([]) == []


async def test_failure_is_ours_and_holds_no_key() -> None:
    generator = LangChainGenerator(Broken(responses=["never"]))
    with pytest.raises(GenerationError, match="Broken failed on 1 prompts with ConnectionError") as sync:
        generator.generate([Prompt("question")])
    with pytest.raises(GenerationError) as native:
        await generator.agenerate([Prompt("question")])
    for raised in (sync, native):
        assert "sk-secret" not in str(raised.value)
        assert isinstance(raised.value.__cause__, ConnectionError)


async def test_cancelling_cancels_the_requests() -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    class Hanging(FakeListChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    task = asyncio.create_task(LangChainGenerator(Hanging(responses=["never"])).agenerate([Prompt("question")]))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


async def test_streams_piece_by_piece() -> None:
    generator = LangChainGenerator(FakeListChatModel(responses=["late"]))
    assert isinstance(generator, StreamingGenerator)
    assert list(generator.stream(Prompt("question"))) == ["l", "a", "t", "e"]
    assert [piece async for piece in generator.astream(Prompt("question"))] == ["l", "a", "t", "e"]
    broken = LangChainGenerator(FakeListChatModel(responses=["late"], error_on_chunk_number=2))
    for pieces in (broken.stream(Prompt("question")), broken.astream(Prompt("question"))):
        with pytest.raises(GenerationError, match="FakeListChatModelError"):
            list(pieces) if isinstance(pieces, Iterator) else [piece async for piece in pieces]
