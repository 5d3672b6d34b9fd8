"""Retrieval that keeps a chunk's meaning in its document, for LlamaIndex and LangChain, on Qdrant.

The names here are those that most programs need; each room offers the rest:

- `situate.chunkers`: a document's text -> chunks, and the words that situate them
- `situate.embedders`: text and spans -> vectors
- `situate.retrievers`: vectors in Qdrant, and the query pipeline
- `situate.integrations.llama_index`, `situate.integrations.langchain`: the frameworks' own classes over these
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.chunkers.readers.files import read_documents as read_documents
    from situate.embedders.embedder import Embedder as Embedder
    from situate.embedders.types import ChunkScheme as ChunkScheme
    from situate.errors import SituateError as SituateError
    from situate.retrievers.config import PipelineConfig as PipelineConfig
    from situate.retrievers.expand.hyde import Hyde as Hyde
    from situate.retrievers.index.index import Index as Index
    from situate.retrievers.rerank.cross_encoder import CrossEncoderReranker as CrossEncoderReranker
    from situate.retrievers.retriever import Retriever as Retriever
    from situate.retrievers.storage.connect import connect as connect
    from situate.types import Chunk as Chunk, Document as Document

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.chunkers.readers.files": ("read_documents",),
        "situate.embedders.embedder": ("Embedder",),
        "situate.embedders.types": ("ChunkScheme",),
        "situate.errors": ("SituateError",),
        "situate.retrievers.config": ("PipelineConfig",),
        "situate.retrievers.expand.hyde": ("Hyde",),
        "situate.retrievers.index.index": ("Index",),
        "situate.retrievers.rerank.cross_encoder": ("CrossEncoderReranker",),
        "situate.retrievers.retriever": ("Retriever",),
        "situate.retrievers.storage.connect": ("connect",),
        "situate.types": ("Chunk", "Document"),
    },
)
