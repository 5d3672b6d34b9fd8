"""Random payloads, filters and vectors for the conformance suite."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from qdrant_client import models

SIZE = 4
WORDS = ("red", "green", "blue", "navy blue", "Grün", "")
DATES = ("2020-01-01T00:00:00Z", "2021-06-15T12:30:00Z", "2023-12-31T23:59:59Z", "2020-01-01")

numbers = st.integers(-8, 8).map(lambda n: n / 4)
#: Never zero, so that cosine is defined; coarse, so that sums are exact in float32.
vectors = st.lists(numbers, min_size=SIZE, max_size=SIZE).filter(any)
sparse_vectors = st.dictionaries(
    st.integers(0, 12), st.integers(1, 8).map(lambda n: n / 4), min_size=1, max_size=4
).map(lambda cells: models.SparseVector(indices=list(cells), values=list(cells.values())))
multi_vectors = st.lists(vectors, min_size=1, max_size=3)
named_vectors = st.fixed_dictionaries({"dense": vectors}, optional={"words": sparse_vectors, "tokens": multi_vectors})

words = st.sampled_from(WORDS)
integers = st.integers(-3, 3)
places = st.fixed_dictionaries(
    {"lon": st.sampled_from([13.4, 2.35, -0.1]), "lat": st.sampled_from([52.5, 48.85, 51.5])}
)
items = st.fixed_dictionaries({}, optional={"name": words, "size": integers, "good": st.booleans()})

payloads = st.fixed_dictionaries(
    {},
    optional={
        "number": st.one_of(integers, st.lists(integers, max_size=3), st.none()),
        "real": st.one_of(numbers, st.none()),
        "word": st.one_of(words, st.lists(words, max_size=3), st.none()),
        "flag": st.one_of(st.booleans(), st.none()),
        "date": st.sampled_from(DATES),
        "place": st.one_of(places, st.lists(places, max_size=2)),
        "items": st.lists(items, max_size=3),
        "deep": st.fixed_dictionaries({}, optional={"word": words, "number": integers, "odd key": words}),
    },
)
point_ids = st.one_of(
    st.integers(0, 12), st.sampled_from([f"00000000-0000-4000-8000-00000000000{i}" for i in range(6)])
)
points = st.builds(models.PointStruct, id=point_ids, vector=named_vectors, payload=payloads)

bounds = st.one_of(integers, numbers)
ranges = st.fixed_dictionaries({}, optional={"gt": bounds, "gte": bounds, "lt": bounds, "lte": bounds})
dates = st.sampled_from(["2020-01-01T00:00:00Z", "2021-06-15T12:30:00Z", "2022-01-01", "2019-01-01T00:00:00+02:00"])
word_keys = st.sampled_from(["word", "deep.word", "items[].name", "items[0].name", "missing", 'deep."odd key"'])
number_keys = st.sampled_from(["number", "real", "deep.number", "items[].size", "missing"])
all_keys = st.sampled_from(["number", "real", "word", "flag", "date", "place", "items", "deep", "deep.word", "missing"])


def _field(key: Any, **parts: Any) -> st.SearchStrategy[models.FieldCondition]:
    return st.builds(models.FieldCondition, key=key, **parts)


matches = st.one_of(
    _field(word_keys, match=st.builds(models.MatchValue, value=words)),
    _field(number_keys, match=st.builds(models.MatchValue, value=integers)),
    _field(st.sampled_from(["flag", "items[].good"]), match=st.builds(models.MatchValue, value=st.booleans())),
    _field(word_keys, match=st.builds(models.MatchAny, any=st.lists(words, min_size=1, max_size=3))),
    _field(number_keys, match=st.builds(models.MatchAny, any=st.lists(integers, min_size=1, max_size=3))),
    _field(word_keys, match=st.lists(words, min_size=1, max_size=3).map(lambda w: models.MatchExcept(**{"except": w}))),
    _field(
        number_keys, match=st.lists(integers, min_size=1, max_size=3).map(lambda w: models.MatchExcept(**{"except": w}))
    ),
)
corner = st.builds(
    models.GeoPoint, lon=st.sampled_from([-5.0, 0.0, 5.0, 20.0]), lat=st.sampled_from([45.0, 50.0, 55.0])
)
others = st.one_of(
    _field(number_keys, range=ranges.map(lambda r: models.Range(**r))),
    _field(
        st.just("date"),
        range=st.fixed_dictionaries({}, optional={"gt": dates, "gte": dates, "lt": dates, "lte": dates}).map(
            lambda r: models.DatetimeRange(**r)
        ),
    ),
    _field(
        st.sampled_from(["number", "word", "items", "place", "missing"]),
        values_count=st.fixed_dictionaries({}, optional={"gte": st.integers(0, 3), "lt": st.integers(0, 4)}).map(
            lambda r: models.ValuesCount(**(r or {"gte": 1}))
        ),
    ),
    _field(
        st.just("place"),
        geo_radius=st.builds(models.GeoRadius, center=corner, radius=st.sampled_from([100.0, 4e5, 2e6])),
    ),
    st.builds(lambda key: models.IsEmptyCondition(is_empty=models.PayloadField(key=key)), all_keys),
    st.builds(lambda key: models.IsNullCondition(is_null=models.PayloadField(key=key)), all_keys),
    st.builds(models.HasIdCondition, has_id=st.lists(point_ids, max_size=4)),
    st.builds(models.HasVectorCondition, has_vector=st.sampled_from(["dense", "words", "tokens"])),
)
nested_filters = st.builds(
    lambda conditions, key: models.NestedCondition(
        nested=models.Nested(key=key, filter=models.Filter(**{k: v for k, v in conditions.items() if v}))
    ),
    st.fixed_dictionaries(
        {},
        optional={
            part: st.lists(
                st.one_of(
                    _field(st.just("name"), match=st.builds(models.MatchValue, value=words)),
                    _field(st.just("size"), range=ranges.map(lambda r: models.Range(**r))),
                ),
                max_size=2,
            )
            for part in ("must", "should", "must_not")
        },
    ),
    st.sampled_from(["items", "items[]"]),
)
conditions = st.one_of(matches, others, nested_filters)


def _filters(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[models.Filter]:
    listed = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "must": listed,
            "should": listed,
            "must_not": listed,
            "min_should": st.builds(models.MinShould, conditions=listed, min_count=st.integers(1, 2)),
        },
    ).map(lambda parts: models.Filter(**parts))


filters = st.recursive(_filters(conditions), lambda inner: _filters(st.one_of(conditions, inner)), max_leaves=6)


# -- searching. Vectors are generic here: ties would leave the order to chance, and fusion ranks by order.


def _generic(seed: int) -> list[float]:
    return [round(x, 3) for x in np.random.default_rng(seed).normal(size=SIZE).tolist()]


def _generic_sparse(seed: int) -> models.SparseVector:
    rng = np.random.default_rng(seed)
    size = 1 + seed % 4
    return models.SparseVector(
        indices=rng.choice(12, size, replace=False).tolist(), values=rng.uniform(0.2, 2, size).round(3).tolist()
    )


seeds = st.integers(0, 2**32 - 1)
generic_vectors = seeds.map(_generic)
generic_sparse = seeds.map(_generic_sparse)
generic_multi = st.lists(generic_vectors, min_size=1, max_size=3)
searchable_points = st.lists(
    st.builds(
        models.PointStruct,
        id=point_ids,
        vector=st.fixed_dictionaries(
            {"dense": generic_vectors}, optional={"words": generic_sparse, "tokens": generic_multi}
        ),
        payload=payloads,
    ),
    min_size=3,
    max_size=14,
    unique_by=(lambda p: p.id, lambda p: tuple(p.vector["dense"])),
)
fusions = st.one_of(
    st.builds(lambda f: models.FusionQuery(fusion=f), st.sampled_from(list(models.Fusion))),
    st.builds(
        lambda k, weights: models.RrfQuery(rrf=models.Rrf(k=k, weights=weights)),
        st.sampled_from([None, 1, 60]),
        st.sampled_from([None, [3.0, 1.0]]),
    ),
)

_leaf = st.one_of(
    st.sampled_from(["$score", "$score[0]", "number", "real", "deep.number"]),
    st.sampled_from([0.5, 2.0, -1.0]),
    matches,
)


def _expressions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=2)
    decay = st.builds(
        models.DecayParamsExpression,
        x=inner,
        target=st.sampled_from([None, 1.0]),
        scale=st.sampled_from([None, 2.0]),
        midpoint=st.sampled_from([None, 0.25]),
    )
    return st.one_of(
        st.builds(models.SumExpression, sum=some),
        st.builds(models.MultExpression, mult=some),
        st.builds(models.MaxExpression, max=some),
        st.builds(models.MinExpression, min=some),
        st.builds(models.NegExpression, neg=inner),
        st.builds(models.AbsExpression, abs=inner),
        st.builds(
            models.DivExpression,
            div=st.builds(models.DivParams, left=inner, right=inner, by_zero_default=st.just(1.0)),
        ),
        st.builds(models.LinDecayExpression, lin_decay=decay),
        st.builds(models.ExpDecayExpression, exp_decay=decay),
        st.builds(models.GaussDecayExpression, gauss_decay=decay),
        st.builds(models.SqrtExpression, sqrt=st.builds(models.AbsExpression, abs=inner)),
        st.just(
            models.GeoDistance(
                geo_distance=models.GeoDistanceParams(origin=models.GeoPoint(lon=2.0, lat=48.0), to="place")
            )
        ),
    )


formulas = st.builds(
    lambda expression: models.FormulaQuery(
        formula=models.SumExpression(sum=["$score", expression]),
        defaults={"number": 1.0, "real": 0.5, "deep.number": 2.0, "place": {"lon": 1.0, "lat": 2.0}},
    ),
    st.recursive(_leaf, _expressions, max_leaves=5),
)


@st.composite
def requests(draw: st.DrawFn, stored: list[models.PointStruct]) -> dict[str, Any]:
    """The query, prefetch and using of a request over the points ``stored``; the ids that it names are among them."""
    example = st.one_of(generic_vectors, st.sampled_from([p.id for p in stored]))
    examples = st.lists(example, min_size=1, max_size=2)
    context = st.lists(st.builds(models.ContextPair, positive=example, negative=example), min_size=1, max_size=2)
    nearest = st.one_of(
        st.tuples(st.builds(models.NearestQuery, nearest=example), st.just("dense")),
        st.tuples(st.builds(models.NearestQuery, nearest=generic_sparse), st.just("words")),
        st.tuples(st.builds(models.NearestQuery, nearest=generic_multi), st.just("tokens")),
    )
    dense = st.one_of(
        st.builds(models.NearestQuery, nearest=example),
        st.builds(
            models.NearestQuery,
            nearest=example,
            mmr=st.builds(
                models.Mmr,
                diversity=st.sampled_from([None, 0.0, 0.3, 1.0]),
                candidates_limit=st.sampled_from([None, 5, 100]),
            ),
        ),
        st.builds(
            lambda good, bad, strategy: models.RecommendQuery(
                recommend=models.RecommendInput(positive=good, negative=bad, strategy=strategy)
            ),
            examples,
            st.one_of(st.none(), examples),
            st.sampled_from([None, *models.RecommendStrategy]),
        ),
        st.builds(
            lambda t, c: models.DiscoverQuery(discover=models.DiscoverInput(target=t, context=c)), example, context
        ),
        st.builds(lambda c: models.ContextQuery(context=c), context),
        st.builds(
            lambda t, f: models.RelevanceFeedbackQuery(
                relevance_feedback=models.RelevanceFeedbackInput(
                    target=t,
                    feedback=f,
                    strategy=models.NaiveFeedbackStrategy(
                        naive=models.NaiveFeedbackStrategyParams(a=0.5, b=0.5, c=0.25)
                    ),
                )
            ),
            example,
            st.lists(st.builds(models.FeedbackItem, example=example, score=numbers), min_size=1, max_size=3),
        ),
    )
    # No example is good and bad: its words would cancel out, which local mode alone shows (see test_conformance).
    sparse = st.builds(
        lambda good, bad, strategy: models.RecommendQuery(
            recommend=models.RecommendInput(
                positive=good, negative=[vector for vector in bad if vector not in good], strategy=strategy
            )
        ),
        st.lists(generic_sparse, min_size=1, max_size=2),
        st.lists(generic_sparse, max_size=2),
        st.sampled_from([None, *models.RecommendStrategy]),
    )
    single = st.one_of(st.tuples(dense, st.just("dense")), st.tuples(sparse, st.just("words")), nearest)
    stage = st.builds(
        lambda q, f, limit, threshold: models.Prefetch(
            query=q[0], using=q[1], filter=f, limit=limit, score_threshold=threshold
        ),
        nearest,
        st.one_of(st.none(), conditions.map(lambda c: models.Filter(must=c))),
        st.sampled_from([2, 5, 20]),
        st.sampled_from([None, None, 0.2]),
    )
    two = st.lists(stage, min_size=2, max_size=2)
    shape = draw(st.sampled_from(["single", "fused", "rescored", "formula", "nested"]))
    if shape == "single":
        query, using = draw(single)
        return {"query": query, "using": using}
    if shape == "fused":
        return {"prefetch": draw(two), "query": draw(fusions)}
    if shape == "formula":
        return {"prefetch": [draw(stage)], "query": draw(formulas)}
    query, using = draw(nearest)
    if shape == "nested":
        return {
            # All of them: reciprocal ranks are often equal, and which of equals a limit lets through is chance.
            "prefetch": models.Prefetch(prefetch=draw(two), query=draw(fusions), limit=50),
            "query": query,
            "using": using,
        }
    return {"prefetch": draw(two), "query": query, "using": using}
