"""Queries: qdrant-client's models -> the engine's. One row per query type, one per expression of a formula.

A query may name points where the engine needs vectors, so `QueryTranslator` is given a look-up of vectors, and the
points that a query names are left out of its own results, as on a server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from situate.errors import InputError
from situate.retrievers.storage.edge.translate.filters import (
    as_list,
    edge_condition,
    edge_datetime,
    edge_filter,
    edge_point_id,
)
from situate.retrievers.storage.edge.translate.points import QUERY, VectorSchema, checked_vector, edge_payload_selector

#: A server's defaults.
DEFAULT_LIMIT = 10
DEFAULT_RRF_K = 2
DEFAULT_DIVERSITY = 0.5


class VectorLookup(Protocol):
    """Finds the vector of a stored point."""

    def __call__(self, point_id: int | str, name: str, lookup_from: models.LookupLocation | None) -> Any:
        """The vector ``name`` of the point, from another collection where ``lookup_from`` names one."""
        ...


class QueryTranslator:
    """Translates the queries of one collection.

    Args:
        schema: The collection's vectors.
        lookup: Finds the vectors of points that queries name.
    """

    def __init__(self, schema: VectorSchema, lookup: VectorLookup) -> None:
        self._schema = schema
        self._lookup = lookup

    def request(
        self,
        *,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: models.Filter | None = None,
        params: models.SearchParams | None = None,
        limit: int = DEFAULT_LIMIT,
        offset: int | None = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        lookup_from: models.LookupLocation | None = None,
    ) -> edge.QueryRequest:
        """The engine's form of one request to `query_points`."""
        _check_stage(query, using, prefetch, score_threshold)
        translated, named = self.query(query, using, lookup_from, limit)
        return edge.QueryRequest(
            limit=limit,
            offset=offset,
            query=translated,
            prefetches=self.prefetches(prefetch),
            with_vector=with_vectors,
            with_payload=edge_payload_selector(with_payload),
            filter=edge_filter(without_points(query_filter, named)),
            score_threshold=score_threshold,
            params=edge_search_params(params),
        )

    def prefetches(self, prefetch: Any) -> list[edge.Prefetch] | None:
        """The engine's form of the stages under a query."""
        stages = as_list(prefetch)
        return None if not stages else [self._prefetch(stage) for stage in stages if stage is not None]

    def _prefetch(self, stage: models.Prefetch) -> edge.Prefetch:
        limit = DEFAULT_LIMIT if stage.limit is None else stage.limit
        if limit < 1:
            raise InputError(f"prefetch limit value {limit} is invalid. Must be 1 or larger.")
        _check_stage(stage.query, stage.using, stage.prefetch, stage.score_threshold)
        translated, named = self.query(stage.query, stage.using, stage.lookup_from, limit)
        return edge.Prefetch(
            limit=limit,
            query=translated,
            prefetches=self.prefetches(stage.prefetch),
            params=edge_search_params(stage.params),
            filter=edge_filter(without_points(stage.filter, named)),
            score_threshold=stage.score_threshold,
        )

    def query(
        self,
        query: Any,
        using: str | None,
        lookup_from: models.LookupLocation | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> tuple[Any, set[int | str]]:
        """The engine's form of a query, and the points of this collection that it names."""
        if query is None:
            return None, set()
        translate = _QUERIES.get(type(query))
        if translate is None:
            query, translate = models.NearestQuery.model_construct(nearest=query, mmr=None), _nearest
        inputs = _Inputs(self._schema, self._lookup, using or "", lookup_from)
        return translate(query, inputs, limit), inputs.named


class _Inputs:
    """The vector inputs of one query: vectors are checked, point ids looked up and remembered."""

    def __init__(
        self, schema: VectorSchema, lookup: VectorLookup, using: str, lookup_from: models.LookupLocation | None
    ) -> None:
        self.using = using
        self.named: set[int | str] = set()
        self._schema = schema
        self._lookup = lookup
        self._lookup_from = lookup_from

    def vector(self, given: Any) -> Any:
        """``given``, or the vector of the point that it names, in the engine's form."""
        if isinstance(given, int | str | UUID):
            point_id = edge_point_id(given)
            given = self._lookup(point_id, self.using, self._lookup_from)
            if self._lookup_from is None:
                self.named.add(point_id)
            return given
        if isinstance(given, models.Document | models.Image | models.InferenceObject):
            raise InputError(
                f"a {type(given).__name__} cannot be searched with as it is: embed it first, or install fastembed"
            )
        return checked_vector(given, self.using, self._schema, QUERY)

    def pairs(self, context: Any) -> list[edge.ContextPair]:
        """Context pairs in the engine's form."""
        return [edge.ContextPair(self.vector(p.positive), self.vector(p.negative)) for p in as_list(context) or []]


def _nearest(query: models.NearestQuery, inputs: _Inputs, limit: int) -> Any:
    vector = inputs.vector(query.nearest)
    if query.mmr is None:
        return edge.Query.Nearest(vector, using=inputs.using)
    diversity, candidates = mmr_settings(query.mmr, limit)
    if isinstance(vector, edge.SparseVector):
        raise InputError(
            f"MMR over the sparse vector {inputs.using!r} cannot be part of a batch or of a stage of a query here: "
            "search with it alone (query_points without prefetch)"
        )
    return edge.Mmr(vector, lambda_=1 - diversity, candidates_limit=candidates, using=inputs.using)


def mmr_settings(mmr: models.Mmr, limit: int) -> tuple[float, int]:
    """The diversity (0 to 1) and the number of candidates.

    Raises:
        InputError: One of them is out of range.
    """
    diversity = DEFAULT_DIVERSITY if mmr.diversity is None else mmr.diversity
    if not 0 <= diversity <= 1:
        raise InputError(f"mmr diversity value {diversity} is invalid. Must be from 0 to 1.")
    candidates = limit if mmr.candidates_limit is None else mmr.candidates_limit
    if not 0 <= candidates <= 16_384:
        raise InputError(f"mmr candidates_limit value {candidates} is invalid. Must be from 0 to 16384.")
    return diversity, candidates


def _recommend(query: models.RecommendQuery, inputs: _Inputs, limit: int) -> Any:
    recommend = query.recommend
    positives = [inputs.vector(v) for v in recommend.positive or []]
    negatives = [inputs.vector(v) for v in recommend.negative or []]
    if not positives and not negatives:
        raise InputError("No positive or negative examples given: a recommend query needs at least one")
    strategy = recommend.strategy or models.RecommendStrategy.AVERAGE_VECTOR
    if strategy == models.RecommendStrategy.AVERAGE_VECTOR:
        if not positives:
            raise InputError("Positive list is empty: the strategy average_vector needs a positive example")
        return edge.Query.Nearest(_recommended_vector(positives, negatives), using=inputs.using)
    examples = edge.RecommendQuery(positives, negatives)
    if strategy == models.RecommendStrategy.BEST_SCORE:
        return edge.Query.RecommendBestScore(examples, using=inputs.using)
    return edge.Query.RecommendSumScores(examples, using=inputs.using)


def _recommended_vector(positives: Sequence[Any], negatives: Sequence[Any]) -> Any:
    """mean(positives) + mean(positives) - mean(negatives), as a server has it; without negatives the first."""
    if isinstance(positives[0], edge.SparseVector):
        good, bad = _sparse_mean(positives), _sparse_mean(negatives)
        sums = {i: 2 * v for i, v in good.items()} if bad else good
        for index, value in bad.items():
            sums[index] = sums.get(index, 0.0) - value
        indices = sorted(sums)
        return edge.SparseVector(indices, [sums[i] for i in indices])
    if isinstance(positives[0][0], list):
        # Multi vectors have no mean: a server flattens the examples' rows, negated where the example is bad.
        return [row for v in positives for row in v] + [[-x for x in row] for v in negatives for row in v]
    mean = np.mean(np.asarray(positives, dtype=np.float32), axis=0)
    if negatives:
        mean = mean + mean - np.mean(np.asarray(negatives, dtype=np.float32), axis=0)
    return cast("list[float]", mean.tolist())


def _sparse_mean(vectors: Sequence[edge.SparseVector]) -> dict[int, float]:
    sums: dict[int, float] = {}
    for vector in vectors:
        for index, value in zip(vector.indices, vector.values, strict=True):
            sums[index] = sums.get(index, 0.0) + value
    return {index: value / len(vectors) for index, value in sums.items()}


def _discover(query: models.DiscoverQuery, inputs: _Inputs, limit: int) -> Any:
    target = inputs.vector(query.discover.target)
    return edge.Query.Discover(edge.DiscoverQuery(target, inputs.pairs(query.discover.context)), using=inputs.using)


def _context(query: models.ContextQuery, inputs: _Inputs, limit: int) -> Any:
    return edge.Query.Context(edge.ContextQuery(inputs.pairs(query.context)), using=inputs.using)


def _feedback(query: models.RelevanceFeedbackQuery, inputs: _Inputs, limit: int) -> Any:
    given = query.relevance_feedback
    naive = given.strategy.naive
    if naive.b < 0:
        raise InputError(f"naive feedback b value {naive.b} is invalid. Must be 0 or larger.")
    return edge.Query.FeedbackNaive(
        edge.FeedbackNaiveQuery(
            inputs.vector(given.target),
            [edge.FeedbackItem(inputs.vector(item.example), item.score) for item in given.feedback],
            edge.NaiveFeedbackStrategy(naive.a, naive.b, naive.c),
        ),
        using=inputs.using,
    )


def edge_order_by(order_by: models.OrderBy | str) -> edge.OrderBy:
    """The engine's form of an order."""
    if isinstance(order_by, str):
        return edge.OrderBy(order_by)
    start = order_by.start_from
    return edge.OrderBy(
        order_by.key,
        direction=None if order_by.direction is None else _DIRECTIONS[order_by.direction],
        start_from=start if start is None or isinstance(start, int | float) else edge_datetime(start),
    )


def _rrf(query: models.RrfQuery, inputs: _Inputs, limit: int) -> Any:
    k = DEFAULT_RRF_K if query.rrf.k is None else query.rrf.k
    if k < 1:
        raise InputError(f"rrf k value {k} is invalid. Must be 1 or larger.")
    return edge.Fusion.Rrf(k=k, weights=query.rrf.weights)


def _text(query: models.TextQuery, inputs: _Inputs, limit: int) -> Any:
    given = query.text
    if isinstance(given, str):
        return edge.TextQuery(inputs.using, given)
    scoring = getattr(given.scoring, "bm25", None)
    return edge.TextQuery(
        inputs.using, given.query, None if scoring is None else edge.Bm25Params(k=scoring.k, b=scoring.b)
    )


def _formula(query: models.FormulaQuery, inputs: _Inputs, limit: int) -> Any:
    return edge.Formula(edge_expression(query.formula), query.defaults or {})


def edge_expression(expression: Any) -> edge.Expression:
    """The engine's form of an expression of a formula."""
    translate = _EXPRESSIONS.get(type(expression))
    if translate is None:
        raise InputError(f"a formula cannot hold a {type(expression).__name__}: {expression!r}")
    return translate(expression)


def _all(expressions: Sequence[Any]) -> list[edge.Expression]:
    return [edge_expression(e) for e in expressions]


def _decay(kind: edge.DecayKind) -> Callable[[Any], edge.Expression]:
    name = f"{kind!r}".rsplit(".", 1)[-1].lower() + "_decay"

    def translate(expression: Any) -> edge.Expression:
        decay = getattr(expression, name)
        return edge.Expression.Decay(
            kind,
            edge_expression(decay.x),
            None if decay.target is None else edge_expression(decay.target),
            decay.midpoint,
            decay.scale,
        )

    return translate


_DIRECTIONS = {models.Direction.ASC: edge.Direction.Asc, models.Direction.DESC: edge.Direction.Desc}

_QUERIES: dict[type, Callable[[Any, _Inputs, int], Any]] = {
    models.NearestQuery: _nearest,
    models.RecommendQuery: _recommend,
    models.DiscoverQuery: _discover,
    models.ContextQuery: _context,
    models.RelevanceFeedbackQuery: _feedback,
    models.OrderByQuery: lambda q, inputs, limit: edge_order_by(q.order_by),
    models.FusionQuery: lambda q, inputs, limit: (
        edge.Fusion.Dbsf() if q.fusion == models.Fusion.DBSF else edge.Fusion.Rrf(k=DEFAULT_RRF_K)
    ),
    models.RrfQuery: _rrf,
    models.FormulaQuery: _formula,
    models.SampleQuery: lambda q, inputs, limit: edge.Sample.Random,
    models.TextQuery: _text,
}

_E = edge.Expression
_EXPRESSIONS: dict[type, Callable[[Any], edge.Expression]] = {
    float: _E.Constant,
    int: lambda e: _E.Constant(float(e)),
    str: _E.Variable,
    models.FieldCondition: lambda e: _E.Condition(edge_condition(e)),
    models.IsEmptyCondition: lambda e: _E.Condition(edge_condition(e)),
    models.IsNullCondition: lambda e: _E.Condition(edge_condition(e)),
    models.HasIdCondition: lambda e: _E.Condition(edge_condition(e)),
    models.HasVectorCondition: lambda e: _E.Condition(edge_condition(e)),
    models.SliceCondition: lambda e: _E.Condition(edge_condition(e)),
    models.NestedCondition: lambda e: _E.Condition(edge_condition(e)),
    models.Filter: lambda e: _E.Condition(edge_condition(e)),
    models.GeoDistance: lambda e: _E.GeoDistance(
        edge.GeoPoint(lon=e.geo_distance.origin.lon, lat=e.geo_distance.origin.lat), e.geo_distance.to
    ),
    models.DatetimeExpression: lambda e: _E.Datetime(e.datetime),
    models.DatetimeKeyExpression: lambda e: _E.DatetimeKey(e.datetime_key),
    models.MultExpression: lambda e: _E.Mult(_all(e.mult)),
    models.SumExpression: lambda e: _E.Sum(_all(e.sum)),
    models.MaxExpression: lambda e: _E.Max(_all(e.max)),
    models.MinExpression: lambda e: _E.Min(_all(e.min)),
    models.NegExpression: lambda e: _E.Neg(edge_expression(e.neg)),
    models.AbsExpression: lambda e: _E.Abs(edge_expression(e.abs)),
    models.DivExpression: lambda e: _E.Div(
        edge_expression(e.div.left), edge_expression(e.div.right), e.div.by_zero_default
    ),
    models.SqrtExpression: lambda e: _E.Sqrt(edge_expression(e.sqrt)),
    models.PowExpression: lambda e: _E.Pow(edge_expression(e.pow.base), edge_expression(e.pow.exponent)),
    models.ExpExpression: lambda e: _E.Exp(edge_expression(e.exp)),
    models.Log10Expression: lambda e: _E.Log10(edge_expression(e.log10)),
    models.LnExpression: lambda e: _E.Ln(edge_expression(e.ln)),
    models.AcoshExpression: lambda e: _E.Acosh(edge_expression(e.acosh)),
    models.LinDecayExpression: _decay(edge.DecayKind.Lin),
    models.ExpDecayExpression: _decay(edge.DecayKind.Exp),
    models.GaussDecayExpression: _decay(edge.DecayKind.Gauss),
}


def edge_search_params(params: Any) -> edge.SearchParams | None:
    """The engine's form of search parameters."""
    if params is None:
        return None
    if isinstance(params, dict):
        params = models.SearchParams(**params)
    quantization, acorn, idf = params.quantization, params.acorn, params.idf
    return edge.SearchParams(
        hnsw_ef=params.hnsw_ef,
        exact=bool(params.exact),
        indexed_only=bool(params.indexed_only),
        quantization=None
        if quantization is None
        else edge.QuantizationSearchParams(
            ignore=bool(quantization.ignore), rescore=quantization.rescore, oversampling=quantization.oversampling
        ),
        acorn=None
        if acorn is None
        else edge.AcornSearchParams(enable=bool(acorn.enable), max_selectivity=acorn.max_selectivity),
        idf=None
        if idf is None
        else edge.IdfParams(edge_filter(idf.corpus) if isinstance(idf, models.IdfCorpusParams) else None),
    )


def without_points(filter_: Any, named: set[int | str]) -> Any:
    """``filter_`` that also leaves out the points ``named``."""
    if not named:
        return filter_
    own = models.HasIdCondition.model_construct(has_id=list(named))
    if filter_ is None:
        return models.Filter.model_construct(must=None, should=None, min_should=None, must_not=[own])
    if isinstance(filter_, dict):
        filter_ = models.Filter(**filter_)
    return filter_.model_copy(update={"must_not": [*(as_list(filter_.must_not) or []), own]})


def _check_stage(query: Any, using: str | None, prefetch: Any, score_threshold: float | None) -> None:
    if prefetch and query is None:
        raise InputError("A query is needed to merge the prefetches.")
    if score_threshold is not None:
        if query is None:
            raise InputError("A query is needed to use the score_threshold.")
        if isinstance(query, models.OrderByQuery):
            raise InputError("Can't use score_threshold with an order_by query.")
    if using and isinstance(query, models.FusionQuery | models.RrfQuery):
        raise InputError("Fusion queries cannot be combined with the 'using' field.")
