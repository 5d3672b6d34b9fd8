"""`connect`: one call for every place that Qdrant runs in."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import urlsplit

from situate.errors import InputError, ServerError

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

MEMORY = ":memory:"
#: A folder, ":memory:", a server's URL, or the URLs of a cluster's nodes.
Location: TypeAlias = str | os.PathLike[str] | Sequence[str]
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")


def connect(target: Location = MEMORY, **options: Any) -> QdrantClient:
    """The client for ``target``; all of them are used in the same way.

    Args:
        target: A folder (an embedded store, see `situate.retrievers.storage.edge.EdgeClient`); ":memory:"; the URL of a
            server; or the URLs of a cluster's nodes. Every node of a cluster serves the whole of it, so all calls go to
            one node, and to the next one from then on when it is away.
        options: Passed to `EdgeClient`, or to `situate.retrievers.storage.server.ServerClient` (``api_key``,
            ``timeout``, ``prefer_grpc``, ``attempts``, ...), which tries again when the server is away for a moment.

    Raises:
        StoreLockedError: Another process has the embedded store open.
        ServerError: No server answered. The message names the URL and never the API key.
        InputError: The target is none of these.
    """
    urls = server_urls(target)
    if urls is None:
        from situate.retrievers.storage.edge import EdgeClient

        return EdgeClient(cast("str | os.PathLike[str]", target), **options)
    from situate.retrievers.storage.server import ServerClient

    client = ServerClient(urls, **{"check_compatibility": False, **options})
    try:
        client.info()
    except ServerError as error:
        client.close()
        raise ServerError(f"{error}. To do without a server, open a folder") from error
    except BaseException:
        # After any error (a refused key, say) no caller has a client that could close the connection.
        client.close()
        raise
    return client


def connect_async(target: Location = MEMORY, **options: Any) -> AsyncQdrantClient:
    """The asynchronous client for ``target``. No server is contacted before the first call.

    Args:
        target: As for `connect`.
        options: As for `connect`.

    Raises:
        StoreLockedError: Another process has the embedded store open.
        InputError: The target is none that is known.
    """
    urls = server_urls(target)
    if urls is None:
        from situate.retrievers.storage.edge import AsyncEdgeClient

        return AsyncEdgeClient(cast("str | os.PathLike[str]", target), **options)
    from situate.retrievers.storage.server import AsyncServerClient

    return AsyncServerClient(urls, **{"check_compatibility": False, **options})


def server_urls(target: Location) -> list[str] | None:
    """The servers that ``target`` names; None where it is an embedded store.

    Raises:
        InputError: A URL is no http(s) one, or a list of nodes is empty or holds something else.
    """
    if isinstance(target, str):
        if not _URL.match(target):
            if not target:
                raise InputError('a store needs a folder, ":memory:" or a URL, got an empty string')
            return None
        return [_checked(target)]
    if isinstance(target, os.PathLike):
        return None
    if not isinstance(target, Sequence) or not target or not all(isinstance(node, str) for node in target):
        raise InputError(f'a store is a folder, ":memory:", a URL or a list of URLs, not {target!r}')
    return [_checked(node) for node in target]


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url) if _URL.match(url) else None
        usable = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:  # brackets without an IPv6 address, a port beyond 65535
        raise InputError(f"a URL of a Qdrant server cannot be read: {error}") from None
    if not usable:
        raise InputError(
            f"{(parts.hostname if parts else Path(url).name)!r} is no http:// or https:// URL of a Qdrant server"
        )
    return url
