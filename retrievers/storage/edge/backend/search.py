"""Queries of an embedded store: single, in batches, in groups, and the search matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types
from qdrant_client.local.payload_value_extractor import value_by_key

from situate.errors import InputError
from situate.retrievers.storage.edge.collection import Collection
from situate.retrievers.storage.edge.errors import CollectionError
from situate.retrievers.storage.edge.store import Store
from situate.retrievers.storage.edge.translate.filters import edge_point_id
from situate.retrievers.storage.edge.translate.points import model_id, query_response
from situate.retrievers.storage.edge.translate.queries import (
    QueryTranslator,
    VectorLookup,
    mmr_settings,
    without_points,
)


class SearchBackend(QdrantBase):
    """The part of the interface that searches."""

    store: Store

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: types.Prefetch | list[types.Prefetch] | None = None,
        query_filter: types.Filter | None = None,
        search_params: types.SearchParams | None = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: types.WithPayloadInterface = True,
        with_vectors: types.WithVector = False,
        score_threshold: float | None = None,
        lookup_from: types.LookupLocation | None = None,
        **kwargs: Any,
    ) -> types.QueryResponse:
        _check_window(limit, offset)
        collection = self.store.collection(collection_name)
        if isinstance(query, models.NearestQuery) and query.mmr is not None and using in collection.schema.sparse:
            chosen = self._sparse_mmr(
                collection, query, using, query_filter, search_params, limit, offset or 0, score_threshold, lookup_from
            )
            self._fill(collection, chosen, with_payload, with_vectors)
            return types.QueryResponse(points=chosen)
        translator = self._translator(collection)
        found = collection.ask(
            lambda shard: shard.query(
                translator.request(
                    query=query,
                    using=using,
                    prefetch=prefetch,
                    query_filter=query_filter,
                    params=search_params,
                    limit=limit,
                    # A server leaves no random point out.
                    offset=None if isinstance(query, models.SampleQuery) else offset,
                    with_payload=with_payload,
                    with_vectors=with_vectors,
                    score_threshold=score_threshold,
                    lookup_from=lookup_from,
                )
            )
        )
        return query_response(found, with_vectors)

    def _sparse_mmr(
        self,
        collection: Collection,
        query: models.NearestQuery,
        using: str,
        query_filter: types.Filter | None,
        search_params: types.SearchParams | None,
        limit: int,
        offset: int,
        score_threshold: float | None,
        lookup_from: types.LookupLocation | None,
    ) -> list[models.ScoredPoint]:
        """Maximal marginal relevance over a sparse vector, of which the engine has only the dense form."""
        diversity, candidates = mmr_settings(query.mmr or models.Mmr(), limit)
        found = self.query_points(
            collection.name,
            query=query.nearest,
            using=using,
            query_filter=query_filter,
            search_params=search_params,
            limit=max(candidates, 1),
            with_payload=False,
            with_vectors=[using],
            score_threshold=score_threshold,
            lookup_from=lookup_from,
        ).points
        target: Any = query.nearest
        if not isinstance(target, models.SparseVector):
            target = self._lookup(collection)(edge_point_id(target), using, lookup_from)
        weights = dict(zip(target.indices, target.values, strict=True))
        vectors = [_weights(point, using) for point in found]
        order = _mmr_order(weights, vectors, diversity, limit + offset)
        return [found[place] for place in order[offset:]]

    def query_batch_points(
        self, collection_name: str, requests: Sequence[types.QueryRequest], **kwargs: Any
    ) -> list[types.QueryResponse]:
        collection = self.store.collection(collection_name)
        translator = self._translator(collection)
        translated = []
        for request in requests:
            limit = 10 if request.limit is None else request.limit
            _check_window(limit, request.offset)
            translated.append(
                translator.request(
                    query=request.query,
                    using=request.using,
                    prefetch=request.prefetch,
                    query_filter=request.filter,
                    params=request.params,
                    limit=limit,
                    offset=None if isinstance(request.query, models.SampleQuery) else request.offset,
                    # without the setting no payload is returned, as from a server
                    with_payload=bool(request.with_payload) if request.with_payload is None else request.with_payload,
                    with_vectors=request.with_vector or False,
                    score_threshold=request.score_threshold,
                    lookup_from=request.lookup_from,
                )
            )
        answers = collection.ask(lambda shard: shard.query_batch(edge.QueryBatchRequest(translated)))
        return [query_response(found, r.with_vector) for found, r in zip(answers, requests, strict=True)]

    def query_points_groups(
        self,
        collection_name: str,
        group_by: str,
        query: Any = None,
        using: str | None = None,
        prefetch: types.Prefetch | list[types.Prefetch] | None = None,
        query_filter: types.Filter | None = None,
        search_params: types.SearchParams | None = None,
        limit: int = 10,
        group_size: int = 3,
        with_payload: types.WithPayloadInterface = True,
        with_vectors: types.WithVector = False,
        score_threshold: float | None = None,
        with_lookup: types.WithLookupInterface | None = None,
        lookup_from: types.LookupLocation | None = None,
        **kwargs: Any,
    ) -> types.GroupsResult:
        _check_window(limit, None)
        if group_size < 1:
            raise InputError(f"group_size value {group_size} is invalid. Must be 1 or larger.")
        collection = self.store.collection(collection_name)
        total = max(collection.info().points_count, 1)

        def ranked(fetch: int, *conditions: Any) -> list[models.ScoredPoint]:
            within = [] if query_filter is None else [query_filter]
            return self.query_points(
                collection_name,
                query=query,
                using=using,
                prefetch=_widened(prefetch, fetch),
                query_filter=models.Filter(must=[*within, *conditions]) if conditions else query_filter,
                search_params=search_params,
                limit=fetch,
                with_payload=models.PayloadSelectorInclude(include=[group_by]),
                score_threshold=score_threshold,
                lookup_from=lookup_from,
            ).points

        # How many hits share a group is not known: the search grows until there are enough groups or no more hits.
        fetch = min(max(limit * group_size * 2, 50), total)
        groups = _groups(ranked(fetch), group_by, group_size)
        while len(groups) < limit and fetch < total:
            fetch = min(fetch * 4, total)
            groups = _groups(ranked(fetch), group_by, group_size)
        chosen = dict(list(groups.items())[:limit])
        # Then, as a server does, the hits of those groups alone that have room for more.
        fetch = limit * group_size
        while short := [value for value, hits in chosen.items() if len(hits) < group_size]:
            points = ranked(min(fetch, total), _has_value(group_by, short))
            for value, hits in _groups(points, group_by, group_size).items():
                if value in short:
                    known = {hit.id for hit in chosen[value]}
                    chosen[value] += [hit for hit in hits if hit.id not in known][: group_size - len(known)]
            if len(points) < fetch:
                break
            fetch *= 4
        self._fill(collection, [hit for hits in chosen.values() for hit in hits], with_payload, with_vectors)
        result = [models.PointGroup(id=value, hits=hits) for value, hits in chosen.items()]
        if with_lookup is not None:
            self._look_up(result, with_lookup)
        return models.GroupsResult(groups=result)

    def _fill(self, collection: Collection, hits: list[Any], with_payload: Any, with_vectors: Any) -> None:
        """Gives ``hits`` the requested payload and vectors."""
        ids = list({hit.id: None for hit in hits})
        records = self.retrieve(collection.name, ids, with_payload, with_vectors) if ids else []
        by_id = {r.id: r for r in records}
        for hit in hits:
            stored = by_id.get(hit.id)
            hit.payload = None if stored is None else stored.payload
            hit.vector = None if stored is None or not with_vectors else stored.vector

    def _look_up(self, groups: list[models.PointGroup], with_lookup: types.WithLookupInterface) -> None:
        if isinstance(with_lookup, str):
            with_lookup = models.WithLookup(collection=with_lookup)
        for group in groups:
            try:
                found = self.retrieve(
                    with_lookup.collection,
                    [group.id],
                    True if with_lookup.with_payload is None else with_lookup.with_payload,
                    with_lookup.with_vectors or False,
                )
            except CollectionError:
                raise
            except InputError:
                found = []  # the group's value is no point id
            group.lookup = found[0] if found else None

    def search_matrix_pairs(
        self,
        collection_name: str,
        query_filter: types.Filter | None = None,
        limit: int = 3,
        sample: int = 10,
        using: str | None = None,
        **kwargs: Any,
    ) -> types.SearchMatrixPairsResponse:
        _, rows = self._matrix(collection_name, query_filter, limit, sample, using)
        return models.SearchMatrixPairsResponse(
            pairs=[models.SearchMatrixPair(a=a, b=hit.id, score=hit.score) for a, hits in rows for hit in hits]
        )

    def search_matrix_offsets(
        self,
        collection_name: str,
        query_filter: types.Filter | None = None,
        limit: int = 3,
        sample: int = 10,
        using: str | None = None,
        **kwargs: Any,
    ) -> types.SearchMatrixOffsetsResponse:
        ids, rows = self._matrix(collection_name, query_filter, limit, sample, using)
        place = {id_: i for i, id_ in enumerate(ids)}
        cells = [(place[a], place[hit.id], hit.score) for a, hits in rows for hit in hits]
        return models.SearchMatrixOffsetsResponse(
            offsets_row=[row for row, _, _ in cells],
            offsets_col=[column for _, column, _ in cells],
            scores=[score for _, _, score in cells],
            ids=ids,
        )

    def _matrix(
        self, collection_name: str, query_filter: types.Filter | None, limit: int, sample: int, using: str | None
    ) -> tuple[list[Any], list[tuple[Any, list[models.ScoredPoint]]]]:
        """A random sample's ids, and for each its nearest others in the sample."""
        if limit < 1:
            raise InputError(f"limit value {limit} is invalid. Must be 1 or larger.")
        if sample < 2:
            raise InputError(f"sample value {sample} is invalid. Must be 2 or larger.")
        name = using or ""
        has_vector = models.HasVectorCondition(has_vector=name)
        must: list[Any] = [has_vector] if query_filter is None else [has_vector, query_filter]
        sampled = self.query_points(
            collection_name,
            query=models.SampleQuery(sample=models.Sample.RANDOM),
            query_filter=models.Filter(must=must),
            limit=sample,
            with_payload=False,
            with_vectors=[name],
        ).points
        ids = sorted((p.id for p in sampled), key=lambda i: (isinstance(i, str), i))
        if len(ids) < 2:
            return [], []
        within = models.Filter(must=[models.HasIdCondition(has_id=ids)])
        vectors = {p.id: p.vector[name] if isinstance(p.vector, dict) else p.vector for p in sampled}
        requests = [
            models.QueryRequest.model_construct(
                query=models.NearestQuery.model_construct(nearest=vectors[i], mmr=None),
                using=using,
                filter=without_points(within, {model_id(i)}),
                limit=limit,
            )
            for i in ids
        ]
        answers = self.query_batch_points(collection_name, requests)
        return ids, [(i, answer.points) for i, answer in zip(ids, answers, strict=True)]

    # -- vectors of points that queries name

    def _translator(self, collection: Collection) -> QueryTranslator:
        return QueryTranslator(collection.schema, self._lookup(collection))

    def _lookup(self, collection: Collection) -> VectorLookup:
        def lookup(point_id: int | str, name: str, lookup_from: models.LookupLocation | None) -> Any:
            source = collection if lookup_from is None else self.store.collection(lookup_from.collection)
            name = name if lookup_from is None or lookup_from.vector is None else lookup_from.vector
            found = source.ask(lambda shard: shard.retrieve([point_id], False, [name]))
            vector: Any = found[0].vector if found else None
            if isinstance(vector, dict):
                vector = vector.get(name)
            if vector is None:
                what = f"a vector named {name!r} of point" if found else "point"
                raise InputError(f"Not found: no {what} {point_id} in collection {source.name}")
            return vector

        return lookup


