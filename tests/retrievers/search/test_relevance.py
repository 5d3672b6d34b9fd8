"""Relevance means the same for every query of a collection: high where a passage answers, low where none does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from situate.chunkers import Document, read_documents
from situate.embedders import Embedder
from situate.retrievers import Feedback, Index, PipelineConfig
from situate.retrievers.config import LexicalScheme
from situate.retrievers.index.lexical import LexicalEncoder, SparseVector
from situate.retrievers.search.boosts import PayloadScore
from situate.retrievers.search.relevance import SAMPLE, Background

HANDBOOK = {
    "leave": "Employees have thirty days of paid leave a year. It is booked in the holiday calendar.",
    "sick": "A sick note is due on the fourth day of an illness. Send it to the people team.",
    "parents": "Parents take twelve weeks of leave after a birth, paid in full.",
    "travel": "Flights are booked with the travel desk, in economy class.",
    "hotels": "A hotel may cost up to 120 a night, in London or Oslo up to 190.",
    "laptops": "Laptops are replaced every three years. Old ones can be bought for fifty.",
    "bikes": "Bicycles are parked in the basement, next to the showers.",
    "dogs": "Dogs may come to the office on Fridays if the team agrees.",
    "training": "Everyone has a budget of twelve hundred a year for courses and conferences.",
    "security": "Report a lost key card to the front desk within an hour.",
}
ANSWERED = {
    "How many days of leave do I have?": "leave",
    "When is a sick note due?": "sick",
    "How long is parental leave after a birth?": "parents",
    "What may a hotel cost per night?": "hotels",
    "Where do I park my bicycle?": "bikes",
    "May I bring my dog to the office?": "dogs",
}
UNANSWERED = (
    "What is the capital of France?",
    "Who won the world cup in 2014?",
    "How do volcanoes erupt?",
    "Which composer wrote the Moonlight Sonata?",
    "What is the boiling point of ethanol?",
)
CONFIGS = {
    "fast": PipelineConfig.fast(),
    "dense alone": PipelineConfig.plain(),
    "fused by Qdrant": replace(PipelineConfig.fast(), fusion="dbsf"),
    "reciprocal ranks": PipelineConfig.hybrid(),
    "feedback": replace(PipelineConfig.fast(), feedback=Feedback()),
    "boosted": replace(PipelineConfig.fast(), fusion="dbsf", boosts=(PayloadScore("n"),)),
}


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32")


@pytest.fixture(params=CONFIGS)
def index(request: pytest.FixtureRequest, embedder: Embedder) -> Iterator[Index]:
    with Index(embedder, config=CONFIGS[request.param]) as index:
        index.add([Document(name, text) for name, text in HANDBOOK.items()])
        yield index


async def test_answered_and_unanswered_questions_lie_apart(index: Index) -> None:
    for query, right in ANSWERED.items():
        found = {hit.chunk.document_id: hit.relevance for hit in index.search(query)}
        assert found[right] is not None
        assert found[right] >= 0.5, query
        assert found[right] == max(found.values())
    for query in UNANSWERED:
        assert max(hit.relevance for hit in index.search(query)) < 0.5, query
        assert [hit.relevance for hit in await index.asearch(query)] == pytest.approx(
            [hit.relevance for hit in index.search(query)], abs=1e-5
        )


def test_a_word_that_stands_in_the_handbook_by_chance_is_no_answer(embedder: Embedder) -> None:
    """The rate for hotels in "other capitals" does not answer for the capital of France."""
    with Index(embedder) as index:
        index.add(read_documents(Path(__file__).parents[3] / "examples" / "documents"))
        assert max(hit.relevance for hit in index.search("What is the capital of France?")) < 0.5
        for query in ("What may a hotel cost in Oslo?", "How much is the flat rate for meals on the road?"):
            assert index.search(query)[0].relevance > 0.9


def test_it_does_not_depend_on_how_the_hits_are_ordered(embedder: Embedder) -> None:
    """Fused here, by Qdrant, with feedback or boosted: the same passage is as relevant to the same question."""
    found = []
    for name in ("fast", "fused by Qdrant", "feedback", "boosted"):
        with Index(embedder, config=CONFIGS[name]) as index:
            index.add([Document(key, text) for key, text in HANDBOOK.items()])
            found.append({hit.chunk.id: hit.relevance for hit in index.search("When is a sick note due?", k=10)})
    assert all(other == pytest.approx(found[0], abs=1e-4) for other in found[1:])


def test_a_background_is_measured_alike_and_again_after_writes(embedder: Embedder) -> None:
    documents = [Document(name, text) for name, text in HANDBOOK.items()]
    with Index(embedder) as index, Index(embedder) as again:
        index.add(documents)
        again.add(documents[::-1])
        first = index.background()
        assert first == again.background()
        assert index.background() is first
        index.add([Document("new", "The canteen opens at noon."), Document("more", "Tea is free.")])
        assert index.background().chunks == first.chunks + 2
    assert first.sampled == first.chunks <= SAMPLE


def test_an_empty_collection_and_one_chunk(embedder: Embedder) -> None:
    with Index(embedder) as index:
        assert index.search("anything").hits == ()
        assert 0 < index.background().deviation < 1
        index.add([Document("leave", HANDBOOK["leave"])])
        assert index.search("How many days of leave do I have?")[0].relevance > 0.5
        assert index.search("Who won the world cup in 2014?")[0].relevance < 0.5


def test_the_greatest_score_is_that_of_a_chunk_full_of_every_term() -> None:
    scheme = LexicalScheme(context=(), neighbours=0.0, b=0.0)
    query = LexicalEncoder(scheme).encode_query("ferry harbour")
    counts = dict(zip(query.indices.tolist(), (3, 0), strict=True))
    background = Background(0.2, 0.1, chunks=10, sampled=10, frequencies=counts)
    # Two terms count as two of three.
    expected = 1.5 * (scheme.k + 1) * (np.log(1 + 7.5 / 3.5) + np.log(1 + 10.5 / 0.5))
    assert background.greatest(query, scheme.k) == pytest.approx(expected)
    sampled = replace(background, chunks=100)
    assert sampled.greatest(query, scheme.k) == pytest.approx(
        1.5 * (scheme.k + 1) * (np.log(1 + 70.5 / 30.5) + np.log(1 + 100.5 / 0.5))
    )
    nothing = SparseVector(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
    assert background.greatest(nothing, scheme.k) == 0


def test_relevance_is_a_share_that_grows_with_either_evidence() -> None:
    background = Background(0.2, 0.1, 10, 10, {})
    values = [background.relevance(similarity, 0.1) for similarity in np.linspace(-1, 1, 30)]
    assert values == sorted(values)
    assert 0 <= values[0] < 0.01 < 0.99 < values[-1] <= 1
    shares = [background.relevance(0.4, share) for share in (0.0, 0.1, 0.3, 1.0, 7.0)]
    assert shares == sorted(shares)
    assert shares[-1] == shares[-2]
    assert background.relevance(1e9, None) <= 1


def test_warming_up_opens_measures_and_copies(embedder: Embedder, tmp_path: Path) -> None:
    with Index(embedder, path=tmp_path) as index:
        index.add([Document("leave", HANDBOOK["leave"])])
        assert index.warm_up() is index
        assert index._background is not None
        other = copy.deepcopy(index)
        assert other._background is None
        assert other.search("leave")[0].relevance == index.search("leave")[0].relevance
        other.close()
