"""What a chat application serves, and to whom."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from situate.errors import InputError
from situate.outside import Secret
from situate.parameters import checked_parameters

#: The tenant of an application without keys, and the collection that every tenant has from the start.
LOCAL = "local"
DOCUMENTS = "documents"
#: Names of tenants and collections: they become parts of folders and of Qdrant collections.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
SHORTEST_KEY = 16


@checked_parameters
@dataclass(frozen=True)
class WebLimits:
    """The most that callers can make a chat application do.

    Attributes:
        file_bytes: Bytes of one file.
        documents: Documents of one collection.
        collections: Collections of one tenant.
        waiting: Files of one tenant that wait to be read.
        question_characters: Characters of a question.
        json_bytes: Bytes of a request that is no file.
        questions_per_minute: Questions of one tenant.
        uploads_per_minute: Files of one tenant.
        pages_per_minute: Pages of PDFs that are drawn for one tenant.
        requests_per_minute: Requests of one tenant, of all kinds.
        uploads: Files that are received at once, for all tenants.
        uploads_per_tenant: The same for one tenant.
        upload_seconds: Seconds for receiving one file.
        followers: Callers that are told of documents' states at once, for all tenants.
        followers_per_tenant: The same for one tenant.
        connections: Connections that are open at once; further ones are answered with 503.
        answers: Answers that are written at once, for all tenants.
        answers_per_tenant: The same for one tenant.
        answer_seconds: Seconds for one answer.
        idle_seconds: Seconds that the body of a request may pause, and in which its head has to come.
        model_seconds: Seconds that the language model may pause before and within an answer.

    Raises:
        InputError: One of them is 0 or less.
    """

    file_bytes: int = 50 * 2**20
    documents: int = 1_000
    collections: int = 20
    waiting: int = 500
    question_characters: int = 2_000
    json_bytes: int = 64 * 2**10
    questions_per_minute: int = 120
    uploads_per_minute: int = 240
    pages_per_minute: int = 120
    requests_per_minute: int = 3_000
    uploads: int = 64
    uploads_per_tenant: int = 16
    upload_seconds: float = 900.0
    followers: int = 200
    followers_per_tenant: int = 50
    connections: int = 500
    answers: int = 100
    answers_per_tenant: int = 50
    answer_seconds: float = 300.0
    idle_seconds: float = 30.0
    model_seconds: float = 60.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise InputError(f"{one.name}={value!r}: a limit is a number above 0")


@checked_parameters
@dataclass(frozen=True)
class WebSettings:
    """Settings of a chat application.

    Attributes:
        folder: Where uploaded files, the list of documents and the conversations are kept.
        keys: Tenant -> its API key, of at least 16 characters. Empty: one tenant, "local", without a key, which is for
            one machine alone: `hosts` is checked then.
        hosts: The names by which a browser may reach an application without keys. Pages of other sites, which can send
            requests to any address, are refused.
        relevance: Passages of less relevance are no source (`situate.retrievers.search.relevance`).
        passages: How many passages an answer is written from, at most.
        title: The page's title.
        sources: Folders below which PDFs lie that were indexed elsewhere, by `situate index` say: a citation of a
            document whose id is a file's path from there shows its page.
        limits: The most that callers can make the application do.

    Raises:
        InputError: A tenant's name is no name, a key is too short or belongs to two tenants, or a number is out of
            range.
    """

    folder: str | Path
    keys: Mapping[str, str | Secret] = field(default_factory=dict, repr=False)
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    relevance: float = 0.5
    passages: int = 6
    title: str = "Situate"
    sources: tuple[Path, ...] = ()
    limits: WebLimits = field(default_factory=WebLimits)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        object.__setattr__(self, "keys", {n: k if isinstance(k, Secret) else Secret(k) for n, k in self.keys.items()})
        keys = self.secrets
        for name, key in keys.items():
            checked_name(name, "tenant")
            if len(key.reveal()) < SHORTEST_KEY:
                raise InputError(
                    f"the key of tenant {name!r} has fewer than {SHORTEST_KEY} characters: take a random one, "
                    "python -c 'import secrets; print(secrets.token_urlsafe(24))'"
                )
        if len(set(keys.values())) < len(keys):
            raise InputError("two tenants have the same key: each needs its own")
        if not 0 <= self.relevance <= 1:
            raise InputError(f"relevance={self.relevance}: it is a number from 0 to 1")
        if not 1 <= self.passages <= 20:
            raise InputError(f"passages={self.passages}: an answer is written from 1 to 20")

    @property
    def secrets(self) -> dict[str, Secret]:
        """`keys`, none of which is shown by accident."""
        return {name: key for name, key in self.keys.items() if isinstance(key, Secret)}

    @property
    def home(self) -> Path:
        """`folder` as a path."""
        return Path(self.folder)

    @property
    def tenants(self) -> tuple[str, ...]:
        """The names of all tenants."""
        return tuple(self.keys) or (LOCAL,)


@dataclass(frozen=True)
class Place:
    """One collection of one tenant. Everything that is stored belongs to one.

    Attributes:
        tenant: The tenant's name.
        collection: The collection's name among the tenant's own.
    """

    tenant: str
    collection: str = DOCUMENTS


def checked_name(name: str, what: str) -> str:
    """``name``, checked to be one.

    Raises:
        InputError: It holds something else than small letters, digits, "-" and "_", or is empty or too long.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name[:60]!r} is no name of a {what}: take 1 to 40 small letters (a-z), digits, '-' and '_', a letter or "
            "digit first"
        )
    return name
