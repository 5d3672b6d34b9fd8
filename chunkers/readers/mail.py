"""E-mails as documents."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart
from io import BytesIO
from typing import Any

from situate.chunkers.headings import atx_heading, literal_line
from situate.chunkers.readers.decoding import decoded
from situate.chunkers.readers.html import html_to_markdown
from situate.errors import InputError, MissingExtraError

#: Levels of messages that are attached to messages.
_LEVELS = 5
_NAMED = ("Subject", "From", "To", "Cc", "Date")
#: Bytes of a header whose words are decoded, and of all headers that describe parts together: Python's parser of
#: headers takes seconds and gigabytes for longer ones.
_HEADER, _HEADERS = 5_000, 200_000
_CONTENT = re.compile(rb"(?:\A|[\r\n])((?:Content-[\w-]+|MIME-Version|Date):[^\r\n]*+(?:\r?\n[ \t][^\r\n]*+)*+)", re.I)
#: The stream of a message's properties of fixed length.
_PROPERTIES = "__properties_version1.0"
#: Seconds from 1601 to the last year that Python knows.
_CENTURIES = 265_000_000_000


def read_eml(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """An e-mail: its subject as the heading, sender, recipients and date, its words, and messages attached to it.

    The plain words count, else those of the HTML, else those of any other kind of text, and so do words without a file
    name between or behind attachments. Other attachments are not opened; the metadata name them.

    Raises:
        InputError: It has neither a subject, nor a sender, nor a date, or headers that describe its parts are too long.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    described = [len(header) for header in _CONTENT.findall(data)]
    if max(described, default=0) > _HEADER or sum(described) > _HEADERS:
        raise InputError(
            f"its headers that describe parts have {sum(described):,} bytes, the longest {max(described):,}: "
            f"at most {_HEADERS:,} are read, and {_HEADER:,} of one"
        )
    message = message_from_bytes(data, policy=policy.default)
    if not isinstance(message, EmailMessage) or not any(_header(message, key) for key in ("Subject", "From", "Date")):
        raise InputError("no e-mail: it has neither a subject, nor a sender, nor a date")
    attached: list[str] = []
    text = _message(message, 1, attached)
    moment = getattr(message["Date"], "datetime", None)
    return text, _metadata({key: _header(message, key) for key in _NAMED}, moment, attached)


