"""LlamaIndex: an index over a folder.

python -m examples.migration.llama_index_before "Who approves my expense claim?"
"""

from __future__ import annotations

import sys
from pathlib import Path

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from examples.migration.handbook import FOLDER, MODEL


def application(folder: Path = FOLDER) -> BaseRetriever:
    """The retriever over a folder's Markdown files."""
    documents = [Document(id_=file.name, text=file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.md"))]
    embed_model = HuggingFaceEmbedding(model_name=MODEL)
    vector_store = QdrantVectorStore(collection_name="handbook", client=QdrantClient(":memory:"))
    splitter = SentenceSplitter(chunk_size=200, chunk_overlap=20)
    index = VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=vector_store),
        transformations=[splitter],
        embed_model=embed_model,
    )
    return index.as_retriever(similarity_top_k=5)


if __name__ == "__main__":
    for found in application().retrieve(sys.argv[1] if len(sys.argv) > 1 else "Who approves my expense claim?"):
        print(f"{found.score:.3f}  {found.node.ref_doc_id}  {' '.join(found.node.get_content().split())[:80]}")
