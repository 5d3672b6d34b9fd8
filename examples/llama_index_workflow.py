"""LlamaIndex: a workflow that answers only where a passage is relevant, and says so where none is.

python -m examples.llama_index_workflow "How long is parental leave?"
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.schema import NodeWithScore
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step

from examples.stand_ins import stand_in_llm
from situate.integrations.llama_index import SituateReader, SituateRetriever

HANDBOOK = Path(__file__).parent / "documents"


class Found(Event):
    """Passages of enough relevance."""

    question: str
    passages: list[NodeWithScore]


class Ask(Workflow):
    """Retrieve, judge, answer."""

    def __init__(self, retriever: SituateRetriever, llm: LLM) -> None:
        super().__init__(timeout=120)
        self.retriever, self.llm = retriever, llm

    @step
    async def retrieve(self, event: StartEvent) -> Found | StopEvent:
        """Relevance means the same for every query, so one threshold serves all."""
        passages = [node for node in await self.retriever.aretrieve(event.question) if (node.score or 0) >= 0.5]
        if not passages:
            return StopEvent("Nothing relevant was found.")
        return Found(question=event.question, passages=passages)

    @step
    async def answer(self, event: Found) -> StopEvent:
        """The passages are numbered, so that the answer can cite them."""
        numbered = "\n\n".join(f"[{n}] {node.node.get_content()}" for n, node in enumerate(event.passages, 1))
        prompt = f"Answer the question from the passages, and cite them by number.\n\n{event.question}\n\n{numbered}"
        response = await self.llm.achat([ChatMessage(prompt)])
        return StopEvent(response.message.content)


async def ask(question: str, folder: Path = HANDBOOK, llm: LLM | None = None) -> str:
    """The answer of the workflow."""
    documents = SituateReader().load_data(folder)
    retriever = SituateRetriever.from_documents(documents, similarity_top_k=4, scores="relevance")
    return str(await Ask(retriever, llm or stand_in_llm()).run(question=question))


if __name__ == "__main__":
    print(asyncio.run(ask(sys.argv[1] if len(sys.argv) > 1 else "How long is parental leave?")))
