"""Clients of a Qdrant server or cluster that try again, on the next node, when one is away for a moment."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from grpc import RpcError, StatusCode  # type: ignore[import-untyped]
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
)

from situate.batches import in_batches
from situate.errors import InputError, ServerError
from situate.outside import safe_message
from situate.retrievers.storage.columns import rows_of_columns

#: How often a call is tried (on every node of a cluster), and how long it waits before all nodes are tried once more
#: (seconds): a random time that may double each time.
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0

#: Answers of a server that is starting, overloaded or behind a proxy that lost it.
_TEMPORARY_STATUS = frozenset({429, 502, 503, 504})
_TEMPORARY_CODES = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED})


def is_temporary(error: BaseException) -> bool:
    """Whether another attempt may succeed. Every operation of Qdrant may be repeated: writing twice changes nothing."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _TEMPORARY_STATUS
    if isinstance(error, RpcError):
        code = getattr(error, "code", None)
        return callable(code) and code() in _TEMPORARY_CODES
    return isinstance(error, ResponseHandlingException | ResourceExhaustedResponse | httpx.TransportError)


def shown(url: str) -> str:
    """``url`` without user, password and query, which may hold keys."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, host if parts.port is None else f"{host}:{parts.port}", parts.path, "", ""))


class _RawInterfaces:
    """The generated clients underneath are those of the first node; their calls are not retried."""

    _nodes: Sequence[Any]

    @property
    def http(self) -> Any:
        """The REST client."""
        return self._nodes[0].http

    @property
    def grpc_collections(self) -> Any:
        """The gRPC client for collections."""
        return self._nodes[0].grpc_collections

    @property
    def grpc_points(self) -> Any:
        """The gRPC client for points."""
        return self._nodes[0].grpc_points


class ServerClient(_RawInterfaces, QdrantClient):
    """A `QdrantClient` of a server or a cluster. A call that fails because the server is away is tried again.

    Every node of a cluster serves the whole of it. All calls go to one node until it is away; then the next one gets
    them at once, and from then on.

    Args:
        url: The server, or the nodes of one cluster.
        attempts: How often a call is tried; with several nodes, on each.
        options: As for `QdrantClient`; the same for all nodes.

    Raises (on a call):
        ServerError: No node answered in all of the attempts. The message names the URLs and never the API key, and, for
            an upload, the number of points that the server has acknowledged.
    """

    def __init__(self, url: str | Sequence[str], *, attempts: int = ATTEMPTS, **options: Any) -> None:
        urls = _urls(url)
        super().__init__(url=urls[0], **options)
        # Kept, since a forgotten client closes its backend.
        self._others = [QdrantClient(url=other, **options) for other in urls[1:]]
        self._nodes = [self._client, *(other._client for other in self._others)]
        self._client: QdrantBase = FailoverBackend(self._nodes, Failover(urls, attempts))


class AsyncServerClient(_RawInterfaces, AsyncQdrantClient):
    """The asynchronous `ServerClient`.

    `upload_points` and `upload_collection` are qdrant-client's own here: they are not asynchronous, call the first node
    only, and raise what qdrant-client raises. Use `upsert`.

    Args:
        url: The server, or the nodes of one cluster.
        attempts: How often a call is tried; with several nodes, on each.
        options: As for `AsyncQdrantClient`; the same for all nodes.

    Raises (on a call):
        ServerError: No node answered in all of the attempts. The message names the URLs and never the API key.
    """

    def __init__(self, url: str | Sequence[str], *, attempts: int = ATTEMPTS, **options: Any) -> None:
        urls = _urls(url)
        super().__init__(url=urls[0], **options)
        # Kept, since a forgotten client closes its backend.
        self._others = [AsyncQdrantClient(url=other, **options) for other in urls[1:]]
        self._nodes = [self._client, *(other._client for other in self._others)]
        self._client: AsyncQdrantBase = AsyncFailoverBackend(self._nodes, Failover(urls, attempts))


def _urls(url: str | Sequence[str]) -> list[str]:
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise InputError("url is an empty list: name the server, or the nodes of one cluster")
    return urls


class Failover:
    """Chooses the node of a call, the number of attempts, and the final error.

    Args:
        urls: The nodes.
        attempts: How often a call is tried on each.
    """

    def __init__(self, urls: Sequence[str], attempts: int) -> None:
        self._nodes = len(urls)
        self._urls = " or ".join(shown(url) for url in urls)
        self._attempts = attempts
        self._current = 0

    def call(self, operation: str, on_node: Callable[[int], Any]) -> Any:
        """``on_node(place of the current node)``, tried again while the error is a temporary one.

        Raises:
            ServerError: All attempts failed.
        """

        def attempt() -> Any:
            with self._moving_on() as node:
                return on_node(node)

        return Retrying(**self._options(operation))(attempt)

    async def acall(self, operation: str, on_node: Callable[[int], Awaitable[Any]]) -> Any:
        """`call` for coroutines."""

        async def attempt() -> Any:
            with self._moving_on() as node:
                return await on_node(node)

        return await AsyncRetrying(**self._options(operation))(attempt)

    @contextmanager
    def _moving_on(self) -> Iterator[int]:
        """The current node; after a temporary error the next one is, unless another call has moved on already."""
        node = self._current
        try:
            yield node
        except Exception as error:  # the retry decides on every error
            if is_temporary(error) and self._current == node:
                self._current = (node + 1) % self._nodes
            raise

    def _options(self, operation: str) -> dict[str, Any]:
        return {
            "retry": retry_if_exception(is_temporary),
            "stop": stop_after_attempt(self._attempts * self._nodes),
            "wait": self._wait,
            "retry_error_callback": lambda state: self._give_up(operation, state),
        }

    def _wait(self, state: RetryCallState) -> float:
        """Seconds: none before a node that was not tried yet, more before each further round."""
        rounds, others = divmod(state.attempt_number, self._nodes)
        if others:
            return 0.0
        return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (rounds - 1)))  # noqa: S311 - not for secrets

    def _give_up(self, operation: str, state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        # Only the kind and the status: a message may quote the request with its headers.
        reason = type(error).__name__ if not isinstance(error, UnexpectedResponse) else f"status {error.status_code}"
        cause = getattr(error, "source", None)
        if cause is not None:
            reason = safe_message(cause, 300)
        raise ServerError(
            f"the Qdrant server {self._urls} did not answer {operation} in {state.attempt_number} attempts ({reason}): "
            "check that it runs and can be reached, and try again; repeating an operation does no harm"
        ) from error


class FailoverBackend(QdrantBase):
    """The backend of a `QdrantClient`, over one backend per node of a cluster.

    Args:
        nodes: A backend for each node.
        failover: Chooses among them.
    """

    def __init__(self, nodes: Sequence[Any], failover: Failover) -> None:
        super().__init__()
        self._nodes = nodes
        self._failover = failover

    def close(self, **kwargs: Any) -> None:
        """Closes the connections to all nodes."""
        for node in self._nodes:
            node.close(**kwargs)

    def upload_collection(
        self,
        collection_name: str,
        vectors: Any,
        payload: Iterable[dict[Any, Any]] | None = None,
        ids: Iterable[Any] | None = None,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        """`upload_points` of columns."""
        rows = rows_of_columns(vectors, payload, ids)
        points = (models.PointStruct(id=id_, vector=vector, payload=own) for id_, vector, own in rows)
        self.upload_points(collection_name, points, batch_size, **kwargs)

    def upload_points(
        self,
        collection_name: str,
        points: Iterable[Any],
        batch_size: int = 64,
        update_filter: Any = None,
        update_mode: Any = None,
        **kwargs: Any,
    ) -> None:
        """Uploads batch by batch, each acknowledged before the next, so that an error can name the points written."""
        written = 0
        for batch in in_batches(points, batch_size):
            options = {"update_filter": update_filter, "update_mode": update_mode}
            try:
                self.upsert(collection_name, batch, wait=True, **{k: v for k, v in options.items() if v is not None})
            except ServerError as error:
                raise ServerError(f"{error}. {written:,} points were written before") from error
            written += len(batch)


class AsyncFailoverBackend(AsyncQdrantBase):
    """`FailoverBackend` for coroutines.

    Args:
        nodes: A backend for each node.
        failover: Chooses among them.
    """

    def __init__(self, nodes: Sequence[Any], failover: Failover) -> None:
        super().__init__()
        self._nodes = nodes
        self._failover = failover

    async def close(self, **kwargs: Any) -> None:
        """Closes the connections to all nodes."""
        for node in self._nodes:
            await node.close(**kwargs)

    def upload_points(self, collection_name: str, points: Iterable[Any], **kwargs: Any) -> None:
        """Blocks and calls the first node only; `upsert` is the call to await."""
        self._nodes[0].upload_points(collection_name, points, **kwargs)

    def upload_collection(self, collection_name: str, vectors: Any, *args: Any, **kwargs: Any) -> None:
        """Blocks and calls the first node only; `upsert` is the call to await."""
        self._nodes[0].upload_collection(collection_name, vectors, *args, **kwargs)


def _on_a_node(name: str) -> Callable[..., Any]:
    def method(self: FailoverBackend, *args: Any, **kwargs: Any) -> Any:
        return self._failover.call(name, lambda node: getattr(self._nodes[node], name)(*args, **kwargs))

    method.__name__ = method.__qualname__ = name
    return method


def _on_a_node_async(name: str) -> Callable[..., Any]:
    async def method(self: AsyncFailoverBackend, *args: Any, **kwargs: Any) -> Any:
        return await self._failover.acall(name, lambda node: getattr(self._nodes[node], name)(*args, **kwargs))

    method.__name__ = method.__qualname__ = name
    return method


# Every operation of the interface that is not written out above goes to the current node. `migrate` is made of others.
for _name in vars(QdrantBase):
    if not _name.startswith("_") and _name not in {*vars(FailoverBackend), "migrate"}:
        setattr(FailoverBackend, _name, _on_a_node(_name))
for _name in vars(AsyncQdrantBase):
    if not _name.startswith("_") and _name not in {*vars(AsyncFailoverBackend), "migrate"}:
        setattr(AsyncFailoverBackend, _name, _on_a_node_async(_name))
