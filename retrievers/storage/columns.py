"""Columns (vectors, payloads, ids) to upload, as points."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import numpy as np

from situate.errors import InputError

#: Rows of an array that are turned into lists at once: it may be mapped from a file larger than memory.
_AT_ONCE = 1024


def rows_of_columns(
    vectors: Any, payload: Iterable[Mapping[Any, Any]] | None = None, ids: Iterable[Any] | None = None
) -> Iterator[tuple[Any, Any, Any]]:
    """Points, one after the other, as qdrant-client's ``upload_collection`` takes them.

    Args:
        vectors: ``[points, dimension]``, or an iterable of vectors, or such columns by the vector's name.
        payload: One each; none, if not given.
        ids: One each; random ones, if not given.

    Returns:
        Ids, vectors as lists, and payloads.

    Raises:
        InputError: Named vectors have different numbers of rows.
    """
    if isinstance(vectors, dict):
        lengths = {name: len(column) for name, column in vectors.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"each named vector needs as many rows as the others, got {lengths}")
        columns = [_rows(column) for column in vectors.values()]
        rows: Iterable[Any] = (dict(zip(vectors, row, strict=True)) for row in zip(*columns, strict=True))
    else:
        rows = _rows(vectors)
    given_ids = (str(uuid4()) for _ in itertools.count()) if ids is None else ids
    return zip(given_ids, rows, itertools.repeat(None) if payload is None else payload, strict=False)


def _rows(column: Any) -> Iterable[Any]:
    if not isinstance(column, np.ndarray):
        rows: Iterable[Any] = iter(column)
        return rows
    batches = (column[i : i + _AT_ONCE].tolist() for i in range(0, len(column), _AT_ONCE))
    return itertools.chain.from_iterable(batches)
