"""LlamaIndex: small chunks are searched, embedded late, and where many of a section are found, the section is returned.

python -m examples.llama_index_auto_merging "How long is parental leave?"
"""

from __future__ import annotations

import sys
from pathlib import Path

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.node_parser import HierarchicalNodeParser, get_leaf_nodes
from llama_index.core.retrievers import AutoMergingRetriever
from llama_index.core.schema import NodeWithScore
from llama_index.core.storage.docstore import SimpleDocumentStore

from situate.integrations.llama_index import LateChunkingNodeParser, SituateEmbedding, SituateReader

HANDBOOK = Path(__file__).parent / "documents"


def find(question: str, folder: Path = HANDBOOK) -> list[NodeWithScore]:
    """Passages: chunks, and sections in place of their chunks."""
    embed_model = SituateEmbedding()
    # The hierarchy is LlamaIndex's; the vectors of its nodes are made with the whole document in view.
    levels = HierarchicalNodeParser.from_defaults(chunk_sizes=[512, 128], chunk_overlap=0)
    parser = LateChunkingNodeParser(embed_model=embed_model, splitter=levels)
    nodes = parser.get_nodes_from_documents(SituateReader().load_data(folder))
    docstore = SimpleDocumentStore()
    docstore.add_documents(nodes)
    storage = StorageContext.from_defaults(docstore=docstore)
    index = VectorStoreIndex(get_leaf_nodes(nodes), storage_context=storage, embed_model=embed_model)
    retriever = AutoMergingRetriever(index.as_retriever(similarity_top_k=8), storage)
    return retriever.retrieve(question)


if __name__ == "__main__":
    for found in find(sys.argv[1] if len(sys.argv) > 1 else "How long is parental leave?"):
        print(f"{found.score:.3f}  {' '.join(found.node.get_content().split())[:150]}")
