"""The errors that situate raises.

    SituateError
    ├── InputError            (also ValueError)    an argument or an input cannot be used
    │   ├── UnknownArgumentError  (also TypeError) there is no such parameter
    │   ├── SpanError                              a span is reversed, outside its text, or not what it says
    │   ├── OverflowLimitError                     a text is longer than the model reads (on_overflow="raise")
    │   └── NonFiniteVectorError                   a vector holds NaN or infinity
    ├── ModelError                                 a model cannot be used
    │   ├── ModelNotFoundError                     no such folder, package or hub id
    │   ├── UnsafeModelError                       it needs code or pickle that the caller did not allow
    │   └── ConventionError                        the model does not support the operation (late chunking, say)
    ├── ReentryError          (also RuntimeError)  a thread re-enters its own operation (in a signal handler)
    ├── StorageError                               the store cannot do its work
    │   ├── StoreLockedError                       another process holds the embedded store
    │   ├── StoreCorruptError                      files are damaged
    │   ├── DiskFullError                          the disk has no room
    │   ├── IncompatibleIndexError                 the collection was built with another encoder
    │   └── ServerError                            a server refused, timed out or went away
    │       └── ServerVectorError (also NonFiniteVectorError)   its answer holds NaN or infinity
    ├── GenerationError                            a language model failed, or answered nothing usable
    ├── StepError                                  an optional step failed and on_error="raise"
    └── MissingExtraError     (also ImportError)   an optional dependency is not installed

    SituateWarning            (also UserWarning)   a result is worse than requested
    ├── TruncationWarning                          texts were cut because the model reads no longer ones
    └── FallbackWarning                            a slower or simpler method was used

Every message names the value, the limit and the way out. No message holds an API key.
"""

from __future__ import annotations


class SituateError(Exception):
    """Base of all errors raised by situate."""


class InputError(SituateError, ValueError):
    """An argument or an input cannot be used."""


class UnknownArgumentError(InputError, TypeError):
    """There is no such parameter. The message names the one that was meant, or all of them."""


class SpanError(InputError):
    """A span is reversed, lies outside its text, or does not hold the text that it should."""


class OverflowLimitError(InputError):
    """A text is longer than the model reads, and ``on_overflow="raise"``."""


class NonFiniteVectorError(InputError):
    """A vector holds NaN or infinity."""


class ModelError(SituateError):
    """A model cannot be used."""


class ModelNotFoundError(ModelError):
    """The model is no folder, no installed package and no hub id that can be reached."""


class UnsafeModelError(ModelError):
    """The model needs remote code or pickled weights, and the caller did not ask for them."""


class ConventionError(ModelError):
    """The model does not support the operation."""


class ReentryError(SituateError, RuntimeError):
    """A thread re-enters its own operation: a signal handler that embeds while it interrupts an embedding."""


class StorageError(SituateError):
    """The store cannot do its work."""


class StoreLockedError(StorageError):
    """Another process holds the embedded store."""


class StoreCorruptError(StorageError):
    """Files of the store are damaged."""


class DiskFullError(StorageError):
    """The disk of a store has no room."""


class IncompatibleIndexError(StorageError):
    """The collection was built with another encoder."""


class ServerError(StorageError):
    """A server refused, timed out or went away."""


class ServerVectorError(ServerError, NonFiniteVectorError):
    """A server's answer holds a vector with NaN or infinity."""


class GenerationError(SituateError):
    """A language model failed, or answered nothing usable."""


class PromptRefusedError(GenerationError):
    """A language model's server did not take the prompt (too long for it, say): a second attempt would not help."""


class StepError(SituateError):
    """An optional step of a query failed, and ``on_error="raise"``."""


class MissingExtraError(SituateError, ImportError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtraError:
        """The error for ``package``, which ``pip install 'situate[extra]'`` would bring."""
        return cls(f"{purpose} needs the package {package!r}: pip install 'situate[{extra}]'")


class SituateWarning(UserWarning):
    """Base of all warnings given by situate."""


class TruncationWarning(SituateWarning):
    """Texts were cut because they are longer than the model reads."""


class FallbackWarning(SituateWarning):
    """A slower or simpler method was used, because the requested one is not possible here."""
