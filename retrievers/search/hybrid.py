"""Hybrid search: dense and BM25 candidates, fusion, feedback, MaxSim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from situate.embedders.types import Vectors
from situate.retrievers.config import Feedback, PipelineConfig
from situate.retrievers.index.payload import BM25, DENSE, DOCUMENT, DOCUMENT_BM25, QUESTIONS, STATE, TOKENS, to_chunk
from situate.retrievers.index.signals import document_scores
from situate.retrievers.search.boosts import boost_scores
from situate.retrievers.search.filters import FilterLike, to_filter
from situate.retrievers.search.fusion import best, blend, in_order, rocchio
from situate.retrievers.search.gateway import Gateway, Query, Scores, among, plain
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.storage.ids import point_key
from situate.retrievers.types import Hit

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.relevance import Background

#: Payload, final score, the score of each stage, relevance.
_Found: TypeAlias = tuple[Mapping[str, Any], float, Mapping[str, float], float | None]


class HybridSearch:
    """Searches one collection by a `PipelineConfig`.

    With "dbsf" or "rrf", and where there is nothing to fuse, everything is one Qdrant query: dense and BM25 candidates
    are fused, and where token vectors are stored the best of them are scored by MaxSim and fused with their scores so
    far. With "minmax", which Qdrant does not offer, one request returns both candidate lists, which are fused here;
    each hit then has the score of every stage. Feedback costs a second search either way, because it needs the vectors
    of the first one's hits. Boosts are added last, to every candidate's score; they cost a request, too. Questions that
    a chunk answers raise its dense score, and scores of documents are part of the fused one by their shares; documents
    cost one further request.

    Args:
        gateway: The collection.
        config: The pipeline's configuration.
        background: Measures the collection's usual similarities, for the hits' relevance; None leaves it out.
    """

    def __init__(
        self, gateway: Gateway, config: PipelineConfig, background: Callable[[], Background] | None = None
    ) -> None:
        self.gateway = gateway
        self.config = config
        self.background = background

    def search(self, vectors: QueryVectors, k: int, conditions: FilterLike | None = None) -> list[Hit]:
        """The best ``k`` chunks, best first; ties are broken by document and place.

        Raises:
            InputError: The filter cannot be read.
        """
        where = None if conditions is None else to_filter(conditions)
        if self.config.lexical is None or (vectors.lexical is not None and not len(vectors.lexical.indices)):
            vectors = replace(vectors, lexical=None)
        if self.config.token_vectors is None:
            vectors = replace(vectors, tokens=None)
        ranked = self._fused_here if self._needs_scores(vectors) else self._fused_by_qdrant
        return _newest(ranked(vectors, k, where))[:k]

    def _needs_scores(self, vectors: QueryVectors) -> bool:
        """Whether the stages' scores are needed here, because Qdrant does not offer the fusion."""
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
        given, first = vectors, dict(stages)
        fused = self._blended(stages, vectors, versions)
        feedback = self.config.feedback
        if feedback is not None and fused:
            vectors = _moved(vectors, feedback, self.gateway.vectors(best(fused, feedback.top), DENSE))
            moved = self._candidates(replace(vectors, lexical=None), k, where, versions)
            stages |= moved
            fused = self._blended(stages, vectors, versions)
        final = fused
        if len(stages) > 1:
            stages["fused"] = fused
        if vectors.tokens is not None and fused:
            candidates = best(fused, max(k, self.config.maxsim_depth))
            stages["maxsim"] = self.gateway.maxsim(vectors.tokens, TOKENS, candidates)
            share = self.config.maxsim_weight
            kept = {point: fused[point] for point in candidates}
            final = blend([kept, stages["maxsim"]], [1 - share, share])
        return self._best_of(final, stages, k, given, first)

    def _best_of(
        self, final: Scores, stages: dict[str, Scores], k: int, given: QueryVectors, first: Mapping[str, Scores]
    ) -> list[_Found]:
        """The best after boosting, with their payloads; ``first`` holds the hits of the query's own vectors."""
        if self.config.boosts:
            stages["boost"] = boost_scores(self.gateway, self.config.boosts, list(final))
            final = {point: score + stages["boost"][point] for point, score in final.items()}
        chosen = best(final, k)
        records = self.gateway.payloads(chosen)
        relevance = self._relevance(given, chosen, first)
        return [
            # A point that was deleted meanwhile has no record.
            (
                records[point],
                final[point],
                {name: scores[point] for name, scores in stages.items() if point in scores},
                relevance.get(point),
            )
            for point in chosen
            if point in records
        ]

    def _relevance(self, vectors: QueryVectors, points: Sequence[int], found: Mapping[str, Scores]) -> Scores:
        """The relevance of each point to the query.

        Args:
            vectors: The query's own.
            points: The points.
            found: The hits of each of these vectors; without it, one more request scores the points.
        """
        if self.background is None or not points:
            return {}
        if not found:
            queries: dict[str, Query] = {DENSE: vectors.dense}
            if vectors.lexical is not None:
                queries[BM25] = vectors.lexical
            found = self.gateway.nearest(queries, len(points), among(points))
        background, greatest = self.background(), 0.0
        if vectors.lexical is not None and self.config.lexical is not None:
            greatest = background.greatest(vectors.lexical, self.config.lexical.k)
        # Points beyond the end of a list score at most as much as its last one.
        dense, lexical = found[DENSE], found.get(BM25, {})
        least = min(dense.values(), default=0.0)
        return {
            point: background.relevance(
                dense.get(point, least), lexical.get(point, 0.0) / greatest if greatest else None
            )
            for point in points
        }

    def _candidates(
        self, vectors: QueryVectors, k: int, where: models.Filter | None, versions: dict[int, str]
    ) -> dict[str, Scores]:
        """The best of dense, of BM25 and of questions, in one request; ``versions`` gets the documents' versions."""
        limit = max(k, self.config.prefetch)
        queries: dict[str, Query] = {DENSE: vectors.dense}
        if vectors.lexical is not None:
            queries[BM25] = vectors.lexical
        if self.config.questions:
            queries[QUESTIONS] = vectors.dense[None]
        if self.config.document is None:
            return self.gateway.nearest(queries, limit, where)
        scores, hashes = self.gateway.nearest_with(queries, limit, where, "document_hash")
        versions.update(hashes)
        return scores

    def _blended(self, stages: dict[str, Scores], vectors: QueryVectors, versions: Mapping[int, str]) -> Scores:
        """The fused score, and in it the scores of questions, and of documents by their shares."""
        config = self.config
        several = {name: stages[name] for name in (DENSE, BM25) if name in stages}
        if config.questions:
            several[DENSE] = _lifted(stages[DENSE], stages[QUESTIONS], config.questions)
        # One stage alone keeps its own scores: a cosine carries more information than its place between least and
        # greatest.
        base = blend(list(several.values())) if len(several) > 1 else several[DENSE]
        if config.document is None:
            return base
        # Hits of an earlier round are no candidates any more.
        found = {point: version for point, version in versions.items() if point in base}
        stages.update(document_scores(self.gateway, config, vectors, found))
        shares = {DOCUMENT: config.document.dense, DOCUMENT_BM25: config.document.lexical}
        shares = {name: share for name, share in shares.items() if share and stages.get(name)}
        if not shares:
            return base
        return blend([base, *(stages[name] for name in shares)], [1 - sum(shares.values()), *shares.values()])

    # -- fused by Qdrant ----------------------------------------------------------------------------------------

    def _fused_by_qdrant(self, vectors: QueryVectors, k: int, where: models.Filter | None) -> list[_Found]:
        given, feedback = vectors, self.config.feedback
        if feedback is not None:
            best_first = self._points(self._query(vectors, k), feedback.top, where, payload=False, vectors=True)
            dense = [point.vector[DENSE] for point in best_first if isinstance(point.vector, dict)]
            vectors = _moved(vectors, feedback, np.asarray(dense, dtype=np.float32))
        stage = DENSE if vectors.lexical is None and vectors.tokens is None else "fused"
        # DBSF, which mixes MaxSim in as well, adds two scores of about [0, 1]. Their mean is comparable to "minmax" and
        # a cosine.
        added = vectors.tokens is not None or (self.config.fusion == "dbsf" and vectors.lexical is not None)
        unit = 0.5 if added else 1.0
        query = self._query(vectors, k, final=True)
        boosted = bool(self.config.boosts)
        points = self._points(query, max(k, self.config.prefetch) if boosted else k, where, payload=not boosted)
        scores = {point_key(point.id): unit * float(point.score) for point in points}
        first = {DENSE: scores} if stage == DENSE and feedback is None else {}
        if boosted:
            return self._best_of(scores, {stage: scores}, k, given, first)
        relevance = self._relevance(given, list(scores), first)
        return [
            (point.payload or {}, score, {stage: score}, relevance.get(key))
            for point, (key, score) in zip(points, scores.items(), strict=True)
        ]

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
                    models.Prefetch(query=plain(vectors.lexical), using=BM25, limit=prefetch),
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
        return self.gateway.client.query_points(
            self.gateway.collection,
            **_filtered(query, where),
            limit=limit,
            with_payload=payload,
            with_vectors=[DENSE] if vectors else False,
        ).points


