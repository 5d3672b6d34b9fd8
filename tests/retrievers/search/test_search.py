"""Fusion, feedback and filters of a hybrid search, against the same computed by hand."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from situate.chunkers import Chunk, Document
from situate.errors import NonFiniteVectorError
from situate.retrievers.config import Feedback, Fusion, LexicalScheme, PipelineConfig
from situate.retrievers.index.collection import Collection, Version
from situate.retrievers.index.lexical import SparseVector
from situate.retrievers.index.payload import BM25, DENSE, TOKENS
from situate.retrievers.search.gateway import gateway
from situate.retrievers.search.hybrid import HybridSearch
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.storage.edge import EdgeClient

SIZE, CHUNKS = 8, 40
CONFIG = PipelineConfig(lexical=LexicalScheme(), prefetch=15, token_vectors="float32", maxsim_depth=12)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class Data:
    """Random vectors of 40 chunks, and a query's."""

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self.dense = unit(random.normal(size=(CHUNKS, SIZE)))
        self.tokens = [unit(random.normal(size=(int(n), SIZE))) for n in random.integers(2, 6, CHUNKS)]
        # Every chunk has some of ten terms; no inverse document frequency is applied to the expected scores, so
        # all terms are equally frequent: each occurs in 20 of the 40.
        self.terms = np.zeros((CHUNKS, 10), dtype=np.float32)
        for term in range(10):
            self.terms[random.permutation(CHUNKS)[:20], term] = random.uniform(0.5, 2, 20)
        self.documents = [Document(f"d{i:02}", f"Text {i}.", {"even": i % 2 == 0, "n": i}) for i in range(CHUNKS)]
        self.query = QueryVectors(
            unit(random.normal(size=SIZE)),
            SparseVector(np.arange(3), np.ones(3, dtype=np.float32)),
            unit(random.normal(size=(4, SIZE))),
        )

    def versions(self) -> list[Version]:
        return [
            Version(
                document.id,
                f"hash {document.id}",
                [Chunk.of(document, 0, 0, len(document.text))],
                {
                    DENSE: self.dense[i : i + 1],
                    BM25: [SparseVector(np.flatnonzero(self.terms[i]), self.terms[i][self.terms[i] > 0])],
                    TOKENS: [self.tokens[i]],
                },
            )
            for i, document in enumerate(self.documents)
        ]

    def scores(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.query.tokens is not None
        dense = self.dense @ self.query.dense
        idf = np.log(1 + (CHUNKS - 20 + 0.5) / (20 + 0.5))
        lexical = idf * self.terms[:, :3].sum(1)
        maxsim = np.array([(self.query.tokens @ tokens.T).max(1).sum() for tokens in self.tokens])
        return dense, lexical, maxsim


def min_max(scores: np.ndarray, found: np.ndarray) -> np.ndarray:
    part = np.zeros(len(scores))
    kept = scores[found]
    part[found] = (kept - kept.min()) / (kept.max() - kept.min())
    return part


def best(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:k]


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


@pytest.fixture(scope="module", params=["edge", "local"])
def client(request: pytest.FixtureRequest, data: Data) -> Iterator[QdrantClient]:
    """Every search runs on our embedded engine and on qdrant-client's own local mode."""
    opened = EdgeClient() if request.param == "edge" else QdrantClient(":memory:")
    collection = Collection(gateway(opened, "c"))
    with warnings.catch_warnings():
        # The local mode warns that payload indexes have no effect there.
        warnings.simplefilter("ignore")
        collection.open({"model": "random"}, SIZE, CONFIG)
    collection.write(data.versions())
    yield opened
    opened.close()


def search(client: QdrantClient, config: PipelineConfig, query: QueryVectors, k: int = 10) -> list[tuple[int, float]]:
    hits = HybridSearch(gateway(client, "c"), config).search(query, k)
    return [(int(hit.chunk.document_id[1:]), hit.score) for hit in hits]


def test_min_max_fusion_equals_the_formula(client: QdrantClient, data: Data) -> None:
    dense, lexical, _ = data.scores()
    fused = (min_max(dense, best(dense, 15)) + min_max(lexical, best(lexical, 15))) / 2
    found = search(client, replace(CONFIG, token_vectors=None), data.query)
    assert [score for _, score in found] == pytest.approx(sorted(fused, reverse=True)[:10], abs=1e-4)
    assert [fused[place] for place, _ in found] == pytest.approx([score for _, score in found], abs=1e-4)


def test_dbsf_equals_the_formula(client: QdrantClient, data: Data) -> None:
    """The mean of both scores, each brought from three deviations around its candidates' mean to [0, 1]."""
    dense, lexical, _ = data.scores()
    fused = np.zeros(CHUNKS)
    for scores in (dense, lexical):
        near = best(scores, 15)
        low = scores[near].mean() - 3 * scores[near].std(ddof=1)
        fused[near] += (scores[near] - low) / (6 * scores[near].std(ddof=1)) / 2
    found = search(client, replace(CONFIG, token_vectors=None, fusion="dbsf"), data.query)
    assert [score for _, score in found] == pytest.approx(sorted(fused, reverse=True)[:10], abs=1e-4)
    assert [fused[place] for place, _ in found] == pytest.approx([score for _, score in found], abs=1e-4)
    alone = search(client, replace(CONFIG, lexical=None, token_vectors=None, fusion="dbsf"), data.query)
    assert [score for _, score in alone] == pytest.approx(sorted(dense, reverse=True)[:10], abs=1e-4)


@pytest.mark.parametrize("fusion", ["dbsf", "rrf"])
def test_maxsim_is_mixed_in_by_dbsf_where_qdrant_fuses(client: QdrantClient, data: Data, fusion: Fusion) -> None:
    """The mean again, over the candidates of the fused ranking."""
    config = replace(CONFIG, fusion=fusion, maxsim_depth=CHUNKS)
    first = dict(search(client, replace(config, token_vectors=None), data.query, k=CHUNKS))
    _, _, maxsim = data.scores()
    expected = np.zeros(CHUNKS)
    places = np.array(list(first))
    for scores in (np.array(list(first.values())), maxsim[places]):
        low = scores.mean() - 3 * scores.std(ddof=1)
        expected[places] += (scores - low) / (6 * scores.std(ddof=1)) / 2
    found = search(client, config, data.query, k=CHUNKS)
    assert [score for _, score in found] == pytest.approx(sorted(expected[places], reverse=True), abs=1e-3)
    assert max(expected) < 1


def test_feedback_moves_the_dense_vector_towards_the_first_hits(client: QdrantClient, data: Data) -> None:
    dense, lexical, _ = data.scores()
    fused = (min_max(dense, best(dense, 15)) + min_max(lexical, best(lexical, 15))) / 2
    moved = unit(data.query.dense + 0.5 * data.dense[best(fused, 2)].mean(0))
    again = data.dense @ moved
    expected = (min_max(again, best(again, 15)) + min_max(lexical, best(lexical, 15))) / 2
    found = search(client, replace(CONFIG, token_vectors=None, feedback=Feedback(top=2, beta=0.5)), data.query)
    assert [score for _, score in found] == pytest.approx(sorted(expected, reverse=True)[:10], abs=1e-4)


def test_maxsim_is_mixed_in_by_its_weight(client: QdrantClient, data: Data) -> None:
    dense, lexical, maxsim = data.scores()
    fused = (min_max(dense, best(dense, 15)) + min_max(lexical, best(lexical, 15))) / 2
    candidates = best(fused, 12)
    expected = 0.75 * min_max(fused, candidates) + 0.25 * min_max(maxsim, candidates)
    found = search(client, replace(CONFIG, maxsim_weight=0.25), data.query, k=5)
    assert [score for _, score in found] == pytest.approx(sorted(expected, reverse=True)[:5], abs=1e-4)


@pytest.mark.parametrize("fusion", ["minmax", "dbsf", "rrf"])
@pytest.mark.parametrize("tokens", [False, True])
def test_a_filter_holds_in_every_stage(client: QdrantClient, data: Data, fusion: str, tokens: bool) -> None:
    config = replace(CONFIG, fusion=fusion, feedback=Feedback(), token_vectors="float32" if tokens else None)
    hits = HybridSearch(gateway(client, "c"), config).search(data.query, 20, {"even": True})
    assert len(hits) == 20
    assert all(hit.chunk.metadata["even"] for hit in hits)
    only = models.Filter(must=[models.FieldCondition(key="metadata.n", range=models.Range(gte=7, lt=9))])
    assert {h.chunk.document_id for h in HybridSearch(gateway(client, "c"), config).search(data.query, 9, only)} == {
        "d07",
        "d08",
    }


@pytest.mark.parametrize("fusion", ["minmax", "dbsf", "rrf"])
def test_k_may_exceed_every_depth(client: QdrantClient, data: Data, fusion: str) -> None:
    assert len(search(client, replace(CONFIG, fusion=fusion), data.query, k=100)) == CHUNKS


def test_dense_alone_keeps_its_cosines(client: QdrantClient, data: Data) -> None:
    found = search(client, replace(CONFIG, lexical=None, token_vectors=None), data.query)
    dense, _, _ = data.scores()
    assert [score for _, score in found] == pytest.approx(sorted(dense, reverse=True)[:10], abs=1e-4)


def test_nan_in_a_query_is_refused(data: Data) -> None:
    with pytest.raises(NonFiniteVectorError, match="dense vector holds NaN"):
        QueryVectors(np.full(SIZE, np.nan, dtype=np.float32))
