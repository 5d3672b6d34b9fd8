"""LlamaIndex: an index over a folder.

python -m examples.migration.llama_index_after "Who approves my expense claim?"
"""

from __future__ import annotations

import sys
from pathlib import Path

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever

from examples.migration.handbook import FOLDER, MODEL
from situate.integrations.llama_index import LateChunkingNodeParser, SituateEmbedding, SituateVectorStore


def application(folder: Path = FOLDER) -> BaseRetriever:
    """The retriever over a folder's Markdown files."""
    documents = [Document(id_=file.name, text=file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.md"))]
    embed_model = SituateEmbedding(model_name=MODEL)
    vector_store = SituateVectorStore(collection_name="handbook", path=":memory:")
    splitter = LateChunkingNodeParser(embed_model=embed_model)
    index = VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=vector_store),
        transformations=[splitter],
        embed_model=embed_model,
    )
    return index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=5)


if __name__ == "__main__":
    for found in application().retrieve(sys.argv[1] if len(sys.argv) > 1 else "Who approves my expense claim?"):
        print(f"{found.score:.3f}  {found.node.ref_doc_id}  {' '.join(found.node.get_content().split())[:80]}")
