"""Shared fixtures of the LangChain tests: the real weights, and a small handbook."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from langchain_core.documents import Document

from situate.integrations.langchain import SituateEmbeddings, SituateTextSplitter

LEAVE = """# Leave

## Parents

Parents of a newborn get sixteen weeks. They may split them in two parts, within two years.

## Sabbatical

After seven years everybody may take three months. They are unpaid, and the health insurance goes on.

## Illness

From the fourth day on a doctor's note is needed. Send it to the people team.
"""

TRAVEL = """# Travel

## Trains

Trains are booked in second class. Reservations are paid for.

## Hotels

Up to 120 euros a night. More needs the consent of your lead.

## Meals

Receipts are not needed. The daily rate is 28 euros.
"""


@pytest.fixture(scope="session")
def embeddings() -> SituateEmbeddings:
    """all-MiniLM-L6-v2 in its exact mode."""
    return SituateEmbeddings(dtype="float32")


@pytest.fixture
def splitter(embeddings: SituateEmbeddings) -> SituateTextSplitter:
    """Small chunks, so that a short document has several."""
    return SituateTextSplitter(embeddings, chunk_size=24)


@pytest.fixture
def handbook() -> list[Document]:
    """Two documents of several sections."""
    return [
        Document(id="leave", page_content=LEAVE, metadata={"title": "Leave", "source": "leave.md"}),
        Document(id="travel", page_content=TRAVEL, metadata={"title": "Travel", "source": "travel.md"}),
    ]


@pytest.fixture
def watched() -> Callable[[], AbstractAsyncContextManager[None]]:
    """A context in which the event loop must keep running while its body is awaited."""

    @asynccontextmanager
    async def watch() -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        gaps: list[float] = []

        async def tick() -> None:
            last = loop.time()
            while True:
                await asyncio.sleep(0.001)
                now = loop.time()
                gaps.append(now - last)
                last = now

        ticker = asyncio.create_task(tick())
        started = loop.time()
        yield
        took = loop.time() - started
        ticker.cancel()
        # A call that blocks leaves one gap that is the whole call. No absolute limit: the machine may be busy.
        assert gaps, "the event loop did not turn once"
        assert max(gaps) < 0.8 * took, f"the event loop stood still for {max(gaps):.3f} of {took:.3f} s"

    return watch
