"""Clients of a Qdrant server that try again when it is away for a moment."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from grpc import RpcError, StatusCode  # type: ignore[import-untyped]
from qdrant_client import AsyncQdrantClient, QdrantClient
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
    wait_random_exponential,
)

from situate.chunkers.errors import ServerError

#: How often a call is tried, and how long it waits between tries (seconds): a random time that may double each time.
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0

#: Answers of a server that is starting, overloaded or behind a proxy that lost it.
_TEMPORARY_STATUS = frozenset({429, 502, 503, 504})
_TEMPORARY_CODES = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED})

#: What is not tried again: uploads do so batch by batch, the others talk to no server.
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
    """A `QdrantClient` of a server. A call that fails because the server is away is tried again a few times.

    Args:
        url: The server.
        attempts: How often a call is tried.
        options: As for `QdrantClient`.

    Raises (on a call):
        ServerError: The server did not answer in all of the attempts. The message names the URL and never the API key,
            and says of an upload how many points the server has acknowledged.
    """

    def __init__(self, url: str, *, attempts: int = ATTEMPTS, **options: Any) -> None:
        super().__init__(url=url, **options)
        # The same connection, with retries: the base class offers no seam to hand in a backend.
        self._client.__class__ = _PatientRemote
        self._client.patience = _Patience(shown(url), attempts)  # type: ignore[attr-defined]


class AsyncServerClient(AsyncQdrantClient):
    """The asynchronous `ServerClient`."""

    def __init__(self, url: str, *, attempts: int = ATTEMPTS, **options: Any) -> None:
        super().__init__(url=url, **options)
        self._client.__class__ = _AsyncPatientRemote
        self._client.patience = _Patience(shown(url), attempts)  # type: ignore[attr-defined]


class _Patience:
    """How long to try, and what to say in the end."""

    def __init__(self, url: str, attempts: int) -> None:
        self.url = url
        self._attempts = attempts

    def _options(self, operation: str) -> dict[str, Any]:
        return {
            "retry": retry_if_exception(is_temporary),
            "stop": stop_after_attempt(self._attempts),
            "wait": wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            "retry_error_callback": lambda state: self._give_up(operation, state),
        }

    def _give_up(self, operation: str, state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        # Only the kind and the status: a message may quote the request with its headers.
        reason = type(error).__name__ if not isinstance(error, UnexpectedResponse) else f"status {error.status_code}"
        cause = getattr(error, "source", None)
        if cause is not None:
            reason = f"{type(cause).__name__}: {cause}"
        raise ServerError(
            f"the Qdrant server {self.url} did not answer {operation} in {state.attempt_number} attempts ({reason}): "
            "check that it runs and can be reached, and try again; repeating an operation does no harm"
        ) from error

    def call(self, operation: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return Retrying(**self._options(operation))(method, *args, **kwargs)

    async def acall(self, operation: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await AsyncRetrying(**self._options(operation))(method, *args, **kwargs)


class _PatientRemote(QdrantRemote):
    patience: _Patience

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
    patience: _Patience


def _patient(name: str) -> Callable[..., Any]:
    def method(self: _PatientRemote, *args: Any, **kwargs: Any) -> Any:
        return self.patience.call(name, getattr(super(_PatientRemote, self), name), *args, **kwargs)

    method.__name__ = method.__qualname__ = name
    return method


def _apatient(name: str) -> Callable[..., Any]:
    async def method(self: _AsyncPatientRemote, *args: Any, **kwargs: Any) -> Any:
        return await self.patience.acall(name, getattr(super(_AsyncPatientRemote, self), name), *args, **kwargs)

    method.__name__ = method.__qualname__ = name
    return method


for _name in vars(QdrantBase):
    if not _name.startswith("_") and _name not in _ONCE:
        setattr(_PatientRemote, _name, _patient(_name))
for _name in vars(AsyncQdrantBase):
    if not _name.startswith("_") and _name not in _ONCE:
        setattr(_AsyncPatientRemote, _name, _apatient(_name))
