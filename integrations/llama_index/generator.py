"""`LlamaIndexGenerator`: a LlamaIndex language model as situate's `TextGenerator`."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import re
import weakref
from collections.abc import AsyncGenerator, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llama_index.core.llms import LLM, ChatMessage, CustomLLM, MessageRole
from llama_index.core.settings import Settings

from situate.errors import GenerationError, InputError
from situate.integrations._shared.origin import digest
from situate.outside import safe_message
from situate.prompting import generation_error
from situate.types import Prompt, TextGenerator

# Fields of language models that may hold a key.
_SECRET = re.compile(r"key$|secret|password|credential|header|auth|(?<!max_)(?<!num_)tokens?$", re.I)


class LlamaIndexGenerator:
    """Answers prompts with a LlamaIndex language model, several at a time.

    A prompt's ``prefix`` is the beginning of the message, so that providers which cache common beginnings can.

    Args:
        llm: The model; None: ``Settings.llm`` at the time of the call.
        concurrency: Requests at the same time, of all calls on this object together (per event loop).
        settings: Passed on with every request (``temperature=0.7``, ``max_tokens=120``, ...).

    Raises:
        InputError: ``concurrency`` is less than 1.
    """

    def __init__(self, llm: LLM | None = None, *, concurrency: int = 8, **settings: Any) -> None:
        if concurrency < 1:
            raise InputError(f"concurrency={concurrency}: at least one request has to run, so give 1 or more")
        self._llm = llm
        self.concurrency = concurrency
        self.settings = settings
        self._gates = _gates()

    def __repr__(self) -> str:
        # Never the model's own repr: it may show an API key.
        name = self._llm.metadata.model_name if self._llm is not None else "Settings.llm"
        settings = {name: value for name, value in self.settings.items() if not _SECRET.search(name)}
        return f"LlamaIndexGenerator({name!r}, concurrency={self.concurrency}, settings={settings!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_gates"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._gates = _gates()

    def configuration(self) -> dict[str, Any]:
        """The model and its settings without keys, as JSON values, for the key of a cache of its answers."""
        llm = self.llm
        fields = {name: value for name, value in llm.to_dict().items() if isinstance(value, str | int | float | None)}
        fields = {name: value for name, value in fields.items() if not _SECRET.search(name)}
        settings = {**llm.metadata.model_dump(mode="json"), **fields, **self.settings}
        return {
            "llm": type(llm).__qualname__,
            "settings": digest(json.dumps(settings, sort_keys=True, default=repr))[:16],
        }

    @property
    def llm(self) -> LLM:
        """The language model."""
        return self._llm if self._llm is not None else Settings.llm

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer per prompt, in order.

        Raises:
            GenerationError: The model failed.
        """
        if len(prompts) < 2 or self.concurrency == 1:
            return [self._answer(prompt) for prompt in prompts]
        # Callbacks and spans find their parents through context variables, so each thread works in a copy.
        contexts = [contextvars.copy_context() for _ in prompts]
        with ThreadPoolExecutor(min(self.concurrency, len(prompts)), "situate-llm") as pool:
            answers = [
                pool.submit(context.run, self._answer, prompt)
                for context, prompt in zip(contexts, prompts, strict=True)
            ]
            try:
                return [answer.result() for answer in answers]
            except BaseException:
                # After any error, an interrupt included, the remaining prompts are not sent.
                for answer in answers:
                    answer.cancel()
                raise

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        """`generate` without blocking the event loop; cancelling it cancels the requests."""
        gate = self._gates.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.concurrency))

        async def answer(prompt: Prompt) -> str:
            async with gate:
                return await self._aanswer(prompt)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(prompt)) for prompt in prompts]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    def stream(self, prompt: Prompt) -> Generator[str]:
        """The answer in pieces, none of them empty, as the model writes it.

        Raises:
            GenerationError: The model failed, at the start or in the middle of its answer.
        """
        llm = self.llm
        try:
            if llm.metadata.is_chat_model:
                for message in llm.stream_chat(_messages(prompt), **self.settings):
                    if message.delta:
                        yield message.delta
            else:
                for text in llm.stream_complete(_completion(prompt), **self.settings):
                    if text.delta:
                        yield text.delta
        except Exception as error:
            raise _failed(llm, error) from error

    async def astream(self, prompt: Prompt) -> AsyncGenerator[str]:
        """`stream` without blocking the event loop."""
        llm = self.llm
        if _blocks(llm, stream=True):
            pieces = self.stream(prompt)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
            return
        try:
            if llm.metadata.is_chat_model:
                async for message in await llm.astream_chat(_messages(prompt), **self.settings):
                    if message.delta:
                        yield message.delta
            else:
                async for text in await llm.astream_complete(_completion(prompt), **self.settings):
                    if text.delta:
                        yield text.delta
        except Exception as error:
            raise _failed(llm, error) from error

    def _answer(self, prompt: Prompt) -> str:
        llm = self.llm
        try:
            if llm.metadata.is_chat_model:
                return llm.chat(_messages(prompt), **self.settings).message.content or ""
            return llm.complete(_completion(prompt), **self.settings).text
        except Exception as error:
            raise _failed(llm, error) from error

    async def _aanswer(self, prompt: Prompt) -> str:
        llm = self.llm
        if _blocks(llm):
            return await asyncio.to_thread(self._answer, prompt)
        try:
            if llm.metadata.is_chat_model:
                return (await llm.achat(_messages(prompt), **self.settings)).message.content or ""
            return (await llm.acomplete(_completion(prompt), **self.settings)).text
        except Exception as error:
            raise _failed(llm, error) from error


def as_generator(llm: LLM | TextGenerator | None, **settings: Any) -> TextGenerator:
    """A language model of either kind as a `TextGenerator`; None: ``Settings.llm`` at the time of the call.

    Raises:
        InputError: It is neither (the name of a model, say).
    """
    if llm is None or isinstance(llm, LLM):
        return LlamaIndexGenerator(llm, **settings)
    if isinstance(llm, TextGenerator):
        return llm
    raise InputError(
        f"llm={llm!r} is a {type(llm).__name__}: give a LlamaIndex language model (an object, not its name) or a "
        "situate TextGenerator"
    )


def _gates() -> weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]:
    return weakref.WeakKeyDictionary()


def _blocks(llm: LLM, *, stream: bool = False) -> bool:
    """Whether the model's async method is CustomLLM's: the synchronous one, on the event loop."""
    name = ("astream_" if stream else "a") + ("chat" if llm.metadata.is_chat_model else "complete")
    # Unwrapped, because LlamaIndex wraps the methods of each subclass anew.
    return isinstance(llm, CustomLLM) and (
        inspect.unwrap(getattr(type(llm), name)) is inspect.unwrap(getattr(CustomLLM, name))
    )


def _messages(prompt: Prompt) -> list[ChatMessage]:
    system = [ChatMessage(role=MessageRole.SYSTEM, content=prompt.system)] if prompt.system else []
    return [*system, ChatMessage(role=MessageRole.USER, content=prompt.prefix + prompt.text)]


def _completion(prompt: Prompt) -> str:
    return "\n\n".join(part for part in (prompt.system, prompt.prefix + prompt.text) if part)


def _failed(llm: LLM, error: Exception) -> GenerationError:
    # Providers repeat keys in their messages: text that looks like one is removed.
    message = (
        f"the language model {llm.metadata.model_name!r} failed with {safe_message(error)}: retry, or use another model"
    )
    return generation_error(message, error)
