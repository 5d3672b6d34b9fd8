"""`TenantClient`: a client that sees one tenant's points and no others."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn
from uuid import UUID

from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from situate.errors import InputError, StorageError
from situate.parameters import checked_parameters
from situate.retrievers.storage.edge.async_client import AsyncEdgeBackend
from situate.retrievers.storage.edge.backend.points import BATCH, apply_operation, selected
from situate.retrievers.storage.edge.store import MEMORY
from situate.retrievers.storage.edge.tenant_scope import HasIdf, TenantScope, Value, is_dense, named_points, refuse_text
from situate.retrievers.storage.edge.translate.points import batch_points


class TenantBoundError(StorageError):
    """A tenant's client was called for something that concerns all tenants."""


class TenantBackend(QdrantBase):
    """A backend limited to one tenant's points, over any other: an allow-list, everything else is refused.

    Args:
        inner: The backend that holds all tenants' points.
        scope: The tenant.
    """

    def __init__(self, inner: QdrantBase, scope: TenantScope) -> None:
        super().__init__()
        self._inner = inner
        self._scope = scope

    @property
    def closed(self) -> bool:
        """Whether the backend underneath was closed."""
        return bool(getattr(self._inner, "closed", False))

    def close(self, **kwargs: Any) -> None:
        """Does nothing: the client that was bound owns the store."""

    # -- searching

    def query_points(  # type: ignore[override]  # the rest is passed on by name
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: types.Filter | None = None,
        search_params: types.SearchParams | None = None,
        lookup_from: types.LookupLocation | None = None,
        **kwargs: Any,
    ) -> types.QueryResponse:
        self._check_named(collection_name, query, lookup_from, prefetch)
        has_idf = self._has_idf(collection_name)
        return self._inner.query_points(
            collection_name,
            query=query,
            using=using,
            prefetch=self._scope.stages(prefetch, has_idf),
            query_filter=self._scope.filter(query_filter),
            search_params=self._scope.params(search_params, has_idf(query, using)),
            lookup_from=lookup_from,
            **kwargs,
        )

    def query_batch_points(
        self, collection_name: str, requests: Sequence[types.QueryRequest], **kwargs: Any
    ) -> list[types.QueryResponse]:
        has_idf = self._has_idf(collection_name)
        scoped = []
        for request in requests:
            self._check_named(collection_name, request.query, request.lookup_from, request.prefetch)
            scoped.append(
                request.model_copy(
                    update={
                        "filter": self._scope.filter(request.filter),
                        "prefetch": self._scope.stages(request.prefetch, has_idf),
                        "params": self._scope.params(request.params, has_idf(request.query, request.using)),
                        "shard_key": None,
                    }
                )
            )
        return self._inner.query_batch_points(collection_name, scoped, **kwargs)

    def query_points_groups(  # type: ignore[override]  # the rest is passed on by name
        self,
        collection_name: str,
        group_by: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: types.Filter | None = None,
        search_params: types.SearchParams | None = None,
        with_lookup: Any = None,
        lookup_from: types.LookupLocation | None = None,
        **kwargs: Any,
    ) -> types.GroupsResult:
        self._check_named(collection_name, query, lookup_from, prefetch)
        has_idf = self._has_idf(collection_name)
        result = self._inner.query_points_groups(
            collection_name,
            group_by,
            query=query,
            using=using,
            prefetch=self._scope.stages(prefetch, has_idf),
            query_filter=self._scope.filter(query_filter),
            search_params=self._scope.params(search_params, has_idf(query, using)),
            lookup_from=lookup_from,
            **kwargs,
        )
        if with_lookup is not None:
            if isinstance(with_lookup, str):
                with_lookup = models.WithLookup(collection=with_lookup)
            for group in result.groups:
                group.lookup = self._lookup(group.id, with_lookup)
        return result

    def _lookup(self, point_id: Any, with_lookup: models.WithLookup) -> models.Record | None:
        payload = True if with_lookup.with_payload is None else with_lookup.with_payload
        try:
            found = self.retrieve(with_lookup.collection, [point_id], payload, with_lookup.with_vectors or False)
        except InputError:
            return None  # the group's value is no point id
        return found[0] if found else None

    def search_matrix_pairs(  # type: ignore[override]  # the rest is passed on by name
        self, collection_name: str, query_filter: types.Filter | None = None, **kwargs: Any
    ) -> types.SearchMatrixPairsResponse:
        return self._inner.search_matrix_pairs(collection_name, query_filter=self._scope.filter(query_filter), **kwargs)

    def search_matrix_offsets(  # type: ignore[override]  # the rest is passed on by name
        self, collection_name: str, query_filter: types.Filter | None = None, **kwargs: Any
    ) -> types.SearchMatrixOffsetsResponse:
        scoped = self._scope.filter(query_filter)
        return self._inner.search_matrix_offsets(collection_name, query_filter=scoped, **kwargs)

    def _check_named(self, collection_name: str, query: Any, lookup_from: Any, prefetch: Any) -> None:
        """Raises where a query names a point that is not this tenant's, as if there were none."""
        refuse_text(query, prefetch)
        by_collection: dict[str, list[Any]] = {}
        for point_id, source in named_points(query, lookup_from, prefetch):
            by_collection.setdefault(collection_name if source is None else source.collection, []).append(point_id)
        for name, ids in by_collection.items():
            self._check_own(name, ids)

    def _has_idf(self, collection_name: str) -> HasIdf:
        """Whether a query is scored by word statistics. Reads the configuration once, and only where it matters.

        It is not kept for the next call: other clients may add vectors or recreate the collection.
        """

        @functools.cache
        def names() -> frozenset[str]:
            sparse = self._inner.get_collection(collection_name).config.params.sparse_vectors or {}
            return frozenset(name for name, params in sparse.items() if params.modifier == models.Modifier.IDF)

        return lambda query, using: using is not None and not is_dense(query) and using in names()

    # -- reading

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[types.PointId],
        with_payload: types.WithPayloadInterface = True,
        with_vectors: types.WithVector = False,
        **kwargs: Any,
    ) -> list[types.Record]:
        if not ids:
            return []
        found, _ = self._inner.scroll(
            collection_name,
            scroll_filter=self._scope.filter(None, models.HasIdCondition(has_id=list(ids))),
            limit=len(ids),
            with_payload=with_payload,
            with_vectors=with_vectors,
        )
        by_id = {str(r.id): r for r in found}
        return [by_id[key] for key in dict.fromkeys(_key(i) for i in ids) if key in by_id]

    def scroll(  # type: ignore[override]  # the rest is passed on by name
        self, collection_name: str, scroll_filter: types.Filter | None = None, **kwargs: Any
    ) -> tuple[list[types.Record], types.PointId | None]:
        return self._inner.scroll(collection_name, scroll_filter=self._scope.filter(scroll_filter), **kwargs)

    def count(
        self, collection_name: str, count_filter: types.Filter | None = None, exact: bool = True, **kwargs: Any
    ) -> types.CountResult:
        # Always exact: an estimate would be of all tenants' points.
        return self._inner.count(collection_name, count_filter=self._scope.filter(count_filter), exact=True, **kwargs)

    def facet(  # type: ignore[override]  # the rest is passed on by name
        self,
        collection_name: str,
        key: str,
        facet_filter: types.Filter | None = None,
        exact: bool = False,
        **kwargs: Any,
    ) -> types.FacetResponse:
        scoped = self._scope.filter(facet_filter)
        return self._inner.facet(collection_name, key, facet_filter=scoped, exact=True, **kwargs)

    def _check_own(self, collection_name: str, ids: Sequence[Any]) -> None:
        wanted = {_key(i) for i in ids}
        found = {str(r.id) for r in self.retrieve(collection_name, list(ids), False, False)}
        missing = sorted(wanted - found)
        if missing:
            raise InputError(f"Not found: No point with id {missing[0]} found in collection {collection_name}")

    # -- writing

    def upsert(
        self,
        collection_name: str,
        points: Any,
        update_filter: types.Filter | None = None,
        **kwargs: Any,
    ) -> types.UpdateResult:
        if isinstance(points, models.Batch):
            points = batch_points(points)
        stamped = [p.model_copy(update={"payload": self._scope.stamp(p.payload)}) for p in points]
        self._check_free(collection_name, [p.id for p in stamped])
        # The filter holds even if another tenant takes an id between the check and this.
        return self._inner.upsert(collection_name, stamped, update_filter=self._scope.filter(update_filter), **kwargs)

    def _check_free(self, collection_name: str, ids: Sequence[Any]) -> None:
        """Raises where an id is another tenant's, which an upsert would otherwise skip silently."""
        taken = {_key(r.id) for r in self._inner.retrieve(collection_name, list(ids), False, False)}
        own = {str(r.id) for r in self.retrieve(collection_name, list(ids), False, False)} if taken else set()
        if taken - own:
            raise InputError(f"point id {min(taken - own)} is not available: derive ids from the tenant, too")

    def upload_points(self, collection_name: str, points: Iterable[Any], **kwargs: Any) -> None:
        options = {k: v for k, v in kwargs.items() if k in ("update_filter", "update_mode")}
        batch: list[models.PointStruct] = []
        for point in points:
            batch.append(
                models.PointStruct.model_construct(id=point.id, vector=point.vector or {}, payload=point.payload)
            )
            if len(batch) == BATCH:
                self.upsert(collection_name, batch, **options)
                batch = []
        if batch:
            self.upsert(collection_name, batch, **options)

    def upload_collection(
        self, collection_name: str, vectors: Any, payload: Any = None, ids: Any = None, **kwargs: Any
    ) -> None:
        raise TenantBoundError("a tenant's client takes points, not columns: use upload_points")

    def update_vectors(
        self,
        collection_name: str,
        points: Sequence[types.PointVectors],
        update_filter: types.Filter | None = None,
        **kwargs: Any,
    ) -> types.UpdateResult:
        self._check_own(collection_name, [p.id for p in points])
        return self._inner.update_vectors(
            collection_name, points, update_filter=self._scope.filter(update_filter), **kwargs
        )

    def delete_vectors(self, collection_name: str, vectors: Sequence[str], points: Any, **kwargs: Any) -> Any:
        return self._inner.delete_vectors(collection_name, vectors, self._selector(points), **kwargs)

    def delete(self, collection_name: str, points_selector: Any, **kwargs: Any) -> types.UpdateResult:
        return self._inner.delete(collection_name, self._selector(points_selector), **kwargs)

    def set_payload(
        self, collection_name: str, payload: types.Payload, points: Any, key: str | None = None, **kwargs: Any
    ) -> types.UpdateResult:
        if key is not None:
            self._scope.check_key(key, "set_payload")
        elif self._scope.key.split(".")[0] in payload:
            payload = self._scope.stamp(payload)
        return self._inner.set_payload(collection_name, payload, self._selector(points), key=key, **kwargs)

    def overwrite_payload(
        self, collection_name: str, payload: types.Payload, points: Any, **kwargs: Any
    ) -> types.UpdateResult:
        stamped = self._scope.stamp(payload)
        return self._inner.overwrite_payload(collection_name, stamped, self._selector(points), **kwargs)

    def delete_payload(
        self, collection_name: str, keys: Sequence[str], points: Any, **kwargs: Any
    ) -> types.UpdateResult:
        for key in keys:
            self._scope.check_key(key, "delete_payload")
        return self._inner.delete_payload(collection_name, list(keys), self._selector(points), **kwargs)

    def clear_payload(self, collection_name: str, points_selector: Any, **kwargs: Any) -> types.UpdateResult:
        # All but the tenant key, without which the points would belong to no tenant.
        return self.overwrite_payload(collection_name, {}, points_selector, **kwargs)

    def batch_update_points(
        self, collection_name: str, update_operations: Sequence[types.UpdateOperation], **kwargs: Any
    ) -> list[types.UpdateResult]:
        return [apply_operation(self, collection_name, operation) for operation in update_operations]

    def _selector(self, selector: Any) -> models.FilterSelector:
        ids, filter_ = selected(selector)
        if filter_ is not None:
            return models.FilterSelector(filter=self._scope.filter(filter_))
        return models.FilterSelector(filter=self._scope.filter(None, models.HasIdCondition(has_id=ids)))

    # -- collections: read only

    def collection_exists(self, collection_name: str, **kwargs: Any) -> bool:
        return self._inner.collection_exists(collection_name)

    def get_collection(self, collection_name: str, **kwargs: Any) -> types.CollectionInfo:
        """The collection's configuration, with this tenant's number of points in place of all tenants'."""
        info = self._inner.get_collection(collection_name)
        own = self.count(collection_name).count
        schema = {name: index.model_copy(update={"points": own}) for name, index in info.payload_schema.items()}
        hidden = {"points_count": own, "indexed_vectors_count": None, "segments_count": 1, "payload_schema": schema}
        return info.model_copy(update={**hidden, "update_queue": None, "warnings": None})

    def info(self) -> types.VersionInfo:
        return self._inner.info()


