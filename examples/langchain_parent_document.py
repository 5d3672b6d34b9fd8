"""LangChain: small chunks are searched, whole documents are returned (`ParentDocumentRetriever`).

python -m examples.langchain_parent_document "How long is parental leave?"
"""

from __future__ import annotations

import sys
from pathlib import Path

from langchain_classic.retrievers import ParentDocumentRetriever
from langchain_core.documents import Document
from langchain_core.stores import InMemoryStore

from situate.integrations.langchain import SituateEmbeddings, SituateLoader, SituateTextSplitter, SituateVectorStore

HANDBOOK = Path(__file__).parent / "documents"


def find(question: str, folder: Path = HANDBOOK) -> list[Document]:
    """The documents of the passages that answer best."""
    embeddings = SituateEmbeddings()
    splitter = SituateTextSplitter(embeddings)
    # The splitter writes the chunks' origins, so that the store embeds them with their documents in view.
    retriever = ParentDocumentRetriever(
        vectorstore=SituateVectorStore(embeddings),
        docstore=InMemoryStore(),
        child_splitter=splitter,
        search_kwargs={"k": 4},
    )
    retriever.add_documents(SituateLoader(folder).load())
    return retriever.invoke(question)


if __name__ == "__main__":
    for found in find(sys.argv[1] if len(sys.argv) > 1 else "How long is parental leave?"):
        print(found.metadata["source"], len(found.page_content), "characters")
