"""Chat models that need no server, for the examples: each repeats the first passage that it is shown, and cites it.

Put any chat model of the framework in their place (`OpenAI(...)`, `ChatOpenAI(...)`, `Ollama(...)`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM

_FIRST = re.compile(r"(?:Source 1:|\[1\])\s*(.+?)(?=\s+(?:Source 2:|\[2\])|\s*-{6}|\s*\Z)", re.DOTALL)
#: Headings, and metadata as LlamaIndex writes them.
_NO_SENTENCE = re.compile(r"#|\w+: ")


def first_passage(prompt: str) -> str:
    """The answer of both: the passage numbered 1 that stands last in the prompt, cited."""
    found = _FIRST.findall(prompt)
    lines = [line for line in found[-1].splitlines() if line and not _NO_SENTENCE.match(line)] if found else []
    return f"{' '.join(lines)} [1]" if lines else "The documents do not say."


def stand_in_llm() -> MockFunctionCallingLLM:
    """LlamaIndex: asks the first tool that it is offered, then repeats the first passage of its answer."""

    def answer(messages: Sequence[ChatMessage], tools: Any = None, **_: Any) -> ChatMessage:
        last = messages[-1]
        if tools and last.role != MessageRole.TOOL:
            call = ToolCallBlock(
                tool_call_id="1", tool_name=tools[0].metadata.name, tool_kwargs={"query": last.content}
            )
            return ChatMessage(role="assistant", blocks=[call])
        return ChatMessage(role="assistant", content=first_passage(str(last.content)))

    return MockFunctionCallingLLM(response_generator=answer, is_chat_model=True)


class StandInChatModel(BaseChatModel):
    """LangChain: asks the first tool that it is bound to, then repeats the first passage of its answer."""

    tool: str = ""

    @property
    def _llm_type(self) -> str:
        return "stand-in"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """The same model, which asks the first of the tools."""
        return self.model_copy(update={"tool": tools[0].name})

    def _reply(self, messages: Sequence[BaseMessage]) -> AIMessage:
        last = messages[-1]
        if self.tool and not isinstance(last, ToolMessage):
            return AIMessage("", tool_calls=[{"name": self.tool, "args": {"query": last.text}, "id": "1"}])
        return AIMessage(first_passage(last.text))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages)
        if reply.tool_calls:
            calls = [
                {"name": c["name"], "args": json.dumps(c["args"]), "id": c["id"], "index": 0} for c in reply.tool_calls
            ]
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=calls))
            return
        for word in re.findall(r"\S+\s*", reply.text):
            yield ChatGenerationChunk(message=AIMessageChunk(word))
