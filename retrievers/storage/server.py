"""Clients of a Qdrant server or cluster that try again, on the next node, when one is away for a moment."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
from grpc import RpcError, StatusCode  # type: ignore[import-untyped]
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.async_qdrant_remote import AsyncQdrantRemote
from qdrant_client.client_base import QdrantBase
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.qdrant_remote import QdrantRemote
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
)

from situate.errors import InputError, ServerError
from situate.retrievers.storage.columns import rows_of_columns

#: How often a call is tried (on every node of a cluster), and how long it waits before all nodes are tried once more
#: (seconds): a random time that may double each time.
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0

#: Answers of a server that is starting, overloaded or behind a proxy that lost it.
_TEMPORARY_STATUS = frozenset({429, 502, 503, 504})
_TEMPORARY_CODES = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED})

#: What is not tried again as a whole: uploads go on batch by batch, the others talk to no server.
_ONCE = frozenset({"upload_points", "upload_collection", "migrate", "close"})


def is_temporary(error: BaseException) -> bool:
    """Whether trying again may help. Every operation of Qdrant may be repeated: writing twice changes nothing."""
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


class ServerClient(QdrantClient):
    """A `QdrantClient` of a server or a cluster. A call that fails because the server is away is tried again.

    Every node of a cluster serves the whole of it. One is asked for everything until it is away; then the next one is
    asked at once, and from then on.

    Args:
        url: The server, or the nodes of one cluster.
        attempts: How often a call is tried; with several nodes, on each.
        options: As for `QdrantClient`; the same for all nodes.

    Raises (on a call):
        ServerError: No node answered in all of the attempts. The message names the URLs and never the API key, and
            says of an upload how many points the server has acknowledged.
    """

    def __init__(self, url: str | Sequence[str], *, attempts: int = ATTEMPTS, **options: Any) -> None:
        urls = _urls(url)
        super().__init__(url=urls[0], **options)
        # The same connection, with retries: the base class offers no seam to hand in a backend.
        self._client.__class__ = _PatientRemote
        others = [QdrantClient(url=other, **options) for other in urls[1:]]
        nodes = [self._client, *(other._client for other in others)]
        self._client.others = others  # type: ignore[attr-defined]
        self._client.patience = _Patience(nodes, urls, attempts)  # type: ignore[attr-defined]


class AsyncServerClient(AsyncQdrantClient):
    """The asynchronous `ServerClient`.

    `upload_points` and `upload_collection` are qdrant-client's own here: they are not asynchronous, ask the first node
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
        self._client.__class__ = _AsyncPatientRemote
        others = [AsyncQdrantClient(url=other, **options) for other in urls[1:]]
        nodes = [self._client, *(other._client for other in others)]
        self._client.others = others  # type: ignore[attr-defined]
        self._client.patience = _Patience(nodes, urls, attempts)  # type: ignore[attr-defined]


def _urls(url: str | Sequence[str]) -> list[str]:
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise InputError("url is an empty list: name the server, or the nodes of one cluster")
    return urls


_Node = TypeVar("_Node")


