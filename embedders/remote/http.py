"""Requests to an embedding server: bounded in time and size, tried again, with errors that show no key."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import os
import re
import weakref
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from situate.embedders.remote.own_loop import OwnLoop, run_on_own_loop
from situate.errors import InputError, ServerError
from situate.outside import Secret, load_json, safe_text
from situate.parameters import checked_parameters

T = TypeVar("T")

#: Statuses of temporary failures: another try of the same request may succeed.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
#: Bytes that are read of an answer that is an error.
_ERROR_BYTES = 64 * 2**10
_KEY_HEADERS = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
_SURROGATES = re.compile("[\ud800-\udfff]")


class HttpOptions(TypedDict, total=False):
    """The fields of `HttpSettings` after the address, as keyword arguments."""

    api_key: str | Secret | None
    api_key_env: str | None
    headers: Mapping[str, str | Secret] | None
    timeout: float
    retries: int
    backoff: float
    longest_wait: float
    concurrency: int
    max_response_bytes: int
    key_over_http: bool


@checked_parameters
@dataclass(frozen=True)
class HttpSettings:
    """Where a server listens, and how requests are made.

    Attributes:
        base_url: The server's address. Its user name and password, if any, are shown in no message.
        api_key: Sent as a bearer token. Shown in no ``repr`` and no message.
        api_key_env: Name of the environment variable that holds the key; read when a request is made, never stored.
        headers: Sent with every request. Values of those that hold a key (``Authorization``, ``X-Api-Key``) become a
            `Secret`, as ``api_key`` does.
        timeout: Seconds for one try of a request, from connecting to the last byte of the answer.
        retries: Further tries after a temporary failure (429, 5xx, a broken or slow connection).
        backoff: Seconds before the first further try, then doubling, with jitter; a Retry-After is obeyed.
        longest_wait: Most seconds between two tries.
        concurrency: Requests of one call that are under way at once.
        max_response_bytes: Bytes of an answer that are read at most, counted after decompression.
        key_over_http: Send a key to an ``http://`` address of another machine too, where the network can read it.

    Raises:
        InputError: The address is no http or https one, a number is out of its range, or a key would go to another
            machine in the clear.
    """

    base_url: str
    api_key: str | Secret | None = None
    api_key_env: str | None = None
    headers: Mapping[str, str | Secret] | None = field(default=None, hash=False)
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 0.5
    longest_wait: float = 30.0
    concurrency: int = 4
    max_response_bytes: int = 2**30
    key_over_http: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.base_url, str):
            raise InputError(f"base_url is {self.base_url!r}: it has to be an http or https address")
        headers = {
            name: Secret(text) if isinstance(text, str) and _KEY_HEADERS.search(name) else text
            for name, text in (self.headers or {}).items()
        }
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        object.__setattr__(self, "headers", headers)
        if isinstance(self.api_key, str):
            object.__setattr__(self, "api_key", Secret(self.api_key))
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise InputError(f"base_url cannot be read as an address: {safe_text(str(error))}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(f"base_url {self.shown_url!r} is no http or https address")
        for name, text in headers.items():
            if not (_in_header(name) and _in_header(_revealed(text))):
                raise InputError(f"header {name[:40]!r} holds a character that no header can carry (a line break, say)")
        for name, lowest in (("concurrency", 1), ("retries", 0), ("max_response_bytes", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < lowest:
                raise InputError(f"{name} is {value!r}: it has to be a whole number of {lowest} or more")
        for name in ("timeout", "backoff", "longest_wait"):
            value = getattr(self, name)
            number = type(value) in (int, float) and math.isfinite(value) and value >= 0
            if not number or (name == "timeout" and value == 0):
                raise InputError(f"{name} is {value!r}: it has to be 0 or more seconds, timeout more than 0")
        secret = (
            self.api_key is not None
            or self.api_key_env is not None
            or any(isinstance(text, Secret) for text in headers.values())
        )
        if secret and url.scheme == "http" and not self.key_over_http and not _is_loopback(url.host):
            raise InputError(
                f"a key would go to {self.shown_url!r} in the clear: give the https:// address, or key_over_http=True "
                "for a network that you trust"
            )

    def __repr__(self) -> str:
        shown = [repr(self.shown_url)]
        for one in fields(self)[1:]:
            value = getattr(self, one.name)
            if value not in (one.default, {}):
                shown.append(f"{one.name}={value!r}")
        return f"HttpSettings({', '.join(shown)})"

    @property
    def shown_url(self) -> str:
        """The address without the user name, password and query that it may hold."""
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def key(self) -> str | None:
        """The key that is sent now; None where there is none.

        Raises:
            InputError: It cannot be sent.
        """
        if isinstance(self.api_key, Secret):
            key = self.api_key.reveal()
        else:
            key = os.environ.get(self.api_key_env, "") if self.api_key_env else ""
        key = key.strip()  # a key that was read from a file may end in a line break
        if not _in_header(key):
            raise InputError("the key holds a character that no header can carry: it was not sent")
        return key or None

    def request_headers(self) -> dict[str, str]:
        """What is sent with a request."""
        key = self.key()
        # Other encodings are not requested: their output cannot be bounded while it is unpacked.
        return {
            "Accept-Encoding": "gzip",
            "Content-Type": "application/json",
            **{name: _revealed(text) for name, text in (self.headers or {}).items()},
            **({} if key is None else {"Authorization": f"Bearer {key}"}),
        }

    def without_keys(self, text: str, limit: int = 300) -> str:
        """A server's text, bounded, without the keys that it was sent and whatever else looks like one."""
        headers = (self.headers or {}).values()
        for key in (self.key(), *(text.reveal() for text in headers if isinstance(text, Secret))):
            text = text.replace(key, "[key]") if key else text
        return safe_text(text, limit)


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        path: Path below the server's base URL.
        body: The JSON to send; None makes a GET request.
        tolerated: Statuses that are answered with a `Refusal` instead of an error.
        max_bytes: Bytes that a right answer has at most; None for `HttpSettings.max_response_bytes`.
    """

    path: str
    body: Mapping[str, Any] | None
    tolerated: frozenset[int] = frozenset()
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A tolerated refusal.

    Attributes:
        status: The HTTP status.
        text: The server's text, without keys.
    """

    status: int
    text: str


