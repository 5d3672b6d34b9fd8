"""A tenant's scope: filters, queries and payloads are rewritten so that they never reach another tenant's points."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
from qdrant_client import models
from qdrant_client.local.json_path_parser import parse_json_path

from situate.errors import InputError

_WITHOUT_VECTOR = (
    models.FusionQuery,
    models.RrfQuery,
    models.OrderByQuery,
    models.FormulaQuery,
    models.SampleQuery,
)

Value = str | int
#: Whether a query, by the name of the vector that it uses, is scored by word statistics.
HasIdf: TypeAlias = Callable[[Any, str | None], bool]


@dataclass(frozen=True)
class TenantScope:
    """One tenant's part of a collection.

    Attributes:
        key: The payload field that names a point's tenant; dots lead into objects ("metadata.tenant").
        value: This tenant's value of it.

    Raises:
        InputError: ``key`` is not names (letters, digits, "_" and "-") joined by dots, or ``value`` is neither a string
            nor an integer (True and False are none).
    """

    key: str
    value: Value

    def __post_init__(self) -> None:
        parts = self.key.split(".")
        if not all(part and part.replace("_", "a").replace("-", "a").isalnum() for part in parts):
            raise InputError(f"a tenant key is names joined by dots, not {self.key!r}")
        if isinstance(self.value, bool) or not isinstance(self.value, str | int):
            raise InputError(f"a tenant is a string or an integer, not {self.value!r}")

    @property
    def condition(self) -> models.FieldCondition:
        """Matches this tenant's points."""
        return models.FieldCondition(key=self.key, match=models.MatchValue(value=self.value))

    def filter(self, given: Any = None, *more: Any) -> models.Filter:
        """This tenant's points that also satisfy ``given``, which is nested unchanged."""
        if isinstance(given, dict):
            given = models.Filter(**given)
        if given is not None and not isinstance(given, models.Filter):
            raise InputError(f"a filter must be a qdrant_client.models.Filter, not {type(given).__name__}")
        return models.Filter(must=[self.condition, *([] if given is None else [given]), *more])

    # -- payloads

    def stamp(self, payload: Any) -> dict[str, Any]:
        """A copy of ``payload`` with the tenant key.

        Raises:
            InputError: It names another tenant.
        """
        stamped = dict(payload or {})
        place = stamped
        *parents, last = self.key.split(".")
        for name in parents:
            inner = place.get(name)
            if inner is not None and not isinstance(inner, dict):
                raise InputError(
                    f"payload field {name!r} must be an object, since the tenant key {self.key!r} is in it"
                )
            place[name] = dict(inner or {})
            place = place[name]
        if last in place and (place[last] != self.value or isinstance(place[last], bool)):
            raise InputError(f"payload field {self.key!r} must be this tenant's own, leave it out")
        place[last] = self.value
        return stamped

    def check_key(self, path: str, doing: str) -> None:
        """Raises where a change at ``path`` could reach the tenant key."""
        own = self.key.split(".")
        named = [getattr(item, "key", None) for item in parse_json_path(path)]
        # Every path at, above or beside an index of the key's path counts: an index would turn an object into a list.
        if all(a == b for a, b in zip(named, own, strict=False)) or None in named[: len(own)]:
            raise InputError(f"{doing} at {path!r} would change the tenant key {self.key!r}")

    # -- queries

    def stage(self, stage: models.Prefetch, has_idf: HasIdf) -> models.Prefetch:
        """A prefetch stage, and those under it, limited to this tenant's points."""
        return stage.model_copy(
            update={
                "filter": self.filter(stage.filter),
                "params": self.params(stage.params, has_idf(stage.query, stage.using)),
                "prefetch": self.stages(stage.prefetch, has_idf),
            }
        )

    def stages(self, prefetch: Any, has_idf: HasIdf) -> Any:
        """`stage` for one, several or none."""
        if prefetch is None:
            return None
        if isinstance(prefetch, list | tuple):
            return [self.stage(stage, has_idf) for stage in prefetch]
        return self.stage(prefetch, has_idf)

    def params(self, params: Any, idf: bool) -> Any:
        """Search parameters with word statistics of this tenant's points only, where the vector has such statistics."""
        if isinstance(params, dict):
            params = models.SearchParams(**params)
        idf_params = getattr(params, "idf", None)
        if not idf and idf_params is None:
            return params
        corpus = idf_params.corpus if isinstance(idf_params, models.IdfCorpusParams) else None
        scoped = models.IdfCorpusParams(corpus=self.filter(corpus))
        return (params or models.SearchParams()).model_copy(update={"idf": scoped})


def is_dense(query: Any) -> bool:
    """Whether a query surely has no sparse vector: it is numbers, or ranks without a vector."""
    if isinstance(query, models.NearestQuery):
        query = query.nearest
    return query is None or isinstance(query, (list, tuple, np.ndarray, *_WITHOUT_VECTOR))


def refuse_text(query: Any, prefetch: Any) -> None:
    """Raises where a query ranks by a text index, whose statistics are of all tenants."""
    stages = prefetch if isinstance(prefetch, list | tuple) else [] if prefetch is None else [prefetch]
    if isinstance(query, models.TextQuery):
        raise InputError("a text query ranks by statistics of all tenants' texts: use a sparse vector with IDF instead")
    for stage in stages:
        refuse_text(stage.query, stage.prefetch)


def named_points(query: Any, lookup_from: Any = None, prefetch: Any = None) -> Iterable[tuple[Any, Any]]:
    """The points that a query and its stages name, each with the collection and vector of its look-up."""
    for example in _examples(query):
        if isinstance(example, int | str | UUID) and not isinstance(example, bool):
            yield example, lookup_from
    stages = prefetch if isinstance(prefetch, list | tuple) else [] if prefetch is None else [prefetch]
    for stage in stages:
        yield from named_points(stage.query, stage.lookup_from, stage.prefetch)


def _examples(query: Any) -> list[Any]:
    """Every vector input of a query."""
    if isinstance(query, models.NearestQuery):
        return [query.nearest]
    if isinstance(query, models.RecommendQuery):
        return [*(query.recommend.positive or []), *(query.recommend.negative or [])]
    if isinstance(query, models.DiscoverQuery):
        return [query.discover.target, *_pairs(query.discover.context)]
    if isinstance(query, models.ContextQuery):
        return _pairs(query.context)
    if isinstance(query, models.RelevanceFeedbackQuery):
        feedback = query.relevance_feedback
        return [feedback.target, *(item.example for item in feedback.feedback)]
    return [query]


def _pairs(context: Any) -> list[Any]:
    pairs = context if isinstance(context, list) else [context]
    return [example for pair in pairs for example in (pair.positive, pair.negative)]
