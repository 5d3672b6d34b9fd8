"""Single chunks of an index, by their ids: for callers whose unit is the chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.embedders.types import Vectors
from situate.retrievers.index.payload import DENSE, STATE, to_chunk
from situate.retrievers.search.filters import FilterLike, to_filter
from situate.types import Chunk, stable_id

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.index.index import Index

_PAGE = 256


def find_chunks(index: Index, chunk_ids: Sequence[str]) -> list[Chunk]:
    """The stored chunks with these ids, in the order of the ids; unknown ids are skipped."""
    if not chunk_ids:
        return []
    found = {
        chunk.id: chunk
        for record in _records(index, "chunk_id", chunk_ids)
        if (record.payload or {}).get(STATE) is None
        for chunk in (to_chunk(record.payload or {}),)
    }
    return [found[chunk_id] for chunk_id in dict.fromkeys(chunk_ids) if chunk_id in found]


def delete_chunks(index: Index, chunk_ids: Sequence[str]) -> int:
    """Delete single chunks; unknown ids are skipped.

    The document's other chunks keep their vectors, which were made with the whole document in view. Indexing the
    document again brings the deleted chunks back: it no longer counts as unchanged.

    Returns:
        How many were deleted.
    """
    if not chunk_ids:
        return 0
    from qdrant_client import models

    doomed = list(_records(index, "chunk_id", chunk_ids))
    if not doomed:
        return 0
    documents = sorted({(record.payload or {})["document_id"] for record in doomed})
    for document_id in documents:
        # First, so that a crash in between at worst causes a document to be indexed once more.
        index.client.set_payload(
            index.collection,
            {"document_hash": stable_id("incomplete", document_id)},
            _where("document_id", [document_id]),
            wait=True,
        )
    inherited = _document_vectors(index, doomed)
    index.client.delete(index.collection, models.PointIdsList(points=[record.id for record in doomed]), wait=True)
    for document_id in documents:
        left = sorted(_records(index, "document_id", [document_id]), key=lambda r: (r.payload or {})["index"])
        operations: list[models.UpdateOperation] = [
            models.SetPayloadOperation(
                set_payload=models.SetPayload(payload={"index": place, "chunks": len(left)}, points=[record.id])
            )
            for place, record in enumerate(left)
        ]
        if left and document_id in inherited:
            heir = models.PointVectors(id=left[0].id, vector=inherited[document_id])
            operations.append(models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=[heir])))
        if operations:
            index.client.batch_update_points(index.collection, operations, wait=True)
    return len(doomed)


def nearest_with_vectors(
    index: Index, vector: Vectors, k: int, filter: FilterLike | None = None
) -> list[tuple[Chunk, Vectors]]:
    """The ``k`` chunks nearest to a dense vector, nearest first, each with its own (float32 ``[dimension]``)."""
    points = index.client.query_points(
        index.collection,
        query=vector.tolist(),
        using=DENSE,
        query_filter=to_filter(filter),
        limit=k,
        with_payload=True,
        with_vectors=[DENSE],
    ).points
    return [
        (to_chunk(point.payload or {}), np.asarray(point.vector[DENSE], dtype=np.float32))
        for point in points
        if isinstance(point.vector, dict)
    ]


def _document_vectors(index: Index, records: Sequence[models.Record]) -> dict[str, Any]:
    """Document id -> the document's own vectors, where one of these points carries them."""
    names = [signal.name for signal in index.config.table if signal.stage == "document"]
    if not names:
        return {}
    owners = {record.id: (record.payload or {})["document_id"] for record in records}
    with_vectors = index.client.retrieve(index.collection, list(owners), with_payload=False, with_vectors=names)
    return {owners[record.id]: record.vector for record in with_vectors if record.vector}


def _where(key: str, values: Sequence[str]) -> models.Filter:
    from qdrant_client import models

    return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))])


def _records(index: Index, key: str, values: Sequence[str]) -> Iterator[models.Record]:
    offset: models.ExtendedPointId | None = None
    while True:
        records, offset = index.client.scroll(
            index.collection, _where(key, values), limit=_PAGE, offset=offset, with_payload=True, with_vectors=False
        )
        yield from records
        if offset is None:
            return
