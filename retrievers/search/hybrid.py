"""Hybrid search: dense and BM25 candidates, fused, fed back, scored by MaxSim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from situate.batches import in_batches
from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.retrievers.config import Feedback, PipelineConfig
from situate.retrievers.index.lexical import SparseVector
from situate.retrievers.index.payload import BM25, DENSE, DOCUMENT, DOCUMENT_BM25, QUESTIONS, STATE, TOKENS, to_chunk
from situate.retrievers.index.signals import document_scores
from situate.retrievers.pipeline.concurrency import release_gil
from situate.retrievers.search.boosts import boost_scores
from situate.retrievers.storage.ids import point_id, point_key
from situate.retrievers.types import Hit
from situate.vectors import check_finite, unit

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

#: Metadata conditions (key -> value, or a list of which any may match), or a filter of Qdrant's own.
FilterLike: TypeAlias = "Mapping[str, Any] | models.Filter"
#: `point_key` -> score.
_Scores: TypeAlias = dict[int, float]
#: Payload, final score, the score of each stage.
_Found: TypeAlias = tuple[Mapping[str, Any], float, Mapping[str, float]]
#: Chunks that MaxSim scores in one request of the embedded engine; few, because the event loop waits for each request.
_MAXSIM_AT_ONCE = 16


@dataclass(frozen=True)
class QueryVectors:
    """A query as vectors.

    Attributes:
        dense: float32 ``[dimension]``, L2-normalised.
        lexical: BM25 terms; None leaves BM25 out.
        tokens: float32 ``[tokens, dimension]`` for the MaxSim stage; None leaves it out.

    Raises:
        NonFiniteVectorError: ``dense`` or ``tokens`` holds NaN or infinity.
    """

    dense: Vectors
    lexical: SparseVector | None = None
    tokens: Vectors | None = None

    def __post_init__(self) -> None:
        for name, vector in (("dense", self.dense), ("tokens", self.tokens)):
            if vector is not None:
                check_finite(vector, f"the query's {name} vector holds")


def to_filter(conditions: FilterLike | None) -> models.Filter | None:
    """A Qdrant filter from ``{"key": value}`` over a document's metadata; Qdrant's own filters pass unchanged.

    A list of values means that any of them may match.

    Raises:
        InputError: A value is neither text, number, truth value nor a list of texts or integers.
    """
    if conditions is None:
        return None
    from qdrant_client import models

    if isinstance(conditions, models.Filter):
        return conditions
    must: list[models.Condition] = []
    for key, value in conditions.items():
        match: models.Match | None = None
        span: models.Range | None = None
        if isinstance(value, bool | str | int):
            match = models.MatchValue(value=value)
        elif isinstance(value, float):
            span = models.Range(gte=value, lte=value)
        elif isinstance(value, list | tuple | set | frozenset) and all(
            isinstance(v, str | int) and not isinstance(v, bool) for v in value
        ):
            match = models.MatchAny(any=list(value))
        else:
            raise InputError(
                f"the filter on {key!r} has the value {value!r}: give text, a number, a truth value, a list of texts "
                "or integers, or a qdrant_client.models.Filter"
            )
        must.append(models.FieldCondition(key=f"metadata.{key}", match=match, range=span))
    return models.Filter(must=must)


class HybridSearch:
    """Searches one collection by a `PipelineConfig`.

    With "dbsf" or "rrf", and where there is nothing to fuse, everything is one Qdrant query: dense and BM25 candidates
    are fused, and where token vectors are stored the best of them are scored by MaxSim and fused with what they had.
    With "minmax", which Qdrant does not offer, both candidate lists come back from one request and are fused here; each
    hit then tells the score that every stage gave it. Feedback costs a second search either way, because it needs the
    vectors that the first found. Boosts are added last, to what every candidate scored; they cost a request, too.
    Questions that a chunk answers lift its dense score, and scores of documents join the fused one by their shares;
    documents cost a request each time.

    Args:
        client: Any Qdrant client.
        collection: The collection's name.
        config: What is stored and how it is used.
    """

    def __init__(self, client: QdrantClient, collection: str, config: PipelineConfig) -> None:
        self.client = client
        self.collection = collection
        self.config = config

    def search(self, vectors: QueryVectors, k: int, conditions: FilterLike | None = None) -> list[Hit]:
        """The best ``k`` chunks, best first; ties are broken by document and place.

        Raises:
            InputError: The filter cannot be read.
        """
        where = to_filter(conditions)
        if self.config.lexical is None or (vectors.lexical is not None and not len(vectors.lexical.indices)):
            vectors = replace(vectors, lexical=None)
        if self.config.token_vectors is None:
            vectors = replace(vectors, tokens=None)
        ranked = self._fused_here if self._needs_scores(vectors) else self._fused_by_qdrant
        return _newest(ranked(vectors, k, where))[:k]

    def _needs_scores(self, vectors: QueryVectors) -> bool:
        """Whether the stages' scores must come back: where there is something to fuse as Qdrant does not offer it."""
        config = self.config
        several = (
            vectors.lexical is not None
            or vectors.tokens is not None
            or config.feedback is not None
            or config.document is not None
            or config.questions > 0
        )
        return config.fusion == "minmax" and several

    # -- fused here ---------------------------------------------------------------------------------------------

    def _fused_here(self, vectors: QueryVectors, k: int, where: models.Filter | None) -> list[_Found]:
        versions: dict[int, str] = {}
        stages = self._candidates(vectors, k, where, versions)
        fused = self._blended(stages, vectors, versions)
        feedback = self.config.feedback
        if feedback is not None and fused:
            vectors = self._moved(vectors, feedback, self._vectors_of(_best(fused, feedback.top)))
            moved = self._candidates(replace(vectors, lexical=None), k, where, versions)
            stages |= moved
            fused = self._blended(stages, vectors, versions)
        final = fused
        if len(stages) > 1:
            stages["fused"] = fused
        if vectors.tokens is not None and fused:
            candidates = _best(fused, max(k, self.config.maxsim_depth))
            stages["maxsim"] = self._maxsim(vectors.tokens, candidates)
            share = self.config.maxsim_weight
            kept = {point: fused[point] for point in candidates}
            final = _mean([kept, stages["maxsim"]], [1 - share, share])
        return self._best_of(final, stages, k)

    def _best_of(self, final: _Scores, stages: dict[str, _Scores], k: int) -> list[_Found]:
        """The best after boosting, with their payloads."""
        if self.config.boosts:
            boosts = boost_scores(
                self.client, self.collection, self.config.boosts, [str(point_id(point)) for point in final]
            )
            stages["boost"] = dict(zip(final, boosts.values(), strict=True))
            final = {point: score + stages["boost"][point] for point, score in final.items()}
        chosen = _best(final, k)
        records = self._payloads(chosen)
        return [
            # A point that was deleted since it was found has no record.
            (records[point], final[point], {name: scores[point] for name, scores in stages.items() if point in scores})
            for point in chosen
            if point in records
        ]

    def _payloads(self, points: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
        from situate.retrievers.storage.edge import EdgeClient

        if isinstance(self.client, EdgeClient):
            return self.client.payloads(self.collection, points)
        ids = [point_id(point) for point in points]
        records = self.client.retrieve(self.collection, ids, with_payload=True, with_vectors=False)
        return {point_key(record.id): record.payload or {} for record in records}

    def _candidates(
        self, vectors: QueryVectors, k: int, where: models.Filter | None, versions: dict[int, str]
    ) -> dict[str, _Scores]:
        """The best of dense, of BM25 and of questions, in one request; which documents they are of goes to versions."""
        from qdrant_client import models

        from situate.retrievers.storage.edge import EdgeClient

        limit = max(k, self.config.prefetch)
        queries: dict[str, Any] = {DENSE: vectors.dense}
        if vectors.lexical is not None:
            queries[BM25] = _sparse(vectors.lexical)
        if self.config.questions:
            queries[QUESTIONS] = vectors.dense[None]
        payload = ["document_hash"] if self.config.document is not None else False
        if isinstance(self.client, EdgeClient) and not payload:
            scores = self.client.nearest_scores(self.collection, queries, limit, where)
            release_gil()
            return scores
        requests = [
            models.QueryRequest(
                query=query.tolist() if isinstance(query, np.ndarray) else query,
                using=name,
                filter=where,
                limit=limit,
                with_payload=payload,
            )
            for name, query in queries.items()
        ]
        answers = self.client.query_batch_points(self.collection, requests)
        release_gil()
        if payload:
            versions.update(
                (point_key(point.id), (point.payload or {})["document_hash"])
                for answer in answers
                for point in answer.points
            )
        return {
            name: {point_key(point.id): float(point.score) for point in answer.points}
            for name, answer in zip(queries, answers, strict=True)
        }

    def _blended(self, stages: dict[str, _Scores], vectors: QueryVectors, versions: Mapping[int, str]) -> _Scores:
        """The fused score, and in it the scores of questions, and of documents by their shares."""
        config = self.config
        several = {name: stages[name] for name in (DENSE, BM25) if name in stages}
        if config.questions:
            several[DENSE] = _lifted(stages[DENSE], stages[QUESTIONS], config.questions)
        base = _fused(several)
        if config.document is None:
            return base
        # What an earlier round found is no candidate any more.
        found = {point: version for point, version in versions.items() if point in base}
        stages.update(document_scores(self.client, self.collection, config, vectors, found))
        shares = {DOCUMENT: config.document.dense, DOCUMENT_BM25: config.document.lexical}
        shares = {name: share for name, share in shares.items() if share and stages.get(name)}
        if not shares:
            return base
        return _mean([base, *(stages[name] for name in shares)], [1 - sum(shares.values()), *shares.values()])

    def _maxsim(self, tokens: Vectors, candidates: Sequence[int]) -> _Scores:
        from qdrant_client import models

        from situate.retrievers.storage.edge import EdgeClient

        # The embedded engine holds the interpreter, and with it the event loop, until a request is answered.
        step = _MAXSIM_AT_ONCE if isinstance(self.client, EdgeClient) else len(candidates)
        scores: _Scores = {}
        for some in in_batches(candidates, step):
            part: list[models.ExtendedPointId] = [point_id(point) for point in some]
            found = self.client.query_points(
                self.collection,
                query=tokens.tolist(),
                using=TOKENS,
                query_filter=models.Filter(must=[models.HasIdCondition(has_id=part)]),
                limit=len(part),
                with_payload=False,
            )
            scores |= {point_key(point.id): float(point.score) for point in found.points}
            release_gil()
        return scores

    def _vectors_of(self, points: Sequence[int]) -> Vectors:
        ids = [point_id(point) for point in points]
        records = self.client.retrieve(self.collection, ids, with_payload=False, with_vectors=[DENSE])
        release_gil()
        return np.asarray(
            [record.vector[DENSE] for record in records if isinstance(record.vector, dict)], dtype=np.float32
        )

    # -- fused by Qdrant ----------------------------------------------------------------------------------------

    def _fused_by_qdrant(self, vectors: QueryVectors, k: int, where: models.Filter | None) -> list[_Found]:
        feedback = self.config.feedback
        if feedback is not None:
            first = self._points(self._query(vectors, k), feedback.top, where, payload=False, vectors=True)
            dense = [point.vector[DENSE] for point in first if isinstance(point.vector, dict)]
            vectors = self._moved(vectors, feedback, np.asarray(dense, dtype=np.float32))
        stage = DENSE if vectors.lexical is None and vectors.tokens is None else "fused"
        # DBSF, which mixes MaxSim in as well, adds two scores of about [0, 1]. Their mean stands beside what "minmax"
        # and a cosine give.
        added = vectors.tokens is not None or (self.config.fusion == "dbsf" and vectors.lexical is not None)
        unit = 0.5 if added else 1.0
        query = self._query(vectors, k, final=True)
        if not self.config.boosts:
            scored = [(point.payload or {}, unit * float(point.score)) for point in self._points(query, k, where)]
            return [(payload, score, {stage: score}) for payload, score in scored]
        points = self._points(query, max(k, self.config.prefetch), where, payload=False)
        scores = {point_key(point.id): unit * float(point.score) for point in points}
        return self._best_of(scores, {stage: scores}, k)

    def _query(self, vectors: QueryVectors, k: int, final: bool = False) -> dict[str, Any]:
        """The arguments of one Qdrant query that can return ``k`` hits."""
        from qdrant_client import models

        prefetch = max(k, self.config.prefetch)
        dense = vectors.dense.tolist()
        if vectors.lexical is None:
            fused: dict[str, Any] = {"query": dense, "using": DENSE}
        else:
            fused = {
                "prefetch": [
                    models.Prefetch(query=dense, using=DENSE, limit=prefetch),
                    models.Prefetch(query=_sparse(vectors.lexical), using=BM25, limit=prefetch),
                ],
                "query": models.RrfQuery(rrf=models.Rrf(k=self.config.rrf_k))
                if self.config.fusion == "rrf"
                else models.FusionQuery(fusion=models.Fusion.DBSF),
            }
        if not final or vectors.tokens is None:
            return fused
        # MaxSim orders the best of the fused ranking; its scores and theirs are then fused half and half.
        depth = max(k, self.config.maxsim_depth)
        first = models.Prefetch(**fused, limit=depth)
        second = models.Prefetch(prefetch=first, query=vectors.tokens.tolist(), using=TOKENS, limit=depth)
        return {"prefetch": [first, second], "query": models.FusionQuery(fusion=models.Fusion.DBSF)}

    def _points(
        self,
        query: dict[str, Any],
        limit: int,
        where: models.Filter | None,
        *,
        payload: bool = True,
        vectors: bool = False,
    ) -> Sequence[models.ScoredPoint]:
        return self.client.query_points(
            self.collection,
            **_filtered(query, where),
            limit=limit,
            with_payload=payload,
            with_vectors=[DENSE] if vectors else False,
        ).points

    @staticmethod
    def _moved(vectors: QueryVectors, feedback: Feedback, relevant: Vectors) -> QueryVectors:
        """The query's dense vector moved towards what the fused ranking found first (Rocchio)."""
        if not len(relevant):
            return vectors
        return replace(vectors, dense=unit(vectors.dense + feedback.beta * relevant.mean(axis=0)))


def _sparse(vector: SparseVector) -> models.SparseVector:
    from qdrant_client import models

    return models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())