def read_msg(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """A message that Outlook saved: what `read_eml` reads of one.

    Raises:
        InputError: It is none.
        MissingExtraError: olefile is not installed.
    """
    try:
        from olefile import OleFileIO, isOleFile
    except ImportError as error:
        raise MissingExtraError.of("olefile", "documents", "reading MSG files") from error
    if not isOleFile(data=data):
        raise InputError("no message of Outlook: it does not begin as one")
    with OleFileIO(BytesIO(data)) as file:
        if not file.exists(_PROPERTIES):
            raise InputError("no message of Outlook, but another file of its format")
        attached: list[str] = []
        message = _Outlook(file, [], 1)
        return message.text(attached), _metadata(message.headers, message.moment, attached)


class _Outlook:
    """A message in Outlook's format ([MS-OXMSG]).

    Args:
        file: The file.
        folder: The storage that holds the message.
        level: 1, and 1 more for a message that is attached to another one.
    """

    def __init__(self, file: Any, folder: list[str], level: int) -> None:
        self._file = file
        self._folder = folder
        self._level = level
        sender, address = self._value("0C1A"), self._value("5D01") or self._value("0C1F")
        self.moment = self._moment()
        self.headers = {
            "Subject": self._value("0037"),
            "From": f"{sender} <{address}>" if sender and "@" in address and sender != address else sender or address,
            "To": self._value("0E04"),
            "Cc": self._value("0E03"),
            "Date": self.moment.isoformat(" ", "minutes") if self.moment else "",
        }

    def text(self, attached: list[str]) -> str:
        """The message as Markdown, with those attached to it.

        Args:
            attached: Takes the names of other attachments.
        """
        body = _plain(self._value("1000"))
        if not body and (page := self._stream("10130102") or self._value("1013").encode()):
            body = html_to_markdown(page)[0]
        parts = [*_head(self.headers, self._level), body]
        for storage in self._attachments():
            inner = [*self._folder, storage, "__substg1.0_3701000D"]
            if self._level < _LEVELS and self._file.exists([*inner, _PROPERTIES]):
                parts.append(_Outlook(self._file, inner, self._level + 1).text(attached))
            else:
                attached.append(self._value("3707", storage) or self._value("3704", storage) or "attachment")
        return "\n\n".join(part for part in parts if part.strip())

    def _attachments(self) -> list[str]:
        depth = len(self._folder)
        entries = (entry for entry in self._file.listdir() if len(entry) > depth + 1 and entry[:depth] == self._folder)
        return sorted({entry[depth] for entry in entries if entry[depth].startswith("__attach")})

    def _stream(self, name: str, *folder: str) -> bytes:
        path = [*self._folder, *folder, name if name == _PROPERTIES else f"__substg1.0_{name}"]
        return bytes(self._file.openstream(path).read()) if self._file.exists(path) else b""

    def _value(self, tag: str, *folder: str) -> str:
        """A property that is text, in either of its two forms."""
        text = self._stream(f"{tag}001F", *folder).decode("utf-16-le", errors="replace")
        text = text or self._stream(f"{tag}001E", *folder).decode("cp1252", errors="replace")
        return text.replace("\0", "").strip()

    def _moment(self) -> datetime | None:
        """When it was sent: tenths of microseconds since 1601."""
        properties = self._stream(_PROPERTIES)
        for at in range(24 if self._folder else 32, len(properties) - 15, 16):
            kind, tag = struct.unpack_from("<HH", properties, at)
            if (kind, tag) == (0x0040, 0x0039):
                (ticks,) = struct.unpack_from("<Q", properties, at + 8)
                seconds = ticks // 10_000_000
                return datetime(1601, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds) if seconds < _CENTURIES else None
        return None


def _metadata(headers: Mapping[str, str], moment: datetime | None, attached: list[str]) -> dict[str, Any]:
    known: dict[str, Any] = {"format": "markdown", "title": headers["Subject"]}
    known |= {"from": headers["From"], "to": headers["To"], "date": moment.date().isoformat() if moment else ""}
    return {key: value for key, value in known.items() if value} | ({"attachments": attached} if attached else {})


def _head(headers: Mapping[str, str], level: int) -> list[str]:
    """The subject as a heading, and the lines of people and date."""
    lines = [f"{key}: {headers[key]}" for key in _NAMED if key != "Subject" and headers[key]]
    return [atx_heading(level, headers["Subject"] or "(no subject)"), _plain("\n".join(lines))]


def _message(message: EmailMessage, level: int, attached: list[str]) -> str:
    parts = _head({key: _header(message, key) for key in _NAMED}, level)
    return "\n\n".join(part for part in [*parts, *_content(message, level, attached)] if part.strip())


def _content(part: MIMEPart, level: int, attached: list[str], *, first: bool = True) -> list[str]:
    """The words of a message or a part of one.

    Args:
        part: The message or part.
        level: The level of its message.
        attached: Takes the names of the parts that are not read.
        first: Whether no words stand before it: then they are read whatever kind of text they are, and be they named.
    """
    kind, name = part.get_content_type(), part.get_filename()
    if kind == "message/rfc822" and level < _LEVELS and isinstance(inner := part.get_content(), EmailMessage):
        return [_message(inner, level + 1, attached)]
    if part.is_attachment() or (name and not first):
        attached.append(name or kind)
        return []
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        parts = list(part.iter_parts())
        if kind == "multipart/alternative":
            parts.sort(key=lambda one: one.get_content_type() != "text/plain")
            return next(filter(None, (_content(one, level, attached, first=first) for one in parts)), [])
        if kind == "multipart/related" and (start := part.get_param("start")):
            parts.sort(key=lambda one: one["Content-ID"] != start)
        found: list[str] = []
        for one in parts:
            found += _content(one, level, attached, first=first and not found)
        return found
    # A message whose parts cannot be told apart is text.
    if kind in ("text/plain", "text/html") or (first and part.get_content_maintype() in ("text", "multipart")):
        return [words] if (words := _words(part)) else []
    attached.append(name or kind)
    return []


def _words(part: MIMEPart) -> str:
    """The words of a part of text, in the encoding that it declares where there is such a one."""
    data = part.get_payload(decode=True)
    data, declared = data if isinstance(data, bytes) else b"", part.get_content_charset()
    if part.get_content_subtype() == "html":
        return html_to_markdown(decoded(data, "the message", declared) if declared else data)[0]
    return _plain(decoded(data, "the message", declared))


def _header(message: EmailMessage, key: str) -> str:
    raw = next((value for name, value in message.raw_items() if name.lower() == key.lower()), "")
    if len(raw) > _HEADER:
        return " ".join(raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split())
    words = str(message[key] or "")
    if "\ufffd" in words and not raw.isascii():  # neither ASCII nor UTF-8, which no mail should be
        words = decoded(raw.encode("utf-8", "surrogateescape"), f"the header {key}")
    return " ".join(words.split())


def _plain(text: str) -> str:
    """Plain lines as Markdown that shows them as they are: a line of signs makes no heading."""
    return "\n".join(literal_line(line.rstrip()) for line in text.splitlines()).strip()
