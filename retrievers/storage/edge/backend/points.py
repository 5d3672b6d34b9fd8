"""Points in and out of an embedded store, other than by searching."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types
from qdrant_client.local.json_path_parser import parse_json_path

from situate.batches import in_batches
from situate.errors import InputError
from situate.retrievers.storage.columns import rows_of_columns
from situate.retrievers.storage.edge.store import Store
from situate.retrievers.storage.edge.translate.filters import edge_filter, edge_point_id
from situate.retrievers.storage.edge.translate.points import (
    PAYLOAD,
    check_depth,
    checked_vectors,
    edge_payload_selector,
    edge_point,
    edge_points,
    json_payload,
    record,
)
from situate.retrievers.storage.edge.translate.queries import edge_order_by

_UPDATE_MODES = {
    models.UpdateMode.UPSERT: edge.UpdateMode.Upsert,
    models.UpdateMode.INSERT_ONLY: edge.UpdateMode.InsertOnly,
    models.UpdateMode.UPDATE_ONLY: edge.UpdateMode.UpdateOnly,
}
_U = edge.UpdateOperation

#: Points of one engine call. The engine holds the interpreter during a call, so long ones are cut.
BATCH = 512


class PointsBackend(QdrantBase):
    """The part of the interface that is about points."""

    store: Store

    # -- writing

    def upsert(
        self,
        collection_name: str,
        points: types.Points,
        update_filter: types.Filter | None = None,
        update_mode: types.UpdateMode | None = None,
        **kwargs: Any,
    ) -> types.UpdateResult:
        collection = self.store.collection(collection_name)
        checked = edge_points(points, collection.schema)
        if not checked:
            raise InputError("Empty update request: there is no point to upsert")
        return self._upsert(collection_name, checked, update_filter, update_mode)

    def _upsert(
        self, collection_name: str, points: list[edge.Point], update_filter: Any, update_mode: Any
    ) -> types.UpdateResult:
        condition = edge_filter(update_filter)
        mode = None if update_mode is None else _UPDATE_MODES[models.UpdateMode(update_mode)]
        operations = [
            _U.upsert_points(batch, condition=condition, update_mode=mode) for batch in in_batches(points, BATCH)
        ]
        return self.store.collection(collection_name).update(operations, len(points))

    def upload_points(
        self,
        collection_name: str,
        points: Iterable[types.PointStruct],
        batch_size: int = 64,
        update_filter: types.Filter | None = None,
        update_mode: types.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        rows = ((point.id, point.vector, point.payload) for point in points)
        self._upload(collection_name, rows, batch_size, update_filter, update_mode)

    def _upload(
        self, collection_name: str, rows: Iterable[tuple[Any, Any, Any]], batch_size: int, condition: Any, mode: Any
    ) -> None:
        schema = self.store.collection(collection_name).schema
        for batch in in_batches(rows, max(batch_size, BATCH)):
            self._upsert(collection_name, [edge_point(*row, schema) for row in batch], condition, mode)

    def upload_collection(
        self,
        collection_name: str,
        vectors: dict[str, types.NumpyArray] | types.NumpyArray | Iterable[types.VectorStruct],
        payload: Iterable[dict[Any, Any]] | None = None,
        ids: Iterable[types.PointId] | None = None,
        batch_size: int = 64,
        update_filter: types.Filter | None = None,
        update_mode: types.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        points = rows_of_columns(vectors, payload, ids)
        self._upload(collection_name, points, batch_size, update_filter, update_mode)

    def update_vectors(
        self,
        collection_name: str,
        points: Sequence[types.PointVectors],
        update_filter: types.Filter | None = None,
        **kwargs: Any,
    ) -> types.UpdateResult:
        collection = self.store.collection(collection_name)
        checked = [
            edge.PointVectors(edge_point_id(p.id), checked_vectors(p.vector, collection.schema, p.id)) for p in points
        ]
        return self.store.collection(collection_name).update(
            [_U.update_vectors(checked, condition=edge_filter(update_filter))], len(checked)
        )

    def delete_vectors(
        self, collection_name: str, vectors: Sequence[str], points: types.PointsSelector, **kwargs: Any
    ) -> types.UpdateResult:
        names = list(vectors)
        known = self.store.collection(collection_name).schema.names
        for name in names:
            if name not in known:
                raise InputError(f"Not existing vector name error: {name}")
        return self._select(
            collection_name,
            points,
            lambda ids: _U.delete_vectors(ids, names),
            lambda filter_: _U.delete_vectors_by_filter(filter_, names),
        )

    def delete(self, collection_name: str, points_selector: types.PointsSelector, **kwargs: Any) -> types.UpdateResult:
        return self._select(collection_name, points_selector, _U.delete_points, _U.delete_points_by_filter, grows=False)

    def set_payload(
        self,
        collection_name: str,
        payload: types.Payload,
        points: types.PointsSelector,
        key: str | None = None,
        **kwargs: Any,
    ) -> types.UpdateResult:
        values = json_payload(payload, PAYLOAD)
        if key is not None:
            check_depth(values, PAYLOAD, above=_levels(key))
        return self._select(
            collection_name,
            points,
            lambda ids: _U.set_payload(ids, values, key),
            lambda filter_: _U.set_payload_by_filter(filter_, values, key),
            # Setting a key to null removes it, by merging into the stored payload. Where none is stored (after
            # clear_payload, or an optimisation, which drops the empty ones) the engine forgets to merge and keeps the
            # null, until the same call comes a second time. So every point is given an empty payload first, which
            # no answer shows. By filter even for ids: the call itself has to say which of them do not exist.
            first=(lambda filter_: _U.set_payload_by_filter(filter_, {}))
            if key is None and None in values.values()
            else None,
        )

    def overwrite_payload(
        self, collection_name: str, payload: types.Payload, points: types.PointsSelector, **kwargs: Any
    ) -> types.UpdateResult:
        values = json_payload(payload, PAYLOAD)
        return self._select(
            collection_name,
            points,
            lambda ids: _U.overwrite_payload(ids, values),
            lambda filter_: _U.overwrite_payload_by_filter(filter_, values),
        )

    def delete_payload(
        self, collection_name: str, keys: Sequence[str], points: types.PointsSelector, **kwargs: Any
    ) -> types.UpdateResult:
        names = list(keys)
        return self._select(
            collection_name,
            points,
            lambda ids: _U.delete_payload(ids, names),
            lambda filter_: _U.delete_payload_by_filter(filter_, names),
        )

    def clear_payload(
        self, collection_name: str, points_selector: types.PointsSelector, **kwargs: Any
    ) -> types.UpdateResult:
        return self._select(collection_name, points_selector, _U.clear_payload, _U.clear_payload_by_filter)

    def _select(
        self,
        collection_name: str,
        selector: Any,
        by_ids: Callable[[list[Any]], edge.UpdateOperation],
        by_filter: Callable[[edge.Filter], edge.UpdateOperation],
        *,
        first: Callable[[edge.Filter], edge.UpdateOperation] | None = None,
        grows: bool = True,
    ) -> types.UpdateResult:
        ids, filter_ = selected(selector)
        condition = edge_filter(filter_)
        if condition is not None:
            before = [] if first is None else [first(condition)]
            return self.store.collection(collection_name).update([*before, by_filter(condition)], 1, grows=grows)
        points: list[Any] = [edge_point_id(i) for i in ids]
        if not points:
            return self.store.collection(collection_name).update([], 0, grows=grows)
        before = [] if first is None else [first(edge.Filter(must=[edge.HasIdCondition(set(points))]))]
        return self.store.collection(collection_name).update([*before, by_ids(points)], len(points), grows=grows)

    def batch_update_points(
        self, collection_name: str, update_operations: Sequence[types.UpdateOperation], **kwargs: Any
    ) -> list[types.UpdateResult]:
        return [apply_operation(self, collection_name, operation) for operation in update_operations]

    # -- reading

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[types.PointId],
        with_payload: types.WithPayloadInterface = True,
        with_vectors: types.WithVector = False,
        **kwargs: Any,
    ) -> list[types.Record]:
        collection = self.store.collection(collection_name)
        points: list[Any] = [edge_point_id(i) for i in ids]
        found = collection.ask(lambda s: s.retrieve(points, edge_payload_selector(with_payload), with_vectors))
        return [record(point) for point in found]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: types.Filter | None = None,
        limit: int = 10,
        order_by: types.OrderBy | None = None,
        offset: types.PointId | None = None,
        with_payload: types.WithPayloadInterface = True,
        with_vectors: types.WithVector = False,
        **kwargs: Any,
    ) -> tuple[list[types.Record], types.PointId | None]:
        if limit < 1:
            raise InputError(f"limit value {limit} is invalid. Must be 1 or larger.")
        if order_by is not None and offset is not None:
            raise InputError("Offset is not supported in conjunction with `order_by` scroll parameter")
        collection = self.store.collection(collection_name)
        points, following = collection.ask(
            lambda shard: shard.scroll(
                edge.ScrollRequest(
                    offset=None if offset is None else edge_point_id(offset),
                    limit=limit,
                    filter=edge_filter(scroll_filter),
                    with_payload=edge_payload_selector(with_payload),
                    with_vector=with_vectors,
                    order_by=None if order_by is None else edge_order_by(order_by),
                )
            )
        )
        return [record(point) for point in points], None if following is None else _id(following)

    def count(
        self, collection_name: str, count_filter: types.Filter | None = None, exact: bool = True, **kwargs: Any
    ) -> types.CountResult:
        collection = self.store.collection(collection_name)
        count = collection.ask(lambda s: s.count(edge.CountRequest(exact=exact, filter=edge_filter(count_filter))))
        return models.CountResult(count=count)

    def facet(
        self,
        collection_name: str,
        key: str,
        facet_filter: types.Filter | None = None,
        limit: int = 10,
        exact: bool = False,
        **kwargs: Any,
    ) -> types.FacetResponse:
        if limit < 1:
            raise InputError(f"limit value {limit} is invalid. Must be 1 or larger.")
        collection = self.store.collection(collection_name)
        response = collection.ask(
            # Always exact: estimates leave out values of lists where several have the same count.
            lambda s: s.facet(edge.FacetRequest(key, limit=limit, exact=True, filter=edge_filter(facet_filter)))
        )
        return models.FacetResponse(hits=[models.FacetValueHit(value=h.value, count=h.count) for h in response.hits])


def apply_operation(backend: QdrantBase, name: str, operation: Any) -> types.UpdateResult:
    """Applies one operation of a batch by the backend's own method for it."""
    if isinstance(operation, models.UpsertOperation):
        upsert = operation.upsert
        points = upsert.batch if isinstance(upsert, models.PointsBatch) else upsert.points
        return backend.upsert(name, points, update_filter=upsert.update_filter, update_mode=upsert.update_mode)
    if isinstance(operation, models.DeleteOperation):
        return backend.delete(name, operation.delete)
    if isinstance(operation, models.SetPayloadOperation):
        change = operation.set_payload
        return backend.set_payload(name, change.payload, _either(change), key=change.key)
    if isinstance(operation, models.OverwritePayloadOperation):
        change = operation.overwrite_payload
        return backend.overwrite_payload(name, change.payload, _either(change))
    if isinstance(operation, models.DeletePayloadOperation):
        return backend.delete_payload(name, operation.delete_payload.keys, _either(operation.delete_payload))
    if isinstance(operation, models.ClearPayloadOperation):
        return backend.clear_payload(name, operation.clear_payload)
    if isinstance(operation, models.UpdateVectorsOperation):
        update = operation.update_vectors
        return backend.update_vectors(name, update.points, update_filter=update.update_filter)
    if isinstance(operation, models.DeleteVectorsOperation):
        return backend.delete_vectors(name, operation.delete_vectors.vector, _either(operation.delete_vectors))
    raise InputError(f"Unknown update operation: {type(operation).__name__}")


def _levels(key: str) -> int:
    """How many objects and lists a path crosses.

    Raises:
        InputError: It is no path.
    """
    try:
        return len(parse_json_path(key))
    except ValueError as error:
        raise InputError(
            f"the key {key!r} is no path into a payload ({error}): names joined by dots, like a.b[0].c"
        ) from error


def _id(value: Any) -> int | str:
    return value if isinstance(value, int) else str(value)


def _either(change: Any) -> Any:
    """The selector of a batch operation, which has points or a filter."""
    if change.points is not None:
        return models.PointIdsList.model_construct(points=change.points)
    if change.filter is not None:
        return models.FilterSelector.model_construct(filter=change.filter)
    raise InputError(f"{type(change).__name__} needs points or a filter to select what it changes")


def selected(selector: Any) -> tuple[list[Any], Any]:
    """The ids, or the filter, that a points selector holds."""
    if isinstance(selector, models.PointIdsList):
        return list(selector.points), None
    if isinstance(selector, models.FilterSelector):
        return [], selector.filter
    if isinstance(selector, models.Filter):
        return [], selector
    if isinstance(selector, list | tuple):
        return list(selector), None
    return [selector], None