def _fused(stages: Mapping[str, _Scores]) -> _Scores:
    """One stage alone keeps its own scores (a cosine says more than its place between least and greatest)."""
    several = list(stages.values())
    return several[0] if len(several) == 1 else _mean(several)


def _lifted(dense: _Scores, asked: _Scores, share: float) -> _Scores:
    """Each chunk's similarity, lifted by a share of what the nearest of its questions is nearer than itself.

    A chunk without questions keeps its own, and a question that is not near changes nothing: a score of its own for
    questions would put every chunk that has any before those that have none. What only a question found was less
    similar than all that was found without.
    """
    least = min(dense.values(), default=0.0)
    lifted = dict(dense)
    for point, score in asked.items():
        own = dense.get(point, least)
        lifted[point] = own + share * max(0.0, score - own)
    return lifted


def _mean(stages: Sequence[_Scores], weights: Sequence[float] | None = None) -> _Scores:
    """The weighted mean of scores, each stage's brought to [0, 1] by its least and its greatest (min-max).

    What a stage did not find counts as its least.
    """
    total: _Scores = {}
    shares = weights if weights is not None else [1 / len(stages)] * len(stages)
    for scores, share in zip(stages, shares, strict=True):
        if not scores:
            continue
        least, greatest = min(scores.values()), max(scores.values())
        for point, score in scores.items():
            # One score, or all the same: nothing tells them apart, and all of them were found.
            part = (score - least) / (greatest - least) if greatest > least else 1.0
            total[point] = total.get(point, 0.0) + share * part
    return total


