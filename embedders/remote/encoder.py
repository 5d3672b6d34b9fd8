"""HttpEncoder: the base of the span encoders that call a server, and the checks of its answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np

from situate.embedders.remote.http import Call, HttpConnection, HttpOptions, HttpSettings
from situate.embedders.types import Encoded, SpanText, Vectors, check_plain
from situate.errors import InputError, ServerError, ServerVectorError, SituateError
from situate.outside import safe_message
from situate.parameters import checked_parameters

C = TypeVar("C", bound=type)

#: A conversation with the server: calls that may be made together go out, their answers come in.
Conversation = Generator[Sequence[Call], list[Any], list[Encoded]]

#: Bytes of JSON that an answer has besides its vectors, and that a vector has: 65,536 numbers of 16 characters.
_ANSWER_BYTES = 2**20
_VECTOR_BYTES = 2**20


def checked_options(cls: C) -> C:
    """`checked_parameters` for an encoder, which takes the fields of `HttpSettings` too."""
    return checked_parameters(cls, HttpOptions.__annotations__)


def http_settings(base_url: str | HttpSettings, options: HttpOptions) -> HttpSettings:
    """The settings of an address and options, or those given in place of the address.

    Raises:
        InputError: There are settings and options too, or `HttpSettings` refuses its values.
    """
    if not isinstance(base_url, HttpSettings):
        return HttpSettings(base_url, **options)
    if options:
        raise InputError(f"{', '.join(options)}: set it in the HttpSettings that is given as base_url")
    return base_url


class HttpEncoder:
    """Base of the span encoders that call a server. A subclass writes the conversation; this class runs it.

    Cheap to construct: no request is made before the first text. Copies and pickles as its configuration. May be used
    by many threads and event loops at once, and after a fork.

    Args:
        base_url: Where the server listens, or an `HttpSettings` with the other settings too.
        options: The fields of `HttpSettings` after its address.
        batch_size: Texts per request.

    Raises:
        InputError: ``batch_size`` is less than 1, or `HttpSettings` refuses its values.
    """

    def __init__(self, base_url: str | HttpSettings, options: HttpOptions, batch_size: int) -> None:
        if type(batch_size) is not int or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}: it has to be a whole number of 1 or more")
        self.http = http_settings(base_url, options)
        self._batch_size = batch_size
        self._connection = HttpConnection(self.http)
        self._dimension: int | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.http.shown_url!r})"

    @property
    def base_url(self) -> str:
        """The server's address."""
        return self.http.base_url

    @property
    def dimension(self) -> int:
        """Length of a vector. Before the first answer, one vector is requested from the server.

        Raises:
            ServerError: The server cannot be reached.
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
        """
        check_plain(inputs, "the server")
        conversation = self._conversation(inputs, token_vectors)
        calls, result = _advanced(conversation, None)
        while calls is not None:
            calls, result = _advanced(conversation, self._connection.ask(calls))
        return result

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """`encode` without blocking the event loop; cancelling it cancels the requests."""
        check_plain(inputs, "the server")
        conversation = self._conversation(inputs, token_vectors)
        # Tokenizing and making arrays would block the loop: they run in a thread.
        calls, result = await asyncio.to_thread(_advanced, conversation, None)
        while calls is not None:
            calls, result = await asyncio.to_thread(_advanced, conversation, await self._connection.aask(calls))
        return result

    def close(self) -> None:
        """Close the connections of synchronous calls; the next call opens them again."""
        self._connection.close()

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        await self._connection.aclose()

    def _conversation(self, inputs: Sequence[SpanText], token_vectors: bool) -> Conversation:
        raise NotImplementedError

    def _checked(self, matrix: Vectors, path: str, *, tokens: bool = False) -> Vectors:
        """The vectors of texts, or of one text's tokens, checked to be finite, not zero and as long as those before.

        Raises:
            ServerError: They are not.
        """
        where = f"{self.http.shown_url}/{path}"
        if not np.isfinite(matrix).all():
            raise ServerVectorError(f"{where} answered a vector with NaN or infinity: look into the server's log")
        if not (matrix.any() if tokens else matrix.any(axis=1).all()):
            raise ServerError(f"{where} answered a vector of zeros: is the model loaded, and is it one for embeddings?")
        if self._dimension is not None and matrix.shape[1] != self._dimension:
            raise ServerError(
                f"{where} answered vectors of {matrix.shape[1]} numbers, before they had {self._dimension}"
            )
        self._dimension = int(matrix.shape[1])
        return matrix

    @contextmanager
    def _understood(self, path: str) -> Iterator[None]:
        """Errors inside, from an answer that is not in its interface's form, become a `ServerError`."""
        try:
            yield
        except SituateError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ServerError(
                f"{self.http.shown_url}/{path} answered in a form that is not its interface's "
                f"({safe_message(error, 200)}): is this the right kind of server?"
            ) from error

    def _miscounted(self, path: str, found: int, wanted: int, what: str = "vectors") -> NoReturn:
        raise ServerError(f"{self.http.shown_url}/{path} answered {found} {what} for {wanted} texts")

    def _indexed(self, answer: Any, count: int, path: str, what: str = "vectors") -> list[Any]:
        """The rows of an answer in OpenAI's form, in the order of the texts."""
        with self._understood(path):
            rows = sorted(answer["data"], key=lambda row: row["index"])
            if [row["index"] for row in rows] != list(range(count)):
                self._miscounted(path, len(rows), count, what)
        return rows


def answer_bytes(vectors: int) -> int:
    """Bytes that an answer of so many vectors has at most."""
    return _ANSWER_BYTES + vectors * _VECTOR_BYTES


def numbers(row: Any, encoding: Literal["float", "base64"] = "float") -> Vectors:
    """float32 ``[dimension]`` from a list of numbers, or from base64 of little-endian float32 where it was requested.

    Raises:
        ValueError: It is neither; a text or a truth value is no number.
    """
    if encoding == "base64" and isinstance(row, str):
        return np.frombuffer(base64.b64decode(row, validate=True), dtype="<f4")
    if not isinstance(row, list) or not row or not set(map(type, row)) <= {int, float}:
        raise ValueError(f"expected a list of numbers, got {_kind(row)}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which is refused
        return np.array(row, dtype=np.float64).astype(np.float32)


def matrix_of(rows: Any, encoding: Literal["float", "base64"] = "float") -> Vectors:
    """float32 ``[rows, dimension]``.

    Raises:
        ValueError: A row is no vector, or their lengths differ, or there is none.
    """
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"expected a list of vectors, got {_kind(rows)}")
    return np.stack([numbers(row, encoding) for row in rows])


def positive(value: Any) -> int:
    """A count from a server's own description.

    Raises:
        ValueError: It is no whole number of 1 or more.
    """
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValueError(f"expected a whole number of 1 or more, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    """What a value is, in a few words: it may have megabytes."""
    if isinstance(value, list):
        return f"a list of {', '.join(sorted({type(item).__name__ for item in value})) or 'nothing'}"
    return type(value).__name__ if isinstance(value, str | dict) else str(value)[:40]


def _advanced(conversation: Conversation, answers: list[Any] | None) -> tuple[Sequence[Call] | None, list[Encoded]]:
    """The next calls of a conversation, or None and its result: a StopIteration must not leave a thread."""
    try:
        return (next(conversation) if answers is None else conversation.send(answers)), []
    except StopIteration as stop:
        return None, stop.value
