"""`SituateRetriever`: situate's index and pipeline as a LlamaIndex retriever."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores.types import MetadataFilters
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.integrations._shared.component import Meaning, translated
from situate.integrations._shared.lifecycle import OpensIndex
from situate.integrations._shared.origin import CONTEXT_KEY, ORIGIN_KEY
from situate.integrations._shared.pages import completed, cut_document, file_of, is_page, joined
from situate.integrations._shared.settings import (
    HubnessLike,
    RetrieverOptions,
    SignalLike,
    StoreOptions,
    WhiteningLike,
    with_signals,
)
from situate.integrations.llama_index.embedding import SituateEmbedding, default_embedding
from situate.integrations.llama_index.filters import to_qdrant_filter
from situate.integrations.llama_index.nodes import check_keys, file_groups, to_document, to_scored_node
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.index import Index
from situate.retrievers.pipeline.concurrency import StartLimit
from situate.retrievers.retriever import Retriever
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.types import SearchResult, check_k
from situate.types import Chunk, Chunker, Context, Document, Situator
from situate.vectors import mean_direction, one_vector

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

dispatcher = get_dispatcher(__name__)
#: Calls that begin in one iteration of the event loop: LlamaIndex computes 0.1 ms before it calls a retriever.
_START_LIMIT = StartLimit(8)


class SituateStepsEvent(BaseEvent):
    """The record of each step of a query, sent when the query is answered.

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


