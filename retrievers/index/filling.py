"""Signals that a collection lacks, filled in from the text that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from situate.batches import in_batches
from situate.embedders.types import ChunkVectors
from situate.errors import StorageError
from situate.retrievers.index.collection import Collection, Version
from situate.retrievers.index.documents import BATCH_DOCUMENTS, Item
from situate.retrievers.index.payload import DENSE, STATE, to_chunk
from situate.retrievers.signals.base import Batch, Signal
from situate.types import Chunk, Document

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.embedders.embedder import Embedder
    from situate.retrievers.config import PipelineConfig

#: How often documents are read again that were replaced while their vectors were made.
_ATTEMPTS = 5


def fill(
    collection: Collection,
    embedder: Embedder,
    config: PipelineConfig,
    names: Iterable[str],
    document_ids: Sequence[str],
) -> int:
    """Write signals of documents that are stored, batch by batch.

    Args:
        collection: The collection, which has the named vectors.
        embedder: The index's.
        config: Has the signals.
        names: The signals.
        document_ids: The documents; those that are gone are skipped.

    Returns:
        The number of chunks.

    Raises:
        StorageError: A document is replaced again and again.
    """
    signals = [signal for signal in config.table if signal.name in set(names)]
    filled = 0
    for some in in_batches(document_ids, BATCH_DOCUMENTS):
        for _ in range(_ATTEMPTS):
            records = collection.records(some, [DENSE])
            points = _points(collection, embedder, config, signals, records)
            # Points that another version has replaced meanwhile must not come back: the server would refuse them all.
            if {record.id for record in collection.records(some)} >= {point.id for point in points}:
                if points:
                    collection.client.update_vectors(collection.name, points, wait=True)
                filled += len(records)
                break
        else:
            raise StorageError(
                f"the documents {some[:3]}... are replaced faster than their signals can be made: fill them while "
                "nothing is added"
            )
    return filled


def stored(chunks: Callable[[list[str]], list[Chunk]], document_ids: Sequence[str]) -> Iterator[Item]:
    """Documents with their chunks, as an index holds them.

    Args:
        chunks: Those of documents, in order.
        document_ids: The documents; those that are gone are skipped.
    """
    for some in in_batches(document_ids, BATCH_DOCUMENTS):
        for _, group in groupby(chunks(list(some)), key=lambda chunk: chunk.document_id):
            own = list(group)
            yield _document(own), own


def _points(
    collection: Collection,
    embedder: Embedder,
    config: PipelineConfig,
    signals: Sequence[Signal],
    records: Sequence[models.Record],
) -> list[models.PointVectors]:
    from qdrant_client import models

    versions: dict[str, list[tuple[Chunk, models.Record]]] = {}
    for record in records:
        payload = record.payload or {}
        if payload.get(STATE) is None:
            versions.setdefault(payload["document_hash"], []).append((to_chunk(payload), record))
    groups = [sorted(group, key=lambda pair: pair[0].index) for group in versions.values()]
    items = [(_document(chunks), chunks) for group in groups if (chunks := [chunk for chunk, _ in group])]
    made = [ChunkVectors(np.array([_dense(r) for _, r in group], dtype=np.float32)) for group in groups]
    if any(signal.needs_tokens for signal in signals):
        encoded = embedder.encode_chunks(items, scheme=config.dense, token_vectors=True)
        made = [replace(each, dense=kept.dense) for each, kept in zip(encoded, made, strict=True)]
    batch = Batch.of(items, embedder, made)
    named = {signal.name: signal.encode(batch) for signal in signals}
    points: list[models.PointVectors] = []
    for at, group in enumerate(groups):
        (document, chunks) = items[at]
        version = Version(document.id, "", chunks, {name: values[at] for name, values in named.items()})
        for place, (_, record) in enumerate(group):
            if vectors := version.of_chunk(place, collection.gateway):
                points.append(models.PointVectors.model_construct(id=record.id, vector=vectors))
    return points


def _dense(record: models.Record) -> object:
    assert isinstance(record.vector, dict)
    return record.vector[DENSE]


def _document(chunks: Sequence[Chunk]) -> Document:
    """The document of the chunks; blank where no chunk lies, so that all spans are right."""
    text = [" "] * max(chunk.end for chunk in chunks)
    for chunk in chunks:
        text[chunk.start : chunk.end] = chunk.text
    return Document(chunks[0].document_id, "".join(text), chunks[0].metadata)
