"""MTEB runs its own tasks with our models; the tasks are the ones that it ships for that, with data of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from situate.embedders import Embedder
from situate.errors import StorageError
from situate.retrievers import PipelineConfig
from situate.retrievers.evaluation import MtebEncoder, MtebSearch


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def score(model: Any, task: Any) -> float:
    import mteb

    results = mteb.evaluate(model, task, cache=None, overwrite_strategy="always", show_progress_bar=False)
    return float(results.task_results[0].get_score())


def test_a_retrieval_task_with_the_encoder_and_with_the_pipeline(embedder: Embedder) -> None:
    from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask

    assert 0 < score(MtebEncoder(embedder), MockRetrievalTask()) <= 1
    assert 0 < score(MtebSearch(embedder, PipelineConfig.quality()), MockRetrievalTask()) <= 1


def test_documents_are_found_by_their_best_chunk(embedder: Embedder) -> None:
    search = MtebSearch(embedder)
    with pytest.raises(StorageError, match="nothing is indexed"):
        search.search([], top_k=1)
    long = " ".join(f"Filler sentence number {number} about nothing at all." for number in range(80))
    search.index(
        [{"id": "a", "title": "Bread", "text": f"{long} Sourdough rises slowly."}, {"id": "b", "text": "Cats."}]
    )
    found = search.search([{"id": "q", "text": "sourdough"}], top_k=2)
    assert next(iter(found["q"])) == "a"
    only = search.search([{"id": "q", "text": "sourdough"}], top_k=2, top_ranked={"q": ["b"]})
    assert list(only["q"]) == ["b"]


def test_roles(embedder: Embedder) -> None:
    instructed = MtebEncoder(Embedder(query_instruction="query: "))
    batches = [{"text": ["one", "two"]}, {"text": ["three"]}]
    assert np.array_equal(
        instructed.encode(batches, prompt_type="query"), instructed.embedder.embed_queries(["one", "two", "three"])
    )
    vectors = instructed.encode(batches)
    assert np.allclose(vectors, embedder.embed_documents(["one", "two", "three"]), atol=1e-2)
    assert np.allclose(
        np.diag(instructed.similarity(vectors, vectors)), instructed.similarity_pairwise(vectors, vectors)
    )
