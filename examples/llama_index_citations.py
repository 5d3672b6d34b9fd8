"""LlamaIndex: a query engine whose answer cites numbered passages, each with its page.

python -m examples.llama_index_citations "How long is parental leave?"
"""

from __future__ import annotations

import sys
from pathlib import Path

from llama_index.core.llms import LLM
from llama_index.core.query_engine import CitationQueryEngine

from examples.stand_ins import stand_in_llm
from situate.integrations.llama_index import SituateReader, SituateRetriever, passage_where

HANDBOOK = Path(__file__).parent / "documents"


def answer(question: str, folder: Path = HANDBOOK, llm: LLM | None = None) -> tuple[str, list[str]]:
    """The answer, and where each of its sources stands: document, headings, page."""
    retriever = SituateRetriever.from_documents(SituateReader().load_data(folder), similarity_top_k=4)
    engine = CitationQueryEngine.from_args(
        None,  # type: ignore[arg-type]  # asks for an index, and uses the retriever
        llm=llm or stand_in_llm(),
        retriever=retriever,
        citation_chunk_size=2048,  # passages stay whole, so that each number is one
    )
    response = engine.query(question)
    places = [str(passage_where(node)) for node in response.source_nodes]
    return str(response), places


if __name__ == "__main__":
    text, sources = answer(sys.argv[1] if len(sys.argv) > 1 else "How long is parental leave?")
    print(text)
    for number, place in enumerate(sources, 1):
        print(f"[{number}] {place}")
