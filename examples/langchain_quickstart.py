"""LangChain: a retriever over a folder, with situated chunks, hybrid search and reranking.

python -m examples.langchain_quickstart "Who approves my expense claim?"

Chunks are situated as `PipelineConfig.fast` does it: their headings lead them, and their neighbours are mixed into
their vectors. `PipelineConfig.quality` adds late chunking, among others.
"""

from __future__ import annotations

import sys
from pathlib import Path

from langchain_core.documents import Document

from situate.chunkers import read_documents
from situate.integrations.langchain import SituateEmbeddings, SituateRetriever, chunk_context
from situate.retrievers import PipelineConfig
from situate.retrievers.rerank import LateInteractionReranker

HANDBOOK = Path(__file__).parent / "documents"


def find(question: str, folder: Path = HANDBOOK) -> list[Document]:
    """The three passages of the folder that answer the question best."""
    documents = [Document(id=d.id, page_content=d.text, metadata=dict(d.metadata)) for d in read_documents(folder)]
    embeddings = SituateEmbeddings()
    reranker = LateInteractionReranker(embeddings.embedder, context=("headings",))
    # ":memory:" by default; path="folder" keeps the index, and unchanged documents then cost a look-up.
    retriever = SituateRetriever.from_documents(
        documents,
        embeddings,
        config=PipelineConfig.fast(),
        settings={"k": 3, "candidates": 20, "rerankers": [reranker]},
    )
    return retriever.invoke(question)


if __name__ == "__main__":
    for passage in find(sys.argv[1] if len(sys.argv) > 1 else "Who approves my expense claim?"):
        print(f"{passage.metadata['relevance_score']:.3f}  {' > '.join(chunk_context(passage).headings)}")
        print(f"       {' '.join(passage.page_content.split())[:120]}")
