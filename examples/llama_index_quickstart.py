"""LlamaIndex: a retriever over a folder and a reranker behind it, with situated chunks and hybrid search.

python -m examples.llama_index_quickstart "Who approves my expense claim?"

Chunks are situated as `PipelineConfig.fast`, the default, does it: their headings lead them, and their neighbours are
mixed into their vectors. `PipelineConfig.quality` (``config=...``) adds late chunking, among others.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llama_index.core import Document
from llama_index.core.schema import NodeWithScore

from situate.chunkers import read_documents
from situate.integrations.llama_index import LateInteractionRerank, SituateEmbedding, SituateRetriever

HANDBOOK = Path(__file__).parent / "documents"


def find(question: str, folder: Path = HANDBOOK) -> list[NodeWithScore]:
    """The three passages of the folder that answer the question best."""
    documents = [Document(id_=d.id, text=d.text, metadata=dict(d.metadata)) for d in read_documents(folder)]
    embed_model = SituateEmbedding()
    # ":memory:" by default; path="folder" keeps the index, and unchanged documents then cost a look-up.
    retriever = SituateRetriever.from_documents(documents, embed_model=embed_model, similarity_top_k=20)
    rerank = LateInteractionRerank(embed_model=embed_model, top_n=3)
    # Both go into any query engine: RetrieverQueryEngine.from_args(retriever, node_postprocessors=[rerank]).
    return rerank.postprocess_nodes(retriever.retrieve(question), query_str=question)


if __name__ == "__main__":
    for found in find(sys.argv[1] if len(sys.argv) > 1 else "Who approves my expense claim?"):
        print(f"{found.score:.3f}  {found.node.ref_doc_id}  {found.node.metadata['document_context']}")
        print(f"       {' '.join(found.node.get_content().split())[:120]}")
