"""situate for LlamaIndex: embedding, node parser, context, retriever, HyDE, rerankers, vector store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.integrations.llama_index.embedding import SituateEmbedding
    from situate.integrations.llama_index.generator import LlamaIndexGenerator
    from situate.integrations.llama_index.hyde import HyDEDraftsEvent, HyDEQueryTransform, HyDERetriever
    from situate.integrations.llama_index.node_parser import LateChunkingNodeParser
    from situate.integrations.llama_index.rerank import (
        CrossEncoderRerank,
        LateInteractionRerank,
        SituateLLMRerank,
        SituateRerank,
    )
    from situate.integrations.llama_index.retriever import SituateRetriever, SituateStepsEvent
    from situate.integrations.llama_index.situated_context import SituatedContext
    from situate.integrations.llama_index.vector_store import SituateVectorStore

__all__ = [
    "CrossEncoderRerank",
    "HyDEDraftsEvent",
    "HyDEQueryTransform",
    "HyDERetriever",
    "LateChunkingNodeParser",
    "LateInteractionRerank",
    "LlamaIndexGenerator",
    "SituateEmbedding",
    "SituateLLMRerank",
    "SituateRerank",
    "SituateRetriever",
    "SituateStepsEvent",
    "SituateVectorStore",
    "SituatedContext",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CrossEncoderRerank": "rerank",
        "HyDEDraftsEvent": "hyde",
        "HyDEQueryTransform": "hyde",
        "HyDERetriever": "hyde",
        "LateChunkingNodeParser": "node_parser",
        "LateInteractionRerank": "rerank",
        "LlamaIndexGenerator": "generator",
        "SituateEmbedding": "embedding",
        "SituateLLMRerank": "rerank",
        "SituateRerank": "rerank",
        "SituateRetriever": "retriever",
        "SituateStepsEvent": "retriever",
        "SituateVectorStore": "vector_store",
        "SituatedContext": "situated_context",
    },
)
