"""Several views of a chunk: centres of its sentences' vectors (k-means; Tang et al. 2021, Zhang et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.chunkers.sentences import sentence_spans
from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.signals.base import Batch, Signal, Value, Values, matrices
from situate.vectors import unit

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.query_vectors import QueryVectors

#: Rounds of k-means; a chunk's few sentences settle within them.
_ROUNDS = 10


@checked_parameters
@dataclass(frozen=True)
class Views(Signal):
    """At most ``count`` vectors per chunk, of which the nearest to the query counts: a mean blurs several subjects.

    Attributes:
        count: Views per chunk, at most; a chunk has no more than sentences.

    Raises:
        InputError: ``count`` is less than 1.
    """

    kind = "views"
    count: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise InputError(f"count={self.count} of {self.name!r}: a chunk has one view at least")

    def stored(self) -> Mapping[str, Any]:
        """The number of views."""
        return {"count": self.count}

    def params(self, dimension: int, distance: models.Distance) -> models.VectorParams:
        """A multivector."""
        from qdrant_client import models

        return models.VectorParams(
            size=dimension,
            distance=models.Distance.COSINE,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
        )

    def encode(self, batch: Batch) -> Values:
        """Per chunk float32 ``[views, dimension]``, L2-normalised."""
        sentences = [[chunk.text[start:end] for start, end in sentence_spans(chunk.text)] for chunk in batch.chunks]
        texts = [text for own in sentences for text in own]
        rows = batch.embedder.embed_documents(texts) if texts else np.zeros((0, batch.embedder.dimension), np.float32)
        own = matrices(unit(rows), [len(each) for each in sentences])
        return batch.of_documents([centres(each, self.count) for each in own])

    def query(self, vectors: QueryVectors) -> Value:
        """The query's dense vector, as a multivector of one row."""
        return vectors.dense[None]


def centres(rows: Vectors, count: int) -> Vectors:
    """The directions of the means of ``count`` clusters of vectors: spherical k-means, begun at the farthest ones.

    Args:
        rows: float32 ``[vectors, dimension]``, L2-normalised.
        count: Clusters; all rows where there are no more.

    Returns:
        float32 ``[at most count, dimension]``, L2-normalised.
    """
    if len(rows) <= count:
        return rows
    first = unit(rows.mean(0, dtype=np.float32))
    chosen = [int((rows @ first).argmax())]
    while len(chosen) < count:
        chosen.append(int((rows @ rows[chosen].T).max(1).argmin()))
    found = rows[chosen]
    for _ in range(_ROUNDS):
        labels = (rows @ found.T).argmax(1)
        # A centre that no vector is nearest to stays where it is.
        means = [rows[labels == i].mean(0) if (labels == i).any() else found[i] for i in range(count)]
        moved = unit(np.array(means, dtype=np.float32))
        if np.array_equal(moved, found):
            break
        found = moved
    return found
