"""The HTTP interface of a chat application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field

from situate.app.web.answers.document_view import document_view, span_texts
from situate.app.web.answers.page_image import page_image
from situate.app.web.events import EventResponse
from situate.app.web.services import Services
from situate.app.web.settings import Place
from situate.app.web.store.library import NotFoundError
from situate.app.web.store.uploads import TooLargeError, accepted, clean_name, receive
from situate.chunkers.base import encodable
from situate.errors import InputError

#: Spans in a query: "10-20,30-45", characters of the document's text.
_SPANS = re.compile(r"(?:\d{1,9}-\d{1,9})(?:,\d{1,9}-\d{1,9}){0,99}")


@dataclass(frozen=True)
class Caller:
    """A tenant that makes a request, and what serves it."""

    tenant: str
    services: Services

    def place(self, collection: str) -> Place:
        """A collection of the tenant's own."""
        return Place(self.tenant, collection)


def caller(request: Request) -> Caller:
    """The caller of a request. Errors are those of `Access`."""
    services: Services = request.app.state.services
    services.access.check_origin(request)
    request.state.tenant = services.access.tenant(request)
    services.requests.take(request.state.tenant)
    return Caller(request.state.tenant, services)


By = Annotated[Caller, Depends(caller)]


class NewCollection(BaseModel):
    """A collection to be made."""

    name: str = Field(max_length=100)


class Question(BaseModel):
    """A question, in a conversation where one is named."""

    question: Annotated[str, AfterValidator(encodable)]
    conversation: str | None = Field(None, max_length=64)


@dataclass(frozen=True)
class Span:
    """A passage of a document, and marked spans of it, as a query names them."""

    id: Annotated[str, Query(max_length=1_000)]
    start: Annotated[int, Query(ge=0)] = 0
    end: Annotated[int, Query(ge=0)] = 0
    marks: Annotated[str, Query(max_length=4_000)] = ""

    def spans(self) -> list[tuple[int, int]]:
        """The marked spans.

        Raises:
            InputError: They cannot be read.
        """
        if not self.marks:
            return []
        if not _SPANS.fullmatch(self.marks):
            raise InputError("marks are spans like 10-20,30-45")
        pairs = [pair.split("-") for pair in self.marks.split(",")]
        return [(int(a), int(b)) for a, b in pairs]


router = APIRouter()
api = APIRouter(prefix="/api")


@router.get("/healthz")
async def health() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readiness(request: Request, response: Response) -> dict[str, str]:
    """Whether questions can be answered: the store is open and the models are loaded."""
    why_not = await request.app.state.services.why_not_ready()
    response.status_code = 503 if why_not else 200
    return {"status": "not ready", "why": why_not} if why_not else {"status": "ready"}


@api.get("/about")
def about(by: By) -> dict[str, Any]:
    """What the page needs to know."""
    settings = by.services.settings
    return {
        "title": settings.title,
        "tenant": by.tenant,
        "keys": bool(settings.keys),
        "model": by.services.generator is not None,
        "types": list(accepted()),
        "file_bytes": settings.limits.file_bytes,
        "question_characters": settings.limits.question_characters,
    }


@api.get("/collections")
def collections(by: By) -> list[str]:
    """The names of the caller's collections."""
    return by.services.library.records.collections(by.tenant)


@api.post("/collections", status_code=201)
def add_collection(new: NewCollection, by: By) -> dict[str, str]:
    """Make a collection."""
    by.services.library.add_collection(by.place(new.name))
    return {"name": new.name}


@api.delete("/collections/{collection}", status_code=204)
def drop_collection(collection: str, by: By) -> None:
    """Delete a collection with its documents and conversations."""
    by.services.library.drop_collection(by.place(collection))
    by.services.conversations.remove(by.place(collection))


@api.get("/collections/{collection}/documents")
def documents(collection: str, by: By) -> list[dict[str, Any]]:
    """The documents of a collection."""
    return [record.to_dict() for record in by.services.library.documents(by.place(collection))]


