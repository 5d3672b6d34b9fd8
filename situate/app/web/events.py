"""Server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.responses import StreamingResponse

from situate.app.web.problems import told

#: Seconds of silence after which a comment is sent, so that proxies do not close the connection.
KEEP_ALIVE = 15.0


def encoded(name: str, data: Any) -> bytes:
    """One event. JSON has no line breaks, so nothing in ``data`` can begin another event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class EventResponse(StreamingResponse):
    """A stream of events, which ends with the event "error" where making them fails.

    Args:
        events: Names and data.
        seconds: How long the stream may take, its reader's pauses included; None for no limit.
    """

    def __init__(self, events: AsyncGenerator[tuple[str, Any]], seconds: float | None = None) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_lines(events, seconds), media_type="text/event-stream", headers=headers)


async def _lines(events: AsyncGenerator[tuple[str, Any]], seconds: float | None) -> AsyncGenerator[bytes]:
    made: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=16)
    # One task makes all events: spans that are open around several of them belong to its context.
    maker = asyncio.create_task(_make(events, made, seconds))
    try:
        while not (maker.done() and made.empty()):
            try:
                async with asyncio.timeout(KEEP_ALIVE):
                    line = await made.get()
            except TimeoutError:
                line = b": waiting\n\n"
            if line is None:
                return
            yield line
    finally:
        maker.cancel()


async def _make(
    events: AsyncGenerator[tuple[str, Any]], made: asyncio.Queue[bytes | None], seconds: float | None
) -> None:
    last: list[bytes | None] = [None]
    try:
        async with asyncio.timeout(seconds), aclosing(events):
            async for name, data in events:
                await made.put(encoded(name, data))
    except TimeoutError:
        last.insert(0, encoded("error", {"error": f"the answer took more than {seconds:g} seconds"}))
    except Exception as error:  # noqa: BLE001 - the status was sent long ago: the stream alone can tell
        last.insert(0, encoded("error", {"error": told(error)}))
    # Where a reader has stopped reading, nothing waits for it: what it opened is closed by now.
    with suppress(asyncio.QueueFull):
        for line in last:
            made.put_nowait(line)
