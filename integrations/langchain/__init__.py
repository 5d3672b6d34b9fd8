"""LangChain components. Importing them loads neither a model library nor Qdrant's client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.integrations.langchain.chunking import LangChainChunker
    from situate.integrations.langchain.documents import chunk_context, situated_text
    from situate.integrations.langchain.embeddings import SituateEmbeddings
    from situate.integrations.langchain.generator import LangChainGenerator
    from situate.integrations.langchain.splitter import SituateTextSplitter
    from situate.integrations.langchain.vectorstore import SituateVectorStore

__all__ = [
    "LangChainChunker",
    "LangChainGenerator",
    "SituateEmbeddings",
    "SituateTextSplitter",
    "SituateVectorStore",
    "chunk_context",
    "situated_text",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "LangChainChunker": "chunking",
        "LangChainGenerator": "generator",
        "SituateEmbeddings": "embeddings",
        "SituateTextSplitter": "splitter",
        "SituateVectorStore": "vectorstore",
        "chunk_context": "documents",
        "situated_text": "documents",
    },
)
