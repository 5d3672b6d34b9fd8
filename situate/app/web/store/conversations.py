"""Conversations: what was asked and answered."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from situate.app.web.settings import Place
from situate.retrievers.expand.rewriting import Turn
from situate.sqlite_file import SqliteFile

#: Conversations of a collection that are kept, and messages of one.
KEPT = 200
MESSAGES = 200
_TITLE = 80

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS conversations (id TEXT PRIMARY KEY, tenant TEXT, collection TEXT, title TEXT, "
    "changed REAL)",
    "CREATE INDEX IF NOT EXISTS of_collection ON conversations (tenant, collection, changed)",
    "CREATE TABLE IF NOT EXISTS messages (conversation TEXT, place INTEGER, speaker TEXT, text TEXT, more TEXT, "
    "PRIMARY KEY (conversation, place))",
)


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        speaker: "user" or "assistant".
        text: Its text.
        more: What came with an answer, as JSON values: passages, citations.
    """

    speaker: str
    text: str
    more: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The message as JSON values."""
        return {"speaker": self.speaker, "text": self.text, **self.more}


class Conversations:
    """The conversations of all tenants, in one SQLite file. Every call names whose they are.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, _SCHEMA, "list of conversations", "put it back from a backup, or delete it")

    def titles(self, place: Place) -> list[dict[str, Any]]:
        """Id, title and time of a collection's conversations, the newest first."""
        with self._file.open() as connection:
            rows = connection.execute(
                "SELECT id, title, changed FROM conversations WHERE tenant = ? AND collection = ? "
                "ORDER BY changed DESC",
                (place.tenant, place.collection),
            )
            return [dict(zip(("id", "title", "changed"), row, strict=True)) for row in rows]

    def messages(self, place: Place, conversation: str) -> list[Message] | None:
        """The messages of a conversation in order; None where this collection has none of that id."""
        with self._file.open() as connection:
            own = connection.execute(
                "SELECT 1 FROM conversations WHERE id = ? AND tenant = ? AND collection = ?",
                (conversation, place.tenant, place.collection),
            ).fetchone()
            if own is None:
                return None
            rows = connection.execute(
                "SELECT speaker, text, more FROM messages WHERE conversation = ? ORDER BY place", (conversation,)
            )
            return [Message(speaker, text, json.loads(more)) for speaker, text, more in rows]

    def add(self, place: Place, conversation: str | None, messages: Sequence[Message]) -> str:
        """Append messages, to a new conversation where None is named or it is gone; the conversation's id."""
        if conversation is None or self.messages(place, conversation) is None:
            conversation = str(uuid.uuid4())
        with self._file.open() as connection:
            title = " ".join(messages[0].text.split())[:_TITLE]
            connection.execute(
                "INSERT INTO conversations VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET changed = excluded.changed",
                (conversation, place.tenant, place.collection, title, time.time()),
            )
            (count,) = connection.execute(
                "SELECT coalesce(max(place) + 1, 0) FROM messages WHERE conversation = ?", (conversation,)
            ).fetchone()
            connection.executemany(
                "INSERT INTO messages VALUES (?, ?, ?, ?, ?)",
                [
                    (conversation, count + number, message.speaker, message.text, json.dumps(message.more))
                    for number, message in enumerate(messages)
                ],
            )
            connection.execute(
                "DELETE FROM messages WHERE conversation = ? AND place < ?",
                (conversation, count + len(messages) - MESSAGES),
            )
            connection.execute(
                "DELETE FROM conversations WHERE tenant = ? AND collection = ? AND id NOT IN "
                "(SELECT id FROM conversations WHERE tenant = ? AND collection = ? ORDER BY changed DESC LIMIT ?)",
                (place.tenant, place.collection, place.tenant, place.collection, KEPT),
            )
            connection.execute("DELETE FROM messages WHERE conversation NOT IN (SELECT id FROM conversations)")
        return conversation

    def remove(self, place: Place, conversation: str | None = None) -> None:
        """Delete a conversation, or all of a collection's."""
        with self._file.open() as connection:
            connection.execute(
                "DELETE FROM conversations WHERE tenant = ? AND collection = ? AND id = coalesce(?, id)",
                (place.tenant, place.collection, conversation),
            )
            connection.execute("DELETE FROM messages WHERE conversation NOT IN (SELECT id FROM conversations)")


def turns(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """The messages as the turns that a follow-up question is understood from."""
    return tuple(
        Turn("user" if message.speaker == "user" else "assistant", message.text)
        for message in messages
        if message.text.strip()
    )