@api.post("/collections/{collection}/documents", status_code=202)
async def upload(collection: str, name: str, request: Request, by: By) -> dict[str, Any]:
    """Upload a file, the body of the request; it is read and indexed afterwards."""
    services, place = by.services, by.place(collection)
    limits = services.settings.limits
    services.uploads.take(by.tenant)
    name = clean_name(name)
    held = {record.id for record in await asyncio.to_thread(services.library.documents, place)}
    if name not in held and len(held) >= limits.documents:
        raise InputError(f"the collection holds {len(held):,} documents, as many as may be: delete some")
    if int(request.headers.get("content-length", 0)) > limits.file_bytes:
        raise TooLargeError(f"{name!r} is larger than {limits.file_bytes:,} bytes: split it, or ask for a higher limit")
    services.ingest.check(place)
    body, folder = request.stream(), services.library.files(place)
    with services.receiving.taken(by.tenant):
        try:
            async with aclosing(body), asyncio.timeout(limits.upload_seconds):
                record = await receive(body, folder, name, limits.file_bytes, limits.idle_seconds)
        except TimeoutError:
            raise InputError(
                f"{name!r} did not arrive within {limits.upload_seconds:g} seconds: send it again"
            ) from None
    return (await services.ingest.submit(place, record)).to_dict()


@api.get("/collections/{collection}/documents/events")
async def document_events(collection: str, by: By) -> EventResponse:
    """The documents that wait or are read, each time that their state changes, until none is left."""
    place, following = by.place(collection), by.services.following
    following.check(by.tenant)

    async def events() -> AsyncGenerator[tuple[str, Any]]:
        with following.taken(by.tenant):
            async with aclosing(by.services.ingest.follow(place)) as changes:
                async for change in changes:
                    yield "document", change

    return EventResponse(events())


@api.delete("/collections/{collection}/documents", status_code=204)
async def delete_document(collection: str, id: str, by: By) -> None:
    """Delete a document."""
    place = by.place(collection)
    await asyncio.to_thread(by.services.library.delete, place, id)
    by.services.ingest.deleted(place, id)


@api.get("/collections/{collection}/view")
def view(collection: str, span: Annotated[Span, Depends()], by: By) -> dict[str, Any]:
    """A passage in its document."""
    place = by.place(collection)
    found = document_view(by.services.library.index(place), span.id, span.start, span.end, span.spans())
    return {**found.to_dict(), "pdf": by.services.library.pdf(place, span.id) is not None}


@api.get("/collections/{collection}/page")
async def page(
    collection: str, page: Annotated[int, Query(ge=1)], span: Annotated[Span, Depends()], by: By
) -> Response:
    """The page of a PDF as an image, a passage or spans of it marked."""
    library, place = by.services.library, by.place(collection)
    file = await asyncio.to_thread(library.pdf, place, span.id)
    if file is None:
        raise NotFoundError("there is no such PDF")
    spans = span.spans() or [(span.start, span.end)]
    index = await asyncio.to_thread(library.index, place)
    texts = await asyncio.to_thread(span_texts, index, span.id, spans)
    by.services.pages.take(by.tenant)
    async with by.services.drawing:
        image = await page_image(file, page, texts)
    return Response(image, media_type="image/png", headers={"Cache-Control": "private, max-age=600"})


@api.post("/collections/{collection}/ask")
async def ask(collection: str, asked: Question, by: By) -> EventResponse:
    """Answer a question, as events."""
    services, place = by.services, by.place(collection)
    services.questions.take(by.tenant)
    services.answering.check(asked.question)
    await asyncio.to_thread(services.library.retriever, place)
    services.answers.check(by.tenant)

    async def events() -> AsyncGenerator[tuple[str, Any]]:
        answer = services.answering.answer(place, asked.question, asked.conversation)
        with services.answers.taken(by.tenant):
            async with aclosing(answer) as made:
                async for event in made:
                    yield event.name, event.data

    return EventResponse(events(), services.settings.limits.answer_seconds)


@api.get("/collections/{collection}/conversations")
def conversations(collection: str, by: By) -> list[dict[str, Any]]:
    """The conversations about a collection, the newest first."""
    return by.services.conversations.titles(by.place(collection))


@api.get("/collections/{collection}/conversations/{conversation}")
def conversation(collection: str, conversation: str, by: By) -> list[dict[str, Any]]:
    """The messages of a conversation."""
    messages = by.services.conversations.messages(by.place(collection), conversation)
    if messages is None:
        raise NotFoundError("there is no such conversation")
    return [message.to_dict() for message in messages]


@api.delete("/collections/{collection}/conversations/{conversation}", status_code=204)
def delete_conversation(collection: str, conversation: str, by: By) -> None:
    """Delete a conversation."""
    by.services.conversations.remove(by.place(collection), conversation)


router.include_router(api)
