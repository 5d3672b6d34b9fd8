"""LangChain components. Importing them loads neither a model library nor Qdrant's client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.integrations.langchain.cache import SituateCache as SituateCache
    from situate.integrations.langchain.configuration import from_config as from_config
    from situate.integrations.langchain.document_index import SituateDocumentIndex as SituateDocumentIndex
    from situate.integrations.langchain.documents import (
        chunk_context as chunk_context,
        join_pages as join_pages,
        passage_highlight as passage_highlight,
        passage_where as passage_where,
        situated_text as situated_text,
    )
    from situate.integrations.langchain.embeddings import SituateEmbeddings as SituateEmbeddings
    from situate.integrations.langchain.generator import LangChainGenerator as LangChainGenerator
    from situate.integrations.langchain.highlight import SituateHighlighter as SituateHighlighter
    from situate.integrations.langchain.hyde import HyDEEmbeddings as HyDEEmbeddings, HyDERetriever as HyDERetriever
    from situate.integrations.langchain.loader import SituateLoader as SituateLoader
    from situate.integrations.langchain.rerankers import (
        CrossEncoderReranker as CrossEncoderReranker,
        LateInteractionReranker as LateInteractionReranker,
        SituateCrossEncoder as SituateCrossEncoder,
        SituateReranker as SituateReranker,
    )
    from situate.integrations.langchain.retriever import (
        SITUATED_PROMPT as SITUATED_PROMPT,
        SituateRetriever as SituateRetriever,
        create_situated_tool as create_situated_tool,
    )
    from situate.integrations.langchain.searching import SituateTranslator as SituateTranslator
    from situate.integrations.langchain.situated_context import SituatedContextTransformer as SituatedContextTransformer
    from situate.integrations.langchain.splitter import (
        LangChainChunker as LangChainChunker,
        SituateTextSplitter as SituateTextSplitter,
    )
    from situate.integrations.langchain.vectorstore import SituateVectorStore as SituateVectorStore

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.integrations.langchain.cache": ("SituateCache",),
        "situate.integrations.langchain.configuration": ("from_config",),
        "situate.integrations.langchain.document_index": ("SituateDocumentIndex",),
        "situate.integrations.langchain.documents": (
            "chunk_context",
            "join_pages",
            "passage_highlight",
            "passage_where",
            "situated_text",
        ),
        "situate.integrations.langchain.embeddings": ("SituateEmbeddings",),
        "situate.integrations.langchain.generator": ("LangChainGenerator",),
        "situate.integrations.langchain.highlight": ("SituateHighlighter",),
        "situate.integrations.langchain.hyde": (
            "HyDEEmbeddings",
            "HyDERetriever",
        ),
        "situate.integrations.langchain.loader": ("SituateLoader",),
        "situate.integrations.langchain.rerankers": (
            "CrossEncoderReranker",
            "LateInteractionReranker",
            "SituateCrossEncoder",
            "SituateReranker",
        ),
        "situate.integrations.langchain.retriever": (
            "SITUATED_PROMPT",
            "SituateRetriever",
            "create_situated_tool",
        ),
        "situate.integrations.langchain.searching": ("SituateTranslator",),
        "situate.integrations.langchain.situated_context": ("SituatedContextTransformer",),
        "situate.integrations.langchain.splitter": (
            "LangChainChunker",
            "SituateTextSplitter",
        ),
        "situate.integrations.langchain.vectorstore": ("SituateVectorStore",),
    },
    extra="langchain",
    needs=("langchain_core", "langchain_text_splitters"),
)
