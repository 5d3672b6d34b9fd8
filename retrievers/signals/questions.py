"""The questions that a chunk answers, by meaning (doc2query, Nogueira et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.retrievers.signals.base import Batch, Signal, Value, Values, matrices

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.gateway import Scores
    from situate.retrievers.search.query_vectors import QueryVectors


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
        texts = [question for chunk in batch.chunks for question in chunk.context.questions]
        rows = batch.embedder.embed_queries(texts) if texts else np.zeros((0, batch.embedder.dimension), np.float32)
        counts = [len(chunk.context.questions) for chunk in batch.chunks]
        return batch.of_documents(matrices(rows, counts))

    def query(self, vectors: QueryVectors) -> Value:
        """The query's dense vector, as a multivector of one row."""
        return vectors.dense[None]


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
