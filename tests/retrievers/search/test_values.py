"""The room's public values and objects copy and pickle as their configuration, and refuse unknown parameters."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from situate.embedders import Embedder
from situate.retrievers import Feedback, Index, LexicalScheme, PipelineConfig, QueryVectors
from situate.retrievers.config import DocumentSignals
from situate.retrievers.index.documents import IndexReport
from situate.retrievers.index.lexical import LexicalEncoder, SparseVector
from situate.retrievers.search.boosts import PayloadScore, Recency
from situate.retrievers.search.query_vectors import WrittenQuery
from situate.retrievers.search.relevance import Background
from situate.retrievers.types import Hit, QueryText, SearchResult
from situate.types import Chunk

HIT = Hit(Chunk("c", "d", 0, "text", 0, 4), 0.5, {"dense": 0.5}, 0.9)
VALUES: dict[str, Any] = {
    "config": replace(PipelineConfig.quality(), boosts=(Recency("date"), PayloadScore("reads")), keys=("year",)),
    "lexical": LexicalScheme(language="german", terms=1),
    "feedback": Feedback(2, 0.5),
    "document signals": DocumentSignals(0.2, 0.1),
    "report": IndexReport(added=1, skipped=("a",), refused=("b",)),
    "background": Background(0.2, 0.1, 10, 10, {1: 2}),
    "hit": HIT,
    "result": SearchResult("q", (HIT,)),
    "text": QueryText("words", "document", 0.5),
}
ARRAYS: dict[str, Any] = {
    "vectors": QueryVectors(np.ones(2, dtype=np.float32), SparseVector(np.arange(2), np.ones(2, dtype=np.float32))),
    "written": WrittenQuery("q", [QueryText("q")]),
    "encoder": LexicalEncoder(LexicalScheme()),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_copy_and_pickle_as_equals(name: str) -> None:
    value = VALUES[name]
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value


@pytest.mark.parametrize("name", ARRAYS)
def test_objects_copy_and_pickle(name: str) -> None:
    for again in (pickle.loads(pickle.dumps(ARRAYS[name])), copy.deepcopy(ARRAYS[name])):
        assert type(again) is type(ARRAYS[name])


@pytest.mark.parametrize("made", [*VALUES.values(), *ARRAYS.values()], ids=[*VALUES, *ARRAYS])
def test_unknown_parameters_are_refused(made: Any) -> None:
    with pytest.raises(TypeError, match="no_such_parameter"):
        type(made)(no_such_parameter=1)


def test_an_index_copies_and_pickles_as_its_settings(tmp_path: Path) -> None:
    index = Index(Embedder(), path=tmp_path / "store", collection="c", config=PipelineConfig.plain())
    for again in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert (again.path, again.collection, again.config) == (index.path, "c", index.config)
        assert again.count() == 0
        again.close()
    with pytest.raises(TypeError, match="no_such_parameter"):
        Index(Embedder(), no_such_parameter=1)  # type: ignore[call-arg]
