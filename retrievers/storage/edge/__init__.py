"""qdrant_client's interface over Qdrant Edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.storage.edge.async_client import AsyncEdgeClient as AsyncEdgeClient
    from situate.retrievers.storage.edge.client import EdgeClient as EdgeClient
    from situate.retrievers.storage.edge.errors import (
        ClusterOnlyError as ClusterOnlyError,
        CollectionExistsError as CollectionExistsError,
        CollectionNotFoundError as CollectionNotFoundError,
        StoreClosedError as StoreClosedError,
    )
    from situate.retrievers.storage.edge.tenant import (
        AsyncTenantClient as AsyncTenantClient,
        TenantBoundError as TenantBoundError,
        TenantClient as TenantClient,
        bind_tenant as bind_tenant,
        prepare_for_tenants as prepare_for_tenants,
    )

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.retrievers.storage.edge.async_client": ("AsyncEdgeClient",),
        "situate.retrievers.storage.edge.client": ("EdgeClient",),
        "situate.retrievers.storage.edge.errors": (
            "ClusterOnlyError",
            "CollectionExistsError",
            "CollectionNotFoundError",
            "StoreClosedError",
        ),
        "situate.retrievers.storage.edge.tenant": (
            "AsyncTenantClient",
            "TenantBoundError",
            "TenantClient",
            "bind_tenant",
            "prepare_for_tenants",
        ),
    },
)
