"""Fusion equals its formulas, and Qdrant's own where Qdrant has it; feedback equals Rocchio's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from situate.errors import InputError, NonFiniteVectorError
from situate.retrievers.search.fusion import dbsf, minmax, rocchio, rrf
from situate.retrievers.types import Hit
from situate.types import Chunk


def ranking(step, **scores):
    hits = [Hit(Chunk(name, name, 0, name, 0, 1), score, {step: score}) for name, score in scores.items()]
    return sorted(hits, key=lambda hit: -hit.score)


def scored(hits):
    return {hit.chunk.id: hit.score for hit in hits}


DENSE = ranking("dense", a=0.9, b=0.8, c=0.3)
BM25 = ranking("bm25", b=12.0, d=7.0, a=2.0)


def test_rrf_is_the_formula():
    expected = {"a": 1 / 61 + 1 / 63, "b": 1 / 62 + 1 / 61, "c": 1 / 63, "d": 1 / 62}
    assert scored(rrf([DENSE, BM25])) == pytest.approx(expected)
    weighted = {"a": 2 / 3 + 0.5 / 5, "b": 2 / 4 + 0.5 / 3, "c": 2 / 5, "d": 0.5 / 4}
    assert scored(rrf([DENSE, BM25], weights=[2, 0.5], k=2)) == pytest.approx(weighted)


def test_minmax_is_the_formula():
    expected = {"a": 1 + 0, "b": 5 / 6 + 1, "c": 0, "d": 0.5}
    assert scored(minmax([DENSE, BM25])) == pytest.approx(expected)


def test_dbsf_is_the_formula():
    def mapped(values):
        mean, sigma = np.mean(values), np.std(values, ddof=1)
        return [(v - (mean - 3 * sigma)) / (6 * sigma) for v in values]

    dense, lexical = mapped([0.9, 0.8, 0.3]), mapped([12.0, 7.0, 2.0])
    expected = {"a": dense[0] + lexical[2], "b": dense[1] + lexical[0], "c": dense[2], "d": lexical[1]}
    assert scored(dbsf([DENSE, BM25])) == pytest.approx(expected)


@pytest.mark.parametrize(("fuse", "name"), [(rrf, "RRF"), (dbsf, "DBSF")])
def test_equals_qdrants_own_fusion(fuse, name):
    from qdrant_client import models
    from qdrant_client.hybrid.fusion import distribution_based_score_fusion, reciprocal_rank_fusion

    ids = {"a": 1, "b": 2, "c": 3, "d": 4}

    def points(hits):
        return [models.ScoredPoint(id=ids[h.chunk.id], version=0, score=h.score, payload={}) for h in hits]

    responses = [points(DENSE), points(BM25)]
    if name == "RRF":
        theirs = reciprocal_rank_fusion(responses, limit=10, ranking_constant_k=60)
        # Qdrant counts ranks from 0, the paper from 1
        ours = scored(fuse([DENSE, BM25], k=59))
    else:
        theirs = distribution_based_score_fusion(responses, limit=10)
        ours = scored(fuse([DENSE, BM25]))
    assert {p.id: p.score for p in theirs} == {ids[n]: pytest.approx(s) for n, s in ours.items()}


@pytest.mark.parametrize("fuse", [rrf, minmax, dbsf])
class TestAll:
    def test_scores_of_all_rankings_are_kept(self, fuse):
        hit = next(hit for hit in fuse([DENSE, BM25]) if hit.chunk.id == "a")
        assert (hit.scores["dense"], hit.scores["bm25"], hit.scores["fused"]) == (0.9, 2.0, hit.score)
        assert DENSE[0].scores == {"dense": 0.9}

    def test_ties_do_not_depend_on_the_order_of_the_rankings(self, fuse):
        rankings = [ranking("x", b=1.0, a=0.5), ranking("y", a=1.0, b=0.5), ranking("z", c=1.0, d=0.5)]
        orders = {tuple(h.chunk.id for h in fuse(list(p))) for p in itertools.permutations(rankings)}
        assert len(orders) == 1

    def test_repetitions_count_once(self, fuse):
        assert scored(fuse([[*DENSE, *DENSE], BM25])) == pytest.approx(scored(fuse([DENSE, BM25])))

    def test_equal_scores_and_single_hits(self, fuse):
        assert [h.chunk.id for h in fuse([ranking("x", b=1.0, a=1.0), ranking("y", a=3.0)])] == ["a", "b"]

    def test_nothing(self, fuse):
        assert fuse([]) == []
        assert fuse([[], []]) == []
        assert len(fuse([[], DENSE])) == 3

    @pytest.mark.parametrize("weights", [[1], [1, -1], [1, float("nan")]])
    def test_weights_that_make_no_sense(self, fuse, weights):
        with pytest.raises(InputError):
            fuse([DENSE, BM25], weights=weights)

    def test_non_finite_scores(self, fuse):
        with pytest.raises(NonFiniteVectorError):
            fuse([[Hit(DENSE[0].chunk, float("nan"))]])


def test_k_must_not_be_negative():
    with pytest.raises(InputError):
        rrf([DENSE], k=-1)


def test_rocchio_is_the_formula():
    rng = np.random.default_rng(0)
    query, good, bad = rng.normal(size=4), rng.normal(size=(3, 4)), rng.normal(size=(2, 4))
    expected = 0.9 * query + 0.4 * good.mean(0) - 0.2 * bad.mean(0)
    expected /= np.linalg.norm(expected)
    got = rocchio(*(x.astype(np.float32) for x in (query, good, bad)), alpha=0.9, beta=0.4, gamma=0.2)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got.dtype == np.float32


def test_rocchio_without_hits_or_direction_is_the_query():
    query = np.array([1, 0], dtype=np.float32)
    np.testing.assert_array_equal(rocchio(query, np.zeros((0, 2), dtype=np.float32)), query)
    np.testing.assert_array_equal(rocchio(query, -query[None], beta=1.0), query)


def test_rocchio_bad_input():
    query = np.array([1, 0], dtype=np.float32)
    with pytest.raises(InputError):
        rocchio(query, np.eye(3, dtype=np.float32))
    with pytest.raises(InputError):
        rocchio(query, query[None], beta=-1)
    with pytest.raises(NonFiniteVectorError):
        rocchio(query, np.array([[np.nan, 0]], dtype=np.float32))
