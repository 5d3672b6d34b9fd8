"""LangChain: a store over a folder.

python -m examples.migration.langchain_after "Who approves my expense claim?"
"""

from __future__ import annotations

import sys
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from examples.migration.handbook import FOLDER, MODEL
from situate.integrations.langchain import SituateEmbeddings, SituateTextSplitter, SituateVectorStore


def application(folder: Path = FOLDER) -> BaseRetriever:
    """The retriever over a folder's Markdown files."""
    documents = [
        Document(id=file.name, page_content=file.read_text(encoding="utf-8"), metadata={"source": file.name})
        for file in sorted(folder.glob("*.md"))
    ]
    embeddings = SituateEmbeddings(model_name=MODEL)
    splitter = SituateTextSplitter(embeddings)
    chunks = splitter.split_documents(documents)
    store = SituateVectorStore.from_documents(chunks, embeddings, collection_name="handbook", path=":memory:")
    return store.as_retriever(search_kwargs={"k": 5})


if __name__ == "__main__":
    for found in application().invoke(sys.argv[1] if len(sys.argv) > 1 else "Who approves my expense claim?"):
        print(f"{found.metadata['source']}  {' '.join(found.page_content.split())[:80]}")
