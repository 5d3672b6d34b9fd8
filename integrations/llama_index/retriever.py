"""`SituateRetriever`: situate's index and pipeline as a LlamaIndex retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from situate.chunkers.errors import InputError
from situate.embedders.types import Vectors
from situate.integrations.llama_index._convert import to_document, to_scored_node
from situate.integrations.llama_index._filters import to_qdrant_filter
from situate.integrations.llama_index.embedding import SituateEmbedding
from situate.retrievers.lexical import LexicalEncoder
from situate.retrievers.search import QueryVectors
from situate.retrievers.types import QueryText, SearchResult

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.index import Index


class SituateRetriever(BaseRetriever):
    """Retrieves from a situate `Index`.

    Of a query bundle its ``embedding`` counts first, then its ``custom_embedding_strs``, then its ``query_str``; BM25
    and late interaction always use ``query_str``. The bundle is not changed.

    Args:
        index: The index.
        similarity_top_k: How many nodes to return, at most.
        filters: Which documents' metadata qualify.
        context_key: The metadata key that shows what situates a node.
        context_fields: The `Context` fields shown there; () for none.
        callback_manager: LlamaIndex's.
    """

    def __init__(
        self,
        index: Index,
        *,
        similarity_top_k: int = 10,
        filters: MetadataFilters | None = None,
        context_key: str = "context",
        context_fields: Sequence[str] = ("headings", "sentence"),
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        if similarity_top_k < 1:
            raise InputError(f"similarity_top_k={similarity_top_k}: at least one node, so give 1 or more")
        self.index = index
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self._context_key = context_key
        self._context_fields = tuple(context_fields)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[BaseNode],
        *,
        embed_model: SituateEmbedding | None = None,
        similarity_top_k: int = 10,
        filters: MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
        show_progress: bool = False,
        **settings: Any,
    ) -> Self:
        """Index the documents and retrieve from that index.

        Documents that a stored index holds unchanged are not indexed again, and documents that it holds besides stay.

        Args:
            documents: LlamaIndex documents.
            embed_model: The model.
            similarity_top_k: As in the class.
            filters: As in the class.
            callback_manager: As in the class.
            show_progress: Show a progress bar.
            settings: What `Index` takes: ``path``, ``client``, ``collection``, ``chunker``, ``situators``, ``config``.
        """
        from situate.retrievers.index import Index

        model = embed_model if embed_model is not None else SituateEmbedding()
        index = Index(model.embedder, progress=show_progress, **settings)
        made = cls(index, similarity_top_k=similarity_top_k, filters=filters, callback_manager=callback_manager)
        made.add_documents(documents)
        return made

    def add_documents(self, documents: Sequence[BaseNode]) -> None:
        """Index further documents; one with a known id replaces the earlier one."""
        self.index.add(to_document(document, keep_view=True) for document in documents)

    async def aadd_documents(self, documents: Sequence[BaseNode]) -> None:
        """`add_documents` without blocking the event loop."""
        await self.index.aadd(to_document(document, keep_view=True) for document in documents)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query, where = query_bundle.query_str, self._where()
        if query_bundle.embedding is not None:
            vectors = self._vectors(query_bundle, self._tokens(query) if self._uses_tokens else None)
            return self._nodes(self.index.search_vectors(query, vectors, self.similarity_top_k, where))
        return self._nodes(self.index.search_texts(query, _texts(query_bundle), self.similarity_top_k, where))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query, where = query_bundle.query_str, self._where()
        if query_bundle.embedding is not None:
            tokens = (await self.index.embedder.aembed_query_tokens([query]))[0] if self._uses_tokens else None
            vectors = self._vectors(query_bundle, tokens)
            found = await asyncio.to_thread(self.index.search_vectors, query, vectors, self.similarity_top_k, where)
        else:
            found = await self.index.asearch_texts(query, _texts(query_bundle), self.similarity_top_k, where)
        return self._nodes(found)

    def _where(self) -> models.Filter | None:
        return to_qdrant_filter(self.filters, prefix="metadata.")

    @property
    def _uses_tokens(self) -> bool:
        return self.index.config.token_vectors is not None

    def _tokens(self, query: str) -> Vectors:
        return self.index.embedder.embed_query_tokens([query])[0]

    def _vectors(self, bundle: QueryBundle, tokens: Vectors | None) -> QueryVectors:
        lexical = self.index.config.lexical
        dense = np.asarray(bundle.embedding, dtype=np.float32)
        return QueryVectors(
            dense / (np.linalg.norm(dense) or 1.0),
            LexicalEncoder(lexical).encode_query(bundle.query_str) if lexical is not None else None,
            tokens if tokens is not None and len(tokens) else None,
        )

    def _nodes(self, found: SearchResult) -> list[NodeWithScore]:
        return [to_scored_node(hit, key=self._context_key, fields=self._context_fields) for hit in found]


def _texts(bundle: QueryBundle) -> list[QueryText]:
    return [QueryText(text) for text in bundle.embedding_strs]
