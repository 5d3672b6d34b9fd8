"""A linear map of queries, distilled listwise from what the whole search finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from situate.batches import in_batches
from situate.embedders.models.query_map import QueryMap
from situate.embedders.types import Vectors
from situate.retrievers.index.payload import DENSE
from situate.retrievers.search.gateway import among
from situate.retrievers.storage.ids import point_key
from situate.retrievers.types import Hit
from situate.vectors import unit

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.index.index import Index

#: Chunks that are read at once; candidates of a question: the best by its vector, and those that the teacher found.
_PAGE, _NEAREST = 256, 50
#: Temperatures of the teacher's scores in [0, 1] and of cosines.
_TEACHER, _STUDENT = 0.1, 0.05
_RANK, _RATE, _DECAY, _PASSES, _PATIENCE = 32, 2e-3, 1e-2, 200, 20


@dataclass(frozen=True)
class Lists:
    """Questions and their candidates.

    Attributes:
        queries: float32 ``[questions, dimension]``, L2-normalised.
        passages: float32 ``[questions, candidates, dimension]``.
        targets: float64 ``[questions, candidates]``: what each should get of the whole; rows sum to 1.
        kept: bool ``[questions, candidates]``: those that there are.
    """

    queries: Vectors
    passages: Vectors
    targets: NDArray[np.float64]
    kept: NDArray[np.bool_]

    def of(self, rows: NDArray[np.int64]) -> Lists:
        """Some of the questions."""
        return Lists(self.queries[rows], self.passages[rows], self.targets[rows], self.kept[rows])


def lists(index: Index, queries: Vectors, found: Sequence[Sequence[Hit]]) -> Lists:
    """What a map is fitted on: the teacher's order of its hits and of the nearest chunks, by a softmax of its scores.

    The passages that the questions were taken from are no targets: a map that is fitted on these learns how sentences
    of documents are, and finds less of people's questions (docs/fit.md).

    Args:
        index: The index.
        queries: float32 ``[questions, dimension]``.
        found: The teacher's hits of each.
    """
    queries = unit(queries)
    nearest = [list(index.gateway.nearest({DENSE: query}, _NEAREST, None)[DENSE]) for query in queries]
    names, vectors = _read(index, {hit.chunk.id for hits in found for hit in hits}, {p for own in nearest for p in own})
    rows = {name: row for row, name in enumerate(vectors)}
    width = min(len(rows), 2 * _NEAREST)
    candidates = np.zeros((len(queries), width), dtype=np.int64)
    targets = np.zeros((len(queries), width))
    kept = np.zeros((len(queries), width), dtype=bool)
    for number, hits in enumerate(found):
        scores = {rows[hit.chunk.id]: hit.score for hit in hits if hit.chunk.id in rows}
        near = [rows[names[point]] for point in nearest[number] if point in names]
        own = list(dict.fromkeys([*scores, *near]))[:width]
        taught = np.array([scores.get(row, 0.0) for row in own]) / _TEACHER
        taught = np.exp(taught - taught.max())
        candidates[number, : len(own)], kept[number, : len(own)] = own, True
        targets[number, : len(own)] = taught / taught.sum()
    return Lists(queries, unit(np.array(list(vectors.values())))[candidates], targets, kept)


def _read(index: Index, chunk_ids: set[str], points: set[int]) -> tuple[dict[int, str], dict[str, Vectors]]:
    """The chunk ids of points, and the dense vectors of these and of further chunks by their ids; no other is read."""
    from qdrant_client import models

    names: dict[int, str] = {}
    vectors: dict[str, Vectors] = {}

    def keep(where: models.Filter, limit: int) -> None:
        records, _ = index.client.scroll(
            index.collection, where, limit=limit, with_payload=["chunk_id"], with_vectors=[DENSE]
        )
        for record in records:
            if isinstance(record.vector, dict):
                name = names[point_key(record.id)] = (record.payload or {})["chunk_id"]
                vectors[name] = np.asarray(record.vector[DENSE], dtype=np.float32)

    for some in in_batches(sorted(points), _PAGE):
        keep(among(some), len(some))
    for ids in in_batches(sorted(chunk_ids - vectors.keys()), _PAGE):
        # Twice: while a document is written again, both of its versions have the chunk.
        keep(models.Filter(must=[models.FieldCondition(key="chunk_id", match=models.MatchAny(any=ids))]), 2 * len(ids))
    return names, vectors


def fitted_map(data: Lists, seed: int = 0) -> QueryMap | None:
    """The map that brings the order by cosine nearest to the targets: gradient descent on their cross-entropy (Adam).

    A fifth of the questions is left out, and tells when to stop.

    Args:
        data: What it is fitted on.
        seed: Of the first numbers, and of the questions that are left out.

    Returns:
        The map without what it is fitted for; None where the left-out questions are nearer to their targets without.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(data.queries))
    watched, used = data.of(order[: len(order) // 5]), data.of(order[len(order) // 5 :])
    if not len(watched.queries):
        return None
    dimension = data.queries.shape[1]
    weights = [draw.normal(0, dimension**-0.5, (dimension, _RANK)), np.zeros((_RANK, dimension))]
    first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    best, kept, since = _loss(watched, *weights)[0], None, 0
    for step in range(1, _PASSES + 1):
        _, gradients = _loss(used, *weights)
        for place, gradient in enumerate(gradients):
            first[place] = 0.9 * first[place] + 0.1 * gradient
            second[place] = 0.999 * second[place] + 0.001 * gradient**2
            moved = (first[place] / (1 - 0.9**step)) / (np.sqrt(second[place] / (1 - 0.999**step)) + 1e-8)
            weights[place] = weights[place] - _RATE * (moved + _DECAY * weights[place])
        loss = _loss(watched, *weights)[0]
        since += 1
        if loss < best - 1e-5:
            best, kept, since = loss, [w.astype(np.float32) for w in weights], 0
        if since > _PATIENCE:
            break
    return None if kept is None else QueryMap(kept[0], kept[1])


def _loss(
    data: Lists, down: NDArray[np.float64], up: NDArray[np.float64]
) -> tuple[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The mean cross-entropy of the order by cosine, and its gradients."""
    inner = data.queries @ down
    moved = data.queries + inner @ up
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    turned = moved / length
    logits = np.where(data.kept, np.einsum("qd,qcd->qc", turned, data.passages) / _STUDENT, -np.inf)
    logits -= logits.max(axis=1, keepdims=True)
    total = np.exp(logits).sum(axis=1, keepdims=True)
    logs = np.where(data.kept, logits - np.log(total), 0.0)
    loss = float(-(data.targets * logs).sum() / len(data.queries))
    wrong = np.where(data.kept, np.exp(logits) / total, 0.0) - data.targets
    towards = np.einsum("qc,qcd->qd", wrong, data.passages) / (_STUDENT * len(data.queries))
    # The derivative of a direction is orthogonal to it.
    towards = (towards - (towards * turned).sum(axis=1, keepdims=True) * turned) / length
    return loss, (data.queries.T @ (towards @ up.T), inner.T @ towards)
