"""Scores out of the metadata equal their formulas, in the embedded engine, beside every kind of fusion."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from situate.chunkers import Document
from situate.embedders import Embedder
from situate.errors import InputError
from situate.retrievers.config import Fusion, PipelineConfig
from situate.retrievers.index.index import Index
from situate.retrievers.search.boosts import PayloadScore, Recency, boost_scores
from situate.retrievers.search.gateway import gateway
from situate.retrievers.storage.ids import point_key

NOW = dt.datetime(2024, 5, 31, tzinfo=dt.UTC)
#: Document -> metadata, and its age in days.
LEAVE = {
    "new": ({"date": "2024-05-31", "reads": 0.1}, 0.0),
    "month": ({"date": "2024-05-01T00:00:00Z", "reads": 0.9}, 30.0),
    "old": ({"date": "2022-05-31T12:00:00+02:00", "reads": 0.5}, 730 + 14 / 24),
    "ahead": ({"date": "2024-06-15", "reads": -1}, 15.0),
    "none": ({}, math.inf),
    "null": ({"date": None, "reads": None}, math.inf),
    "odd": ({"date": "last spring", "reads": "many"}, math.inf),
}


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with Index(Embedder()) as index:
        index.add(
            Document(name, f"The {name} rule on parental leave.", metadata) for name, (metadata, _) in LEAVE.items()
        )
        yield index


def scores(index: Index, *boosts: Recency | PayloadScore) -> dict[str, float]:
    points, _ = index.client.scroll(index.collection, limit=100)
    names = {point_key(point.id): (point.payload or {})["document_id"] for point in points}
    found = boost_scores(gateway(index.client, index.collection), boosts, list(names))
    return {names[point]: score for point, score in found.items()}


@pytest.mark.parametrize("decay", ["exp", "gauss", "linear"])
def test_recency_is_the_formula(index: Index, decay: str) -> None:
    found = scores(index, Recency("date", scale=30, weight=0.5, midpoint=0.25, decay=decay, at=NOW))  # type: ignore[arg-type]
    for name, (_, age) in LEAVE.items():
        expected = {
            "exp": 0.25 ** (age / 30),
            "gauss": 0.25 ** ((age / 30) ** 2),
            "linear": max(0.0, 1 - 0.75 * age / 30),
        }[decay]
        assert found[name] == pytest.approx(0.5 * expected, abs=1e-4), name


def test_a_number_counts_by_its_weight_and_what_is_none_as_missing(index: Index) -> None:
    found = scores(index, PayloadScore("reads", weight=2.0, missing=0.25))
    expected = {"new": 0.2, "month": 1.8, "old": 1.0, "ahead": -2.0, "none": 0.5, "null": 0.5, "odd": 0.5}
    assert found == pytest.approx(expected)


def test_boosts_add_up(index: Index) -> None:
    recency, reads = Recency("date", weight=0.3, at=NOW), PayloadScore("reads", weight=-0.1)
    both, first, second = scores(index, recency, reads), scores(index, recency), scores(index, reads)
    assert both == pytest.approx({name: first[name] + second[name] for name in both})


def test_without_a_date_of_its_own_recency_counts_from_now(index: Index) -> None:
    age = (dt.datetime.now(dt.UTC) - NOW).total_seconds() / 86_400
    assert scores(index, Recency("date", scale=3650, weight=1))["new"] == pytest.approx(0.5 ** (age / 3650), abs=1e-3)


@pytest.mark.parametrize("fusion", ["minmax", "dbsf", "rrf", "dense"])
def test_the_final_score_is_the_search_and_the_boosts(index: Index, fusion: str) -> None:
    plain = PipelineConfig.fast()
    config = replace(plain, lexical=None) if fusion == "dense" else replace(plain, fusion=_fusion(fusion))
    boosts = (Recency("date", scale=30, weight=0.5, at=NOW), PayloadScore("reads", weight=0.1))
    before, after = index.config, replace(config, boosts=boosts)
    try:
        index.config = config
        base = {hit.chunk.document_id: hit.score for hit in index.search("rule on parental leave", k=7)}
        index.config = after
        hits = index.search("rule on parental leave", k=7)
        best = index.search("rule on parental leave", k=2)
    finally:
        index.config = before
    boosted = scores(index, *boosts)
    assert len(hits) == len(LEAVE)
    for hit in hits:
        name = hit.chunk.document_id
        assert hit.score == pytest.approx(base[name] + boosted[name], abs=1e-4)
        assert hit.scores["boost"] == pytest.approx(boosted[name], abs=1e-4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert [hit.chunk.document_id for hit in best] == [hit.chunk.document_id for hit in hits][:2]


def _fusion(name: str) -> Fusion:
    found: dict[str, Fusion] = {"minmax": "minmax", "dbsf": "dbsf", "rrf": "rrf"}
    return found[name]


def test_boosts_decide_no_stored_vector() -> None:
    plain = PipelineConfig.fast()
    assert replace(plain, boosts=(Recency("date"),)).stored() == plain.stored()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Recency(""),
        lambda: Recency("date", scale=0),
        lambda: Recency("date", midpoint=1),
        lambda: Recency("date", weight=math.nan),
        lambda: Recency("date", at=dt.datetime(2024, 1, 1)),
        lambda: Recency("date", decay="step"),
        lambda: PayloadScore("reads", weight=math.inf),
        lambda: PayloadScore("reads", missing=math.nan),
    ],
)
def test_arguments_that_make_no_sense(build: object) -> None:
    with pytest.raises(InputError):
        build()  # type: ignore[operator]
