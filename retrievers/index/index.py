"""An index of chunks: documents are added, and searched."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from situate.batches import in_batches
from situate.embedders.types import Vectors
from situate.errors import ConventionError, FallbackWarning, IncompatibleIndexError, InputError, StorageError
from situate.lifecycle import Openable
from situate.parameters import checked_parameters
from situate.progress import DocumentBar
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.collection import Collection, Version, in_documents
from situate.retrievers.index.documents import (
    BATCH_DOCUMENTS,
    IndexReport,
    Item,
    check_storable,
    checked,
    checked_documents,
    checked_ids,
    document_batches,
    situated_hash,
    version_hash,
    with_warning,
)
from situate.retrievers.index.filling import fill, stored
from situate.retrievers.index.payload import STATE, to_chunk
from situate.retrievers.pipeline.concurrency import QueryBatcher
from situate.retrievers.pipeline.tracing import record
from situate.retrievers.search.filters import FilterLike
from situate.retrievers.search.gateway import Gateway, gateway
from situate.retrievers.search.geometry import Geometry
from situate.retrievers.search.hybrid import HybridSearch
from situate.retrievers.search.query_vectors import QueryEncoder, QueryVectors, WrittenQuery
from situate.retrievers.search.relevance import Background
from situate.retrievers.signals.base import Batch
from situate.retrievers.signals.chunk import ChunkTerms
from situate.retrievers.storage.connect import MEMORY, Location, connect
from situate.retrievers.types import QueryText, SearchResult, Step, check_k, check_query
from situate.threads import renew_after_fork
from situate.types import Chunk, Chunker, Document, Situator

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from situate.embedders.embedder import Embedder
    from situate.embedders.types import ChunkVectors, SpanEncoder


@checked_parameters
class Index(Openable):
    """Documents, chunked, situated, embedded and stored in a Qdrant collection.

    Cheap to construct: the store is opened and the model loaded at first use. Safe for threads. A replaced document
    is never missing in between: its new points are written, then its old ones deleted, and a write that a crash
    interrupted is finished or undone when the index is opened next.

    Args:
        embedder: Makes the vectors.
        client: Any Qdrant client; or a function that opens one, which is called at first use and in the process that
            uses the index (which keeps an API key out of the pickled configuration); None opens ``path``.
        path: A folder (an embedded store), ":memory:", a server's URL or the URLs of a cluster's nodes.
        collection: The collection's name.
        chunker: Cuts documents; None: Markdown by structure, other text recursively, 200 tokens of the model (800
            characters where a served model's tokenizer is not available).
        situators: Write context into the chunks, in this order.
        config: What is stored and how it is searched; `PipelineConfig.fast` by default.
        progress: Show a progress bar while adding, which the documents' tokens move while they are encoded; or a
            function that is called with each further number of characters that are done. What it raises ends the
            call after documents of its batch may be stored: adding them again costs a look-up and stores nothing twice.

    Raises:
        IncompatibleIndexError: On first use, where the collection was built with another encoder or configuration.
        StoreLockedError: On first use, where another process holds the embedded store.
        ServerError: On first use, where no server answers.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        client: QdrantClient | Callable[[], QdrantClient] | None = None,
        path: Location = MEMORY,
        collection: str = "situate",
        chunker: Chunker | None = None,
        situators: Sequence[Situator] = (),
        config: PipelineConfig | None = None,
        progress: bool | Callable[[int], object] = False,
    ) -> None:
        self.embedder = embedder
        self.path = path
        self.collection = collection
        self.situators = tuple(situators)
        self.config = config if config is not None else PipelineConfig.fast()
        if not isinstance(progress, bool) and not callable(progress):
            raise InputError(f"progress is {progress!r}: it has to be True, False or a function")
        self.progress = progress
        self._given_client = None if callable(client) else client
        self._connect: Callable[[], QdrantClient] = client if callable(client) else partial(connect, path)
        self._in_memory = client is None and str(path) == MEMORY
        self._chunker = chunker
        for signal in self.config.table:
            signal.check(embedder)
        self._make_encoders()
        self._opened: Collection | None = None
        self._closed = False
        self._batcher: QueryBatcher | None = None
        self._background: Background | None = None
        self._geometry: Geometry | None = None
        self._written = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """New locks: in a forked child no thread would release the old ones."""
        self._lock, self._measuring = threading.Lock(), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        if self._given_client is not None or self._in_memory:
            raise InputError(
                "an Index on a client or in memory cannot be pickled: give it path=..., or a function that opens the "
                "client, and it pickles as that"
            )
        unset = dict.fromkeys(("_opened", "_batcher", "_background", "_geometry", "_lock", "_measuring"))
        return {**self.__dict__, **unset, "_closed": False}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The index itself where it is on a client or in memory; else another one with the same settings."""
        if self._given_client is not None or self._in_memory:
            return self
        again = type(self).__new__(type(self))
        again.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return again

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.renew()
        renew_after_fork(self)

    def _make_encoders(self) -> None:
        self._query_encoder = QueryEncoder(self.embedder, self.config.searched)

    # -- handles, opened at first use ---------------------------------------------------------------------------

    @property
    def client(self) -> QdrantClient:
        """The Qdrant client; its collection exists, fits the encoder and is whole."""
        return self._collection().client

    @property
    def gateway(self) -> Gateway:
        """The gateway to the collection, which is opened first."""
        return self._collection().gateway

    def background(self) -> Background:
        """The collection's usual similarities, against which relevance is measured.

        Measured at the first search, and again after a tenth of the chunks were written.
        """
        gateway = self.gateway
        with self._measuring:
            if self._background is None or 10 * self._written > self._background.chunks:
                self._written = 0
                self._geometry = None
                self._background = Background.measure(gateway, self.embedder, self.config)
            return self._background

    def geometry(self) -> Geometry:
        """What the configuration's hubness and whitening are of this collection, fitted as often as `background`."""
        self.background()
        gateway, config = self.gateway, self.config
        with self._measuring:
            if self._geometry is None:
                self._geometry = Geometry.fit(gateway, self.embedder, config.hubness, config.whitening)
            return self._geometry

    @property
    def chunker(self) -> Chunker:
        """The chunker that cuts documents."""
        if self._chunker is None:
            from situate.chunkers import AutoChunker

            self._chunker = AutoChunker.for_model(self.embedder, 200)
        return self._chunker

    def _collection(self) -> Collection:
        with self._lock:
            if self._closed:
                raise StorageError(f"the index on {self.collection!r} is closed: make a new one with the same settings")
            if self._opened is None:
                client = self._given_client if self._given_client is not None else self._connect()
                opened = Collection(gateway(client, self.collection))
                try:
                    sample = _sample(self.embedder.encoder, opened)
                    config = self._checked(opened, sample)
                    self._check_geometry()
                except BaseException:
                    # After any error a store that this index opened must not stay locked.
                    if self._given_client is None:
                        client.close()
                    raise
                if config != self.config:
                    self.config = config
                    self._make_encoders()
                if opened.incomplete:
                    warnings.warn(
                        f"documents of collection {self.collection!r} lack the signals {sorted(opened.incomplete)}: "
                        "searches leave these out until Index.fill_signals() has run",
                        FallbackWarning,
                        stacklevel=3,
                    )
                self._opened = opened
                self._read_in_languages_of(opened)
            return self._opened

    def _read_in_languages_of(self, collection: Collection, batch: Batch | None = None) -> None:
        """Read queries in the languages of the collection's documents, and of a batch that is about to be written."""
        terms = next((signal for signal in self.config.table if type(signal) is ChunkTerms), None)
        if terms is not None and terms.encoder.scheme.language == "auto":
            if batch is not None:
                collection.add_languages(terms.languages(batch))
            self._query_encoder.languages = collection.languages()

    def _check_geometry(self) -> None:
        if self.config.reshaped and self.embedder.similarity != "cosine":
            raise ConventionError(
                f"hubness and whitening change cosines, and vectors of {self.embedder.model!r} are compared by their "
                f"{self.embedder.similarity} product: leave both out"
            )

    def _checked(self, opened: Collection, sample: Sequence[str] | None) -> PipelineConfig:
        """The collection's configuration; a collection that was built with cut documents goes on so."""
        try:
            return opened.open(self.embedder.fingerprint, self.embedder.dimension, self.config, sample)
        except IncompatibleIndexError:
            embedder = self.embedder.agreeing_with(opened.encoder())
            if embedder is self.embedder:
                raise
        config = opened.open(embedder.fingerprint, embedder.dimension, self.config, sample)
        self.embedder = embedder
        self._make_encoders()
        return config

    async def _query_batcher(self) -> QueryBatcher:
        if (batcher := self._batcher) is not None:
            return batcher
        opened = await asyncio.to_thread(self._collection)
        with self._lock:
            if self._batcher is None:
                # The embedded engine holds the interpreter while it searches: more threads would not search faster.
                self._batcher = QueryBatcher(self._query_encoder, 1 if opened.gateway.embedded else 16)
            return self._batcher

    def close(self) -> None:
        """Close the store that the index opened itself. A client given by the caller stays open."""
        with self._lock:
            if self._batcher is not None:
                self._batcher.close()
                self._batcher = None
            if self._opened is not None and self._given_client is None:
                self._opened.client.close()
            self._opened = None
            self._closed = True

    def __enter__(self) -> Self:
        return self  # opened at its first use, as outside of a block

    def open(self) -> Self:
        """Open the store and check the collection now instead of at first use.

        Raises:
            IncompatibleIndexError: The collection was built with another encoder or configuration.
            StoreLockedError: Another process holds the embedded store.
            ModelError: The model cannot be used.
            ServerError: No server answers.
        """
        self._collection()
        return self

    def warm_up(self) -> Self:
        """`open`, and the rest that a first search waits for: the model and the collection's usual similarities."""
        self.open().background()
        if self.config.reshaped:
            self.geometry()
        return self

    # -- documents in -------------------------------------------------------------------------------------------

    def add(self, documents: Iterable[Document]) -> IndexReport:
        """Index documents; one with the id of an earlier document replaces it, an unchanged one costs a look-up.

        A document of which a language model left chunks without context (metadata ``situating_failed``, or
        ``summary_failed``) is situated again when it is added again, and replaced where more of it succeeds.

        Documents without text are skipped, listed in the report and warned about; an earlier version of such a
        document stays until it is deleted.

        Raises:
            InputError: A document has no id, or two different ones have the same. Or the metadata of some cannot be
                stored: all others are.
            NonFiniteVectorError: The model made NaN or infinity; nothing of that batch is written.
        """
        return self._add(_uncut(documents))

    def add_chunks(self, items: Iterable[tuple[Document, Sequence[Chunk]]]) -> IndexReport:
        """`add` for documents that are cut and situated already. All chunks of a document belong in one call.

        Raises:
            SpanError: A chunk does not hold the text of its span.
        """
        return self._add(items)

    async def aadd(self, documents: Iterable[Document]) -> IndexReport:
        """`add` without blocking the event loop; cancelling it stops after the batch that is being written."""
        return await self._aadd(_uncut(documents))

    async def aadd_chunks(self, items: Iterable[tuple[Document, Sequence[Chunk]]]) -> IndexReport:
        """`add_chunks` without blocking the event loop."""
        return await self._aadd(items)

    def fill_signals(self) -> int:
        """Write the signals that the configuration has and documents lack, made of the stored text.

        Searches work meanwhile, without these signals, and documents that are added have them. Interrupted, it is
        resumed by calling it again. An index that was opened elsewhere before sees the signals when it is opened anew.

        Returns:
            The number of chunks that were filled in; 0 where nothing was missing.

        Raises:
            StorageError: Documents are replaced again and again while their signals are made.
        """
        from tqdm.auto import tqdm

        collection = self._collection()
        if not collection.incomplete:
            return 0
        after = collection.begin_filling(self.embedder.fingerprint, self.embedder.dimension, self.config)
        names, filled = collection.incomplete, 0
        ids = [document_id for document_id in collection.document_ids() if document_id > after]
        with tqdm(total=len(ids), desc=f"filling {self.collection!r}", disable=self.progress is not True) as bar:
            for some in in_batches(ids, BATCH_DOCUMENTS):
                filled += fill(collection, self.embedder, self.config, names, some)
                collection.filled_until(some[-1])
                bar.update(len(some))
        collection.end_filling()
        return filled

    async def afill_signals(self) -> int:
        """`fill_signals` without blocking the event loop."""
        return await asyncio.to_thread(self.fill_signals)

    def texts(self, at_most: int = 5000) -> list[str]:
        """The texts of stored chunks: of all, or of documents that are evenly spread over their ids.

        Args:
            at_most: How many, at most.
        """
        ids = self.document_ids()
        step = max(1, self.count() // max(1, at_most))
        return [chunk.text for some in in_batches(ids[::step], BATCH_DOCUMENTS) for chunk in self.get_chunks(some)][
            :at_most
        ]

    def add_stored(self, other: Index) -> IndexReport:
        """Add what another index holds, chunks and contexts as they are: embeds a collection anew for another model.

        The other index is searched meanwhile. Interrupted, it is resumed by calling it again: documents that are
        stored already cost a look-up. Text that no chunk covers is blank in the documents. A document that is added
        by `add` afterwards counts as a new version of it.

        Args:
            other: The index to read, which is not changed.
        """
        return self._add(stored(other.get_chunks, other.document_ids()))

    async def aadd_stored(self, other: Index) -> IndexReport:
        """`add_stored` without blocking the event loop."""
        return await asyncio.to_thread(self.add_stored, other)

    def delete(self, document_ids: Iterable[str]) -> None:
        """Delete documents with all their chunks; unknown ids are skipped."""
        if ids := checked_ids(document_ids):
            self.client.delete(self.collection, in_documents(ids), wait=True)
            self._written += len(ids)

    async def adelete(self, document_ids: Iterable[str]) -> None:
        """`delete` without blocking the event loop."""
        await asyncio.to_thread(self.delete, checked_ids(document_ids))

    def _add(self, items: Iterable[Item]) -> IndexReport:
        report = IndexReport()
        with self._bar(items) as bar:
            for batch in document_batches(items):
                with bar.batch(_sizes(batch)):
                    report += self._add_batch(batch)
        return with_warning(report)

    async def _aadd(self, items: Iterable[Item]) -> IndexReport:
        report = IndexReport()
        with self._bar(items) as bar:
            for batch in document_batches(items):
                with bar.batch(_sizes(batch)):
                    report += await asyncio.to_thread(self._add_batch, batch)
        return with_warning(report)

    def _bar(self, items: Iterable[Item]) -> DocumentBar:
        sizes = _sizes(items) if isinstance(items, Sequence) else None
        return DocumentBar(f"indexing into {self.collection!r}", sizes, self.progress)

    def _add_batch(self, batch: Sequence[Item]) -> IndexReport:
        distinct: dict[str, Item] = {}
        refused: list[str] = []
        for document, given in batch:
            try:
                check_storable(document, given or ())
            except InputError as error:
                refused.append(str(error))
            else:
                distinct[document.id] = document, given
        collection = self._collection()
        absent = collection.absent
        known = collection.complete_versions(list(distinct))
        skipped: list[str] = []
        changed: list[tuple[Document, list[Chunk], str]] = []
        for document, given in distinct.values():
            document_hash = version_hash(document, (self.chunker, *self.situators) if given is None else given)
            if document_hash in known.get(document.id, ()):
                continue
            chunks = self._cut(document) if given is None else checked(document, given)
            if given is None:
                document_hash = situated_hash(document_hash, chunks)
            if not chunks:
                skipped.append(document.id)
            elif document_hash not in known.get(document.id, ()):
                changed.append((document, chunks, document_hash))
        if changed:
            vectors = self.embedder.encode_chunks(
                [(document, chunks) for document, chunks, _ in changed],
                scheme=self.config.dense,
                token_vectors=self.config.needs_tokens,
            )
            if self.config.compressed is not None:
                self.config.compressed.check_vectors(np.concatenate([made.dense for made in vectors]))
            collection.write(self._versions(changed, vectors, absent))
            if begun := absent - collection.absent:  # they were begun to be filled in after these were made
                fill(collection, self.embedder, self.config, begun, [document.id for document, _, _ in changed])
            self._written += sum(len(chunks) for _, chunks, _ in changed)
        replaced = sum(document.id in known for document, _, _ in changed)
        return IndexReport(
            added=len(changed) - replaced,
            replaced=replaced,
            unchanged=len(distinct) - len(changed) - len(skipped),
            skipped=tuple(skipped),
            chunks=sum(len(chunks) for _, chunks, _ in changed),
            refused=tuple(refused),
        )

    def _cut(self, document: Document) -> list[Chunk]:
        chunks = self.chunker.split(document) if document.text.strip() else []
        for situator in self.situators if chunks else ():
            chunks = situator.situate(document, chunks)
        return chunks

    def _versions(
        self,
        changed: Sequence[tuple[Document, list[Chunk], str]],
        vectors: Sequence[ChunkVectors],
        absent: frozenset[str],
    ) -> list[Version]:
        items = [(document, chunks) for document, chunks, _ in changed]
        batch = Batch.of(items, self.embedder, vectors)
        named = {signal.name: signal.encode(batch) for signal in self.config.table if signal.name not in absent}
        self._read_in_languages_of(self._collection(), batch)
        return [
            Version(document.id, document_hash, chunks, {name: values[place] for name, values in named.items()})
            for place, (document, chunks, document_hash) in enumerate(changed)
        ]

    # -- stored documents and chunks ----------------------------------------------------------------------------

    def document_ids(self) -> list[str]:
        """Ids of all documents, sorted."""
        return self._collection().document_ids()

    def count(self) -> int:
        """The number of chunks."""
        return self.client.count(self.collection, exact=True).count

    def get_chunks(self, document_ids: Iterable[str]) -> list[Chunk]:
        """The stored chunks of these documents, document by document, in order; missing documents have none."""
        ids = checked_ids(document_ids)
        if not ids:
            return []
        place = {document_id: i for i, document_id in enumerate(ids)}
        chunks = [to_chunk(payload) for payload in self._collection().payloads(ids) if payload.get(STATE) is None]
        return sorted(chunks, key=lambda chunk: (place[chunk.document_id], chunk.index))

    # -- searching ----------------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        k: int = 10,
        filter: FilterLike | None = None,
        weights: Mapping[str, float] | None = None,
        instruction: str | None = None,
    ) -> SearchResult:
        """The best ``k`` chunks for a query.

        Args:
            query: The text to search for. A query without any text finds nothing.
            k: How many hits, at most.
            filter: ``{"key": value}`` over the documents' metadata, or a `qdrant_client.models.Filter`.
            weights: Of further signals by name, for this search.
            instruction: The task that the query is embedded for, as in `Embedder.instructed`; None for the embedder's
                own.

        Raises:
            InputError: ``k`` is less than 1, the filter cannot be read, or there is no signal of a name.
        """
        return self.search_texts(query, [QueryText(query)], k, filter, weights=weights, instruction=instruction)

    async def asearch(
        self,
        query: str,
        k: int = 10,
        filter: FilterLike | None = None,
        weights: Mapping[str, float] | None = None,
        instruction: str | None = None,
    ) -> SearchResult:
        """`search` without blocking the event loop."""
        return await self.asearch_texts(query, [QueryText(query)], k, filter, weights=weights, instruction=instruction)

    def search_texts(
        self,
        query: str,
        texts: Sequence[QueryText],
        k: int = 10,
        filter: FilterLike | None = None,
        dense: Vectors | None = None,
        weights: Mapping[str, float] | None = None,
        instruction: str | None = None,
    ) -> SearchResult:
        """`search` with several texts (HyDE, multi-query), each in its role; see `QueryEncoder`.

        Args:
            query: The question.
            texts: The texts to search with.
            k: As in `search`.
            filter: As in `search`.
            dense: float32 ``[dimension]``: a dense vector that the caller made, in place of the texts' mean.
            weights: As in `search`.
            instruction: As in `search`.
        """
        check_k(k)
        check_query(query)
        if not query.strip():
            return SearchResult(query, ())
        self._collection()  # may refuse the encoder, or set its sample of the corpus
        started = time.perf_counter()
        config = self._weighed(weights)
        vectors = self._query_encoder.encode(WrittenQuery(query, texts, dense, config.searched, instruction))
        return self._found(query, k, filter, config, vectors, Step("embed", time.perf_counter() - started))

    async def asearch_texts(
        self,
        query: str,
        texts: Sequence[QueryText],
        k: int = 10,
        filter: FilterLike | None = None,
        dense: Vectors | None = None,
        weights: Mapping[str, float] | None = None,
        instruction: str | None = None,
    ) -> SearchResult:
        """`search_texts` without blocking the event loop; ``dense`` has the same shape."""
        check_k(k)
        check_query(query)
        if not query.strip():
            return SearchResult(query, ())
        batcher = await self._query_batcher()
        config = self._weighed(weights)
        written = WrittenQuery(query, texts, dense, config.searched, instruction)
        return await batcher.search(written, partial(self._found, query, k, filter, config))

    def search_vectors(
        self, query: str, vectors: QueryVectors, k: int = 10, filter: FilterLike | None = None
    ) -> SearchResult:
        """`search` with vectors that the caller made; ``query`` is only returned with the hits."""
        check_k(k)
        return self._found(query, k, filter, self._weighed(None), vectors)

    def _weighed(self, weights: Mapping[str, float] | None) -> PipelineConfig:
        """The configuration with these weights, without the signals that documents lack."""
        incomplete = self._collection().incomplete
        if not weights:
            return self.config.without(incomplete)
        return self.config.weighted(weights).without(incomplete)

    def _found(
        self,
        query: str,
        k: int,
        filter: FilterLike | None,
        config: PipelineConfig,
        vectors: QueryVectors,
        *before: Step,
    ) -> SearchResult:
        started = time.perf_counter()
        self._read_in_languages_of(self._collection())
        hits = HybridSearch(self.gateway, config, self.background, self.geometry).search(vectors, k, filter)
        steps = (*before, Step("search", time.perf_counter() - started, {"hits": len(hits)}))
        for step in steps:
            record(step)
        return SearchResult(query, tuple(hits), steps)


def _sample(encoder: SpanEncoder, collection: Collection) -> Sequence[str] | None:
    """The encoder's sample of the corpus: its own, else the collection's."""
    from situate.embedders import LibraryEncoder

    if not isinstance(encoder, LibraryEncoder):
        return None
    if kept := collection.sample():
        encoder.provide(kept)
    return encoder.sample


def _sizes(items: Iterable[Item]) -> list[int]:
    """Characters of each document; of one that will be refused, as it has no text, none."""
    return [len(getattr(document, "text", None) or "") for document, _ in items]


def _uncut(documents: Iterable[Document]) -> Iterable[Item]:
    """Documents without chunks; a list stays a list, so that the progress bar knows the number."""
    items = ((document, None) for document in checked_documents(documents))
    return list(items) if isinstance(documents, Sequence) else items
