"""Filters: qdrant-client's models -> the engine's. One row per condition, one per match."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast
from uuid import UUID

import qdrant_edge as edge
from qdrant_client import models

from situate.errors import InputError

_Value = TypeVar("_Value")
#: How deeply JSON objects and lists may nest around filters: the engine reads its log back up to about 124 levels, of
#: which a condition takes some.
MAX_FILTER_DEPTH = 100
#: A UUID as `str` writes it.
_CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def edge_filter(filter_: models.Filter | Mapping[str, Any] | None) -> edge.Filter | None:
    """The engine's form of ``filter_``; None for None.

    Raises:
        InputError: It is neither a filter nor a mapping, or holds a condition or a value that the engine cannot use.
        ValidationError: A mapping has not the form of a `Filter` (pydantic's error, a ValueError).
    """
    if filter_ is None:
        return None
    if isinstance(filter_, Mapping):
        filter_ = models.Filter(**filter_)
    if not isinstance(filter_, models.Filter):
        raise InputError(f"a filter must be a qdrant_client.models.Filter, not {type(filter_).__name__}")
    try:
        return _filter(filter_)
    except InputError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the filter cannot be used: {error}") from error


def edge_point_id(value: Any) -> int | str:
    """A point id that the engine takes: an unsigned 64-bit integer or a UUID as text.

    Raises:
        InputError: It is neither.
    """
    if type(value) is int:
        if 0 <= value < 1 << 64:
            return value
    elif type(value) is str:
        if _CANONICAL.fullmatch(value):
            return value  # the form that searches return; parsing it takes seven times as long
        try:
            return str(UUID(value))
        except ValueError:
            pass
    elif isinstance(value, UUID):
        return str(value)
    raise InputError(
        f"point id {value!r} is neither an unsigned 64-bit integer nor a UUID, and Qdrant knows no others: "
        "derive one with uuid.uuid5(namespace, your_id) and keep your id in the payload"
    )


def edge_datetime(value: dt.datetime | dt.date | None) -> str | None:
    """RFC 3339 text; a time without a zone is read as UTC, as the server reads it."""
    return None if value is None else value.isoformat()


def as_list(value: Sequence[_Value] | _Value | None) -> list[_Value] | None:
    """One value or a list of them, as a list; None stays None."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return list(value)
    return [cast(_Value, value)]


def _filter(filter_: models.Filter, depth: int = 0) -> edge.Filter:
    """The engine's form of a filter under ``depth`` objects and lists of JSON."""
    if depth > MAX_FILTER_DEPTH:
        raise InputError(
            f"the filter is nested too deep: {MAX_FILTER_DEPTH // 2} filters, or {MAX_FILTER_DEPTH // 4} nested "
            "conditions, may nest, the most that can be read back after a crash. Nothing was written"
        )
    return edge.Filter(
        must=_conditions(filter_.must, depth),
        should=_conditions(_merged(filter_.should), depth),
        must_not=_conditions(_merged(filter_.must_not), depth),
        min_should=None
        if filter_.min_should is None
        else edge.MinShould(
            # One object more than in the other lists.
            _conditions(filter_.min_should.conditions, depth + 1) or [],
            filter_.min_should.min_count,
        ),
    )


def _merged(conditions: Any) -> Any:
    """The conditions of which any may hold, with those that match one field by value made one.

    The engine reads a point's payload once for each condition on a field without an index: ten thousand of them over
    large payloads take long, and one that matches any of ten thousand values is fast.
    """
    if not isinstance(conditions, list | tuple) or len(conditions) < 2:
        return conditions
    values: dict[tuple[str, type], list[Any]] = {}
    merged: list[Any] = []
    for condition in conditions:
        field = _matched_field(condition)
        if field is None:
            merged.append(condition)
        else:
            values.setdefault(field, []).append(condition.match.value)
    return merged + [
        models.FieldCondition.model_construct(
            key=key, match=models.MatchAny(any=any_of) if len(any_of) > 1 else models.MatchValue(value=any_of[0])
        )
        for (key, _), any_of in values.items()
    ]


def _matched_field(condition: Any) -> tuple[str, type] | None:
    """The field, and the type of the value, of a condition that matches a value and nothing else."""
    if not isinstance(condition, models.FieldCondition) or type(condition.match) is not models.MatchValue:
        return None
    if any(getattr(condition, part, None) is not None for part in _FIELD_PARTS if part != "match"):
        return None
    kind = type(condition.match.value)
    return (condition.key, kind) if kind in (str, int) else None


def _conditions(conditions: Any, depth: int) -> list[Any] | None:
    listed = as_list(conditions)
    return None if listed is None else [edge_condition(condition, depth) for condition in listed]


def edge_condition(condition: models.Condition, depth: int = 0) -> Any:
    """The engine's form of one condition in a filter under ``depth`` objects and lists.

    Raises:
        InputError: The engine has no such condition.
        TypeError, ValueError, OverflowError: It cannot use a value in it; `edge_filter` raises InputError instead.
    """
    translate = _CONDITIONS.get(type(condition))
    if translate is None:
        raise InputError(f"a filter cannot hold a {type(condition).__name__}: {condition!r}")
    return translate(condition, depth)


def _field(condition: models.FieldCondition) -> edge.FieldCondition:
    parts: dict[str, Any] = {}
    for name, translate in _FIELD_PARTS.items():
        value = getattr(condition, name, None)
        if value is not None:
            parts[name] = translate(value)
    return edge.FieldCondition(condition.key, **parts)


def _match(match: models.Match) -> Any:
    translate = _MATCHES.get(type(match))
    if translate is None:
        raise InputError(f"a field cannot be matched by a {type(match).__name__}: {match!r}")
    return translate(match)


def _range(range_: models.Range | models.DatetimeRange) -> Any:
    bounds = {name: getattr(range_, name) for name in ("gte", "gt", "lte", "lt")}
    if isinstance(range_, models.DatetimeRange):
        return edge.RangeDateTime(**{name: edge_datetime(bound) for name, bound in bounds.items()})
    return edge.RangeFloat(**bounds)


def _geo_point(point: models.GeoPoint) -> edge.GeoPoint:
    return edge.GeoPoint(lon=point.lon, lat=point.lat)


def _geo_line(line: models.GeoLineString) -> list[edge.GeoPoint]:
    return [_geo_point(point) for point in line.points]


class _Truth:
    """A truth value for the binding.

    It reads a Python bool as the integer that it also is, and numpy's, which it knows by name, as a truth value; but
    numpy's is an integer, too, in numpy 2.0.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_Truth.__module__, _Truth.__name__ = "numpy", "bool"

_MATCHES: dict[type, Callable[[Any], Any]] = {
    models.MatchValue: lambda m: edge.MatchValue(cast(bool, _Truth(m.value)) if isinstance(m.value, bool) else m.value),
    models.MatchText: lambda m: edge.MatchText(m.text),
    models.MatchTextAny: lambda m: edge.MatchTextAny(m.text_any),
    models.MatchPhrase: lambda m: edge.MatchPhrase(m.phrase),
    models.MatchPrefix: lambda m: edge.MatchPrefix(m.prefix),
    models.MatchSubstring: lambda m: edge.MatchSubstring(m.substring),
    models.MatchAny: lambda m: edge.MatchAny(m.any),
    models.MatchExcept: lambda m: edge.MatchExcept(m.except_),
}

_FIELD_PARTS: dict[str, Callable[[Any], Any]] = {
    "match": _match,
    "range": _range,
    "geo_bounding_box": lambda g: edge.GeoBoundingBox(_geo_point(g.top_left), _geo_point(g.bottom_right)),
    "geo_radius": lambda g: edge.GeoRadius(_geo_point(g.center), g.radius),
    "geo_polygon": lambda g: edge.GeoPolygon(
        _geo_line(g.exterior), None if g.interiors is None else [_geo_line(line) for line in g.interiors]
    ),
    "values_count": lambda v: edge.ValuesCount(lt=v.lt, gt=v.gt, lte=v.lte, gte=v.gte),
    "is_empty": lambda flag: flag,
    "is_null": lambda flag: flag,
}

_CONDITIONS: dict[type, Callable[[Any, int], Any]] = {
    models.FieldCondition: lambda c, _: _field(c),
    models.IsEmptyCondition: lambda c, _: edge.IsEmptyCondition(c.is_empty.key),
    models.IsNullCondition: lambda c, _: edge.IsNullCondition(c.is_null.key),
    models.HasIdCondition: lambda c, _: edge.HasIdCondition({edge_point_id(i) for i in c.has_id}),
    models.HasVectorCondition: lambda c, _: edge.HasVectorCondition(c.has_vector),
    models.SliceCondition: lambda c, _: edge.SliceCondition(  # type: ignore[attr-defined]  # its stub is missing
        c.slice.total, c.slice.index
    ),
    models.NestedCondition: lambda c, depth: edge.NestedCondition(c.nested.key, _filter(c.nested.filter, depth + 4)),
    models.Filter: lambda c, depth: _filter(c, depth + 2),
}
