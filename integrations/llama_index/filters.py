"""LlamaIndex metadata filters as Qdrant filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from situate.errors import InputError
from situate.retrievers.search.filters import at_key, equals_any, missing, ordered

if TYPE_CHECKING:
    from qdrant_client import models

Scalar: TypeAlias = str | int | float

#: Keys that LlamaIndex writes into a payload beside the metadata, over metadata of the same name.
RESERVED = frozenset({"document_id", "doc_id", "ref_doc_id", "_node_content", "_node_type"})
_DOCUMENT_IDS = frozenset({"document_id", "doc_id", "ref_doc_id"})


def to_qdrant_filter(
    filters: MetadataFilters | None, *, prefix: str = "", lowered: str | None = None, own: str | None = None
) -> models.Filter | None:
    """The Qdrant filter that selects the same points as LlamaIndex's own filter function.

    All operators and conditions are translated, at any depth. Two things are Qdrant's: a condition on
    a payload list holds where it holds for any element, and a key such as ``a.b`` is a path into nested values, or a
    key that holds a dot. Strings are compared (``>``, ``<=``, ...) as dates, because that is the only order Qdrant
    knows on strings.

    Args:
        filters: The filters; None and filters without any condition select everything.
        prefix: The text before each key in the payload ("metadata." where metadata is nested). The keys by which
            LlamaIndex names a node's document then mean the payload's ``document_id``, where a point has no metadata
            of that name.
        lowered: Payload path under which strings are also stored in lower case, so that TEXT_MATCH_INSENSITIVE is a
            substring match, as LlamaIndex defines it. Without it, it is Qdrant's full-text match (whole words).
        own: Payload path of the metadata whose keys (`RESERVED`) LlamaIndex's payload uses for itself. Where a point
            has such metadata, they are compared.

    Raises:
        InputError: A value does not fit its operator; the message names key, operator and value.
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        raise InputError(f"filters is a {type(filters).__name__}: give LlamaIndex's MetadataFilters")
    return _Translation(prefix, lowered, own).group(filters)


def all_of(*conditions: models.Filter | None) -> models.Filter | None:
    """The conjunction of the filters that are not None."""
    given: list[Any] = [condition for condition in conditions if condition is not None]
    if len(given) <= 1:
        return given[0] if given else None
    from qdrant_client import models

    return models.Filter(must=given)


