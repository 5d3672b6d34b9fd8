"""situate for LlamaIndex: embedding, node parser, context, retriever, HyDE, rerankers, vector store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.integrations.llama_index.cache import CachedQueryEngine as CachedQueryEngine
    from situate.integrations.llama_index.configuration import from_config as from_config
    from situate.integrations.llama_index.embedding import SituateEmbedding as SituateEmbedding
    from situate.integrations.llama_index.generator import LlamaIndexGenerator as LlamaIndexGenerator
    from situate.integrations.llama_index.highlight import SituateHighlighter as SituateHighlighter
    from situate.integrations.llama_index.hyde import (
        HyDEDraftsEvent as HyDEDraftsEvent,
        HyDEQueryTransform as HyDEQueryTransform,
        HyDERetriever as HyDERetriever,
    )
    from situate.integrations.llama_index.node_parser import LateChunkingNodeParser as LateChunkingNodeParser
    from situate.integrations.llama_index.nodes import (
        join_pages as join_pages,
        passage_highlight as passage_highlight,
        passage_where as passage_where,
    )
    from situate.integrations.llama_index.reader import SituateReader as SituateReader
    from situate.integrations.llama_index.rerank import (
        CrossEncoderRerank as CrossEncoderRerank,
        LateInteractionRerank as LateInteractionRerank,
        SituateLLMRerank as SituateLLMRerank,
        SituateRerank as SituateRerank,
    )
    from situate.integrations.llama_index.retriever import (
        SituateRetriever as SituateRetriever,
        SituateStepsEvent as SituateStepsEvent,
    )
    from situate.integrations.llama_index.situated_context import SituatedContext as SituatedContext
    from situate.integrations.llama_index.vector_store import SituateVectorStore as SituateVectorStore

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.integrations.llama_index.cache": ("CachedQueryEngine",),
        "situate.integrations.llama_index.configuration": ("from_config",),
        "situate.integrations.llama_index.embedding": ("SituateEmbedding",),
        "situate.integrations.llama_index.generator": ("LlamaIndexGenerator",),
        "situate.integrations.llama_index.highlight": ("SituateHighlighter",),
        "situate.integrations.llama_index.hyde": (
            "HyDEDraftsEvent",
            "HyDEQueryTransform",
            "HyDERetriever",
        ),
        "situate.integrations.llama_index.node_parser": ("LateChunkingNodeParser",),
        "situate.integrations.llama_index.nodes": ("join_pages", "passage_highlight", "passage_where"),
        "situate.integrations.llama_index.reader": ("SituateReader",),
        "situate.integrations.llama_index.rerank": (
            "CrossEncoderRerank",
            "LateInteractionRerank",
            "SituateLLMRerank",
            "SituateRerank",
        ),
        "situate.integrations.llama_index.retriever": (
            "SituateRetriever",
            "SituateStepsEvent",
        ),
        "situate.integrations.llama_index.situated_context": ("SituatedContext",),
        "situate.integrations.llama_index.vector_store": ("SituateVectorStore",),
    },
    extra="llama-index",
    needs=("llama_index", "llama_index_instrumentation"),
)
