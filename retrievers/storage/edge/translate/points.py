"""Points: qdrant-client's models <-> the engine's, and the checks that keep invalid values out of the store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray
from pydantic_core import PydanticSerializationError, to_jsonable_python
from qdrant_client import models
from qdrant_client.conversions import common_types as types

from situate.errors import InputError, NonFiniteVectorError
from situate.retrievers.storage.edge.translate.config import named_vectors
from situate.retrievers.storage.edge.translate.filters import edge_point_id

#: Largest magnitude of a float32: larger numbers become infinite in the store.
_FLOAT32_MAX = float(np.finfo(np.float32).max)

#: How deeply objects and lists of a payload may nest: the engine does not read its log back from 124 levels on.
MAX_PAYLOAD_DEPTH = 122

#: Owners, for messages, that are no point: a vector that is searched with, a payload that several points are given.
QUERY = object()
PAYLOAD = object()
_CONTAINERS = (dict, list, tuple)
_SCALARS = frozenset({str, float, bool, type(None)})
#: The range of the engine's integers.
_INTEGERS = (-(1 << 63), (1 << 64) - 1)


@dataclass(frozen=True)
class VectorSchema:
    """The vectors that a collection's points hold.

    Attributes:
        sizes: Dense and multi vectors: name -> number of values; the unnamed one is "".
        multi: Names of the multi vectors.
        sparse: Names of the sparse vectors.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    multi: frozenset[str] = frozenset()
    sparse: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: models.CreateCollection) -> VectorSchema:
        """The schema that ``config`` describes."""
        dense = named_vectors(config.vectors)
        return cls(
            sizes={name: params.size for name, params in dense.items()},
            multi=frozenset(name for name, params in dense.items() if params.multivector_config is not None),
            sparse=frozenset(config.sparse_vectors or {}),
        )

    @cached_property
    def plain(self) -> int | None:
        """The size of the unnamed vector, where it is a single one."""
        return None if "" in self.multi else self.sizes.get("")

    @property
    def names(self) -> list[str]:
        """All vector names."""
        return [*self.sizes, *self.sparse]


def _who(owner: Any) -> str:
    if owner is QUERY:
        return "query"
    return "the payload to set" if owner is PAYLOAD else f"point {owner}"


def checked_vector(vector: Any, name: str, schema: VectorSchema, owner: Any) -> Any:
    """``vector`` in the engine's form.

    Args:
        vector: Numbers, rows of numbers, a sparse vector, or an array of either shape.
        name: Which of the collection's vectors it is for.
        schema: The collection's vectors.
        owner: The vector's owner, for messages: a point's id, or `QUERY`.

    Raises:
        NonFiniteVectorError: A value is NaN, infinite, or beyond float32.
        InputError: Wrong shape or size, or no such vector name.
    """
    if name in schema.sparse:
        return _sparse(vector, name, owner)
    size = schema.sizes.get(name)
    if size is None:
        raise InputError(
            f"{_who(owner)}: the collection has no vector named {name!r}, "
            f"only {', '.join(map(repr, schema.names)) or 'none'}"
        )
    if isinstance(vector, np.ndarray):
        if _is_finite_array(vector, size, rows=name in schema.multi):
            return vector.tolist()
        vector = vector.tolist()
    elif isinstance(vector, tuple):
        vector = list(vector)
    if not isinstance(vector, list):
        raise InputError(
            f"{_who(owner)}: vector {name!r} must be a list of {size} numbers, not {type(vector).__name__}"
        )
    if name in schema.multi:
        rows = vector if vector and isinstance(vector[0], list | tuple | np.ndarray) else [vector]
        return [_dense(row.tolist() if isinstance(row, np.ndarray) else row, name, size, owner) for row in rows]
    return _dense(vector, name, size, owner)


def _dense(vector: list[float], name: str, size: int, owner: Any) -> list[float]:
    if len(vector) != size:
        raise InputError(
            f"{_who(owner)}: vector {name!r} has {len(vector)} values, but the collection holds vectors of {size}: "
            "it was built for another model, or the vector was cut"
        )
    try:
        # One pass in C: the vector's length is at least every magnitude, so it alone shows whether all fit into
        # float32.
        length = math.hypot(*vector)
    except TypeError as error:
        raise InputError(f"{_who(owner)}: vector {name!r} must hold numbers only: {error}") from error
    if not length <= _FLOAT32_MAX and not all(abs(value) <= _FLOAT32_MAX for value in vector):
        place, value = next((i, v) for i, v in enumerate(vector) if not abs(v) <= _FLOAT32_MAX)
        raise NonFiniteVectorError(
            f"{_who(owner)}: vector {name!r} holds {value} at place {place}; vectors must be finite float32 numbers. "
            "Nothing was written"
        )
    return vector