class RefusalError(Exception):
    """A stream that a tolerated refusal answers.

    Attributes:
        refusal: The refusal.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class _Failure(Exception):
    """One try that failed; ``wait`` is the server's Retry-After, in seconds."""

    def __init__(self, message: str, *, passing: bool, wait: float | None = None) -> None:
        super().__init__(message)
        self.passing = passing
        self.wait = wait


class HttpConnection:
    """Makes the requests of one encoder. Opens connections on first use; may serve many threads and event loops.

    Args:
        settings: Where the server listens, and how requests are made.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self.settings = settings
        # A client belongs to the loop that it first ran on, and is used on that loop alone.
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return HttpConnection, (self.settings,)

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        """The answers to calls that may be made together, in order.

        Raises:
            ServerError: The server refused, answered no JSON or too much of it, timed out or went away.
        """
        return run_on_own_loop(lambda: self.aask(calls)) if calls else []

    async def aask(self, calls: Sequence[Call]) -> list[Any]:
        """`ask` without blocking the event loop; cancelling it cancels the requests."""
        gate = asyncio.Semaphore(self.settings.concurrency)

        async def bounded(call: Call) -> Any:
            async with gate:
                return await self._tried(self._once, call)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(bounded(call)) for call in calls]
        except ExceptionGroup as failed:
            # The group has cancelled the other requests; the first failure is the caller's error.
            raise failed.exceptions[0] from failed.exceptions[0].__cause__
        return [task.result() for task in tasks]

    def close(self) -> None:
        """Close the connections of synchronous calls; the next call opens them again."""
        if any(isinstance(loop, OwnLoop) for loop in list(self._clients)):
            run_on_own_loop(self.aclose)

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def aevents(self, call: Call) -> AsyncGenerator[bytes]:
        """The data of the server-sent events that answer ``call``, as they arrive; or the body, where it is no stream.

        A request that fails before the answer begins is tried again. ``timeout`` bounds the wait for the answer's
        beginning and for each event. Closing the iterator closes the connection.

        Raises:
            ServerError: As in `ask`; or the server stays silent or hangs up in the middle.
            RefusalError: The status is one of ``call.tolerated``.
        """
        response = await self._tried(self._begun, call)
        try:
            limit = self._limit(call)
            lines = _data_lines(response, limit)
            while True:
                with self._translated(call):
                    async with asyncio.timeout(self.settings.timeout):
                        line = await anext(lines, None)
                if line is None:
                    return
                yield line
        except _Failure as failure:
            raise ServerError(str(failure)) from failure.__cause__
        finally:
            await response.aclose()

    async def _tried(self, attempt: Callable[[Call], Awaitable[T]], call: Call) -> T:
        settings = self.settings
        grow = wait_exponential(multiplier=settings.backoff, max=settings.longest_wait)
        jitter = wait_random(0, settings.backoff)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            wanted = error.wait if isinstance(error, _Failure) else None
            return min(grow(state) + jitter(state) if wanted is None else wanted, settings.longest_wait)

        try:
            return await AsyncRetrying(
                stop=stop_after_attempt(settings.retries + 1),
                wait=wait,
                retry=retry_if_exception(lambda error: isinstance(error, _Failure) and error.passing),
                reraise=True,
            )(attempt, call)
        except _Failure as failure:
            raise ServerError(str(failure)) from failure.__cause__

    def _limit(self, call: Call) -> int:
        return min(self.settings.max_response_bytes, call.max_bytes or self.settings.max_response_bytes)

    async def _once(self, call: Call) -> Any:
        """The answer to one try: its JSON, or a tolerated refusal."""
        with self._translated(call):
            async with asyncio.timeout(self.settings.timeout):
                response = await self._sent(call)
                try:
                    if not response.is_success:
                        return await self._refused(call, response)
                    limit = self._limit(call)
                    data = b"".join([part async for part in _parts(response, limit)])
                finally:
                    await response.aclose()
        where = self._where(call)
        if len(data) > limit:
            raise _Failure(
                f"{where} answered more than {limit:,} bytes, which is more than its answer can have: ask for less "
                "at once (batch_size), or raise max_response_bytes",
                passing=False,
            )
        return load_json(data, f"what {where} answered", ServerError, max_bytes=limit)

    async def _begun(self, call: Call) -> httpx.Response:
        """A successful answer whose body is still to be read."""
        with self._translated(call):
            async with asyncio.timeout(self.settings.timeout):
                response = await self._sent(call)
                if response.is_success:
                    return response
                try:
                    raise RefusalError(await self._refused(call, response))
                finally:
                    await response.aclose()

    async def _refused(self, call: Call, response: httpx.Response) -> Refusal:
        """A tolerated refusal; any other is raised."""
        settings, where, status = self.settings, self._where(call), response.status_code
        data = b"".join([part async for part in _parts(response, _ERROR_BYTES)])
        text = settings.without_keys(data[:_ERROR_BYTES].decode("utf-8", "replace"))
        if status in call.tolerated:
            return Refusal(status, text)
        if status in (401, 403):
            # The server's text may repeat a part of the key.
            source = "api_key=" if settings.api_key else f"the environment variable {settings.api_key_env}"
            advice = f"check {source}" if settings.key() else "no key was sent: give api_key= or api_key_env="
            raise _Failure(f"{where} refused the key (HTTP {status}): {advice}", passing=False)
        raise _Failure(
            f"{where} answered HTTP {status}: {text or 'nothing'}",
            passing=status in _PASSING,
            wait=_retry_after(response),
        )

    def _where(self, call: Call) -> str:
        return f"{self.settings.shown_url}/{call.path}"

    @contextmanager
    def _translated(self, call: Call) -> Iterator[None]:
        """Errors of the connection as failures that say what to do."""
        settings, where = self.settings, self._where(call)
        try:
            yield
        except (httpx.HTTPError, TimeoutError) as error:
            kind = "cannot be reached"
            if isinstance(error, httpx.TimeoutException | TimeoutError):
                kind = "did not answer in time"
            raise _Failure(
                f"{where} {kind} ({type(error).__name__}, timeout {settings.timeout:g} s, {settings.retries + 1} "
                "tries): is the server running, and is the address right?",
                passing=True,
            ) from error
        except zlib.error as error:
            raise _Failure(f"{where} answered what cannot be decompressed ({error})", passing=False) from error

    async def _sent(self, call: Call) -> httpx.Response:
        """The answer to a request, its body not read."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            unbounded = httpx.Limits(max_connections=None)
            client = httpx.AsyncClient(timeout=None, limits=unbounded)  # noqa: S113 - bounded as a whole by the callers
            self._clients[loop] = client
            if isinstance(loop, OwnLoop):
                # An encoder that is dropped without close() leaves no open connection behind.
                weakref.finalize(self, loop.close_client, client).atexit = False
        content = None
        if call.body is not None:
            # A lone surrogate has no UTF-8: the model reads the replacement character, and spans stay where they are.
            content = _SURROGATES.sub("\ufffd", json.dumps(call.body, ensure_ascii=False)).encode()
        request = client.build_request(
            "GET" if content is None else "POST",
            f"{self.settings.base_url}/{call.path}",
            headers=self.settings.request_headers(),
            content=content,
        )
        return await client.send(request, stream=True)


