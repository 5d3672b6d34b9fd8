"""The indexes of all tenants: one Qdrant collection for each collection of each tenant, in one store."""

from __future__ import annotations

import contextlib
import shutil
import threading
from dataclasses import replace
from pathlib import Path

from situate.app.web.settings import DOCUMENTS, LOCAL, Place, WebSettings, checked_name
from situate.app.web.store.records import RECORDS, Record, Records
from situate.errors import InputError, StorageError, StoreLockedError
from situate.lifecycle import Openable
from situate.retrievers.highlight import Highlighter
from situate.retrievers.index.index import Index
from situate.retrievers.retriever import Retriever
from situate.retrievers.storage.edge.files.lock import FolderLock


class NotFoundError(InputError):
    """There is no such collection, document or conversation of this tenant."""


class Library(Openable):
    """Collections and documents of all tenants.

    A tenant's collection is a Qdrant collection of its own, whose name is made from the tenant of the request's key: no
    argument of a request can name another tenant's. The first collection of an application without keys is the given
    index's own, so that documents indexed elsewhere (on the command line, say) can be asked about.

    Args:
        retriever: How every collection is searched, and over its index, how it is stored.
        settings: Tenants, folder and limits.
    """

    def __init__(self, retriever: Retriever, settings: WebSettings) -> None:
        self.settings = settings
        self.records = Records(settings.home / RECORDS)
        self._template = retriever
        #: Finds what supports an answer, by the vectors of the model that all collections share.
        self.highlighter = Highlighter(retriever.index.embedder)
        self._folder, self._locked = FolderLock(settings.home), False
        self._retrievers: dict[Place, Retriever] = {}
        self._lock = threading.Lock()

    def open(self) -> Library:
        """Open the store and each tenant's first collection.

        Raises:
            StoreLockedError: Another process serves the same folder, or holds the store.
            SituateError: As in `Retriever.open`.
        """
        self._template.open()
        if not self._locked:
            self.settings.home.mkdir(0o700, parents=True, exist_ok=True)
            try:
                self._folder.acquire()
            except StoreLockedError as error:
                raise StoreLockedError(
                    f"another process serves {str(self.settings.home)!r}: stop it, or give this one a folder of its own"
                ) from error
            self._locked = True
        for tenant in self.settings.tenants:
            self.records.add_collection(Place(tenant))
            self.retriever(Place(tenant)).open()
        return self

    def warm_up(self) -> Library:
        """`open`, and load the models."""
        self._template.warm_up()
        return self.open()

    def close(self) -> None:
        """Close the store, where the index opened it itself."""
        for retriever in (*self._retrievers.values(), self._template):
            retriever.close()
        self._folder.release()
        self._locked = False

    def retriever(self, place: Place) -> Retriever:
        """Searches a collection.

        Raises:
            NotFoundError: The tenant has no such collection.
        """
        with self._lock:
            if (found := self._retrievers.get(place)) is None:
                if place.collection not in self.records.collections(place.tenant):
                    raise NotFoundError(f"there is no collection {place.collection!r}: make it first")
                found = self._retrievers[place] = self._made(place)
            return found

    def check(self) -> None:
        """Ask the store for a collection. Errors are those of `Index.open`."""
        index = self.index(Place(self.settings.tenants[0]))
        index.client.collection_exists(index.collection)

    def index(self, place: Place) -> Index:
        """The index of a collection."""
        return self.retriever(place).index

    def add_collection(self, place: Place) -> None:
        """Make a collection; one that exists stays as it is.

        Raises:
            InputError: Its name is no name, or the tenant has as many as it may.
        """
        checked_name(place.collection, "collection")
        known = self.records.collections(place.tenant)
        if place.collection not in known and len(known) >= self.settings.limits.collections:
            raise InputError(f"there are {len(known)} collections, as many as may be: delete one first")
        self.records.add_collection(place)
        self.retriever(place).open()

    def drop_collection(self, place: Place) -> None:
        """Delete a collection with its documents and files.

        Raises:
            InputError: It is the first one, which every tenant keeps.
        """
        if place.collection == DOCUMENTS:
            raise InputError(f"the collection {DOCUMENTS!r} stays: delete its documents instead")
        index = self.index(place)
        index.client.delete_collection(index.collection)
        with self._lock:
            self._retrievers.pop(place, None)
        self.records.drop_collection(place)
        shutil.rmtree(self.files(place), ignore_errors=True)

    def documents(self, place: Place) -> list[Record]:
        """The documents of a collection by name: those uploaded, and those that the index holds besides."""
        uploaded = {record.id: record for record in self.records.documents(place)}
        others = {name: Record(name) for name in self.index(place).document_ids() if name not in uploaded}
        return [record for _, record in sorted({**uploaded, **others}.items())]

    def delete(self, place: Place, document_id: str) -> None:
        """Delete a document from the list, the index and the folder; an unknown one is skipped."""
        index = self.index(place)
        record = self.records.document(place, document_id)
        # The list first: a file that is being read is deleted from the index by its reader, which asks the list.
        self.records.remove(place, document_id)
        try:
            index.delete([document_id])
        except StorageError:
            if record is not None:
                self.records.put(place, record)
            raise
        if record is not None and record.file:
            with contextlib.suppress(FileNotFoundError):
                (self.files(place) / record.file).unlink()

    def pdf(self, place: Place, document_id: str) -> Path | None:
        """The PDF that a document was read from; None where it is none, or is not there.

        A file that was indexed elsewhere has its path as id; it is looked for below the folders of
        `WebSettings.sources` alone, links followed: an id may have been written by anyone.
        """
        record = self.records.document(place, document_id)
        if record is not None:
            return self.files(place) / record.file if record.file.endswith(".pdf") else None
        if self._is_own(place) and document_id.lower().endswith(".pdf"):
            for source in self.settings.sources:
                with contextlib.suppress(OSError, ValueError):  # what is no name of a file
                    file = (source / document_id).resolve()
                    if file.is_relative_to(source.resolve()) and file.is_file():
                        return file
        return None

    def files(self, place: Place) -> Path:
        """The folder of a collection's files."""
        return self.settings.home / "files" / place.tenant / place.collection

    def _is_own(self, place: Place) -> bool:
        """Whether a collection is the given index's own."""
        return place == Place(LOCAL) and not self.settings.keys

    def _made(self, place: Place) -> Retriever:
        template, index = self._template, self._template.index
        if not self._is_own(place):
            index = Index(
                index.embedder,
                client=index.client,
                collection=f"{index.collection}.{place.tenant}.{place.collection}",
                chunker=index.chunker,
                situators=index.situators,
                config=index.config,
            )
        settings = replace(template.settings, highlight=True)
        return Retriever.from_settings(index, settings, expander=template.expander, rerankers=template.rerankers)
