"""`serve`: the chat application with the settings of a configuration."""

from __future__ import annotations

import sys

from situate.configuration.settings import Settings


def serve_settings(settings: Settings, host: str, port: int) -> int:
    """Serve until it is told to stop; the exit code."""
    from situate.app.web.configured import web_settings
    from situate.app.web.server import serve

    def announce(url: str) -> None:
        sys.stderr.write(f"situate: listening on {url}\n")

    retriever, generator = settings.retriever(), settings.generator()
    serve(retriever, generator, settings=web_settings(settings), host=host, port=port, announce=announce)
    return 0