class _Patience(Generic[_Node]):
    """Which node to ask, how long to try, and what to say in the end."""

    def __init__(self, nodes: Sequence[_Node], urls: Sequence[str], attempts: int) -> None:
        self._nodes = nodes
        self._urls = " or ".join(shown(url) for url in urls)
        self._attempts = attempts
        self._at = 0

    def _options(self, operation: str) -> dict[str, Any]:
        return {
            "retry": retry_if_exception(is_temporary),
            "stop": stop_after_attempt(self._attempts * len(self._nodes)),
            "wait": self._wait,
            "retry_error_callback": lambda state: self._give_up(operation, state),
        }

    def _wait(self, state: RetryCallState) -> float:
        """Seconds: none before a node that was not asked yet, more before each further round."""
        rounds, others = divmod(state.attempt_number, len(self._nodes))
        if others:
            return 0.0
        return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (rounds - 1)))  # noqa: S311 - not for secrets

    def _give_up(self, operation: str, state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        # Only the kind and the status: a message may quote the request with its headers.
        reason = type(error).__name__ if not isinstance(error, UnexpectedResponse) else f"status {error.status_code}"
        cause = getattr(error, "source", None)
        if cause is not None:
            reason = f"{type(cause).__name__}: {cause}"
        raise ServerError(
            f"the Qdrant server {self._urls} did not answer {operation} in {state.attempt_number} attempts ({reason}): "
            "check that it runs and can be reached, and try again; repeating an operation does no harm"
        ) from error

    def _leave(self, node: int, error: BaseException) -> None:
        """Ask the next node from now on, unless another call has moved on already."""
        if is_temporary(error) and self._at == node:
            self._at = (node + 1) % len(self._nodes)

    def call(self, operation: str, method: Callable[[_Node], Any]) -> Any:
        """``method`` of the node whose turn it is."""

        def attempt() -> Any:
            node = self._at
            try:
                return method(self._nodes[node])
            except Exception as error:  # whatever it is goes on to the retrying that asked
                self._leave(node, error)
                raise

        return Retrying(**self._options(operation))(attempt)

    async def acall(self, operation: str, method: Callable[[_Node], Awaitable[Any]]) -> Any:
        """`call` for coroutines."""

        async def attempt() -> Any:
            node = self._at
            try:
                return await method(self._nodes[node])
            except Exception as error:  # whatever it is goes on to the retrying that asked
                self._leave(node, error)
                raise

        return await AsyncRetrying(**self._options(operation))(attempt)


class _PatientRemote(QdrantRemote):
    patience: _Patience[QdrantRemote]
    others: Sequence[QdrantClient]

    def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Closes the connections to all nodes."""
        for other in self.others:
            other.close(grpc_grace=grpc_grace, **kwargs)
        super().close(grpc_grace=grpc_grace, **kwargs)

    def upload_collection(  # type: ignore[override]  # likewise
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

    def upload_points(  # type: ignore[override]  # what it does not name it has no use for
        self,
        collection_name: str,
        points: Iterable[Any],
        batch_size: int = 64,
        update_filter: Any = None,
        update_mode: Any = None,
        **kwargs: Any,
    ) -> None:
        """Uploads batch by batch, each acknowledged before the next, so that an error can say how far it came."""
        rows = iter(points)
        written = 0
        while batch := list(itertools.islice(rows, batch_size)):
            options = {"update_filter": update_filter, "update_mode": update_mode}
            try:
                self.upsert(collection_name, batch, wait=True, **{k: v for k, v in options.items() if v is not None})
            except ServerError as error:
                raise ServerError(f"{error}. {written:,} points were written before") from error
            written += len(batch)


class _AsyncPatientRemote(AsyncQdrantRemote):
    patience: _Patience[AsyncQdrantRemote]
    others: Sequence[AsyncQdrantClient]

    async def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Closes the connections to all nodes."""
        for other in self.others:
            await other.close(grpc_grace=grpc_grace, **kwargs)
        await super().close(grpc_grace=grpc_grace, **kwargs)


def _patient(name: str) -> Callable[..., Any]:
    plain = getattr(QdrantRemote, name)

    def method(self: _PatientRemote, *args: Any, **kwargs: Any) -> Any:
        return self.patience.call(name, lambda node: plain(node, *args, **kwargs))

    method.__name__ = method.__qualname__ = name
    return method


def _apatient(name: str) -> Callable[..., Any]:
    plain = getattr(AsyncQdrantRemote, name)

    async def method(self: _AsyncPatientRemote, *args: Any, **kwargs: Any) -> Any:
        return await self.patience.acall(name, lambda node: plain(node, *args, **kwargs))

    method.__name__ = method.__qualname__ = name
    return method


for _name in vars(QdrantBase):
    if not _name.startswith("_") and _name not in _ONCE:
        setattr(_PatientRemote, _name, _patient(_name))
for _name in vars(AsyncQdrantBase):
    if not _name.startswith("_") and _name not in _ONCE:
        setattr(_AsyncPatientRemote, _name, _apatient(_name))
