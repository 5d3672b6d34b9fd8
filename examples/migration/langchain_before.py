"""LangChain: a store over a folder.

python -m examples.migration.langchain_before "Who approves my expense claim?"
"""

from __future__ import annotations

import sys
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_qdrant import QdrantVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from examples.migration.handbook import FOLDER, MODEL


def application(folder: Path = FOLDER) -> BaseRetriever:
    """The retriever over a folder's Markdown files."""
    documents = [
        Document(id=file.name, page_content=file.read_text(encoding="utf-8"), metadata={"source": file.name})
        for file in sorted(folder.glob("*.md"))
    ]
    embeddings = HuggingFaceEmbeddings(model_name=MODEL)
    splitter = RecursiveCharacterTextSplitter(chunk_size=900, chunk_overlap=90, add_start_index=True)
    chunks = splitter.split_documents(documents)
    store = QdrantVectorStore.from_documents(chunks, embeddings, collection_name="handbook", location=":memory:")
    return store.as_retriever(search_kwargs={"k": 5})


if __name__ == "__main__":
    for found in application().invoke(sys.argv[1] if len(sys.argv) > 1 else "Who approves my expense claim?"):
        print(f"{found.metadata['source']}  {' '.join(found.page_content.split())[:80]}")
