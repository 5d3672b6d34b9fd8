"""Zip packages (office files, EPUB), opened within limits."""

from __future__ import annotations

import re
from io import BytesIO
from zipfile import BadZipFile, ZipFile

from situate.errors import InputError

#: Bytes of all members together, unpacked, and of one XML member, which a parser holds as objects.
MAX_UNPACKED, MAX_XML = 512 * 2**20, 128 * 2**20
#: How many times larger than the file its members may be, where they are large. Text seldom packs better than 50 times.
MAX_RATIO = 200
MAX_MEMBERS = 20_000
#: Characters of a file's text: a part that is named again and again makes more of it than the file holds.
MAX_CHARACTERS = 100_000_000
_SMALL = 16 * 2**20
#: The file is encrypted, or of the years before 2007.
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DECLARATION = re.compile(rb"<!(?:DOCTYPE|ENTITY)", re.IGNORECASE)
#: A document type that can declare entities; pictures (SVG) and pages that a file embeds may have one without.
_ENTITIES = re.compile(rb"<!DOCTYPE(?:[^\[>\"']|\"[^\"]*+\"|'[^']*+')*+\[", re.IGNORECASE)
_SPACE = re.compile(rb"\s*")
#: Comments and instructions: how they begin and end.
_ASIDES = ((b"<!--", b"-->"), (b"<?", b"?>"))
#: Bytes within which XML comes to its first element, and byte order marks.
_PROLOG = 64 * 2**10
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def opened(data: bytes, kind: str, *, declarations: bool = False) -> ZipFile:
    """The package in ``data``. Its members are only ever read by name, never written to a disk.

    Args:
        data: The file.
        kind: What it should be, for messages.
        declarations: Whether XML members may have a document type. Those of office files have none, so that one that
            does can only be meant to make a parser expand or fetch entities.

    Raises:
        InputError: It is no package, is encrypted, or is larger than the limits when unpacked.
    """
    if data.startswith(_OLE):
        raise InputError(f"encrypted, or no {kind} but a format of before 2007: remove the password, or save it anew")
    try:
        package = ZipFile(BytesIO(data))
    except (BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"no {kind}, or a damaged one: {error}") from error
    members = package.infolist()
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or total > MAX_UNPACKED or total > max(_SMALL, MAX_RATIO * len(data)):
        raise InputError(
            f"{len(members):,} members of {total:,} bytes in a file of {len(data):,}: at most {MAX_MEMBERS:,} members, "
            f"{MAX_UNPACKED:,} bytes and {MAX_RATIO} times the file are unpacked"
        )
    for member in members:
        if member.flag_bits & 1:
            raise InputError("encrypted: remove the password")
        # By what it holds: the relations of an office file may give any name to a part.
        if not (start := _beginning(package, member.filename)):
            continue
        if member.file_size > MAX_XML:
            raise InputError(f"{member.filename!r} has {member.file_size:,} bytes: at most {MAX_XML:,} are read")
        own = member.filename.endswith((".xml", ".rels"))
        if not declarations and _declares(start, _DECLARATION if own else _ENTITIES):
            raise InputError(f"{member.filename!r} declares a document type, which no {kind} does: it is not read")
    return package


def check_length(characters: int) -> None:
    """Refuse a text that becomes too long.

    Raises:
        InputError: It has more than `MAX_CHARACTERS`.
    """
    if characters > MAX_CHARACTERS:
        raise InputError(f"its text has more than {MAX_CHARACTERS:,} characters: split it")


def _beginning(package: ZipFile, member: str) -> bytes:
    """The first `_PROLOG` bytes of XML in UTF-8 or UTF-16, its markup as ASCII; b"" of anything else."""
    with package.open(member) as stream:
        start = stream.read(4096)
        mark = next((mark for mark in _MARKS if start.startswith(mark)), b"")
        if start.removeprefix(mark).replace(b"\0", b"").lstrip()[:1] != b"<":
            return b""
        return (start + stream.read(_PROLOG)).removeprefix(mark).replace(b"\0", b"")


def _declares(start: bytes, what: re.Pattern[bytes]) -> bool:
    """Whether XML declares a document type before its first element, or hides that part behind long comments."""
    at = 0
    while at < len(start):
        at = _SPACE.match(start, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        closing = next((end for begin, end in _ASIDES if start.startswith(begin, at)), None)
        if closing is None:
            return what.match(start, at) is not None
        end = start.find(closing, at)
        if end < 0:
            return True
        at = end + len(closing)
    return True
