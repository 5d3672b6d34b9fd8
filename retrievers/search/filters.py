"""Filters over the documents' metadata, as Qdrant's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from situate.errors import InputError

if TYPE_CHECKING:
    from qdrant_client import models

#: Metadata conditions (key -> value, or a list of which any may match), or a filter of Qdrant's own.
FilterLike: TypeAlias = "Mapping[str, Any] | models.Filter"


def to_filter(conditions: FilterLike | None) -> models.Filter | None:
    """A Qdrant filter from ``{"key": value}`` over a document's metadata; Qdrant's own filters pass unchanged.

    A list of values means that any of them may match.

    Raises:
        InputError: A value is neither text, number, truth value nor a list of texts or integers.
    """
    if conditions is None:
        return None
    from qdrant_client import models

    if isinstance(conditions, models.Filter):
        return conditions
    must: list[models.Condition] = []
    for key, value in conditions.items():
        match: models.Match | None = None
        span: models.Range | None = None
        if isinstance(value, bool | str | int):
            match = models.MatchValue(value=value)
        elif isinstance(value, float):
            span = models.Range(gte=value, lte=value)
        elif isinstance(value, list | tuple | set | frozenset) and all(
            isinstance(v, str | int) and not isinstance(v, bool) for v in value
        ):
            match = models.MatchAny(any=list(value))
        else:
            raise InputError(
                f"the filter on {key!r} has the value {value!r}: give text, a number, a truth value, a list of texts "
                "or integers, or a qdrant_client.models.Filter"
            )
        must.append(models.FieldCondition(key=f"metadata.{key}", match=match, range=span))
    return models.Filter(must=must)
