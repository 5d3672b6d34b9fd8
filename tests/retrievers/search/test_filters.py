"""Conditions over metadata select the right points, on the embedded engine."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from enum import Enum
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from situate.embedders import Embedder
from situate.errors import InputError
from situate.retrievers.index.index import Index
from situate.types import Document


class Year(Enum):
    LAST = 2021


class Title(Enum):
    TRAVEL = "Handbook of travel"


METADATA: dict[str, dict[str, Any]] = {
    "a": {"year": 2020, "f": 3.0, "file name": "x", "Invoice No.": 7, "a/b": "y", "it's": "z", "tags": ["red", "blue"]},
    "b": {"year": 2021, "f": 3, "paid": True, "day": "2024-02-01T10:00:00+00:00", "nested": {"deep": "q"}},
    "c": {"year": 2022, "f": 3.5, "paid": False, "title": "Handbook of travel", "none": None, "at": time(9, 30)},
}


@pytest.fixture(scope="module")
def index() -> Index:
    index = Index(Embedder(device="cpu"))
    index.add(Document(name, f"The same words in {name}.", metadata) for name, metadata in METADATA.items())
    return index


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({}, "abc"),
        ({"year": 2020}, "a"),
        ({"year": 2020.0}, "a"),
        ({"f": 3}, "ab"),
        ({"f": 3.0}, "ab"),
        ({"f": [3, 3.5]}, "abc"),
        ({"file name": "x"}, "a"),
        ({"Invoice No.": 7}, "a"),
        ({"a/b": "y"}, "a"),
        ({"it's": "z"}, "a"),
        ({"nested.deep": "q"}, "b"),
        ({"tags": "red"}, "a"),
        ({"tags": ["blue", "none"]}, "a"),
        ({"paid": True}, "b"),
        ({"paid": [True, False]}, "bc"),
        ({"none": None, "year": 2022}, "c"),
        ({"year": {"$gt": 2020}}, "bc"),
        ({"year": {"$gte": 2020, "$lt": 2022}}, "ab"),
        ({"year": {"$lte": 2020.5}}, "a"),
        ({"year": {"$ne": 2020}}, "bc"),
        ({"year": {"$eq": 2021}}, "b"),
        ({"year": {"$in": [2020, 2022]}}, "ac"),
        ({"year": {"$in": []}}, ""),
        ({"$or": []}, ""),
        ({"$and": []}, "abc"),
        ({"year": 2**63}, ""),
        ({"year": 10**400}, ""),
        ({"year": {"$lt": 10**400}}, "abc"),
        ({"year": {"$lt": -(10**400)}}, ""),
        ({"year": [10**400, 2021]}, "b"),
        ({"title": "\ud800"}, ""),
        ({"by\ud800": 1}, ""),
        ({"year": {"$nin": [2020, 2022]}}, "b"),
        ({"year": {"$not": {"$gt": 2020}}}, "a"),
        ({"paid": {"$exists": True}}, "bc"),
        ({"paid": {"$exists": False}}, "a"),
        ({"title": {"$like": "%of tra%"}}, "c"),
        ({"title": {"$text": "HANDBOOK"}}, "c"),
        ({"day": {"$gt": "2024-01-31"}}, "b"),
        ({"day": {"$lte": datetime(2024, 2, 1, 10, tzinfo=UTC)}}, "b"),
        ({"day": {"$lt": date(2024, 2, 1)}}, ""),
        ({"day": {"$gte": np.datetime64("2024-02-01T10:00:00", "ns")}}, "b"),
        ({"year": Year.LAST}, "b"),
        ({"title": {"$in": [Title.TRAVEL]}}, "c"),
        ({"at": time(9, 30)}, "c"),
        ({"$or": [{"year": 2020}, {"paid": True}]}, "ab"),
        ({"$and": [{"f": 3}, {"year": {"$gt": 2020}}]}, "b"),
        ({"$not": {"$or": [{"year": 2020}, {"paid": True}]}}, "c"),
        ({"f": 3, "$or": [{"year": 2020}, {"year": 2022}]}, "a"),
        (models.Filter(must=[models.FieldCondition(key="title", match=models.MatchText(text="handbook"))]), "c"),
        (models.Filter(must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=2020))]), "a"),
        (models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="paid"))]), "bc"),
        (models.Filter(should=[models.FieldCondition(key="document_id", match=models.MatchValue(value="b"))]), "b"),
        (
            models.Filter(
                must=[models.Filter(should=[models.FieldCondition(key="year", range=models.Range(gte=2021))])],
                min_should=models.MinShould(
                    conditions=[models.FieldCondition(key="paid", match=models.MatchValue(value=True))], min_count=1
                ),
            ),
            "b",
        ),
    ],
    ids=repr,
)
def test_conditions_find_what_they_say(index: Index, conditions: Any, found: str) -> None:
    hits = index.search("the same words", k=9, filter=conditions)
    assert sorted({hit.chunk.document_id for hit in hits}) == sorted(found)


@pytest.mark.parametrize(
    ("conditions", "named"),
    [
        ({"year": {"$over": 3}}, r"'\$over'"),
        ({"year": {"$gt": "later"}}, "ISO 8601"),
        ({"year": {"$gt": True}}, "ISO 8601"),
        ({"year": {"$in": "2020"}}, "a list"),
        ({"year": {"$exists": 1}}, "True or False"),
        ({"year": {}}, "empty"),
        pytest.param({"year": object()}, "'year'", id="an object"),
        ({"title": {"$like": "a%b"}}, "at its ends"),
        ({"$xor": []}, r"'\$xor'"),
        ({2020: 1}, "the key 2020"),
        ({"$or": {"a": 1}}, "a list of conditions"),
        ({'a"b': 1}, "quotation mark"),
        ("year", "a mapping"),
    ],
    ids=repr,
)
def test_impossible_requests_are_refused_by_name(index: Index, conditions: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        index.search("the same words", filter=conditions)


def test_conditions_nested_without_end_are_refused(index: Index) -> None:
    endless: dict[str, Any] = {"year": 2020}
    for _ in range(5_000):
        endless = {"$not": endless}
    with pytest.raises(InputError, match="levels deep"):
        index.search("the same words", filter=endless)


@pytest.mark.parametrize("depth", [101, 1_000])
def test_a_filter_of_qdrants_nested_without_end_is_refused(index: Index, depth: int) -> None:
    where = models.Filter(must=[models.FieldCondition(key="year", match=models.MatchValue(value=2020))])
    for _ in range(depth):
        where = models.Filter(must=[where])
    with pytest.raises(InputError, match="nests more than 100 filters"):
        index.search("words", filter=where)