def _is_finite_array(vector: NDArray[Any], size: int, *, rows: bool) -> bool:
    """Whether an array is valid as it is: one check of all of it, where a list is checked row by row.

    The slower check names what is invalid.
    """
    fits = vector.ndim == (2 if rows else 1) and vector.shape[-1] == size and len(vector) > 0
    return fits and vector.dtype in (np.float32, np.float16) and bool(np.isfinite(vector).all())


def _sparse(vector: Any, name: str, owner: Any) -> edge.SparseVector:
    if isinstance(vector, Mapping):
        vector = models.SparseVector(**vector)
    if not isinstance(vector, models.SparseVector):
        raise InputError(
            f"{_who(owner)}: vector {name!r} is sparse and must be a SparseVector, not {type(vector).__name__}"
        )
    indices, values = vector.indices, vector.values
    if len(indices) != len(values):
        raise InputError(f"{_who(owner)}: sparse vector {name!r} has {len(indices)} indices but {len(values)} values")
    if len(set(indices)) != len(indices):
        raise InputError(f"{_who(owner)}: sparse vector {name!r} names an index twice; indices must be unique")
    if not math.hypot(*values) <= _FLOAT32_MAX:
        raise NonFiniteVectorError(
            f"{_who(owner)}: sparse vector {name!r} holds a value that is no finite float32 number. Nothing was written"
        )
    try:
        return edge.SparseVector(indices, values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{_who(owner)}: sparse vector {name!r} has an index outside of 0..2^32-1: {error}") from error


def checked_vectors(vector: Any, schema: VectorSchema, owner: Any) -> Any:
    """A point's vector or named vectors in the engine's form."""
    if isinstance(vector, Mapping):
        return {name: checked_vector(value, name, schema, owner) for name, value in vector.items()}
    if vector is None or (isinstance(vector, list) and not vector and not schema.names):
        return {}
    return {"": checked_vector(vector, "", schema, owner)}


def json_payload(payload: Any, owner: Any) -> dict[str, Any]:
    """``payload`` as JSON values: dates and UUIDs become text, as on their way to a server.

    Raises:
        InputError: It is no mapping, or holds what JSON cannot.
    """
    if payload is None:
        return {}
    if not isinstance(payload, Mapping):
        raise InputError(f"{_who(owner)}: a payload must be a mapping, not {type(payload).__name__}")
    check_depth(payload, owner)
    try:
        values = to_jsonable_python(payload)
    except (PydanticSerializationError, UnicodeError, ValueError) as error:
        raise InputError(f"{_who(owner)}: payload {_culprit(payload)} is not JSON: {error}") from error
    check_depth(values, owner)
    place = _not_json(values, "")
    if place is not None:
        raise InputError(
            f"{_who(owner)}: payload field {place} cannot be stored: NaN, infinity, a lone surrogate, or an integer "
            "beyond 64 bits, which would be rounded (give it as text)"
        )
    return dict(values)


def check_depth(payload: Any, owner: Any, above: int = 0) -> None:
    """Raises where objects and lists nest deeper than can be read back.

    Args:
        payload: The payload.
        owner: Its owner, for the message.
        above: How many objects it is nested under.

    Raises:
        InputError: It is too deep; nothing is written.
    """
    if _deeper(payload, MAX_PAYLOAD_DEPTH - above):
        raise InputError(
            f"{_who(owner)}: the payload is nested deeper than {MAX_PAYLOAD_DEPTH} objects and lists, the most that "
            "can be read back after a crash. Nothing was written; flatten it, or store it as one JSON text"
        )


def _is_plain_json(value: dict[Any, Any] | list[Any], levels: int) -> bool:
    """Whether types, depth and integers are such that the engine stores the value as it is.

    It would store bytes as a list of numbers, and an integer of more than 64 bits as a rounded float.
    """
    for item in value.values() if type(value) is dict else value:
        kind = type(item)
        if kind is int:
            if not _INTEGERS[0] <= item <= _INTEGERS[1]:
                return False
        elif kind is dict or kind is list:
            if levels <= 1 or not _is_plain_json(item, levels - 1):
                return False
        elif kind not in _SCALARS:
            return False
    return True


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value
    return levels < 1 or any(isinstance(item, _CONTAINERS) and _deeper(item, levels - 1) for item in inner)


def _culprit(payload: Mapping[Any, Any]) -> str:
    for key, value in payload.items():
        try:
            to_jsonable_python({key: value})
        except (PydanticSerializationError, UnicodeError, ValueError):
            return f"field {key!r} ({type(value).__name__})"
    return "as a whole"


def _not_json(value: Any, place: str) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    if isinstance(value, int):
        return None if _INTEGERS[0] <= value <= _INTEGERS[1] else place
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return place
        return None
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        items = ((f"{place}.{key}" if place else repr(key), inner) for key, inner in value.items())
    elif isinstance(value, list):
        items = ((f"{place}[{i}]", inner) for i, inner in enumerate(value))
    else:
        return None
    return next((found for found in (_not_json(inner, where) for where, inner in items) if found is not None), None)


def edge_point(id_: Any, vector: Any, payload: Any, schema: VectorSchema) -> edge.Point:
    """One point in the engine's form, checked."""
    size = schema.plain
    if size is None or type(vector) is not list or not _is_plain(vector, size):
        vector = checked_vectors(vector, schema, id_)
    if id_ is True or id_ is False:  # numbers to the engine
        edge_point_id(id_)
    if payload is None or (type(payload) is dict and _is_plain_json(payload, MAX_PAYLOAD_DEPTH)):
        try:
            return edge.Point(id_, vector, payload)
        except (TypeError, ValueError, OverflowError):
            pass  # rare: only then the reason is searched
    return edge.Point(edge_point_id(id_), vector, json_payload(payload, id_))


def _is_plain(vector: list[Any], size: int) -> bool:
    try:
        return len(vector) == size and math.hypot(*vector) <= _FLOAT32_MAX
    except TypeError:
        return False


def edge_points(points: Any, schema: VectorSchema) -> list[edge.Point]:
    """Points in the engine's form; nothing of a batch is returned where one of them is wrong.

    Raises:
        InputError: An id, a vector or a payload is wrong; the message names the point.
    """
    if isinstance(points, models.Batch):
        points = batch_points(points)
    return [edge_point(point.id, point.vector, point.payload, schema) for point in points]


def batch_points(batch: models.Batch) -> list[models.PointStruct]:
    """The points of a column-wise batch.

    Raises:
        InputError: Its columns differ in length.
    """
    vectors: Sequence[Any]
    if isinstance(batch.vectors, Mapping):
        lengths = {name: len(column) for name, column in batch.vectors.items()}
        if any(length != len(batch.ids) for length in lengths.values()):
            raise InputError(f"a batch of {len(batch.ids)} ids has vector columns of {lengths}")
        vectors = [dict(zip(batch.vectors, row, strict=True)) for row in zip(*batch.vectors.values(), strict=True)]
        vectors = vectors or [{} for _ in batch.ids]
    else:
        vectors = batch.vectors
    payloads: Sequence[Any] = batch.payloads or [None] * len(batch.ids)
    if not len(batch.ids) == len(vectors) == len(payloads):
        raise InputError(
            f"a batch needs as many ids as vectors and payloads, got {len(batch.ids)}, {len(vectors)}, {len(payloads)}"
        )
    return [
        models.PointStruct.model_construct(id=i, vector=v, payload=p)
        for i, v, p in zip(batch.ids, vectors, payloads, strict=True)
    ]


def model_id(id_: Any) -> int | str:
    """A point id as qdrant-client returns it."""
    return str(id_) if isinstance(id_, UUID) else id_


def model_vector(vector: Any) -> Any:
    """A vector as qdrant-client returns it."""
    if isinstance(vector, dict):
        return {name: model_vector(value) for name, value in vector.items()}
    if isinstance(vector, edge.SparseVector):
        return models.SparseVector(indices=vector.indices, values=vector.values)
    return vector


def edge_payload_selector(selector: Any) -> Any:
    """The engine's form of the choice of payload fields to return."""
    if isinstance(selector, models.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(selector.include)
    if isinstance(selector, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(selector.exclude)
    return list(selector) if isinstance(selector, tuple) else selector


def query_response(points: Sequence[edge.ScoredPoint], with_vectors: Any) -> types.QueryResponse:
    """Hits as qdrant-client returns them."""
    given: list[dict[str, Any]] = [
        {
            "id": model_id(point.id),
            "version": point.version,
            "score": point.score,
            "payload": point.payload,
            "vector": None,
            "shard_key": None,
            "order_value": point.order_value,
        }
        for point in points
    ]
    if not with_vectors:
        # Every value comes typed from the engine, but pydantic validates all hits at once in compiled code, and
        # builds each by itself without.
        return types.QueryResponse.model_validate({"points": given})
    # Validating would check every number of a vector.
    found = zip(given, points, strict=True)
    return types.QueryResponse.model_construct(
        points=[models.ScoredPoint.model_construct(**(g | {"vector": model_vector(p.vector)})) for g, p in found]
    )


def record(point: edge.Record) -> models.Record:
    """A stored point as qdrant-client returns it."""
    return models.Record.model_construct(
        id=model_id(point.id),
        payload=point.payload,
        vector=model_vector(point.vector),
        shard_key=None,
        order_value=point.order_value,
    )