class SituateRetriever(OpensIndex, BaseRetriever):
    """Retrieves with a situate `Retriever` (expansion, hybrid search, rerankers, threshold) or from a bare `Index`.

    Of a query bundle its ``embedding`` counts first, then its ``custom_embedding_strs``, then its ``query_str``. Only
    the last is expanded; BM25, late interaction and rerankers use ``query_str`` in every case. The bundle is not
    changed. LlamaIndex's instrumentation gets the record of each step as a `SituateStepsEvent`, and each node's
    ``degraded`` the reasons of skipped ones.

    Args:
        source: The retriever, or the index.
        similarity_top_k: How many nodes to return, at most; None: the retriever's own number.
        filters: Conditions on the documents' metadata.
        context_key: The metadata key that shows a node's context.
        context_fields: The `Context` fields shown there; () for none.
        scores: What a node's score is: "ranking", what the nodes are ordered by, which is relative to the query's
            candidates; "relevance", on one scale for all queries where a step gives one, as `SimilarityPostprocessor`
            needs it. Each node has both (``relevance``).
        join_pages: Whether documents that are pages or elements of one file are added as one document.
        callback_manager: LlamaIndex's.
        options: Over an index: the fields of `RetrieverOptions` (``expander``, ``rerankers``, ``threshold``, ...).

    Raises:
        InputError: ``similarity_top_k`` is less than 1, or ``options`` come with a retriever, which has its own.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {"k": "similarity_top_k", "score_threshold": "threshold"}
    known_otherwise: ClassVar[Mapping[str, str]] = {"top_k": "it is similarity_top_k here"}

    def __init__(
        self,
        source: Retriever | Index,
        *,
        similarity_top_k: int | None = None,
        filters: MetadataFilters | None = None,
        context_key: str = CONTEXT_KEY,
        context_fields: Sequence[str] = ("headings", "sentence"),
        scores: Literal["ranking", "relevance"] = "ranking",
        join_pages: bool = True,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        options = translated(type(self), _OPTIONS, options)
        similarity_top_k = options.pop("similarity_top_k", similarity_top_k)
        if similarity_top_k is not None:
            check_k(similarity_top_k, "similarity_top_k")
        if isinstance(source, Retriever):
            if options:
                raise InputError(f"{', '.join(options)}: the given Retriever has these settings itself")
            self.retriever = source
        else:
            self.retriever = Retriever(source, **options)
        if scores not in ("ranking", "relevance"):
            raise InputError(f'scores={scores!r}: "ranking" or "relevance"')
        # Both refuse what could not be used later.
        Context().render(context_fields)
        to_qdrant_filter(filters)
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self.scores = scores
        self.join_pages = join_pages
        self._context_key = context_key
        self._context_fields = tuple(context_fields)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Another retriever over the same index."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def with_instruction(self, instruction: str | None) -> Self:
        """The same retriever for queries with another task; it shares index and model."""
        again = copy.copy(self)
        again.retriever = self.retriever.with_instruction(instruction)
        return again

    @property
    def index(self) -> Index:
        """The index underneath."""
        return self.retriever.index

    def _searched(self) -> Index:
        return self.index

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
        client: QdrantClient | Callable[[], QdrantClient] | None = None,
        chunker: Chunker | None = None,
        situators: Sequence[Situator] = (),
        config: PipelineConfig | None = None,
        signals: Sequence[SignalLike] = (),
        compression: str | None = None,
        hubness: HubnessLike | None = None,
        whitening: WhiteningLike | None = None,
        **options: Any,
    ) -> Self:
        """Index the documents and retrieve from that index.

        Documents that a stored index holds unchanged are not indexed again, and its other documents stay.

        Args:
            documents: LlamaIndex documents.
            embed_model: The model; None: ``Settings.embed_model`` where that is a `SituateEmbedding`.
            similarity_top_k: How many nodes to return, at most.
            filters: Conditions on the documents' metadata.
            callback_manager: LlamaIndex's.
            show_progress: Show a progress bar.
            client: As in `Index`; None opens ``path``.
            chunker: As in `Index`.
            situators: As in `Index`.
            config: As in `Index`.
            signals: Further signals of ``config``, by kind, as JSON or as values (`situate.retrievers.signals`).
            compression: "int8", "binary", "signs", "product" or "pca:128": ``config`` with dense vectors searched by
                codes in RAM (`situate.retrievers.index.compression`).
            hubness: `Hubness`, or its fields as JSON: ``config`` with what makes a chunk near to every query
                subtracted.
            whitening: `Whitening`, or its fields as JSON: ``config`` with dense vectors compared whitened.
            options: Arguments of the constructor, and the fields of `StoreOptions` (``path``, ``collection_name``,
                ...).
        """
        model = embed_model if embed_model is not None else default_embedding()
        options = translated(cls, {*_OPTIONS, *_STORE, *_SHOWN}, options)
        store = StoreOptions(**{name: options.pop(name) for name in list(options) if name in _STORE})
        given = {"similarity_top_k": similarity_top_k, "filters": filters, **options}
        index = Index(
            model.embedder,
            client=store._index_client(client),
            path=store.path,
            collection=store.collection_name,
            chunker=chunker,
            situators=situators,
            config=with_signals(config, signals, compression=compression, hubness=hubness, whitening=whitening),
            progress=show_progress,
        )
        made = cls(index, callback_manager=callback_manager, **given)
        made.add_documents(documents)
        return made

    def add_documents(self, documents: Sequence[BaseNode]) -> None:
        """Index further documents; one with a known id replaces the earlier one.

        Pages or elements of one file, as `SimpleDirectoryReader` makes them of a PDF (documents with the same path,
        each with a ``page_label``), become one document whose id is the path, unless ``join_pages`` is False. Its
        chunks lie within pages, but for the rest of a sentence that runs over, keep the page's metadata, and name their
        span there as ``page_span``. Pages that come without the rest of their file replace or join those in the index;
        several pages from the first one on are taken for the whole file.

        Raises:
            InputError: A document's metadata has a key where the context or the origin of its nodes would be shown.
        """
        self._add(documents)

    async def aadd_documents(self, documents: Sequence[BaseNode]) -> None:
        """`add_documents` without blocking the event loop."""
        whole, files = await asyncio.to_thread(self._prepared, documents)
        if whole:
            await self.index.aadd(whole)
        for document, chunks in files:
            for situator in self.index.situators:
                chunks = await situator.asituate(document, chunks)
            await self.index.aadd_chunks([(document, chunks)])

    def _add(self, documents: Sequence[BaseNode]) -> bool:
        """Index the documents; whether any was new or changed."""
        whole, files = self._prepared(documents)
        report = self.index.add(whole) if whole else None
        for document, chunks in files:
            for situator in self.index.situators:
                chunks = situator.situate(document, chunks)
            self.index.add_chunks([(document, chunks)])
        return bool(files) or (report is not None and report.added + report.replaced > 0)

    def _prepared(self, documents: Sequence[BaseNode]) -> tuple[list[Document], list[tuple[Document, list[Chunk]]]]:
        """Documents that the index cuts, and files that are cut here by their pages and are not stored as they are."""
        documents = _listed(documents)
        for given in documents:
            check_keys(given, self._context_key, ORIGIN_KEY)
        whole: list[Document] = []
        files: list[tuple[Document, list[Chunk]]] = []
        for group in file_groups(documents, self.join_pages):
            pages = [to_document(page, keep_view=True) for page in group]
            stored: list[Chunk] = []
            if self.join_pages and is_page(pages[0]):
                stored = self.index.get_chunks([file_of(pages[0])])
            if len(pages) == 1 and not stored:
                # A page alone keeps its id; what was joined tells its number.
                alone = joined(pages) if self.join_pages and is_page(pages[0]) else pages[0]
                whole.append(replace(alone, id=pages[0].id))
                continue
            document = completed(joined(pages), stored)
            chunks = cut_document(document, self.index.chunker)
            if _identities(stored) != _identities(chunks):
                files.append((document, chunks))
        return whole, files

    def delete(self, document_ids: Sequence[str]) -> None:
        """Delete documents with all their nodes; unknown ids are skipped."""
        self.index.delete(document_ids)

    async def adelete(self, document_ids: Sequence[str]) -> None:
        """`delete` without blocking the event loop."""
        await self.index.adelete(document_ids)

    def insert(self, document: BaseNode) -> None:
        """`add_documents` of one document, under the name that LlamaIndex's indices have for it."""
        self.add_documents([document])

    def update_ref_doc(self, document: BaseNode) -> None:
        """Replace a document by its new version, or add it."""
        self.add_documents([document])

    def delete_ref_doc(self, ref_doc_id: str, delete_from_docstore: bool = False) -> None:
        """`delete` of one document, under the name that LlamaIndex's indices have for it.

        Args:
            ref_doc_id: The document's id.
            delete_from_docstore: Ignored: no other store holds the document.
        """
        self.delete([ref_doc_id])

    def refresh_ref_docs(self, documents: Sequence[BaseNode]) -> list[bool]:
        """Add documents that are new and replace those that have changed.

        Returns:
            Per document, whether it was new or changed.
        """
        documents = _listed(documents)
        changed: dict[str, bool] = {}
        for group in file_groups(documents, self.join_pages):
            changed |= dict.fromkeys((document.node_id for document in group), self._add(group))
        return [changed[document.node_id] for document in documents]

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        dense = _given(query_bundle)
        if dense is None and query_bundle.custom_embedding_strs:
            dense = _mean(self.index.embedder.embed_queries(query_bundle.custom_embedding_strs))
        if dense is not None and not query_bundle.query_str.strip():
            return self._nodes(self._by_vector(dense))
        return self._nodes(self.retriever.retrieve(query_bundle.query_str, self.similarity_top_k, self._where(), dense))

    async def aretrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """As in LlamaIndex; simultaneous calls begin a few at a time, so that they do not block the event loop."""
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
        """A search without words: BM25 and rerankers have no query."""
        k = self.similarity_top_k if self.similarity_top_k is not None else self.retriever.settings.k
        return self.index.search_vectors("", QueryVectors(_mean(dense[None])), k, self._where())

    def _where(self) -> models.Filter | None:
        return None if self.filters is None else to_qdrant_filter(self.filters, prefix="metadata.")

    def _nodes(self, found: SearchResult) -> list[NodeWithScore]:
        if found.steps:
            dispatcher.event(SituateStepsEvent(query=found.query, steps=[step.to_dict() for step in found.steps]))
        degraded = {step.name: step.error for step in found.steps if step.error is not None}
        key, fields, by_relevance = self._context_key, self._context_fields, self.scores == "relevance"
        return [
            to_scored_node(hit, key=key, fields=fields, degraded=degraded, by_relevance=by_relevance) for hit in found
        ]


