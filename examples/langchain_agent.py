"""LangGraph: an agent that remembers the conversation, with the retriever as its tool.

python -m examples.langchain_agent "How long is parental leave?" "And who grants it?"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from examples.stand_ins import StandInChatModel
from situate.integrations.langchain import SituateEmbeddings, SituateLoader, SituateRetriever, situated_text

HANDBOOK = Path(__file__).parent / "documents"


def converse(
    questions: Sequence[str], folder: Path = HANDBOOK, model: BaseChatModel | None = None
) -> list[list[BaseMessage]]:
    """The conversation's messages after each question."""
    retriever = SituateRetriever.from_documents(SituateLoader(folder).load(), SituateEmbeddings(), settings={"k": 4})

    @tool
    def search_handbook(query: str) -> str:
        """Passages of the company's handbook that answer a question, numbered."""
        return "\n\n".join(f"[{n}] {situated_text(passage)}" for n, passage in enumerate(retriever.invoke(query), 1))

    speaker = (model or StandInChatModel()).bind_tools([search_handbook])

    def speak(state: MessagesState) -> dict[str, list[BaseMessage]]:
        return {"messages": [speaker.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("speak", speak)
    graph.add_node("tools", ToolNode([search_handbook]))
    graph.add_edge(START, "speak")
    graph.add_conditional_edges("speak", tools_condition)
    graph.add_edge("tools", "speak")
    # The memory keeps each conversation by its thread; a database in its place survives a restart.
    agent = graph.compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    return [agent.invoke({"messages": [HumanMessage(question)]}, thread)["messages"] for question in questions]


if __name__ == "__main__":
    for messages in converse(sys.argv[1:] or ["How long is parental leave?", "Who signs for a hotel above the limit?"]):
        print(messages[-1].text)
