"""LangChain components. Importing them loads neither a model library nor Qdrant's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from situate.chunkers._lazy import lazy_exports
from situate.chunkers.errors import MissingExtraError

if TYPE_CHECKING:
    from situate.integrations.langchain.chunking import LangChainChunker
    from situate.integrations.langchain.cross_encoder import SituateCrossEncoder
    from situate.integrations.langchain.document_index import SituateDocumentIndex
    from situate.integrations.langchain.documents import chunk_context, situated_text
    from situate.integrations.langchain.embeddings import SituateEmbeddings
    from situate.integrations.langchain.generator import LangChainGenerator
    from situate.integrations.langchain.hyde import HyDEEmbeddings, HyDERetriever
    from situate.integrations.langchain.rerankers import CrossEncoderReranker, LateInteractionReranker, SituateReranker
    from situate.integrations.langchain.retriever import SituateRetriever
    from situate.integrations.langchain.situated_context import SituatedContextTransformer
    from situate.integrations.langchain.splitter import SituateTextSplitter
    from situate.integrations.langchain.vectorstore import SituateVectorStore

__all__ = [
    "CrossEncoderReranker",
    "HyDEEmbeddings",
    "HyDERetriever",
    "LangChainChunker",
    "LangChainGenerator",
    "LateInteractionReranker",
    "SituateCrossEncoder",
    "SituateDocumentIndex",
    "SituateEmbeddings",
    "SituateReranker",
    "SituateRetriever",
    "SituateTextSplitter",
    "SituateVectorStore",
    "SituatedContextTransformer",
    "chunk_context",
    "situated_text",
]

_exported, __dir__ = lazy_exports(
    __name__,
    {
        "CrossEncoderReranker": "rerankers",
        "HyDEEmbeddings": "hyde",
        "HyDERetriever": "hyde",
        "LangChainChunker": "chunking",
        "LangChainGenerator": "generator",
        "LateInteractionReranker": "rerankers",
        "SituateCrossEncoder": "cross_encoder",
        "SituateDocumentIndex": "document_index",
        "SituateEmbeddings": "embeddings",
        "SituateReranker": "rerankers",
        "SituateRetriever": "retriever",
        "SituateTextSplitter": "splitter",
        "SituateVectorStore": "vectorstore",
        "SituatedContextTransformer": "situated_context",
        "chunk_context": "documents",
        "situated_text": "documents",
    },
)


def __getattr__(name: str) -> Any:
    try:
        return _exported(name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("langchain_core", "langchain_text_splitters"):
            raise
        raise MissingExtraError.of(package.replace("_", "-"), "langchain", f"{__name__}.{name}") from error