#: Arguments of the constructor, and those that `from_documents` reads as the store's.
_OPTIONS = {"similarity_top_k", *(RetrieverOptions.model_fields.keys() - {"k"})}
_SHOWN = {"context_key", "context_fields", "scores", "join_pages"}
_STORE = {*StoreOptions.model_fields, *StoreOptions.also_known_as, *StoreOptions.known_otherwise}


def _identities(chunks: Sequence[Chunk]) -> list[tuple[str, dict[str, Any]]]:
    return [(chunk.id, dict(chunk.metadata)) for chunk in chunks]


def _listed(documents: Any) -> list[BaseNode]:
    """The documents, which a generator gives once.

    Raises:
        InputError: It is one document, or one of them is none of LlamaIndex's.
    """
    if isinstance(documents, BaseNode) or not isinstance(documents, Iterable):
        raise InputError(f"documents is a {type(documents).__name__}: give a list of LlamaIndex documents")
    given = list(documents)
    for each in given:
        if not isinstance(each, BaseNode):
            raise InputError(f"{each!r:.40} is a {type(each).__name__}, and no document of LlamaIndex")
    return given


def _given(bundle: QueryBundle) -> Vectors | None:
    return None if bundle.embedding is None else one_vector(bundle.embedding, "the query bundle's embedding")


def _mean(vectors: Vectors) -> Vectors:
    return mean_direction(vectors, [1.0] * len(vectors))
