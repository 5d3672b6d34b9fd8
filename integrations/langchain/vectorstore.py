"""`SituateVectorStore`: an `Index` as a LangChain vector store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings

from situate.errors import InputError
from situate.integrations._shared.component import refuse_unknown, translated
from situate.integrations._shared.lifecycle import OpensIndex
from situate.integrations._shared.settings import (
    HubnessLike,
    SignalLike,
    StoreOptions,
    WhiteningLike,
    with_signals,
)
from situate.integrations.langchain.documents import (
    Content,
    DocumentParts,
    Item,
    additions,
    assemble,
    from_chunk,
    from_document,
    from_texts,
    text_ids,
    with_stored_pages,
)
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.integrations.langchain.searching import Mode, SearchingStore
from situate.integrations.langchain.splitter import OriginChunker, as_chunker
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.chunk_access import delete_chunks, find_chunks
from situate.retrievers.index.index import Index
from situate.types import Chunk, Chunker, Document, Situator

if TYPE_CHECKING:
    from langchain_text_splitters import TextSplitter
    from qdrant_client import QdrantClient


class SituateVectorStore(OpensIndex, SearchingStore):
    """Stores documents so that each chunk keeps its place in its document.

    How it treats a `Document`:

    - with a ``splitter``: a whole document, which is cut, situated, embedded with all of its text in view, and
      replaced as a whole; pages or elements of one file, as loaders return them, are one document under the file's
      path, unless they have ids of their own, and pages that come without the rest replace or join those in the store;
    - a chunk that `SituateTextSplitter` cut: it is put back into its document, chunks that are stored already
      included, and all of them are embedded together;
    - any other: one passage, stored under its own id with one vector, as in any vector store.

    Ids may be any text. A document without one gets an id made of its text and metadata, so that adding it twice
    stores it once.

    Args:
        embedding: Makes the vectors.
        client: Any Qdrant client; None opens ``path``.
        splitter: Cuts whole documents: a `SituateTextSplitter`, any LangChain text splitter, or a situate chunker.
        situators: Write context into chunks, in this order.
        config: What is stored and how it is searched; `PipelineConfig.fast` by default.
        signals: Further signals of ``config``, by kind, as JSON or as values (`situate.retrievers.signals`).
        compression: "int8", "binary", "signs", "product" or "pca:128": ``config`` with dense vectors searched by
            codes in RAM
            (`situate.retrievers.index.compression`).
        hubness: `Hubness`, or its fields as JSON: ``config`` with what makes a chunk near to every query subtracted.
        whitening: `Whitening`, or its fields as JSON: ``config`` with dense vectors compared whitened.
        mode: "hybrid" searches dense and BM25 vectors, by all parts of ``config``; "dense" the dense ones alone.
        content: "text": ``page_content`` of a found chunk is its text in the document. "situated": its context (title,
            headings, ...) is written in front, for prompts that show nothing else.
        join_pages: Whether the ``splitter`` cuts the pages of one file as one document.
        show_progress: Show a progress bar while documents are added.
        location: Fields of `StoreOptions`: ``path``, ``api_key``, ``collection_name``, ``client_options``.

    Raises:
        InputError: ``embedding`` is not a `SituateEmbeddings`.
        IncompatibleIndexError: On first use, where the collection was built with another encoder or configuration.
    """

    also_known_as = StoreOptions.also_known_as
    known_otherwise: ClassVar[Mapping[str, str]] = {
        **StoreOptions.known_otherwise,
        "embeddings": "it is embedding here",
        "retrieval_mode": 'it is mode here, "hybrid" or "dense"',
        "sparse_embedding": "BM25 vectors are made by config (PipelineConfig(lexical=...))",
        "distance": "vectors are compared as the model was trained",
        "vector_name": "the collection's vectors are named by situate",
    }

    def __init__(
        self,
        embedding: SituateEmbeddings,
        *,
        client: QdrantClient | None = None,
        splitter: TextSplitter | Chunker | None = None,
        situators: Sequence[Situator] = (),
        config: PipelineConfig | None = None,
        signals: Sequence[SignalLike] = (),
        compression: str | None = None,
        hubness: HubnessLike | None = None,
        whitening: WhiteningLike | None = None,
        mode: Mode = "hybrid",
        content: Content = "text",
        join_pages: bool = True,
        show_progress: bool = False,
        **location: Any,
    ) -> None:
        if not isinstance(embedding, SituateEmbeddings):
            raise InputError(
                f"SituateVectorStore embeds chunks inside their documents, which {type(embedding).__name__} cannot: "
                "use SituateEmbeddings, or put those embeddings under langchain-qdrant's store on an EdgeClient"
            )
        own = ("client", "splitter", "situators", "config", "signals", "compression", "hubness", "whitening")
        names = (*StoreOptions.model_fields, *own, "mode", "content", "join_pages", "show_progress")
        where = StoreOptions(**{"collection_name": "langchain", **translated(type(self), names, location)})
        self._embedding = embedding
        self._splits = splitter is not None
        self._join_pages = join_pages and getattr(splitter, "join_pages", True)
        self.index = Index(
            embedding.embedder,
            client=where._index_client(client),
            path=where.path,
            collection=where.collection_name,
            chunker=OriginChunker(as_chunker(splitter)) if splitter is not None else None,
            situators=situators,
            config=with_signals(config, signals, compression=compression, hubness=hubness, whitening=whitening),
            progress=show_progress,
        )
        self._partial = threading.Lock()
        self._mode: Mode = mode
        self._content: Content = content
        self._checked(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_partial": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _partial=threading.Lock())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Another store over the same index."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings of queries."""
        return self._embedding

    def _searched(self) -> Index:
        return self.index

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
            One id per document; for a page of a file the file's.

        Raises:
            InputError: A chunk's text was changed after splitting, or metadata cannot be stored as JSON.
        """
        refuse_unknown("add_documents", kwargs)
        new = additions(documents, ids, splits=self._splits, join_pages=self._join_pages)
        if new.files:
            self._add_files(new.files)
        if new.whole:
            self.index.add(new.whole)
        if new.cut:
            self.index.add_chunks(self._situated(new.cut))
        if new.partial:
            self._add_partial(new.partial)
        return new.ids

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
        new = await asyncio.to_thread(additions, documents, ids, splits=self._splits, join_pages=self._join_pages)
        if new.files:
            await asyncio.to_thread(self._add_files, new.files)
        if new.whole:
            await self.index.aadd(new.whole)
        if new.cut:
            await self.index.aadd_chunks(await self._asituated(new.cut))
        if new.partial:
            await asyncio.to_thread(self._add_partial, new.partial)
        return new.ids

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """The chunks and the whole documents with these ids; unknown ids are skipped."""
        ids = text_ids(ids, all_known=True)
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

        Unknown ids are skipped. The other chunks of a document keep their vectors.
        """
        refuse_unknown("delete", kwargs)
        ids = None if ids is None else text_ids(ids, all_known=True)
        with self._partial:  # otherwise a concurrent addition of a part of the document would restore them
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

    def _add_files(self, files: Sequence[Document]) -> None:
        with self._partial:  # pages of a file may come in several calls
            self.index.add(with_stored_pages(files, self.index))

    def _add_partial(self, documents: Sequence[DocumentParts]) -> None:
        # The stored document is read, extended and written back: calls with parts of the same document run one after
        # the other, or the second would write back a document without the first one's part.
        with self._partial:
            for parts in documents:
                parts.join(self.index.get_chunks([parts.document_id]))
            self.index.add_chunks(self._situated([parts.item() for parts in documents]))

    def _situated(self, items: Sequence[Item]) -> list[Item]:
        situated: list[Item] = []
        for document, chunks in items:
            for situator in self.index.situators:
                chunks = situator.situate(document, chunks)
            situated.append((document, chunks))
        return situated

    async def _asituated(self, items: Sequence[Item]) -> list[Item]:
        situated: list[Item] = []
        for document, chunks in items:
            for situator in self.index.situators:
                chunks = await situator.asituate(document, chunks)
            situated.append((document, chunks))
        return situated

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
            kwargs: Arguments of the constructor.
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
