"""`SituateRetriever`: situate's index and pipeline as a LlamaIndex retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores.types import MetadataFilters
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.integrations._shared.origin import step_records
from situate.integrations.llama_index.embedding import SituateEmbedding
from situate.integrations.llama_index.filters import to_qdrant_filter
from situate.integrations.llama_index.nodes import to_document, to_scored_node
from situate.retrievers.index.index import Index
from situate.retrievers.pipeline.concurrency import StartLimit
from situate.retrievers.retriever import Retriever
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.types import QueryExpander, Reranker, SearchResult
from situate.vectors import mean_direction

if TYPE_CHECKING:
    from qdrant_client import models

dispatcher = get_dispatcher(__name__)
#: LlamaIndex computes 0.1 ms before it calls a retriever.
_START_LIMIT = StartLimit(8)


class SituateStepsEvent(BaseEvent):
    """What each step of a query did, sent when the query is answered.

    Attributes:
        query: The query.
        steps: Per step its ``name``, ``seconds``, ``details`` (counts, tokens, drafts) and ``error`` (None, or why the
            step was skipped).
    """

    query: str
    steps: list[dict[str, Any]]

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateStepsEvent"


class SituateRetriever(BaseRetriever):
    """Retrieves with a situate `Retriever` (expansion, hybrid search, rerankers, threshold) or from a bare `Index`.

    Of a query bundle its ``embedding`` counts first, then its ``custom_embedding_strs``, then its ``query_str``. Only
    the last is expanded; BM25, late interaction and rerankers use ``query_str`` in every case. The bundle is not
    changed. What each step did goes to LlamaIndex's instrumentation as a `SituateStepsEvent`.

    Args:
        source: The retriever, or the index.
        similarity_top_k: How many nodes to return, at most; None: what the retriever is set to.
        filters: What the documents' metadata have to satisfy.
        context_key: The metadata key that shows what situates a node.
        context_fields: The `Context` fields shown there; () for none.
        callback_manager: LlamaIndex's.

    Raises:
        InputError: ``similarity_top_k`` is less than 1.
    """

    def __init__(
        self,
        source: Retriever | Index,
        *,
        similarity_top_k: int | None = None,
        filters: MetadataFilters | None = None,
        context_key: str = "context",
        context_fields: Sequence[str] = ("headings", "sentence"),
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        if similarity_top_k is not None and similarity_top_k < 1:
            raise InputError(f"similarity_top_k={similarity_top_k}: at least one node, so give 1 or more")
        self.retriever = source if isinstance(source, Retriever) else Retriever(source)
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self._context_key = context_key
        self._context_fields = tuple(context_fields)

    @property
    def index(self) -> Index:
        """The index underneath."""
        return self.retriever.index

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[BaseNode],
        *,
        embed_model: SituateEmbedding | None = None,
        similarity_top_k: int = 10,
        filters: MetadataFilters | None = None,
        expander: QueryExpander | None = None,
        rerankers: Sequence[Reranker] = (),
        callback_manager: CallbackManager | None = None,
        show_progress: bool = False,
        **settings: Any,
    ) -> Self:
        """Index the documents and retrieve from that index.

        Documents that a stored index holds unchanged are not indexed again, and documents that it holds besides stay.

        Args:
            documents: LlamaIndex documents.
            embed_model: The model.
            similarity_top_k: How many nodes to return, at most.
            filters: What the documents' metadata have to satisfy.
            expander: Writes further texts to search with (`situate.retrievers.Hyde`, ...).
            rerankers: Order what is found anew.
            callback_manager: LlamaIndex's.
            show_progress: Show a progress bar.
            settings: What `Index` takes: ``path``, ``client``, ``collection``, ``chunker``, ``situators``, ``config``.
        """
        model = embed_model if embed_model is not None else SituateEmbedding()
        index = Index(model.embedder, progress=show_progress, **settings)
        made = cls(
            Retriever(index, expander=expander, rerankers=rerankers),
            similarity_top_k=similarity_top_k,
            filters=filters,
            callback_manager=callback_manager,
        )
        made.add_documents(documents)
        return made

    def add_documents(self, documents: Sequence[BaseNode]) -> None:
        """Index further documents; one with a known id replaces the earlier one."""
        self.index.add(to_document(document, keep_view=True) for document in documents)

    async def aadd_documents(self, documents: Sequence[BaseNode]) -> None:
        """`add_documents` without blocking the event loop."""
        await self.index.aadd(to_document(document, keep_view=True) for document in documents)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        dense = _given(query_bundle)
        if dense is None and query_bundle.custom_embedding_strs:
            dense = _mean(self.index.embedder.embed_queries(query_bundle.custom_embedding_strs))
        if dense is not None and not query_bundle.query_str.strip():
            return self._nodes(self._by_vector(dense))
        return self._nodes(self.retriever.retrieve(query_bundle.query_str, self.similarity_top_k, self._where(), dense))

    async def aretrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """As in LlamaIndex; calls that come together begin a few at a time, so that none holds up the event loop."""
        await _START_LIMIT.begin()
        return await super().aretrieve(str_or_query_bundle)

    # The base class's method is a span already; this one would be a second around it.
    setattr(aretrieve, DISPATCHER_SPAN_DECORATED_ATTR, True)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        dense = _given(query_bundle)
        if dense is None and query_bundle.custom_embedding_strs:
            dense = _mean(await self.index.embedder.aembed_queries(query_bundle.custom_embedding_strs))
        if dense is not None and not query_bundle.query_str.strip():
            return self._nodes(await asyncio.to_thread(self._by_vector, dense))
        found = await self.retriever.aretrieve(query_bundle.query_str, self.similarity_top_k, self._where(), dense)
        return self._nodes(found)

    def _by_vector(self, dense: Vectors) -> SearchResult:
        """A search without words: there is nothing to ask BM25 and rerankers."""
        k = self.similarity_top_k if self.similarity_top_k is not None else self.retriever.settings.k
        return self.index.search_vectors("", QueryVectors(_mean(dense[None])), k, self._where())

    def _where(self) -> models.Filter | None:
        return to_qdrant_filter(self.filters, prefix="metadata.")

    def _nodes(self, found: SearchResult) -> list[NodeWithScore]:
        if found.steps:
            dispatcher.event(SituateStepsEvent(query=found.query, steps=step_records(found.steps)))
        return [to_scored_node(hit, key=self._context_key, fields=self._context_fields) for hit in found]


def _given(bundle: QueryBundle) -> Vectors | None:
    return None if bundle.embedding is None else np.asarray(bundle.embedding, dtype=np.float32)


def _mean(vectors: Vectors) -> Vectors:
    return mean_direction(vectors, [1.0] * len(vectors))
