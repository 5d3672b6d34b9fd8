"""`LangChainGenerator`: a LangChain chat model or LLM as situate's `TextGenerator`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseLanguageModel, LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableConfig

from situate.errors import GenerationError, InputError
from situate.outside import safe_message
from situate.parameters import checked_parameters
from situate.prompting import generation_error
from situate.types import Prompt


@checked_parameters
@dataclass(frozen=True)
class LangChainGenerator:
    """Answers prompts with a LangChain model, several at a time.

    Attributes:
        model: A chat model or an LLM.
        max_concurrency: Requests at the same time.
        prefix_options: Further keys of the content block that holds a prompt's shared prefix, for providers that
            cache prefixes on demand (Anthropic: ``{"cache_control": {"type": "ephemeral"}}``). None sends prefix and
            text as one string, which providers that cache by themselves need.
        config: Further keys of LangChain's ``RunnableConfig`` (callbacks, tags).
    """

    model: BaseLanguageModel[Any]
    max_concurrency: int = 8
    prefix_options: Mapping[str, Any] | None = None
    config: RunnableConfig | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, BaseLanguageModel):
            raise InputError(
                f"model={self.model!r} is a {type(self.model).__name__}, not a chat model or an LLM of LangChain: give "
                "the object, not its name"
            )

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer per prompt, in order.

        Raises:
            GenerationError: The model failed. The message gives the cause without what looks like a key; the error
                itself is its ``__cause__``.
        """
        if not prompts:
            return []
        try:
            return (self.model | StrOutputParser()).batch([self._input(p) for p in prompts], self._config)
        except Exception as error:
            raise self._failed(len(prompts), error) from error

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        """`generate` without blocking the event loop; cancelling it cancels the requests."""
        if not prompts:
            return []
        try:
            return await (self.model | StrOutputParser()).abatch([self._input(p) for p in prompts], self._config)
        except Exception as error:
            raise self._failed(len(prompts), error) from error

    def stream(self, prompt: Prompt) -> Generator[str]:
        """The answer in pieces, none of them empty, as the model writes it; whole where the model does not stream.

        Raises:
            GenerationError: As in `generate`, at the start or in the middle of the answer.
        """
        try:
            yield from filter(None, (self.model | StrOutputParser()).stream(self._input(prompt), self._config))
        except Exception as error:
            raise self._failed(1, error) from error

    async def astream(self, prompt: Prompt) -> AsyncGenerator[str]:
        """`stream` without blocking the event loop."""
        try:
            async for piece in (self.model | StrOutputParser()).astream(self._input(prompt), self._config):
                if piece:
                    yield piece
        except Exception as error:
            raise self._failed(1, error) from error

    @property
    def _config(self) -> RunnableConfig:
        config: RunnableConfig = {"max_concurrency": self.max_concurrency}
        return {**self.config, **config} if self.config else config

    def _input(self, prompt: Prompt) -> LanguageModelInput:
        if not isinstance(self.model, BaseChatModel):
            return "\n\n".join(part for part in (prompt.system, prompt.prefix + prompt.text) if part)
        messages: list[BaseMessage] = [SystemMessage(prompt.system)] if prompt.system else []
        if prompt.prefix and self.prefix_options is not None:
            shared = {"type": "text", "text": prompt.prefix, **self.prefix_options}
            messages.append(HumanMessage([shared, {"type": "text", "text": prompt.text}]))
        else:
            messages.append(HumanMessage(prompt.prefix + prompt.text))
        return messages

    def _failed(self, prompts: int, error: Exception) -> GenerationError:
        message = (
            f"{type(self.model).__name__} failed on {prompts} prompts with {safe_message(error)}: retry, or use "
            "another model; HyDE, situators and rerankers can go on without (on_error)"
        )
        return generation_error(message, error)