def _check_window(limit: int, offset: int | None) -> None:
    if limit < 1:
        raise InputError(f"limit value {limit} is invalid. Must be 1 or larger.")
    if offset is not None and offset < 0:
        raise InputError(f"offset value {offset} is invalid. Must be 0 or larger.")


def _weights(point: models.ScoredPoint, name: str) -> dict[int, float]:
    vector = point.vector[name] if isinstance(point.vector, dict) else None
    assert isinstance(vector, models.SparseVector)  # the search used it
    return dict(zip(vector.indices, vector.values, strict=True))


def _dot(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    return sum(value * b[index] for index, value in a.items() if index in b)


def _mmr_order(
    query: Mapping[int, float], vectors: Sequence[Mapping[int, float]], diversity: float, count: int
) -> list[int]:
    """The places of ``count`` vectors: each as near to the query, and as far from those before it, as can be.

    As in Qdrant, of equal ones the last is taken, and the last of those left moves to its place.
    """
    relevance = [_dot(query, vector) for vector in vectors]
    nearest = [0.0] * len(vectors)
    left = list(range(len(vectors)))
    chosen: list[int] = []
    while left and len(chosen) < count:
        scores = [
            (1 - diversity) * relevance[place] - diversity * nearest[place] if chosen else relevance[place]
            for place in left
        ]
        best = max(range(len(left)), key=lambda at: (scores[at], at))
        chosen.append(left[best])
        left[best] = left[-1]
        left.pop()
        for place in left:
            similarity = _dot(vectors[place], vectors[chosen[-1]])
            nearest[place] = similarity if len(chosen) == 1 else max(nearest[place], similarity)
    return chosen


def _widened(prefetch: Any, limit: int) -> Any:
    """The stages with room for ``limit`` hits, so that fusing does not cut groups short."""
    if prefetch is None:
        return None
    if isinstance(prefetch, list):
        return [_widened(stage, limit) for stage in prefetch]
    wide = max(limit, prefetch.limit or 0)
    return prefetch.model_copy(update={"limit": wide, "prefetch": _widened(prefetch.prefetch, limit)})


def _groups(points: Sequence[models.ScoredPoint], group_by: str, size: int) -> dict[Any, list[models.ScoredPoint]]:
    """The hits by their value of the payload field, best group first; a hit with several values is in several."""
    groups: dict[Any, list[models.ScoredPoint]] = {}
    for point in points:
        for value in dict.fromkeys(_group_values(point.payload or {}, group_by)):
            hits = groups.setdefault(value, [])
            if len(hits) < size:
                hits.append(point)
    return groups


def _has_value(key: str, values: Sequence[Any]) -> models.Filter:
    """Points whose payload has any of the values."""
    kinds = ([v for v in values if isinstance(v, str)], [v for v in values if not isinstance(v, str)])
    return models.Filter(
        should=[models.FieldCondition(key=key, match=models.MatchAny(any=kind)) for kind in kinds if kind]
    )


def _group_values(payload: dict[str, Any], group_by: str) -> list[Any]:
    values = value_by_key(payload, group_by) or []
    flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
    return [v for v in flat if isinstance(v, str) or type(v) is int]
