"""`serve`: the chat application on an address of this machine, until it is told to stop."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import uvicorn
from fastapi import FastAPI

from situate.app.addresses import check_address
from situate.app.web.access import check_public
from situate.app.web.application import create_app
from situate.app.web.connections import bounded_connection
from situate.app.web.settings import WebSettings
from situate.retrievers.retriever import Retriever
from situate.types import TextGenerator

#: Seconds that answers have to end after the signal to stop.
_GRACE = 10

_PLAIN = frozenset(vars(logging.makeLogRecord({})))


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, event, and the values that came with it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        values = {name: value for name, value in vars(record).items() if name not in _PLAIN and name != "message"}
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        trouble = {"error": record.exc_info[0].__name__} if record.exc_info and record.exc_info[0] else {}
        return json.dumps({**head, **trouble, **values}, default=str)


def serve(
    retriever: Retriever,
    generator: TextGenerator | None = None,
    *,
    settings: WebSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve the chat application until SIGINT or SIGTERM; answers that are being written may end.

    The log goes to standard error, one JSON object a line. It holds no keys and no texts.

    Args:
        retriever: As in `create_app`.
        generator: As in `create_app`.
        settings: As in `create_app`.
        host: The address to listen on.
        port: The port; 0 for any that is free.
        announce: Is told the application's URL when it listens.

    Raises:
        InputError: The address can be reached from other machines, and there are no keys; or it is taken.
        StoreLockedError: Another process serves the same store.
        SituateError: The store or the embedding model cannot be used.
    """
    check_public(settings, host)
    check_address(host, port)
    app = create_app(retriever, generator, settings=settings)
    # Before the server starts, whose own message about an error would be a traceback.
    app.state.services.library.open()
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("httpx", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _Announcing(server_config(app, host, port), announce).run()


def server_config(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves the application."""
    limits = app.state.services.settings.limits
    return uvicorn.Config(
        app,
        http=bounded_connection(limits.idle_seconds),
        host=host,
        port=port,
        ws="none",
        log_config=None,
        access_log=False,  # the application's own log names no documents
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=limits.connections,
    )


class _Announcing(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started and self._announce is not None:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._announce(f"http://{host}:{port}/")
