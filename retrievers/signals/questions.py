"""The questions that a chunk answers, by meaning (doc2query, Nogueira et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.embedders.types import Vectors
from situate.parameters import checked_parameters
from situate.retrievers.signals.base import Batch, Signal, Value, Values, matrices
from situate.retrievers.storage.ids import point_id, point_key

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.gateway import Gateway, Scores
    from situate.retrievers.search.query_vectors import QueryVectors


@checked_parameters
@dataclass(frozen=True)
class Questions(Signal):
    """One vector per question of ``context.questions``, embedded as queries are."""

    kind = "questions"
    stage = "raise"

    def stored(self) -> Mapping[str, Any]:
        """Nothing beside the embedder decides it."""
        return {}

    def params(self, dimension: int, distance: models.Distance) -> models.VectorParams:
        """A multivector."""
        from qdrant_client import models

        return models.VectorParams(
            size=dimension,
            distance=distance,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
        )

    def encode(self, batch: Batch) -> Values:
        """Per chunk float32 ``[questions, dimension]``; chunks without questions have no rows."""
        return one_row_each(batch, [chunk.context.questions for chunk in batch.chunks], batch.embedder.embed_queries)

    def query(self, vectors: QueryVectors) -> Value:
        """The query's dense vector, as a multivector of one row."""
        return vectors.dense[None]


def one_row_each(
    batch: Batch, texts: Sequence[Sequence[str]], embed: Callable[[Sequence[str]], Vectors]
) -> list[list[Vectors]]:
    """The multivectors of chunks that have several texts each: a row per text, in order.

    Args:
        batch: The batch.
        texts: Those of each of its chunks.
        embed: Embeds them, all at once.
    """
    flat = [text for own in texts for text in own]
    rows = embed(flat) if flat else np.zeros((0, batch.embedder.dimension), np.float32)
    return batch.of_documents(matrices(rows, [len(own) for own in texts]))


def nearest_rows(gateway: Gateway, name: str, query: Vectors, points: Sequence[int]) -> dict[int, int]:
    """Which row of each point's multivector is nearest to a query, for those of the points that have any.

    Args:
        gateway: The collection.
        name: The multivector.
        query: float32 ``[dimension]``.
        points: The points.
    """
    ids = [point_id(point) for point in points]
    records = gateway.client.retrieve(gateway.collection, ids, with_payload=False, with_vectors=[name])
    stored = {point_key(r.id): r.vector[name] for r in records if isinstance(r.vector, dict) and name in r.vector}
    return {point: int((np.asarray(rows, dtype=np.float32) @ query).argmax()) for point, rows in stored.items()}


def lifted(dense: Scores, by_question: Scores, share: float) -> Scores:
    """Each chunk's similarity, raised by a share of the lead of its nearest question.

    A chunk without questions keeps its own, and a question that is not near changes nothing: a score of its own for
    questions would put every chunk that has any before those that have none. A chunk that only a question found was
    less similar than all that the chunks' own vectors found.
    """
    least = min(dense.values(), default=0.0)
    raised = dict(dense)
    for point, score in by_question.items():
        own = dense.get(point, least)
        raised[point] = own + share * max(0.0, score - own)
    return raised