class _Translation:
    def __init__(self, prefix: str, lowered: str | None, own: str | None = None) -> None:
        from qdrant_client import models

        self.models = models
        self.prefix = prefix
        self.lowered = lowered
        self.own = own

    def group(self, filters: MetadataFilters) -> models.Filter | None:
        parts: list[Any] = []
        for part in filters.filters:
            condition = self.group(part) if isinstance(part, MetadataFilters) else self.one(part)
            if condition is not None:  # an empty group is no condition
                parts.append(condition)
        if not parts:
            return None
        match filters.condition or FilterCondition.AND:
            case FilterCondition.AND:
                return self.models.Filter(must=parts)
            case FilterCondition.OR:
                return self.models.Filter(should=parts)
            case FilterCondition.NOT:
                return self.models.Filter(must_not=parts)

    def one(self, item: MetadataFilter) -> models.Filter:
        translate = _OPERATORS[item.operator]
        if self.own is not None and item.key in RESERVED:
            users, llama_indexs = _Translation(self.own, None), translate(self, item)
        elif self.prefix and item.key in _DOCUMENT_IDS:
            users = self
            llama_indexs = translate(_Translation("", None), item.model_copy(update={"key": "document_id"}))
        else:
            return translate(self, item)
        absent, theirs = users._missing(item.key), translate(users, item)
        return self.models.Filter(
            should=[
                self.models.Filter(must=[theirs], must_not=[absent]),
                self.models.Filter(must=[absent, llama_indexs]),
            ]
        )

    # -- operators ----------------------------------------------------------------------------------------------

    def equal(self, item: MetadataFilter) -> models.Filter:
        if item.value is None:
            # "is null": in LlamaIndex's own function no value equals None, so it can only mean absence.
            return self.empty(item)
        return self._any(item.key, _scalars(item, one=True))

    def unequal(self, item: MetadataFilter) -> models.Filter:
        return self.models.Filter(must_not=[self.equal(item)])

    def among(self, item: MetadataFilter) -> models.Filter:
        return self._any(item.key, _scalars(item))

    def not_among(self, item: MetadataFilter) -> models.Filter:
        return self.models.Filter(must_not=[self.among(item)])

    def every(self, item: MetadataFilter) -> models.Filter:
        values = _scalars(item)
        if not values:  # "all" of no values holds, but not for a point without the key
            return self.models.Filter(must_not=[self._missing(item.key)])
        return self.models.Filter(must=[self._any(item.key, [value]) for value in values])

    def ordered(self, item: MetadataFilter) -> models.Filter:
        def at(path: str) -> models.Filter:
            found = ordered(path, _BOUNDS[item.operator], item.value)
            if found is None:
                raise _refused(item, "a number, or a date in ISO 8601: Qdrant orders no other strings")
            return found

        return at_key(self.prefix, item.key, at)

    def substring(self, item: MetadataFilter) -> models.Filter:
        return self._field(item.key, match=self.models.MatchSubstring(substring=_text(item)))

    def insensitive(self, item: MetadataFilter) -> models.Filter:
        value = _text(item)
        words = self._field(item.key, match=self.models.MatchText(text=value))
        if self.lowered is None:
            return words
        copies = _Translation(self.lowered, None)
        exact = copies._field(item.key, match=self.models.MatchSubstring(substring=value.lower()))
        absent = copies._missing(item.key)  # points that another store wrote carry no lower-case copy
        return self.models.Filter(should=[exact, self.models.Filter(must=[absent, words])])

    def empty(self, item: MetadataFilter) -> models.Filter:
        blank = self._field(item.key, match=self.models.MatchValue(value=""))
        return self.models.Filter(should=[self._missing(item.key), blank])

    # -- conditions ---------------------------------------------------------------------------------------------

    def _missing(self, key: str) -> models.Filter:
        return at_key(self.prefix, key, missing, everywhere=True)

    def _field(self, key: str, **condition: Any) -> models.Filter:
        def at(path: str) -> models.Filter:
            found: models.Filter = self.models.Filter(must=[self.models.FieldCondition(key=path, **condition)])
            return found

        return at_key(self.prefix, key, at)

    def _any(self, key: str, values: Sequence[Scalar]) -> models.Filter:
        return at_key(self.prefix, key, lambda path: equals_any(path, values))


_BOUNDS = {
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
}

_OPERATORS: dict[FilterOperator, Callable[[_Translation, MetadataFilter], models.Filter]] = {
    FilterOperator.EQ: _Translation.equal,
    FilterOperator.NE: _Translation.unequal,
    FilterOperator.GT: _Translation.ordered,
    FilterOperator.GTE: _Translation.ordered,
    FilterOperator.LT: _Translation.ordered,
    FilterOperator.LTE: _Translation.ordered,
    FilterOperator.IN: _Translation.among,
    FilterOperator.NIN: _Translation.not_among,
    FilterOperator.ANY: _Translation.among,
    FilterOperator.ALL: _Translation.every,
    FilterOperator.CONTAINS: _Translation.equal,
    FilterOperator.TEXT_MATCH: _Translation.substring,
    FilterOperator.TEXT_MATCH_INSENSITIVE: _Translation.insensitive,
    FilterOperator.IS_EMPTY: _Translation.empty,
}


def _scalars(item: MetadataFilter, one: bool = False) -> list[Scalar]:
    value = item.value
    if isinstance(value, str | int | float):
        return [value]
    if isinstance(value, list) and not one:
        return list(value)
    raise _refused(item, "one text or number" if one else "a text, a number or a list of them")


def _text(item: MetadataFilter) -> str:
    if not isinstance(item.value, str):
        raise _refused(item, "a text")
    return item.value


def _refused(item: MetadataFilter, wanted: str) -> InputError:
    return InputError(f"the filter {item.key!r} {item.operator.value} {item.value!r} cannot be applied: give {wanted}")
