"""qdrant_client's interface over Qdrant Edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.edge.async_client import AsyncEdgeClient
    from situate.retrievers.edge.client import EdgeClient
    from situate.retrievers.edge.errors import (
        ClusterOnlyError,
        CollectionExistsError,
        CollectionNotFoundError,
        StoreClosedError,
    )
    from situate.retrievers.edge.tenant import AsyncTenantClient, TenantBoundError, TenantClient, bind_tenant

__all__ = [
    "AsyncEdgeClient",
    "AsyncTenantClient",
    "ClusterOnlyError",
    "CollectionExistsError",
    "CollectionNotFoundError",
    "EdgeClient",
    "StoreClosedError",
    "TenantBoundError",
    "TenantClient",
    "bind_tenant",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AsyncEdgeClient": "async_client",
        "AsyncTenantClient": "tenant",
        "ClusterOnlyError": "errors",
        "CollectionExistsError": "errors",
        "CollectionNotFoundError": "errors",
        "EdgeClient": "client",
        "StoreClosedError": "errors",
        "TenantBoundError": "tenant",
        "TenantClient": "tenant",
        "bind_tenant": "tenant",
    },
)
