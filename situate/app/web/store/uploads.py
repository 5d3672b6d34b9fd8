"""Files from callers: their names, and their bytes on the disk."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import unicodedata
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from situate.app.web.store.records import Record
from situate.chunkers.readers.files import readable_suffixes
from situate.errors import DiskFullError, InputError, StorageError

LONGEST_NAME = 150
#: Bytes that are written at once.
_BLOCK = 2**20


class TooLargeError(InputError):
    """A file, or a request, is larger than the limit."""


class NoSpaceError(DiskFullError):
    """A file was not stored; the message names no folder."""


def accepted() -> tuple[str, ...]:
    """The endings of file names that can be uploaded: one file is one document."""
    return tuple(suffix for suffix in readable_suffixes() if suffix != ".jsonl")


def clean_name(name: str) -> str:
    """The name under which a file is shown, and the document's id: no path, no control characters, not too long.

    It is never part of a path.

    >>> clean_name("..\\\\..\\\\etc/Leave  rules.md")
    'Leave rules.md'

    Raises:
        InputError: Nothing is left of it, or its ending is none that can be read.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    shown = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in unicodedata.normalize("NFC", last))
    shown = " ".join(shown.split()).lstrip(".")
    stem, dot, ending = shown.rpartition(".")
    suffix = f"{dot}{ending}".lower()
    if not stem or suffix not in accepted():
        raise InputError(f"{shown[:80]!r} cannot be read: files may end in {', '.join(accepted())}")
    return f"{stem[: LONGEST_NAME - len(suffix)]}{suffix}"


async def receive(body: AsyncIterator[bytes], folder: Path, name: str, limit: int, idle: float) -> Record:
    """Write a file's bytes to ``folder`` as they come, in bounded memory.

    Args:
        body: The bytes.
        folder: The collection's folder.
        name: From `clean_name`.
        limit: Bytes at most.
        idle: Seconds that the body may pause.

    Returns:
        The document's record, "waiting" to be read. An earlier file of the same name is replaced.

    Raises:
        TooLargeError: There are more bytes than ``limit``.
        InputError: The file is empty, or its bytes pause too long.
        NoSpaceError: The disk is full.
        StorageError: The folder cannot be written.
    """
    target = folder / (hashlib.sha256(name.encode()).hexdigest()[:32] + Path(name).suffix)
    part = folder / f".{uuid.uuid4().hex}.part"
    size = 0
    try:
        await asyncio.to_thread(folder.mkdir, 0o700, True, True)
        with part.open("wb") as file:
            async for block in _blocks(body, idle):
                size += len(block)
                if size > limit:
                    raise TooLargeError(f"{name!r} is larger than {limit:,} bytes: split it, or ask for a higher limit")
                await asyncio.to_thread(file.write, block)
        if not size:
            raise InputError(f"{name!r} is empty")
        await asyncio.to_thread(part.replace, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"the server's disk is full: {name!r} was not stored") from error
        raise StorageError(f"{name!r} cannot be stored: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return Record(name, target.name, size, state="waiting")


async def _blocks(body: AsyncIterator[bytes], idle: float) -> AsyncIterator[bytes]:
    """The bytes in blocks of `_BLOCK` and more, the last one excepted."""
    parts: list[bytes] = []
    held = 0
    while True:
        try:
            async with asyncio.timeout(idle):
                piece = await anext(body, None)
        except TimeoutError:
            raise InputError(f"no further byte of the file came for {idle:g} seconds: send it again") from None
        if piece is not None:
            parts.append(piece)
            held += len(piece)
        if held >= _BLOCK or piece is None:
            if held:
                yield b"".join(parts)
            parts, held = [], 0
        if piece is None:
            return
