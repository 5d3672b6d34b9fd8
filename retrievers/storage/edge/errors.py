"""The errors of an embedded store, in the classes that callers of `QdrantClient` already catch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from qdrant_client.http.exceptions import UnexpectedResponse

from situate.errors import InputError, StorageError, StoreCorruptError


class CollectionError(StorageError, UnexpectedResponse, ValueError):
    """A collection is missing or already there.

    qdrant-client's local mode raises ValueError where a server answers with a status code (UnexpectedResponse); code
    written for either catches this one.
    """

    status = 400

    def __init__(self, message: str) -> None:
        UnexpectedResponse.__init__(
            self,
            status_code=self.status,
            reason_phrase=type(self).__name__,
            content=message.encode(errors="replace"),
            headers=httpx.Headers(),
        )
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[CollectionError], tuple[str]]:
        return type(self), (self.message,)


class CollectionNotFoundError(CollectionError):
    """No collection and no alias has that name."""

    status = 404


class CollectionExistsError(CollectionError):
    """A collection or an alias already has that name."""

    status = 409


class ClusterOnlyError(StorageError, NotImplementedError):
    """Only a Qdrant server or cluster can do this."""

    @classmethod
    def of(cls, operation: str) -> ClusterOnlyError:
        """The error for ``operation``."""
        return cls(
            f"{operation} needs a Qdrant cluster: an embedded store is one shard in one process. "
            "Open the store with QdrantClient(url=...) on a server and migrate() to it"
        )


class StoreClosedError(StorageError, RuntimeError):
    """The client was closed."""


#: Beginnings of the engine's messages for errors that the caller can correct.
_CALLER_MISTAKES = (
    "Vector dimension error",
    "Not existing vector name",
    "No point with id",
    "No range index",
    "Validation failed",
    "Wrong input",
    "Bad request",
    "Validation error",
    "Index required",
    "Multivector",
    "MultiVector",
    "Vector inference",
    "Incorrect",
)
_DAMAGE = ("corrupt", "checksum", "deserialize", "Failed to read", "failed to load", "UnexpectedEof", "invalid data")


def engine_error(error: BaseException, doing: str) -> Exception:
    """The situate error that an engine's exception means.

    The engine raises bare `Exception`, distinguished by message only, and a panic as `PanicException`, which does not
    derive from `Exception`.
    """
    message = f"{doing}: {error}"
    if str(error).startswith("Operation cancelled"):
        # The message where a formula has no result; nothing else cancels an operation in this process.
        return InputError(
            f"{doing}: no value found for a variable of the formula in the payload of some point, nor in its defaults: "
            "give FormulaQuery(defaults={variable: value}), or filter for points that have it; or the formula produced "
            "a non-finite number for some point (a root, logarithm, power or quotient beyond its range)"
        )
    if is_panic(error) or any(sign.lower() in str(error).lower() for sign in _DAMAGE):
        return StoreCorruptError(message)
    if isinstance(error, ValueError | TypeError | OverflowError | RecursionError) or str(error).startswith(
        _CALLER_MISTAKES
    ):
        return InputError(message)
    return StorageError(message)


def is_panic(error: BaseException) -> bool:
    """Whether it is a panic of the engine, which derives from BaseException, as KeyboardInterrupt does."""
    return type(error).__name__ == "PanicException"


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Raises the engine's errors inside as situate errors that begin with ``doing``."""
    try:
        yield
    except (StorageError, InputError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise engine_error(error, doing) from error
