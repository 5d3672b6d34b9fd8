"""What surrounds every request: its size, the headers of its answer, its line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from situate.app.web.settings import WebLimits
from situate.outside import safe_message

_log = logging.getLogger("situate.web")

#: No script, style, image or connection but the application's own, nothing inline, in no frame; and no HTML is made of
#: strings in scripts.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guards:
    """ASGI middleware.

    Args:
        app: The application.
        limits: How large and how slow requests may be.
    """

    def __init__(self, app: ASGIApp, limits: WebLimits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = uuid.uuid4().hex[:12]
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["X-Request-Id"] = request_id
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self.app(scope, self._bounded(scope, receive), sending)
        except Exception as error:  # noqa: BLE001 - the last place that sees an error: nothing else would answer
            _log.error("failed", extra={"request": request_id, "error": safe_message(error)})
            if not status:
                told = {"error": f"the server failed; its log names request {request_id}"}
                await JSONResponse(told, 500)(scope, receive, sending)
        finally:
            # The route alone: a path or a query may name a document, and documents' names may be private.
            route = getattr(scope.get("route"), "path", "")
            seconds = round(time.perf_counter() - started, 3)
            told = {"request": request_id, "method": scope["method"], "route": route, "status": str(status)}
            _log.info("request", extra={**told, "tenant": scope["state"].get("tenant", ""), "seconds": seconds})

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """``receive``, which refuses a body that is too large or too slow. Files have a limit of their own."""
        if scope["path"].endswith("/documents"):
            return receive
        size = 0
        complete = False

        async def receiving() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()  # waits for the caller to go away
            try:
                async with asyncio.timeout(self.limits.idle_seconds):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the request paused for {self.limits.idle_seconds:g} seconds") from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self.limits.json_bytes:
                raise HTTPException(413, f"the request is larger than {self.limits.json_bytes:,} bytes")
            return message

        return receiving
