"""Vectors and Qdrant, and the way of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.open import open_async_client, open_client

__all__ = ["open_async_client", "open_client"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "open_async_client": "open",
        "open_client": "open",
    },
)
