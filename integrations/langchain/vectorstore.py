"""`SituateVectorStore`: an `Index` as a LangChain vector store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from situate.chunkers.errors import InputError
from situate.chunkers.types import Chunk, Chunker, Document, Situator
from situate.embedders.types import Vectors
from situate.integrations.langchain._arguments import refuse_unknown
from situate.integrations.langchain._grouping import from_texts, named, whole_and_cut, with_siblings
from situate.integrations.langchain.chunking import StampingChunker, as_chunker
from situate.integrations.langchain.documents import assemble, from_chunk, from_document
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.retrievers.chunk_access import delete_chunks, find_chunks, nearest_with_vectors
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index import Index
from situate.retrievers.search import FilterLike, HybridSearch, QueryVectors

if TYPE_CHECKING:
    from langchain_text_splitters import TextSplitter
    from qdrant_client import QdrantClient

Mode: TypeAlias = Literal["hybrid", "dense"]
_Scored: TypeAlias = tuple[LangChainDocument, float]


class SituateVectorStore(VectorStore):
    """Stores documents so that each chunk keeps its place in its document.

    What a `Document` is to it:

    - with a ``splitter``: a whole document, which is cut, situated, embedded with all of its text in view, and
      replaced as a whole;
    - a chunk that `SituateTextSplitter` cut: it is put back into its document, siblings that are stored already
      included, and all of them are embedded together;
    - any other: one passage, stored under its own id with one vector, as in any vector store.

    Ids may be any text. A document without one gets an id made of its text and metadata, so that adding it twice
    stores it once.

    Args:
        embedding: Makes the vectors.
        client: Any Qdrant client; None opens an embedded store at ``path``.
        path: Folder of the embedded store, or ":memory:".
        collection: The collection's name.
        splitter: Cuts whole documents: a `SituateTextSplitter`, any LangChain text splitter, or a situate chunker.
        situators: Write context into chunks, in this order.
        config: What is stored and how it is searched; `PipelineConfig.fast` by default.
        mode: "hybrid" searches dense and BM25 vectors and all that ``config`` says; "dense" the dense ones alone.

    Raises:
        InputError: ``embedding`` is not a `SituateEmbeddings`.
        IncompatibleIndexError: On first use, where the collection was built with another encoder or configuration.
    """

    def __init__(
        self,
        embedding: SituateEmbeddings,
        *,
        client: QdrantClient | None = None,
        path: str | Path = ":memory:",
        collection: str = "langchain",
        splitter: TextSplitter | Chunker | None = None,
        situators: Sequence[Situator] = (),
        config: PipelineConfig | None = None,
        mode: Mode = "hybrid",
    ) -> None:
        if not isinstance(embedding, SituateEmbeddings):
            raise InputError(
                f"SituateVectorStore embeds chunks inside their documents, which {type(embedding).__name__} cannot: "
                "use SituateEmbeddings, or put those embeddings under langchain-qdrant's store on an EdgeClient"
            )
        self._embedding = embedding
        self._splits = splitter is not None
        self.index = Index(
            embedding.embedder,
            client=client,
            path=path,
            collection=collection,
            chunker=StampingChunker(as_chunker(splitter)) if splitter is not None else None,
            situators=situators,
            config=config,
        )
        self._mode: Mode = mode
        self._checked(mode)

    @property
    def embeddings(self) -> Embeddings:
        """What embeds queries."""
        return self._embedding

    def close(self) -> None:
        """Close the store that was opened at ``path``. A client that was handed in stays open."""
        self.index.close()

    # -- documents in and out -----------------------------------------------------------------------------------

    def add_documents(
        self,
        documents: list[LangChainDocument],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add documents, or replace those with the same ids.

        Args:
            documents: Left as they are.
            ids: Their ids, before those that the documents carry.
            batch_size: Accepted because LangChain's ``index()`` passes it; the encoder makes its own batches.
            kwargs: None.

        Returns:
            One id per document.

        Raises:
            InputError: A chunk's text was changed after splitting, or metadata cannot be stored as JSON.
        """
        refuse_unknown("add_documents", kwargs)
        under_ids = named(documents, ids)
        whole, chunks = whole_and_cut(under_ids, splits=self._splits)
        if whole:
            self.index.add(whole)
        if chunks:
            self.index.add_chunks(self._situated(with_siblings(chunks, self.index.get_chunks)))
        return [id for id, _ in under_ids]

    async def aadd_documents(
        self,
        documents: list[LangChainDocument],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """`add_documents` without blocking the event loop."""
        refuse_unknown("aadd_documents", kwargs)
        under_ids = named(documents, ids)
        whole, chunks = whole_and_cut(under_ids, splits=self._splits)
        if whole:
            await self.index.aadd(whole)
        if chunks:
            items = await asyncio.to_thread(with_siblings, chunks, self.index.get_chunks)
            await self.index.aadd_chunks(await self._asituated(items))
        return [id for id, _ in under_ids]

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """The chunks and the whole documents with these ids; ids that are not there are passed over."""
        chunks = {chunk.id: from_chunk(chunk) for chunk in find_chunks(self.index, ids)}
        rest = [id for id in ids if id not in chunks]
        by_document: dict[str, list[Chunk]] = {}
        for chunk in self.index.get_chunks(rest):
            by_document.setdefault(chunk.document_id, []).append(chunk)
        whole = {id: from_document(assemble(found)) for id, found in by_document.items()}
        return [found for id in dict.fromkeys(ids) if (found := chunks.get(id) or whole.get(id)) is not None]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """`get_by_ids` without blocking the event loop."""
        return await asyncio.to_thread(self.get_by_ids, ids)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete chunks, and documents with all their chunks, by id; None deletes everything.

        Ids that are not there are passed over. The chunks that are left of a document stay as they were embedded.
        """
        refuse_unknown("delete", kwargs)
        if ids is None:
            self.index.delete(self.index.document_ids())
        else:
            self.index.delete(ids)
            delete_chunks(self.index, ids)
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """`delete` without blocking the event loop."""
        refuse_unknown("adelete", kwargs)
        return await asyncio.to_thread(self.delete, ids)

    def _situated(self, items: Sequence[tuple[Document, list[Chunk]]]) -> list[tuple[Document, list[Chunk]]]:
        situated: list[tuple[Document, list[Chunk]]] = []
        for document, chunks in items:
            for situator in self.index.situators:
                chunks = situator.situate(document, chunks)
            situated.append((document, chunks))
        return situated

    async def _asituated(self, items: Sequence[tuple[Document, list[Chunk]]]) -> list[tuple[Document, list[Chunk]]]:
        situated: list[tuple[Document, list[Chunk]]] = []
        for document, chunks in items:
            for situator in self.index.situators:
                chunks = await situator.asituate(document, chunks)
            situated.append((document, chunks))
        return situated

    # -- searching ----------------------------------------------------------------------------------------------

    def similarity_search(
        self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """The ``k`` chunks that fit a query best.

        Args:
            query: What is looked for.
            k: How many, at most.
            filter: ``{"key": value}`` over the metadata (a list: any of its values), or a
                `qdrant_client.models.Filter`.
            kwargs: ``mode`` and ``score_threshold``, as in `similarity_search_with_score`.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """`similarity_search` without blocking the event loop."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, filter, **kwargs)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: FilterLike | None = None,
        *,
        mode: Mode | None = None,
        score_threshold: float | None = None,
    ) -> list[_Scored]:
        """`similarity_search` with scores; higher is better.

        Args:
            query: What is looked for.
            k: How many, at most.
            filter: As in `similarity_search`.
            mode: "dense": scores are cosines. "hybrid": they are fused, and relative to the query's candidates.
            score_threshold: Leave out what scores lower.
        """
        if self._checked(mode) == "dense":
            vector = self.index.embedder.embed_queries([query])[0]
            return _above(self._by_vector(vector, k, filter), score_threshold)
        hits = self.index.search(query, k, filter).hits
        return _above([(from_chunk(hit.chunk), hit.score) for hit in hits], score_threshold)

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: FilterLike | None = None,
        *,
        mode: Mode | None = None,
        score_threshold: float | None = None,
    ) -> list[_Scored]:
        """`similarity_search_with_score` without blocking the event loop."""
        if self._checked(mode) == "dense":
            vector = (await self.index.embedder.aembed_queries([query]))[0]
            return _above(await asyncio.to_thread(self._by_vector, vector, k, filter), score_threshold)
        hits = (await self.index.asearch(query, k, filter)).hits
        return _above([(from_chunk(hit.chunk), hit.score) for hit in hits], score_threshold)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """The ``k`` chunks whose dense vectors are nearest to ``embedding``."""
        refuse_unknown("similarity_search_by_vector", kwargs)
        return [document for document, _ in self._by_vector(np.asarray(embedding, dtype=np.float32), k, filter)]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """`similarity_search_by_vector` without blocking the event loop."""
        return await asyncio.to_thread(self.similarity_search_by_vector, embedding, k, filter, **kwargs)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """``k`` chunks that fit a query and differ from each other (Carbonell and Goldstein 1998).

        Args:
            query: What is looked for.
            k: How many, at most.
            fetch_k: Candidates, by their dense vectors.
            lambda_mult: 1 orders by relevance alone, 0 by diversity alone.
            filter: As in `similarity_search`.
            kwargs: None.
        """
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter, **kwargs)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """`max_marginal_relevance_search` without blocking the event loop."""
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """`max_marginal_relevance_search` around a vector."""
        refuse_unknown("max_marginal_relevance_search", kwargs)
        found = nearest_with_vectors(self.index, np.asarray(embedding, dtype=np.float32), max(k, fetch_k), filter)
        vectors: list[list[float]] = [vector.tolist() for _, vector in found]
        chosen = maximal_marginal_relevance(np.asarray(embedding, dtype=np.float32), vectors, lambda_mult, k)
        return [from_chunk(found[place][0]) for place in chosen]

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """`max_marginal_relevance_search_by_vector` without blocking the event loop."""
        return await asyncio.to_thread(
            self.max_marginal_relevance_search_by_vector, embedding, k, fetch_k, lambda_mult, filter, **kwargs
        )

    def _by_vector(self, vector: Vectors, k: int, filter: FilterLike | None) -> list[_Scored]:
        # "rrf" leaves a single list as Qdrant scored it: cosines, where "minmax" would stretch them over [0, 1].
        config = self.index.config.with_(lexical=None, feedback=None, token_vectors=None, fusion="rrf")
        hits = HybridSearch(self.index.client, self.index.collection, config).search(QueryVectors(vector), k, filter)
        return [(from_chunk(hit.chunk), hit.score) for hit in hits]

    def _checked(self, mode: Mode | None) -> Mode:
        """The mode of one search: dense also where the collection holds nothing else."""
        mode = mode if mode is not None else self._mode
        if mode not in ("hybrid", "dense"):
            raise InputError(f'mode={mode!r}: "hybrid" (all that the config says) or "dense" (dense vectors alone)')
        config = self.index.config
        return mode if config.lexical or config.token_vectors or config.feedback else "dense"

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance(self._checked(None))

    def _relevance(self, mode: Mode) -> Callable[[float], float]:
        """Maps a score to [0, 1]."""
        config = self.index.config
        if mode == "dense":
            return lambda cosine: _clamped((1.0 + cosine) / 2.0)
        if config.fusion == "minmax":
            return _clamped
        if config.fusion == "rrf" and config.token_vectors is None:
            # The best that reciprocal ranks can add up to is being first in both lists.
            return lambda score: _clamped(score * config.rrf_k / 2.0)
        return lambda score: _clamped(score / 2.0)  # DBSF adds two scores of about [0, 1]

    def _similarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> list[_Scored]:
        relevance = self._relevance(self._checked(kwargs.get("mode")))
        return [
            (document, relevance(score)) for document, score in self.similarity_search_with_score(query, k, **kwargs)
        ]

    async def _asimilarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> list[_Scored]:
        relevance = self._relevance(self._checked(kwargs.get("mode")))
        found = await self.asimilarity_search_with_score(query, k, **kwargs)
        return [(document, relevance(score)) for document, score in found]

    # -- from texts ---------------------------------------------------------------------------------------------

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """`add_documents` for texts.

        Raises:
            InputError: There are not as many metadatas or ids as texts.
        """
        return self.add_documents(from_texts(texts, metadatas), ids=ids, **kwargs)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """`add_texts` without blocking the event loop."""
        return await self.aadd_documents(from_texts(texts, metadatas), ids=ids, **kwargs)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store that holds ``texts``.

        Args:
            texts: The texts.
            embedding: A `SituateEmbeddings`.
            metadatas: One for each text.
            ids: One for each text.
            kwargs: What the constructor takes.
        """
        store = cls(embedding, **kwargs)  # type: ignore[arg-type]  # the constructor refuses other embeddings
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """`from_texts` without blocking the event loop."""
        store = cls(embedding, **kwargs)  # type: ignore[arg-type]
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store


def _above(found: list[_Scored], threshold: float | None) -> list[_Scored]:
    return found if threshold is None else [pair for pair in found if pair[1] >= threshold]


def _clamped(relevance: float) -> float:
    return min(1.0, max(0.0, relevance))
