"""Hybrid search: the candidates of every signal, fusion, feedback, MaxSim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.retrievers.config import Feedback, PipelineConfig
from situate.retrievers.index.payload import BM25, DENSE, STATE, TOKENS, to_chunk
from situate.retrievers.search.boosts import boost_scores
from situate.retrievers.search.filters import FilterLike, to_filter
from situate.retrievers.search.fusion import best, blend, in_order, rocchio
from situate.retrievers.search.gateway import Gateway, Query, Scores, among, plain
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.signals.base import Signal, Stage
from situate.retrievers.signals.document import document_scores
from situate.retrievers.signals.questions import lifted, nearest_rows
from situate.retrievers.signals.tokens import Tokens
from situate.retrievers.storage.ids import point_key
from situate.retrievers.types import Hit

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.geometry import Geometry
    from situate.retrievers.search.relevance import Background


class _Found(NamedTuple):
    """A point that is returned: its final score and that of each stage, as in `Hit`."""

    payload: Mapping[str, Any]
    score: float
    scores: Mapping[str, float]
    relevance: float | None
    matched: Mapping[str, int] = MappingProxyType({})


class HybridSearch:
    """Searches one collection by a `PipelineConfig`.

    With "dbsf" or "rrf", and where there is nothing to fuse, everything is one Qdrant query: dense and BM25 candidates
    are fused, and where token vectors are stored the best of them are scored by MaxSim and fused with their scores so
    far. With "minmax", which Qdrant does not offer, one request returns both candidate lists, which are fused here;
    each hit then has the score of every stage. Feedback costs a second search either way, because it needs the vectors
    of the first one's hits. Boosts are added last, to every candidate's score; they cost a request, too.

    What a signal does in it says its stage (`situate.retrievers.signals.base.Stage`): those that find candidates are
    asked in the one request, and fused by their weights; those that raise the dense similarity are asked in it, too;
    scores of documents are part of the fused one by their shares, at the cost of a further request; those that
    rescore are asked for the best candidates, a request each.

    Args:
        gateway: The collection.
        config: The pipeline's configuration.
        background: Measures the collection's usual similarities, for the hits' relevance; None leaves it out.
        geometry: Fits the collection's geometry, which a configuration with hubness or whitening needs.

    Raises:
        InputError: The configuration needs ``geometry``, and there is none.
    """

    def __init__(
        self,
        gateway: Gateway,
        config: PipelineConfig,
        background: Callable[[], Background] | None = None,
        geometry: Callable[[], Geometry] | None = None,
    ) -> None:
        if config.reshaped and geometry is None:
            raise InputError("hubness and whitening are fitted on the collection: give geometry=Index.geometry")
        self.gateway = gateway
        self.config = config
        self.background = background
        self.geometry = geometry if config.reshaped else None

    def search(self, vectors: QueryVectors, k: int, conditions: FilterLike | None = None) -> list[Hit]:
        """The best ``k`` chunks, best first; ties are broken by document and place.

        Raises:
            InputError: The filter cannot be read.
        """
        where = None if conditions is None else to_filter(conditions)
        if self.config.lexical is None or (vectors.lexical is not None and not len(vectors.lexical.indices)):
            vectors = replace(vectors, lexical=None)
        ranked = self._fused_here if self._needs_scores(vectors) else self._fused_by_qdrant
        return _newest(ranked(vectors, k, where))[:k]

    def _needs_scores(self, vectors: QueryVectors) -> bool:
        """Whether the stages' scores are needed here, because Qdrant does not offer the fusion."""
        asked = [signal.name for signal in self.config.searched if signal.query(vectors) is not None]
        alone = asked == [DENSE] and self.config.feedback is None and not self.config.reshaped
        return self.config.fusion == "minmax" and not alone

    def _of_stage(self, *stages: Stage) -> list[Signal]:
        return [signal for signal in self.config.searched if signal.stage in stages]

    # -- fused here ---------------------------------------------------------------------------------------------

    def _fused_here(self, vectors: QueryVectors, k: int, where: models.Filter | None) -> list[_Found]:
        versions: dict[int, str] = {}
        stages = self._candidates(vectors, k, where, versions)
        given, first = vectors, dict(stages)
        self._reshape(stages, vectors, first)
        fused = self._blended(stages, vectors, versions)
        feedback = self.config.feedback
        if feedback is not None and fused:
            vectors = _moved(vectors, feedback, self._rows(best(fused, feedback.top)))
            stages |= self._candidates(vectors, k, where, versions, moved=given)
            self._reshape(stages, vectors)
            fused = self._blended(stages, vectors, versions)
        final = fused
        if len(stages) > 1:
            stages["fused"] = fused
        for signal in self.config.searched if fused else ():
            if not isinstance(signal, Tokens) or (query := signal.query(vectors)) is None:
                continue
            candidates = best(final, max(k, signal.depth))
            stages[signal.step] = signal.scores(self.gateway, query, candidates)
            kept = {point: final[point] for point in candidates}
            final = blend([kept, stages[signal.step]], [1 - signal.weight, signal.weight])
        return self._best_of(final, stages, k, given, first)

    def _rows(self, points: Sequence[int]) -> Vectors:
        """float32 ``[points that exist, dimension]``: their dense vectors."""
        return np.asarray(list(self.gateway.vectors(points, DENSE).values()), dtype=np.float32)

    def _reshape(
        self, stages: dict[str, Scores], vectors: QueryVectors, plain: dict[str, Scores] | None = None
    ) -> None:
        """Put the dense similarities into the collection's geometry.

        Args:
            stages: The candidates by signal, of which the dense ones are changed.
            vectors: The query's.
            plain: Gets the cosines as they are, which relevance is measured by.
        """
        if self.geometry is None or not stages.get(DENSE):
            return
        rows = self.gateway.vectors(list(stages[DENSE]), DENSE)
        stages[DENSE] = self.geometry().similarities(rows, vectors.dense)
        if plain is not None:
            plain[DENSE] = {point: float(row @ vectors.dense) for point, row in rows.items()}

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
        matched = self._matched(given, chosen, stages)
        return [
            # A point that was deleted meanwhile has no record.
            _Found(
                records[point],
                final[point],
                {name: scores[point] for name, scores in stages.items() if point in scores},
                relevance.get(point),
                {kind: rows[point] for kind, rows in matched.items() if point in rows},
            )
            for point in chosen
            if point in records
        ]

    def _matched(
        self, vectors: QueryVectors, points: Sequence[int], stages: Mapping[str, Scores]
    ) -> dict[str, dict[int, int]]:
        """By a signal's kind, which of its vectors is nearest to the query, for the points that it found."""
        return {
            signal.kind: nearest_rows(self.gateway, signal.name, vectors.dense, found)
            for signal in self._of_stage("raise")
            if (found := [point for point in points if point in stages.get(signal.name, ())])
        }

    def _relevance(self, vectors: QueryVectors, points: Sequence[int], found: Mapping[str, Scores]) -> Scores:
        """The relevance of each point to the query.

        Args:
            vectors: The query's own.
            points: The points.
            found: The hits of each of these vectors; without it, one more request scores the points.
        """
        if self.background is None or not points:
            return {}
        missing: dict[str, Query] = {DENSE: vectors.dense} if DENSE not in found else {}
        if BM25 not in found and vectors.lexical is not None:
            missing[BM25] = vectors.lexical
        if missing:
            found = {**found, **self.gateway.nearest(missing, len(points), among(points))}
        background, greatest, chance = self.background(), 0.0, 0.0
        if vectors.lexical is not None and self.config.lexical is not None:
            greatest = background.greatest(vectors.lexical, self.config.lexical.k)
            chance = vectors.lexical.chance * greatest
        # Points beyond the end of a list score at most as much as its last one.
        dense, lexical = found[DENSE], found.get(BM25, {})
        least = min(dense.values(), default=0.0)
        return {
            point: background.relevance(
                dense.get(point, least),
                max(0.0, lexical.get(point, 0.0) - chance) / (greatest - chance) if greatest else None,
            )
            for point in points
        }

    def _candidates(
        self,
        vectors: QueryVectors,
        k: int,
        where: models.Filter | None,
        versions: dict[int, str],
        moved: QueryVectors | None = None,
    ) -> dict[str, Scores]:
        """The best by every signal that finds any, in one request.

        Args:
            vectors: The query's.
            k: How many hits are wanted.
            where: Which points are considered.
            versions: Gets the documents' versions, where documents have a score.
            moved: The query's vectors before feedback: signals whose query is the same are not asked again.
        """
        limit = max(k, self.config.prefetch)
        queries: dict[str, Query] = {}
        for signal in self._of_stage("find", "raise"):
            query = signal.query(vectors)
            if query is not None and (moved is None or signal.query(moved) is not query):
                queries[signal.name] = query
        if self.geometry is not None and DENSE in queries:
            queries[DENSE] = self.geometry().finding(vectors.dense)
        if not queries and moved is None:
            names = [signal.name for signal in self._of_stage("find")]
            raise InputError(f"the query has vectors for none of the signals that find candidates, which are {names}")
        if not queries:
            return {}
        if not self._of_stage("document"):
            return self.gateway.nearest(queries, limit, where)
        scores, hashes = self.gateway.nearest_with(queries, limit, where, "document_hash")
        versions.update(hashes)
        return scores

    def _blended(self, stages: dict[str, Scores], vectors: QueryVectors, versions: Mapping[int, str]) -> Scores:
        """The fused score, and in it the scores of documents by their shares."""
        several = {signal.name: stages[signal.name] for signal in self._of_stage("find") if signal.name in stages}
        for signal in self._of_stage("raise"):
            several[DENSE] = lifted(several[DENSE], stages[signal.name], signal.weight)
        # One stage alone keeps its own scores: a cosine carries more information than its place between least and
        # greatest.
        if len(several) > 1:
            weights = [signal.weight for signal in self._of_stage("find") if signal.name in several]
            base = blend(list(several.values()), [weight / sum(weights) for weight in weights])
        else:
            base = next(iter(several.values()), {})
        documents = self._of_stage("document")
        if not documents:
            return base
        # Hits of an earlier round are no candidates any more.
        found = {point: version for point, version in versions.items() if point in base}
        stages.update(document_scores(self.gateway, documents, vectors, found))
        shares = {signal.name: signal.weight for signal in documents if stages.get(signal.name)}
        if not shares:
            return base
        return blend([base, *(stages[name] for name in shares)], [1 - sum(shares.values()), *shares.values()])

    # -- fused by Qdrant ----------------------------------------------------------------------------------------

    def _fused_by_qdrant(self, vectors: QueryVectors, k: int, where: models.Filter | None) -> list[_Found]:
        if self.config.token_vectors is None:
            vectors = replace(vectors, tokens=None)
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
            _Found(point.payload or {}, score, {stage: score}, relevance.get(key))
            for point, (key, score) in zip(points, scores.items(), strict=True)
        ]

    def _query(self, vectors: QueryVectors, k: int, final: bool = False) -> dict[str, Any]:
        """The arguments of one Qdrant query that can return ``k`` hits."""
        from qdrant_client import models

        prefetch, params = max(k, self.config.prefetch), self.gateway.params
        if vectors.lexical is None:
            fused: dict[str, Any] = self.gateway.dense(vectors.dense, prefetch if self.config.boosts else k)
        else:
            fused = {
                "prefetch": [
                    models.Prefetch(**self.gateway.dense(vectors.dense, prefetch), limit=prefetch, params=params),
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
        first = models.Prefetch(**fused, limit=depth, params=params)
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
            search_params=self.gateway.params,
            limit=limit,
            with_payload=payload,
            with_vectors=[DENSE] if vectors else False,
        ).points


def _moved(vectors: QueryVectors, feedback: Feedback, relevant: Vectors) -> QueryVectors:
    """The query's dense vector moved towards the first hits of the fused ranking."""
    return replace(vectors, dense=rocchio(vectors.dense, relevant, beta=feedback.beta))


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
    for each in found:
        name = each.payload["document_id"]
        chosen[name] = max(chosen.get(name, (False, 0)), _standing(each.payload))
    hits = [
        Hit(to_chunk(each.payload), each.score, each.scores, each.relevance, matched=each.matched)
        for each in found
        if _standing(each.payload) == chosen[each.payload["document_id"]]
    ]
    return in_order(hits)


def _standing(payload: Mapping[str, Any]) -> tuple[bool, int]:
    """The order of a document's versions: complete ones before those in writing, then by age."""
    return payload.get(STATE) is None, payload["version"]
