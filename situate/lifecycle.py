"""Opening, warming up and closing for every class over a store, written once for sync and async callers."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Self


class Openable:
    """An object that is opened and closed: a service that opens it at its start fails then, not at its first query."""

    @abstractmethod
    def open(self) -> Self:
        """Open the store and check its collection now instead of at the first use.

        Raises:
            ModelError: The embedding model cannot be used.
            StoreLockedError: Another process has the embedded store open.
            ServerError: No server answered.
            IncompatibleIndexError: The collection was built with another encoder or configuration.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the store that was opened. A client given by the caller stays open."""

    def warm_up(self) -> Self:
        """`open`, and load the models that a first query needs. Language models are not called."""
        return self.open()

    async def aopen(self) -> Self:
        """`open` without blocking the event loop."""
        return await asyncio.to_thread(self.open)

    async def awarm_up(self) -> Self:
        """`warm_up` without blocking the event loop."""
        return await asyncio.to_thread(self.warm_up)

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
