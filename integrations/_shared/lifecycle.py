"""Opening, warming up and closing what searches an `Index`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from situate.retrievers.index.index import Index


class OpensIndex:
    """A store or retriever over an `Index`: opened before its first use, so that a service fails when it starts."""

    @abstractmethod
    def _searched(self) -> Index:
        """The index that is searched."""

    def open(self) -> Self:
        """Open the store and check its collection now, and not at the first use.

        Raises:
            ModelError: The model cannot be used.
            StoreLockedError: Another process has the embedded store open.
            ServerError: No server answered.
            IncompatibleIndexError: The collection was built with another encoder or configuration.
        """
        _ = self._searched().client
        return self

    async def aopen(self) -> Self:
        """`open` without blocking the event loop."""
        return await asyncio.to_thread(self.open)

    def warm_up(self) -> Self:
        """`open`, and load the model by embedding a query."""
        self.open()
        self._searched().embedder.embed_queries(["warm up"])
        return self

    async def awarm_up(self) -> Self:
        """`warm_up` without blocking the event loop."""
        return await asyncio.to_thread(self.warm_up)

    def close(self) -> None:
        """Close the store that was opened. A client that was handed in stays open."""
        self._searched().close()

    async def aclose(self) -> None:
        """`close` without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await self.aopen()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
