"""Filters over the documents' metadata, as Qdrant's own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from situate.errors import InputError
from situate.retrievers.index.payload import plain_value, stored_text

if TYPE_CHECKING:
    from qdrant_client import models

#: Metadata conditions (key -> value, a list of which any may match, or operators), or a filter of Qdrant's own.
FilterLike: TypeAlias = "Mapping[str, Any] | models.Filter"

#: Where a point keeps its document's metadata.
_METADATA = "metadata."
#: The payload's other keys: a key of a `models.Filter` that begins with one of these is used as it is.
_PAYLOAD = frozenset(
    {"document_id", "chunk_id", "index", "start", "end", "text", "context", "metadata", "document_hash", "chunks"}
    | {"version", "state"}
)
# Segments that Qdrant reads without quotes; every other key needs them.
_PATH = re.compile(r"[A-Za-z0-9_-]+(\[\d*\])?(\.[A-Za-z0-9_-]+(\[\d*\])?)*")
# Integers beyond this are not exact as the double that a range compares with.
_EXACT_INTEGER = 2**53
#: How deeply conditions may nest.
_MAX_DEPTH = 32
#: The same in a `models.Filter`, where a filter and its list of conditions are a level each.
_MAX_NESTED = 200

_BOUNDS = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


def to_filter(conditions: FilterLike | None) -> models.Filter | None:
    """A Qdrant filter from conditions over a document's metadata.

    ``{"year": 2024, "team": ["sales", "legal"]}``: every condition has to hold; of a list any value may match, and a
    condition on a list in the metadata holds where it holds for any element. Numbers compare by value, so 3 finds 3.0;
    None matches missing, null or empty values. A value may be a mapping of operators: ``$eq``, ``$ne``, ``$in``,
    ``$nin``, ``$gt``, ``$gte``, ``$lt``, ``$lte`` (numbers, and dates as ISO 8601 or `datetime`), ``$exists``,
    ``$like`` (a substring, ``%`` at its ends or not), ``$text`` (words, whatever their case), ``$not``. ``$and``,
    ``$or`` and ``$not`` combine conditions. A key such as ``a.b`` is a path into nested metadata, or a key that holds a
    dot. Keys may be written with ``metadata.`` before them.

    In a `models.Filter`, keys of the metadata may be written with or without ``metadata.`` before them.

    Raises:
        InputError: There is no such operator, or a value does not fit its operator; the message names the key.
    """
    if conditions is None:
        return None
    from qdrant_client import models

    if isinstance(conditions, models.Filter):
        resolved: models.Filter = _resolved(conditions)
        return resolved
    if not isinstance(conditions, Mapping):
        raise InputError(
            f"a filter is a mapping such as {{'year': 2024}} or a qdrant_client.models.Filter, not {conditions!r}"
        )
    return _all(conditions, 0)


def key_path(key: str) -> str:
    """A metadata key as a path of Qdrant's, in quotes where it needs them.

    Raises:
        InputError: It holds a quotation mark, which no path can.
    """
    key = stored_text(key)
    if _PATH.fullmatch(key):
        return key
    if '"' in key:
        raise InputError(f"the metadata key {key!r} holds a quotation mark, which Qdrant's paths cannot: rename it")
    return f'"{key}"'


def at_key(
    prefix: str, key: str, condition: Callable[[str], models.Filter], *, everywhere: bool = False
) -> models.Filter:
    """A condition on a metadata key, wherever the key may mean: ``a.b`` is a path into nested values and a key.

    Args:
        prefix: What stands before the metadata's keys in the payload.
        key: The key.
        condition: Makes the condition on a path.
        everywhere: The condition has to hold at each of the places, and not at any one of them.
    """
    from qdrant_client import models

    paths = [prefix + key_path(key)]
    if paths[0] == prefix + key and ("." in key or "[" in key):
        paths.append(f'{prefix}"{key}"')
    if prefix and key.startswith(prefix):
        paths.append(prefix + key_path(key.removeprefix(prefix)))
    parts: list[Any] = [condition(path) for path in paths]
    if len(parts) == 1:
        found: models.Filter = parts[0]
        return found
    return models.Filter(must=parts) if everywhere else models.Filter(should=parts)


def equals_any(path: str, values: Iterable[str | int | float | bool]) -> models.Filter:
    """Points whose value at ``path`` equals any of ``values``; numbers compare by value, so 3 equals 3.0."""
    from qdrant_client import models

    values = list(values)
    texts = [stored_text(value) for value in values if isinstance(value, str)]
    truths = [value for value in values if isinstance(value, bool)]
    numbers = [value for value in values if not isinstance(value, str | bool)]
    wholes = [int(value) for value in numbers if isinstance(value, int) or value.is_integer()]
    wholes = [value for value in wholes if -(2**63) <= value < 2**63]  # no store holds others
    either: list[Any] = [models.FieldCondition(key=path, match=models.MatchValue(value=value)) for value in truths]
    either += [models.FieldCondition(key=path, match=models.MatchAny(any=group)) for group in (texts, wholes) if group]
    either += [
        models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))
        for value in numbers
        if (math.isfinite(value) if isinstance(value, float) else abs(value) <= _EXACT_INTEGER)
    ]
    if not either:  # no value is in an empty list
        return models.Filter(must=[models.HasIdCondition(has_id=[])])
    return models.Filter(should=either)


def missing(path: str) -> models.Filter:
    """Points without a value at ``path``, or with null or an empty list there."""
    from qdrant_client import models

    return models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key=path))])


def ordered(path: str, bound: str, value: Any) -> models.Filter | None:
    """Points whose number or date at ``path`` lies on one side of ``value``; None where it is neither.

    Args:
        path: Where the value stands.
        bound: "gt", "gte", "lt" or "lte".
        value: A number, a date, or a date in ISO 8601.
    """
    from qdrant_client import models

    span: models.Range | models.DatetimeRange
    value = plain_value(value)
    if isinstance(value, str):
        try:
            span = models.DatetimeRange(**{bound: datetime.fromisoformat(value)})
        except ValueError:
            return None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Stored integers have 64 bits: those beyond, which a double need not hold, are compared as 2**64 is.
        span = models.Range(**{bound: max(-(2**64), min(2**64, value)) if isinstance(value, int) else value})
    else:
        return None
    return models.Filter(must=[models.FieldCondition(key=path, range=span)])


def _all(conditions: Mapping[str, Any], depth: int) -> models.Filter:
    from qdrant_client import models

    if depth > _MAX_DEPTH:
        raise InputError(f"the filter's conditions lie more than {_MAX_DEPTH} levels deep in each other")
    must: list[models.Condition] = []
    for key, value in conditions.items():
        if not isinstance(key, str):
            raise InputError(f"the filter has the key {key!r}: a key of the metadata is text")
        if key in ("$and", "$or"):
            if not isinstance(value, Sequence) or not all(isinstance(part, Mapping) for part in value):
                raise InputError(f"{key} takes a list of conditions, not {value!r}")
            parts: list[models.Condition] = [_all(part, depth + 1) for part in value]
            # Qdrant reads an empty list as no condition; none of no conditions holds.
            either = models.Filter(should=parts) if parts else equals_any(_METADATA, [])
            must.append(models.Filter(must=parts) if key == "$and" else either)
        elif key == "$not":
            if not isinstance(value, Mapping):
                raise InputError(f"$not takes conditions, not {value!r}")
            must.append(models.Filter(must_not=[_all(value, depth + 1)]))
        elif key.startswith("$"):
            raise InputError(f"there is no operator {key!r} between conditions: $and, $or and $not combine them")
        else:
            must.append(_of_key(key, value, depth))
    return models.Filter(must=must)


def _of_key(key: str, value: Any, depth: int) -> models.Filter:
    from qdrant_client import models

    if not isinstance(value, Mapping):
        return _equal(key, value)
    if depth > _MAX_DEPTH:
        raise InputError(f"the filter on {key!r} lies more than {_MAX_DEPTH} levels deep")
    if not value:
        raise InputError(f"the filter on {key!r} is empty: give a value, or an operator such as {{'$gte': 2024}}")
    must: list[models.Condition] = []
    for operator, operand in value.items():
        if operator == "$not":
            must.append(models.Filter(must_not=[_of_key(key, operand, depth + 1)]))
        elif operator in _OPERATORS:
            must.append(_OPERATORS[operator](key, operand))
        else:
            raise InputError(
                f"the filter on {key!r} has no operator {operator!r}: there are {', '.join((*_OPERATORS, '$not'))}"
            )
    return models.Filter(must=must)


def _equal(key: str, value: Any) -> models.Filter:
    values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    plain = [plain_value(each) for each in values]
    if value is None:
        return at_key(_METADATA, key, missing, everywhere=True)
    if not all(isinstance(each, str | int | float) for each in plain):
        raise InputError(
            f"the filter on {key!r} has the value {value!r}: give text, a number, a truth value, a date, a list of "
            "these, operators, or a qdrant_client.models.Filter"
        )
    return at_key(_METADATA, key, lambda path: equals_any(path, plain))


def _unequal(key: str, value: Any) -> models.Filter:
    from qdrant_client import models

    return models.Filter(must_not=[_equal(key, value)])


def _among(key: str, value: Any) -> models.Filter:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InputError(f"$in and $nin on {key!r} take a list, not {value!r}")
    return _equal(key, list(value))


def _not_among(key: str, value: Any) -> models.Filter:
    from qdrant_client import models

    return models.Filter(must_not=[_among(key, value)])


def _exists(key: str, value: Any) -> models.Filter:
    from qdrant_client import models

    if not isinstance(value, bool):
        raise InputError(f"$exists on {key!r} takes True or False, not {value!r}")
    absent = at_key(_METADATA, key, missing, everywhere=True)
    return models.Filter(must_not=[absent]) if value else absent


def _like(key: str, value: Any) -> models.Filter:
    from qdrant_client import models

    if not isinstance(value, str) or not (words := value.strip("%")) or "%" in words:
        raise InputError(f"$like on {key!r} takes a text, with % at its ends or not, and not {value!r}")
    match = models.MatchSubstring(substring=words)
    return at_key(_METADATA, key, lambda path: models.Filter(must=[models.FieldCondition(key=path, match=match)]))


def _text(key: str, value: Any) -> models.Filter:
    from qdrant_client import models

    if not isinstance(value, str) or not value.strip():
        raise InputError(f"$text on {key!r} takes words, not {value!r}")
    match = models.MatchText(text=value)
    return at_key(_METADATA, key, lambda path: models.Filter(must=[models.FieldCondition(key=path, match=match)]))


def _side(operator: str) -> Callable[[str, Any], models.Filter]:
    def compared(key: str, value: Any) -> models.Filter:
        def at(path: str) -> models.Filter:
            found = ordered(path, _BOUNDS[operator], value)
            if found is None:
                raise InputError(
                    f"{operator} on {key!r} takes a number or a date (ISO 8601): Qdrant orders no others, got {value!r}"
                )
            return found

        return at_key(_METADATA, key, at)

    return compared


_OPERATORS: dict[str, Callable[[str, Any], models.Filter]] = {
    "$eq": _equal,
    "$ne": _unequal,
    "$in": _among,
    "$nin": _not_among,
    **{operator: _side(operator) for operator in _BOUNDS},
    "$exists": _exists,
    "$like": _like,
    "$text": _text,
}


def _resolved(where: Any, depth: int = 0) -> Any:
    """A filter of Qdrant's with every key of the metadata under ``metadata.``."""
    from qdrant_client import models

    if depth > _MAX_NESTED:
        raise InputError(f"the filter nests more than {_MAX_NESTED // 2} filters in each other, which is not read")
    if isinstance(where, list):
        return [_resolved(part, depth + 1) for part in where]
    if isinstance(where, models.NestedCondition):  # keys within are relative to its own
        nested = where.nested.model_copy(update={"key": _resolved_key(where.nested.key)})
        return models.NestedCondition(nested=nested)
    if not isinstance(
        where,
        models.Filter
        | models.MinShould
        | models.FieldCondition
        | models.IsEmptyCondition
        | models.IsNullCondition
        | models.PayloadField,
    ):
        return where
    changes: dict[str, Any] = {}
    for name in where.model_fields_set:
        value = getattr(where, name)
        changed = _resolved_key(value) if name == "key" else _resolved(value, depth + 1)
        if changed is not value and changed != value:
            changes[name] = changed
    return where.model_copy(update=changes) if changes else where


def _resolved_key(key: str) -> str:
    return key if re.split(r"[.\[]", key, maxsplit=1)[0] in _PAYLOAD else _METADATA + key
