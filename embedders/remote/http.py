"""Asking an embedding server: batches, retries and errors, written once for sync and async callers."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from situate.embedders.types import Encoded, SpanText
from situate.errors import InputError, ServerError

#: Passing troubles: the request was right, another try may succeed.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        path: Path below the server's base URL.
        body: What is sent as JSON; None asks with GET.
        tolerated: Statuses that are answered with a `Refusal` instead of an error.
    """

    path: str
    body: Mapping[str, Any] | None
    tolerated: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A tolerated refusal: its status and what the server said."""

    status: int
    said: str


#: A conversation with the server: calls that may be made together go out, their answers come in.
Conversation = Generator[Sequence[Call], list[Any], list[Encoded]]


class _Failure(Exception):
    """One try that failed; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, message: str, *, passing: bool, wait: float | None = None) -> None:
        super().__init__(message)
        self.passing = passing
        self.wait = wait


class HttpEncoder:
    """Base of the span encoders that ask a server. A subclass writes the conversation; this one carries it on.

    Cheap to construct: no request is made before the first text. Pickles as its configuration. May be used by many
    threads and event loops at once.

    Args:
        base_url: Where the server listens.
        api_key: Sent as a bearer token. Pickled with the object, unlike a key from the environment.
        api_key_env: Name of the environment variable that holds the key; read when a request is made, never stored.
        headers: Sent with every request.
        timeout: Seconds until a request is given up.
        retries: Further tries after a passing trouble (429, 5xx, a broken or slow connection).
        backoff: Seconds before the first further try, then doubling, with jitter; a Retry-After is obeyed.
        longest_wait: Most seconds between two tries.
        concurrency: Requests of one call that are under way at once.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        api_key_env: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 0.5,
        longest_wait: float = 30.0,
        concurrency: int = 4,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"base_url {_shown(base_url)!r} is no http or https address")
        if concurrency < 1 or retries < 0:
            raise InputError(f"concurrency ({concurrency}) has to be 1 or more, retries ({retries}) 0 or more")
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._api_key_env = api_key_env
        self._headers = dict(headers or {})
        self._timeout = timeout
        self._retries = retries
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._concurrency = concurrency
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        # An async client belongs to the loop that it first ran on.
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )
        self._dimension: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        handles = ("_lock", "_client", "_async_clients")
        return {name: value for name, value in self.__dict__.items() if name not in handles}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown_url!r})"

    @property
    def dimension(self) -> int:
        """Length of a vector. Asks the server for one vector where nothing told it yet.

        Raises:
            ServerError: The server cannot be asked.
        """
        if self._dimension is None:
            self.encode([SpanText("dimension")])
        assert self._dimension is not None  # every answer sets it
        return self._dimension

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """One result per input, in order.

        Raises:
            ServerError: The server refused, answered nonsense, timed out or went away.
            ConventionError: It cannot pool spans or return token vectors.
            OverflowLimitError: A text is longer than it reads and ``on_overflow="raise"``.
            NonFiniteVectorError: It answered NaN or infinity.
        """
        results: list[Encoded] = self._carry(self._conversation(inputs, token_vectors))
        return results

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """`encode` without blocking the event loop; cancelling it cancels the requests."""
        conversation = self._conversation(inputs, token_vectors)
        gate = asyncio.Semaphore(self._concurrency)

        async def asked(call: Call) -> Any:
            async with gate:
                return await self._aask(call)

        try:
            calls = next(conversation)
            while True:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(asked(call)) for call in calls]
                calls = conversation.send([task.result() for task in tasks])
        except StopIteration as stop:
            result: list[Encoded] = stop.value
            return result
        except ExceptionGroup as group_error:
            # The group cancelled the other requests; the caller is told of the first that failed.
            raise group_error.exceptions[0] from None

    def close(self) -> None:
        """Close the sync connections; the next call opens them again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _conversation(self, inputs: Sequence[SpanText], token_vectors: bool) -> Conversation:
        raise NotImplementedError

    def _carry(self, conversation: Generator[Sequence[Call], list[Any], Any]) -> Any:
        try:
            calls = next(conversation)
            while True:
                calls = conversation.send(self._ask_all(calls))
        except StopIteration as stop:
            return stop.value

    def _ask_all(self, calls: Sequence[Call]) -> list[Any]:
        if len(calls) < 2 or self._concurrency == 1:
            return [self._ask(call) for call in calls]
        with ThreadPoolExecutor(min(self._concurrency, len(calls))) as pool:
            futures = [pool.submit(self._ask, call) for call in calls]
            try:
                return [future.result() for future in futures]
            except BaseException:
                # Whatever went wrong, what has not been sent is not sent any more.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, call: Call) -> Any:
        try:
            for attempt in Retrying(**self._policy()):
                with attempt:
                    with self._lock:
                        if self._client is None:
                            self._client = httpx.Client(timeout=self._timeout)
                        client = self._client
                    try:
                        response = client.send(self._request(client, call))
                    except httpx.HTTPError as error:
                        raise self._broken(error, call) from error
                    return self._answer(response, call)
        except _Failure as failure:
            raise ServerError(str(failure)) from failure.__cause__
        raise AssertionError  # pragma: no cover  # the last attempt returns or raises

    async def _aask(self, call: Call) -> Any:
        try:
            async for attempt in AsyncRetrying(**self._policy()):
                with attempt:
                    client = self._async_client()
                    try:
                        response = await client.send(self._request(client, call))
                    except httpx.HTTPError as error:
                        raise self._broken(error, call) from error
                    return self._answer(response, call)
        except _Failure as failure:
            raise ServerError(str(failure)) from failure.__cause__
        raise AssertionError  # pragma: no cover  # the last attempt returns or raises

    def _async_client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            client = self._async_clients[loop] = httpx.AsyncClient(timeout=self._timeout)
        return client

    def _policy(self) -> dict[str, Any]:
        grow = wait_exponential(multiplier=self._backoff, max=self._longest_wait) + wait_random(0, self._backoff)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            asked = error.wait if isinstance(error, _Failure) else None
            return grow(state) if asked is None else min(asked, self._longest_wait)

        return {
            "stop": stop_after_attempt(self._retries + 1),
            "wait": wait,
            "retry": retry_if_exception(lambda error: isinstance(error, _Failure) and error.passing),
            "reraise": True,
        }

    def _request(self, client: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
        headers = dict(self._headers)
        key = self._key()
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.base_url}/{call.path}"
        if call.body is None:
            return client.build_request("GET", url, headers=headers)
        return client.build_request("POST", url, headers=headers, json=dict(call.body))

    def _key(self) -> str | None:
        if self._api_key is not None:
            return self._api_key
        return os.environ.get(self._api_key_env) if self._api_key_env else None

    def _answer(self, response: httpx.Response, call: Call) -> Any:
        status = response.status_code
        if status in call.tolerated:
            return Refusal(status, self._said(response))
        where = f"{self._shown_url}/{call.path}"
        if status in (401, 403):
            # What servers say here may repeat a part of the key.
            source = f"the environment variable {self._api_key_env}" if self._api_key is None else "api_key="
            given = f"check {source}" if self._key() is not None else "no key was sent: give api_key= or api_key_env="
            raise _Failure(f"{where} refused the key (HTTP {status}): {given}", passing=False)
        if status >= 300:
            raise _Failure(
                f"{where} answered HTTP {status}: {self._said(response) or 'nothing'}",
                passing=status in _PASSING,
                wait=_retry_after(response),
            )
        try:
            return response.json()
        except ValueError as error:
            raise _Failure(f"{where} answered something that is not JSON", passing=False) from error

    def _broken(self, error: httpx.HTTPError, call: Call) -> _Failure:
        kind = "did not answer in time" if isinstance(error, httpx.TimeoutException) else "cannot be reached"
        return _Failure(
            f"{self._shown_url}/{call.path} {kind} ({type(error).__name__}, timeout {self._timeout:g} s, "
            f"{self._retries + 1} tries): is the server running, and is the address right?",
            passing=True,
        )

    def _said(self, response: httpx.Response) -> str:
        said = " ".join(response.text.split())[:300]
        key = self._key()
        return said.replace(key, "[key]") if key else said

    @property
    def _shown_url(self) -> str:
        return _shown(self.base_url)


def _shown(url: str) -> str:
    """The address without the user name, password and query that it may hold."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