def _moved(vectors: QueryVectors, feedback: Feedback, relevant: Vectors) -> QueryVectors:
    """The query's dense vector moved towards the first hits of the fused ranking."""
    return replace(vectors, dense=rocchio(vectors.dense, relevant, beta=feedback.beta))


def _lifted(dense: Scores, by_question: Scores, share: float) -> Scores:
    """Each chunk's similarity, raised by a share of the lead of its nearest question.

    A chunk without questions keeps its own, and a question that is not near changes nothing: a score of its own for
    questions would put every chunk that has any before those that have none. A chunk that only a question found was
    less similar than all that the chunks' own vectors found.
    """
    least = min(dense.values(), default=0.0)
    lifted = dict(dense)
    for point, score in by_question.items():
        own = dense.get(point, least)
        lifted[point] = own + share * max(0.0, score - own)
    return lifted


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
    for payload, *_ in found:
        name = payload["document_id"]
        chosen[name] = max(chosen.get(name, (False, 0)), _standing(payload))
    hits = [
        Hit(to_chunk(payload), score, stages, relevance)
        for payload, score, stages, relevance in found
        if _standing(payload) == chosen[payload["document_id"]]
    ]
    return in_order(hits)


def _standing(payload: Mapping[str, Any]) -> tuple[bool, int]:
    """The order of a document's versions: complete ones before those in writing, then by age."""
    return payload.get(STATE) is None, payload["version"]
