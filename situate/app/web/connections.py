"""Connections that do not wait for ever for a request: uvicorn bounds pauses after a request, and none before it."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedConnection(H11Protocol):
    """Closes a connection on which no whole head of a request comes for once to twice `seconds`.

    Attributes:
        seconds: How often it looks.
    """

    seconds = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look."""
        super().connection_made(transport)
        self._before: object = None
        self._timer = self.loop.call_later(self.seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """End it."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        # One cycle is one request, made when its head is complete.
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self.cycle is self._before:
            self.transport.close()
            return
        self._before = self.cycle
        self._timer = self.loop.call_later(self.seconds, self._look)


def bounded_connection(seconds: float) -> type[BoundedConnection]:
    """`BoundedConnection` that looks every so many seconds."""
    return type("BoundedConnection", (BoundedConnection,), {"seconds": seconds})
