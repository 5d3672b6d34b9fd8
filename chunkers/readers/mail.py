"""E-mails as documents."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from situate.chunkers.headings import atx_heading
from situate.chunkers.readers.html import html_to_markdown
from situate.errors import InputError

#: Levels of messages that are attached to messages.
_LEVELS = 5
_NAMED = ("From", "To", "Cc", "Date")


def read_eml(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """An e-mail: its subject as the heading, sender, recipients and date, its words, and messages attached to it.

    The plain words count, else those of the HTML. Other attachments are not opened; the metadata name them.

    Raises:
        InputError: It has neither a subject, nor a sender, nor any words.
    """
    message = message_from_bytes(data, policy=policy.default)
    if not isinstance(message, EmailMessage) or not any(message[key] for key in ("Subject", "From", "Date")):
        raise InputError("no e-mail: it has neither a subject, nor a sender, nor a date")
    attached: list[str] = []
    text = _message(message, 1, attached)
    metadata: dict[str, Any] = {"format": "markdown"}
    if subject := _header(message, "Subject"):
        metadata["title"] = subject
    for key in ("From", "To"):
        if value := _header(message, key):
            metadata[key.lower()] = value
    moment = getattr(message["Date"], "datetime", None)
    if moment is not None:
        metadata["date"] = moment.date().isoformat()
    return text, metadata | ({"attachments": attached} if attached else {})


def _message(message: EmailMessage, level: int, attached: list[str]) -> str:
    lines = [f"{key}: {value}" for key in _NAMED if (value := _header(message, key))]
    parts = [atx_heading(level, _header(message, "Subject") or "(no subject)"), _plain("\n".join(lines))]
    body = message.get_body(("plain", "html"))
    if body is not None:
        words = body.get_content()
        parts.append(html_to_markdown(words)[0] if body.get_content_subtype() == "html" else _plain(words))
    for part in message.iter_attachments() if message.is_multipart() else ():
        if part.get_content_type() == "message/rfc822" and level < _LEVELS:
            inner = part.get_content()
            if isinstance(inner, EmailMessage):
                parts.append(_message(inner, level + 1, attached))
                continue
        attached.append(part.get_filename() or part.get_content_type())
    return "\n\n".join(part for part in parts if part.strip())


def _header(message: EmailMessage, key: str) -> str:
    return " ".join(str(message[key] or "").split())


def _plain(text: str) -> str:
    """Plain lines as Markdown that shows them as they are: a line of signs makes no heading."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(
        f"\\{line}" if line.startswith(("#", "=", "---", "```", "~~~")) else line for line in lines
    ).strip()
