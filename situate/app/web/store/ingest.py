"""Uploaded files -> indexed documents, in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from situate.app.web.settings import Place
from situate.app.web.store.library import Library
from situate.app.web.store.records import PASSING, Record
from situate.app.web.store.turns import TurnQueue
from situate.chunkers.readers.files import read_documents
from situate.errors import DiskFullError, InputError, MissingExtraError
from situate.outside import safe_message, safe_text
from situate.retrievers.index.index import Index
from situate.retrievers.pipeline.tracing import otel_span
from situate.types import Document

_log = logging.getLogger("situate.web")

#: Changes that a follower has not read yet, from which on it is told of no further shares of a document.
_BEHIND = 20


class Ingest:
    """Reads and indexes files, one after the other; tenants take turns.

    What waits is on the list of documents: files that were not read when the application stopped are read at the next
    start.

    Args:
        library: Where the documents go.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        self._records = library.records
        self._waiting: TurnQueue[tuple[Place, Record]] = TurnQueue(library.settings.limits.waiting)
        self._followers: dict[Place, set[asyncio.Queue[dict[str, Any] | None]]] = {}
        self._share: tuple[Place, str, float] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, with what was left by the run before."""
        for place, record in await asyncio.to_thread(self._records.unfinished):
            self._waiting.put(place.tenant, (place, record))
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Finish the file that is being read, and leave the others for the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for followers in self._followers.values():
            for follower in followers:
                follower.put_nowait(None)

    def check(self, place: Place) -> None:
        """Refuse a further file, before it is received.

        Raises:
            BusyError: As many files of the tenant wait as may.
        """
        self._waiting.check(place.tenant)

    async def submit(self, place: Place, record: Record) -> Record:
        """Put a file in the queue."""
        record = await asyncio.to_thread(self._records.put, place, record)
        self._waiting.put(place.tenant, (place, record))
        return record

    async def follow(self, place: Place) -> AsyncGenerator[dict[str, Any]]:
        """The documents that wait or are read, each time that their state changes, until none is left.

        Each is a record's values, and of one that is indexed the share that is ``done``, from 0 to 1.
        """
        changed: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        followers = self._followers.setdefault(place, set())
        followers.add(changed)
        try:
            open_ids: set[str] = set()
            for record in await asyncio.to_thread(self._records.documents, place):
                if record.state in PASSING:
                    open_ids.add(record.id)
                    yield self._told(place, record)
            while open_ids and (change := await changed.get()) is not None:
                (open_ids.add if change["state"] in PASSING else open_ids.discard)(change["id"])
                yield change
        finally:
            followers.discard(changed)
            if not followers and self._followers.get(place) is followers:
                del self._followers[place]

    def deleted(self, place: Place, document_id: str) -> None:
        """Tell followers that a document is gone."""
        self._tell(place, Record(document_id, state="failed", detail="deleted"))

    async def _run(self) -> None:
        while True:
            place, record = await self._waiting.get()
            work = asyncio.ensure_future(self._read(place, record))
            try:
                # A file that is being indexed is finished when the application stops.
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await work
                raise

    async def _read(self, place: Place, record: Record) -> None:
        started = time.perf_counter()
        try:
            with otel_span("situate.web.ingest"):
                state = await self._indexed(place, record)
        except Exception as error:  # noqa: BLE001 - readers of foreign formats fail in ways of their own
            # Of other errors than those about the file, its owner learns no more than that it failed.
            about = isinstance(error, InputError | MissingExtraError)
            full = "the server's disk is full: upload it again when there is room"
            unknown = (
                full if isinstance(error, DiskFullError) else "it could not be indexed: the server's log tells why"
            )
            detail = safe_text(str(error)) if about else unknown
            if not about:
                _log.error("ingest", extra={"tenant": place.tenant, "error": safe_message(error)})
            state = await self._change(place, record, state="failed", detail=detail)
        if state is not None:
            extra = {"tenant": place.tenant, "state": state.state, "bytes": state.bytes, "chunks": state.chunks}
            _log.info("document", extra={**extra, "seconds": round(time.perf_counter() - started, 3)})

    async def _indexed(self, place: Place, record: Record) -> Record | None:
        if await self._change(place, record, state="reading") is None:
            return None
        document = await asyncio.to_thread(read_file, self.library.files(place) / record.file, record.id)
        index = await asyncio.to_thread(self.library.index, place)
        pages = document.metadata.get("pages")
        known = {"characters": len(document.text), "pages": pages if isinstance(pages, int) else 0}
        if (record_ := await self._change(place, record, state="indexing", **known)) is None:
            return None
        with self._sharing(place, record_, index, len(document.text)):
            await index.aadd([document])
        chunks = len(await asyncio.to_thread(index.get_chunks, [document.id]))
        ready = await self._change(place, record_, state="ready", chunks=chunks, detail="")
        if ready is None and await asyncio.to_thread(self._records.document, place, document.id) is None:
            # It was deleted while it was indexed.
            await index.adelete([document.id])
        return ready

    async def _change(self, place: Place, record: Record, **changes: object) -> Record | None:
        changed = await asyncio.to_thread(lambda: self._records.change(place, record, **changes))
        if changed is not None:
            self._tell(place, changed)
        return changed

    @contextmanager
    def _sharing(self, place: Place, record: Record, index: Index, characters: int) -> Iterator[None]:
        """Tell followers of the share of a document that is indexed, at each further hundredth."""
        loop, done = asyncio.get_running_loop(), 0

        def tell(share: float) -> None:
            if self._share is not None:
                self._share = (place, record.id, share)
                self._tell(place, record, _BEHIND)

        def moved(more: int) -> None:  # in a thread of the encoder's
            nonlocal done
            before, done = done, done + more
            if 100 * done // characters > 100 * before // characters:
                loop.call_soon_threadsafe(tell, min(1.0, done / characters))

        self._share, index.progress = (place, record.id, 0.0), moved
        try:
            yield
        finally:
            self._share, index.progress = None, False

    def _tell(self, place: Place, record: Record, behind: int | None = None) -> None:
        """Tell the followers of a change; those that are further ``behind`` do without."""
        told = self._told(place, record)
        for follower in self._followers.get(place, ()):
            if behind is None or follower.qsize() < behind:
                follower.put_nowait(told)

    def _told(self, place: Place, record: Record) -> dict[str, Any]:
        shared = self._share is not None and self._share[:2] == (place, record.id) and record.state == "indexing"
        return record.to_dict() | ({"done": round(self._share[2], 2)} if self._share is not None and shared else {})


def read_file(path: Path, name: str) -> Document:
    """The document in an uploaded file.

    Args:
        path: The file.
        name: Its name, which becomes the document's id and path.

    Raises:
        InputError: It cannot be read, or holds no text.
        MissingExtraError: A library for its kind is not installed.
    """
    document = next(iter(read_documents(path, on_error="raise")), None)
    if document is None or not document.text.strip():
        raise InputError(f"{name!r} holds no text that can be read: is it a scan, or empty?")
    return replace(document, id=name, metadata={**document.metadata, "path": name})
