"""`SituateDocumentIndex`: an `Index` as LangChain's index of whole documents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from langchain_core.documents import Document as LangChainDocument
from langchain_core.indexing import DocumentIndex, UpsertResponse
from langchain_core.indexing.base import DeleteResponse
from pydantic import Field, PrivateAttr, SkipValidation

from situate.errors import InputError
from situate.integrations._shared.component import Handle, Meaning, refuse_unknown
from situate.integrations._shared.origin import ORIGIN_KEY
from situate.integrations._shared.settings import (
    HubnessLike,
    SignalLike,
    StoreOptions,
    WhiteningLike,
    with_signals,
)
from situate.integrations.langchain.documents import (
    assemble,
    from_document,
    text_ids,
    whole_documents,
    with_stored_pages,
)
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.integrations.langchain.retriever import IndexRetriever
from situate.integrations.langchain.splitter import OriginChunker, SituateTextSplitter, as_chunker
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.documents import IndexReport
from situate.retrievers.index.index import Index
from situate.types import Chunk, Document, Situator


class SituateDocumentIndex(StoreOptions, IndexRetriever, DocumentIndex):
    """Whole documents in and out by their ids, passages out of searches.

    A document is cut, situated, embedded with all of its text in view, and replaced as a whole; an unchanged one costs
    a look-up. LangChain's abstraction is in beta.

    Attributes:
        embeddings: Makes the vectors.
        splitter: A `SituateTextSplitter`, any LangChain text splitter, or a situate chunker; None: Markdown by
            structure, other text recursively, 200 tokens of the model.
        situators: Write context into chunks, in this order.
        client: Any Qdrant client; None opens ``path``. The fields of `StoreOptions` name the place of the store.
        config: What is stored and how it is searched; `PipelineConfig.fast` by default.
        signals: Further signals of ``config``, by kind, as JSON or as values (`situate.retrievers.signals`).
        compression: "int8", "binary", "signs", "product" or "pca:128": ``config`` with dense vectors searched by
            codes in RAM
            (`situate.retrievers.index.compression`).
        hubness: `Hubness`, or its fields as JSON: ``config`` with what makes a chunk near to every query subtracted.
        whitening: `Whitening`, or its fields as JSON: ``config`` with dense vectors compared whitened.
        join_pages: Whether pages or elements of one file, as loaders return them (without ids of their own), are one
            document, whose id is the file's path.
        show_progress: Show a progress bar while documents are added.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {
        **StoreOptions.also_known_as,
        **IndexRetriever.also_known_as,
        "embedding": "embeddings",
    }
    known_otherwise: ClassVar[Mapping[str, str]] = {**StoreOptions.known_otherwise, **IndexRetriever.known_otherwise}

    embeddings: SituateEmbeddings
    splitter: SkipValidation[Any] = None
    situators: SkipValidation[Sequence[Situator]] = ()
    client: SkipValidation[Any] = None
    collection_name: str = Field(default="langchain", min_length=1)
    config: PipelineConfig | None = None
    signals: SkipValidation[Sequence[SignalLike]] = ()
    compression: str | None = None
    hubness: SkipValidation[HubnessLike | None] = None
    whitening: SkipValidation[WhiteningLike | None] = None
    join_pages: bool = True
    show_progress: bool = False

    _index: Handle[Any] = PrivateAttr(default_factory=Handle)

    @property
    def index(self) -> Index:
        """The index underneath."""
        index: Index = self._index.get((self.path, self.collection_name, id(self.client)), self._made_index)
        return index

    def _made_index(self) -> Index:
        splitter = self.splitter if self.splitter is not None else SituateTextSplitter(self.embeddings)
        return Index(
            self.embeddings.embedder,
            client=self._index_client(self.client),
            path=self.path,
            collection=self.collection_name,
            chunker=OriginChunker(as_chunker(splitter)),
            situators=self.situators,
            config=with_signals(
                self.config,
                self.signals,
                compression=self.compression,
                hubness=self.hubness,
                whitening=self.whitening,
            ),
            progress=self.show_progress,
        )

    def _searched(self) -> Index:
        return self.index

    def upsert(self, items: Sequence[LangChainDocument], /, **kwargs: Any) -> UpsertResponse:
        """Add documents, or replace those with the same ids.

        Args:
            items: Whole documents; one without an id gets one made of its text and metadata.
            kwargs: None.

        Returns:
            The ids, in order; those of documents without any text under "failed".

        Raises:
            InputError: An item was already split.
        """
        refuse_unknown("upsert", kwargs)
        documents = self._whole(items)
        return _response(documents, self.index.add(documents))

    async def aupsert(self, items: Sequence[LangChainDocument], /, **kwargs: Any) -> UpsertResponse:
        """`upsert` without blocking the event loop."""
        refuse_unknown("aupsert", kwargs)
        documents = await asyncio.to_thread(self._whole, items)
        return _response(documents, await self.index.aadd(documents))

    def get(self, ids: Sequence[str], /, **kwargs: Any) -> list[LangChainDocument]:
        """The documents with these ids, whole, in this order; unknown ids are skipped."""
        refuse_unknown("get", kwargs)
        ids = text_ids(ids, all_known=True)
        chunks: dict[str, list[Chunk]] = {}
        for chunk in self.index.get_chunks(dict.fromkeys(ids)):
            chunks.setdefault(chunk.document_id, []).append(chunk)
        return [from_document(assemble(found)) for found in chunks.values()]

    async def aget(self, ids: Sequence[str], /, **kwargs: Any) -> list[LangChainDocument]:
        """`get` without blocking the event loop."""
        return await asyncio.to_thread(self.get, ids, **kwargs)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> DeleteResponse:
        """Delete documents with all their chunks; unknown ids are skipped.

        Raises:
            InputError: No ids were given.
        """
        refuse_unknown("delete", kwargs)
        if ids is None:
            raise InputError("delete() needs ids: an index is never emptied by accident")
        ids = text_ids(ids, all_known=True)
        there = {chunk.document_id for chunk in self.index.get_chunks(dict.fromkeys(ids))}
        self.index.delete(ids)
        deleted = [id for id in dict.fromkeys(ids) if id in there]
        return DeleteResponse(succeeded=deleted, num_deleted=len(deleted), failed=[], num_failed=0)

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> DeleteResponse:
        """`delete` without blocking the event loop."""
        return await asyncio.to_thread(self.delete, ids, **kwargs)

    def _whole(self, items: Sequence[LangChainDocument]) -> list[Document]:
        for item in items:
            if ORIGIN_KEY in item.metadata:
                raise InputError(
                    f"document {item.id!r} was already split: pass whole documents to SituateDocumentIndex, or chunks "
                    "to SituateVectorStore"
                )
        join = self.join_pages and getattr(self.splitter, "join_pages", True)
        documents = [document for document, _ in whole_documents(items, [None] * len(items), join_pages=join)]
        return with_stored_pages(documents, self.index)


def _response(documents: Sequence[Document], report: IndexReport) -> UpsertResponse:
    skipped = set(report.skipped)
    return UpsertResponse(
        succeeded=[document.id for document in documents if document.id not in skipped],
        failed=[document.id for document in documents if document.id in skipped],
    )