def _key(point_id: Any) -> str:
    """A point id in the form in which ids are returned."""
    if isinstance(point_id, str):
        try:
            return str(UUID(point_id))
        except ValueError:
            return point_id
    return str(point_id)


def _refuse(name: str) -> Any:
    def refuse(self: TenantBackend, *args: Any, **kwargs: Any) -> NoReturn:
        way_out = ", or prepare_for_tenants" if name == "create_collection" else ""
        raise TenantBoundError(
            f"{name} concerns all tenants: call it{way_out} on the client that this one was bound from"
        )

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = "Raises TenantBoundError."
    return refuse


# Methods that are not written out above are refused, as are those that a later qdrant-client adds.
for _name, _method in vars(QdrantBase).items():
    if callable(_method) and not _name.startswith("_") and _name not in vars(TenantBackend):
        setattr(TenantBackend, _name, _refuse(_name))


@checked_parameters
class TenantClient(QdrantClient):
    """A `QdrantClient` that reads, writes, counts, facets, scrolls and deletes one tenant's points only. From
    `bind_tenant`.

    Points that it writes are given the tenant's value of the key. Ids are shared by all tenants of a collection: one
    that another tenant took is refused, so derive them from the tenant, too.
    """

    _client: TenantBackend

    def __init__(self, backend: TenantBackend) -> None:
        super().__init__(location=MEMORY)
        self._init_options = {}
        self._client = backend