def _best(scores: _Scores, k: int) -> list[int]:
    """The ``k`` points with the highest scores; ties by id, so that the same search finds the same."""
    return sorted(scores, key=lambda point: (-scores[point], point))[:k]


def _filtered(query: dict[str, Any], where: models.Filter | None) -> dict[str, Any]:
    """The query with the filter on every prefetch and on itself: a fused query filters only its candidates."""
    if where is None:
        return query

    def narrowed(prefetch: models.Prefetch) -> models.Prefetch:
        inner = prefetch.prefetch
        if inner is None:
            return prefetch.model_copy(update={"filter": where})
        several = inner if isinstance(inner, list) else [inner]
        return prefetch.model_copy(update={"prefetch": [narrowed(p) for p in several]})

    if "prefetch" in query:
        return {**query, "prefetch": [narrowed(p) for p in query["prefetch"]]}
    return {**query, "query_filter": where}


def _newest(found: Sequence[_Found]) -> list[Hit]:
    """Hits, each document in one version: the newest that is complete."""
    chosen: dict[str, tuple[bool, int]] = {}
    for payload, _, _ in found:
        name = payload["document_id"]
        chosen[name] = max(chosen.get(name, (False, 0)), _standing(payload))
    hits = [
        Hit(to_chunk(payload), score, stages)
        for payload, score, stages in found
        if _standing(payload) == chosen[payload["document_id"]]
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.document_id, hit.chunk.index))


def _standing(payload: Mapping[str, Any]) -> tuple[bool, int]:
    """Orders versions of a document: complete ones before those in writing, then by age."""
    return payload.get(STATE) is None, payload["version"]
