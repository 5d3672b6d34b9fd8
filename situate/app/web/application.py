"""The chat application: documents in, questions answered with their sources, in a browser."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from situate.app.web.access import DeniedError, RateError
from situate.app.web.guards import Guards
from situate.app.web.problems import status_of, told
from situate.app.web.routes import router
from situate.app.web.services import Services
from situate.app.web.settings import WebSettings
from situate.app.web.store.turns import BusyError
from situate.errors import SituateError
from situate.retrievers.retriever import Retriever
from situate.types import TextGenerator

STATIC = Path(__file__).parent / "static"


def create_app(retriever: Retriever, generator: TextGenerator | None = None, *, settings: WebSettings) -> FastAPI:
    """A chat application over documents, as an ASGI application.

    It starts with its server: the store is opened (an error ends the start), models are loaded meanwhile, and
    ``/readyz`` tells when they are. One process serves a store in a folder; many may serve one on a Qdrant server, each
    with a `WebSettings.folder` of its own.

    Args:
        retriever: How documents are stored (its index) and searched.
        generator: The language model; one that streams (`StreamingGenerator`) is shown while it writes. None answers
            with the best spans of the best passages.
        settings: Folder, tenants and limits.
    """
    services = Services(retriever, generator, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await services.start()
        try:
            yield
        finally:
            await services.stop()

    # The pages that FastAPI makes of its schema load scripts from another site.
    app = FastAPI(title="Situate", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.services = services
    app.include_router(router)
    app.add_middleware(Guards, limits=settings.limits)
    app.add_exception_handler(SituateError, _told)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_api_route("/", _page, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


async def _told(_: Request, error: Exception) -> Response:
    headers = {}
    if isinstance(error, DeniedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateError | BusyError):
        headers["Retry-After"] = str(int(getattr(error, "wait", 5)) + 1)
    return JSONResponse({"error": told(error)}, status_of(error), headers)


async def _malformed(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # What was sent is not repeated: it may be long, and a log may hold the answer.
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5]]
    return JSONResponse({"error": "; ".join(faults)}, 422)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