async def _parts(response: httpx.Response, limit: int) -> AsyncGenerator[bytes]:
    """The decompressed body part by part, ``limit + 1`` bytes at most."""
    unpacked = _unpacker(response.headers.get("Content-Encoding", ""))
    size = 0
    async for raw in response.aiter_raw():
        part = unpacked(raw, limit - size + 1)
        size += len(part)
        yield part
        if size > limit:
            return


async def _data_lines(response: httpx.Response, limit: int) -> AsyncGenerator[bytes]:
    """The ``data:`` lines of a body of server-sent events; the whole body of any other."""
    events = response.headers.get("Content-Type", "").startswith("text/event-stream")
    rest = bytearray()
    size = 0
    async for part in _parts(response, limit):
        searched = len(rest)
        rest += part
        size += len(part)
        if size > limit:
            raise _Failure(f"the answer has more than {limit:,} bytes: it was cut off there", passing=False)
        while events and (end := rest.find(b"\n", searched)) >= 0:
            line = bytes(rest[:end]).strip()
            del rest[: end + 1]
            searched = 0
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if not events and rest:
        yield bytes(rest)


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """Decompresses a body part by part, each time up to a number of bytes.

    Raises:
        httpx.DecodingError: An encoding that was not requested.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return lambda raw, most: raw[:most]
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise httpx.DecodingError(f"Content-Encoding {encoding[:20]!r} was not requested")
    return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress  # gzip's or zlib's header


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _revealed(text: str | Secret) -> str:
    return text.reveal() if isinstance(text, Secret) else text


def _in_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
