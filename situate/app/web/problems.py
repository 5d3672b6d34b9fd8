"""The statuses and the words by which callers are told of errors."""

from __future__ import annotations

import logging

from situate.app.web.access import DeniedError, ForeignPageError, RateError
from situate.app.web.store.library import NotFoundError
from situate.app.web.store.turns import BusyError
from situate.app.web.store.uploads import NoSpaceError, TooLargeError
from situate.errors import DiskFullError, InputError, MissingExtraError, SituateError, StorageError
from situate.outside import safe_message, safe_text

_log = logging.getLogger("situate.web")

#: The status of an error: the first class that it belongs to.
_STATUS: tuple[tuple[type[SituateError], int], ...] = (
    (DeniedError, 401),
    (ForeignPageError, 403),
    (NotFoundError, 404),
    (TooLargeError, 413),
    (RateError, 429),
    (InputError, 400),
    (MissingExtraError, 501),
    (DiskFullError, 507),
    (BusyError, 503),
    (StorageError, 503),
)
DISK_FULL = "the server's disk is full: nothing was changed, and it needs room"
BROKEN = "the store or a model cannot be used: the server's log tells why"


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def told(error: Exception) -> str:
    """What a caller is told of an error: its own words where it is about the request.

    Those of other errors, which may name folders and addresses of the server, go to the log.
    """
    if status_of(error) == 500 or (isinstance(error, StorageError) and not isinstance(error, NoSpaceError)):
        _log.error("failed", extra={"error": safe_message(error)})
        if isinstance(error, DiskFullError):
            return DISK_FULL
        return BROKEN if isinstance(error, SituateError) else "the server failed"
    return safe_text(str(error), 1_000)