@checked_parameters
class AsyncTenantClient(AsyncQdrantClient):
    """The asynchronous `TenantClient`.

    Args:
        client: The client whose tenant and store it shares.
    """

    _client: AsyncEdgeBackend

    def __init__(self, client: TenantClient) -> None:
        super().__init__(location=MEMORY)
        self._init_options = {}
        self._client = AsyncEdgeBackend(client._client)


def prepare_for_tenants(
    client: QdrantClient, collection_name: str, key: str, *, index: Any = None, **config: Any
) -> None:
    """Makes a collection that tenants share, or prepares an existing one. Call it once, before `bind_tenant`.

    The field that names a point's tenant gets an index, which stores the points of a tenant together, and a new
    collection gets one graph for each tenant in place of one for all (``HnswConfigDiff(m=0, payload_m=16)``, unless
    ``config`` says otherwise).

    Args:
        client: An `EdgeClient`, or the client of a server; a tenant's own client cannot do this.
        collection_name: The collection.
        key: The payload field, as for `bind_tenant`.
        index: How the field is indexed; for text where None. Integers as tenants need
            ``IntegerIndexParams(type="integer", lookup=True, range=False)``.
        config: As for ``create_collection``, where the collection is missing.

    Raises:
        InputError: The key is no field name, or the configuration is wrong.
    """
    TenantScope(key, "")
    if not client.collection_exists(collection_name):
        client.create_collection(collection_name, **{"hnsw_config": models.HnswConfigDiff(m=0, payload_m=16), **config})
    if index is None:
        index = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    client.create_payload_index(collection_name, key, index)


def bind_tenant(client: QdrantClient, key: str, value: Value) -> TenantClient:
    """A client that is limited to one tenant's points, whatever its arguments.

    Args:
        client: An `EdgeClient`, or the client of a server.
        key: The payload field that names a point's tenant, best indexed with ``KeywordIndexParams(is_tenant=True)``;
            dots lead into objects ("metadata.tenant").
        value: The tenant.

    Raises:
        InputError: The key is no field name, or the value neither text nor an integer.
    """
    return TenantClient(TenantBackend(client._client, TenantScope(key, value)))
