"""A second embedder, another scheme, and views of a chunk, against the same computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from situate.embedders import ChunkScheme, Embedder
from situate.errors import InputError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.signals.base import Signal
from situate.retrievers.signals.dense import Dense
from situate.retrievers.signals.views import Views, centres
from situate.types import Document

DOCUMENTS = [
    Document("ferry", "The ferry to the island leaves at nine. It is back by noon.", {"title": "Timetable"}),
    Document("orchard", "Apples ripen in autumn. Pears keep for months. A fence keeps deer out.", {"title": "Garden"}),
    Document("council", "The council voted for the bridge on Tuesday. Work begins in spring.", {"title": "News"}),
]
#: MiniLM was not trained to be cut; the test wants another dimension.
pytestmark = pytest.mark.filterwarnings("ignore::situate.errors.SituateWarning")
QUERY = "How long do pears keep?"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32")


@pytest.fixture(scope="module")
def second(embedder: Embedder) -> Embedder:
    """The same weights read otherwise: shorter vectors, an instruction."""
    return Embedder(dtype="float32", dimensions=128, query_instruction="question: ", document_instruction="fact: ")


def scores(embedder: Embedder, signal: Signal) -> dict[str, float]:
    config = PipelineConfig(signals=(signal,))
    with Index(embedder, config=config) as index:
        index.add(DOCUMENTS)
        return {hit.chunk.document_id: hit.scores[signal.name] for hit in index.search(QUERY, 3)}


def test_a_second_embedder_has_its_own_dimension_and_words(embedder: Embedder, second: Embedder) -> None:
    (query,) = second.embed_queries([QUERY])
    rows = second.embed_documents([document.text for document in DOCUMENTS])
    expected = {document.id: float(row @ query) for document, row in zip(DOCUMENTS, rows, strict=True)}
    assert scores(embedder, Dense(second, name="second")) == pytest.approx(expected, abs=1e-5)


def test_another_scheme_is_an_aspect_of_the_same_model(embedder: Embedder) -> None:
    (query,) = embedder.embed_queries([QUERY])
    scheme = ChunkScheme(context=("title",), pool_context=True)
    rows = embedder.embed_documents([f"{document.metadata['title']}\n{document.text}" for document in DOCUMENTS])
    expected = {document.id: float(row @ query) for document, row in zip(DOCUMENTS, rows, strict=True)}
    assert scores(embedder, Dense(scheme=scheme)) == pytest.approx(expected, abs=1e-4)


def test_weights_share_the_score(embedder: Embedder, second: Embedder) -> None:
    """Dense and BM25 have half each of what a further signal leaves; all are stretched over their candidates."""

    def stretched(values: dict[str, float]) -> dict[str, float]:
        low, high = min(values.values()), max(values.values())
        return {name: (value - low) / (high - low) for name, value in values.items()}

    with Index(embedder, config=PipelineConfig(signals=(Dense(second, weight=0.4),))) as index:
        index.add(DOCUMENTS)
        hits = index.search(QUERY, 3)
        parts = {
            step: {h.chunk.document_id: h.scores[step] for h in hits if step in h.scores} for step in hits[0].scores
        }
        expected = dict.fromkeys(parts["dense"], 0.0)
        for step, weight in (("dense", 0.3), ("bm25", 0.3), ("dense_2", 0.4)):
            for name, value in (
                stretched(parts[step]) if len(parts[step]) > 1 else dict.fromkeys(parts[step], 1.0)
            ).items():
                expected[name] += weight * value
        assert {hit.chunk.document_id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)
        again = Index(embedder, client=index.client, config=index.config.weighted({"dense_2": 1.0}))
        assert [set(hit.scores) for hit in again.search(QUERY, 3)] == [{"dense_2"}] * 3


def test_the_nearest_view_counts(embedder: Embedder) -> None:
    (query,) = embedder.embed_queries([QUERY])
    sentences = embedder.embed_documents(
        ["Apples ripen in autumn.", "Pears keep for months.", "A fence keeps deer out."]
    )
    assert scores(embedder, Views(count=3))["orchard"] == pytest.approx(float((sentences @ query).max()), abs=1e-5)
    mean = sentences.mean(0) / np.linalg.norm(sentences.mean(0))
    assert scores(embedder, Views(count=1))["orchard"] == pytest.approx(float(mean @ query), abs=1e-5)


def test_views_are_the_centres_of_clusters() -> None:
    random = np.random.default_rng(5)
    topics = np.linalg.qr(random.normal(size=(16, 3)))[0].T
    groups = [topic + 0.1 * random.normal(size=(5, 16)) for topic in topics]
    rows = np.concatenate(groups)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = centres(rows[random.permutation(15)], 3)
    means = np.array([rows[5 * i : 5 * i + 5].mean(0) for i in range(3)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert sorted((found @ means.T).argmax(1)) == [0, 1, 2]
    assert (found @ means.T).max(1) == pytest.approx(np.ones(3), abs=1e-5)
    assert centres(rows[:2], 3) is not None
    assert len(centres(np.repeat(rows[:1], 4, 0), 2)) == 2


def test_what_cannot_be_is_refused(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="the chunks' own vector again"):
        Dense()
    with pytest.raises(InputError, match="a scheme has no lately: it takes late"):
        Dense(scheme={"lately": True})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="count=0"):
        Views(count=0)
    with pytest.raises(InputError, match="two signals have the name 'dense'"):
        PipelineConfig(signals=(Dense(embedder, name="dense"),))
