"""`AsyncEdgeClient`: an `AsyncQdrantClient` whose data lives in this process."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from qdrant_client import AsyncQdrantClient
from qdrant_client.async_client_base import AsyncQdrantBase

from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.storage.edge.backend.edge import EdgeBackend
from situate.retrievers.storage.edge.client import EdgeClient, PlainVectorInspector, ShallowQueries
from situate.retrievers.storage.edge.errors import StoreClosedError
from situate.retrievers.storage.edge.store import MEMORY, StoreOptions, open_store

#: Few are enough: the engine answers one call at a time, and the threads only wait for it off the event loop.
_THREADS = 4

#: What `AsyncQdrantBase` itself declares without `async`.
_SYNC = ("upload_points", "upload_collection", "migrate")


class AsyncEdgeBackend(AsyncQdrantBase):
    """A backend with every call made in a thread.

    Args:
        backend: The `EdgeBackend` (or a tenant's) that answers.
    """

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self.backend = backend
        self._pid = os.getpid()
        self._closed = False
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="situate-edge")

    async def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``call(*args, **kwargs)`` in one of the threads."""
        if self._closed:
            raise StoreClosedError("this client was closed; open a new one")
        if os.getpid() != self._pid:
            return call(*args, **kwargs)  # a fork has none of its parent's threads, and the call raises at once
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(call, *args, **kwargs))

    async def close(self, **kwargs: Any) -> None:
        """Releases the store, once the running calls have ended."""
        if not self.backend.closed:
            await self.run(self.backend.close)
        self._closed = True
        self._threads.shutdown(wait=False)

    def upload_points(self, collection_name: str, points: Any, **kwargs: Any) -> None:
        """Blocks, as `AsyncQdrantClient` declares it; `upsert` is the call to await."""
        self.backend.upload_points(collection_name, points, **kwargs)

    def upload_collection(self, collection_name: str, vectors: Any, *args: Any, **kwargs: Any) -> None:
        """Blocks, as `AsyncQdrantClient` declares it; `upsert` is the call to await."""
        self.backend.upload_collection(collection_name, vectors, *args, **kwargs)


def _in_thread(name: str) -> Callable[..., Awaitable[Any]]:
    async def method(self: AsyncEdgeBackend, *args: Any, **kwargs: Any) -> Any:
        return await self.run(getattr(self.backend, name), *args, **kwargs)

    method.__name__ = name
    method.__qualname__ = f"AsyncEdgeBackend.{name}"
    method.__doc__ = f"`EdgeBackend.{name}` without blocking the event loop."
    return method


# One body for both interfaces: every method is the synchronous one in a thread.
for _name, _method in vars(AsyncQdrantBase).items():
    if inspect.iscoroutinefunction(_method) and _name not in (*_SYNC, "close"):
        setattr(AsyncEdgeBackend, _name, _in_thread(_name))


def _give_back(backend: EdgeBackend) -> None:
    backend.close()


@checked_parameters
class AsyncEdgeClient(ShallowQueries, AsyncQdrantClient):
    """An `AsyncQdrantClient` over Qdrant Edge. It shares its store with every client of the same path.

    Args:
        path: As for `EdgeClient`.
        client: A client whose store to share, instead of a path: the way to serve ":memory:" both ways.
        options: ``auto_optimize``, ``sync_writes`` and ``read_only``, as for `EdgeClient`.

    Raises:
        StoreLockedError: Another process has the store open.
        InputError: Both a path and a client are given.
    """

    _client: AsyncEdgeBackend

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, client: EdgeClient | None = None, **options: bool
    ) -> None:
        if path is not None and client is not None:
            raise InputError("AsyncEdgeClient takes a path or a client whose store it shares, not both")
        super().__init__(location=MEMORY)
        self._inference_inspector = PlainVectorInspector(self._inference_inspector.parser)
        if client is None:
            store = open_store(MEMORY if path is None else path, StoreOptions(**options))
        else:
            store = client._client.store.share()
        self._init_options = {"path": str(store.folder)}
        backend = EdgeBackend(store)
        self._client = AsyncEdgeBackend(backend)
        # An async client has no __del__ that could await close(), and the store must not stay open.
        self._finalizer = weakref.finalize(self, _give_back, backend)

    @property
    def path(self) -> str:
        """The store's folder."""
        return str(self._client.backend.folder)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._client.backend.closed)

    async def optimize(self, collection_name: str | None = None) -> bool:
        """`EdgeClient.optimize` without blocking the event loop."""
        changed: bool = await self._client.run(self._client.backend.optimize, collection_name)
        return changed

    async def __aenter__(self) -> AsyncEdgeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
