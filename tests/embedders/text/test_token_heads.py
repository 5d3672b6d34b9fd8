"""BGE-M3's three heads out of one pass: against FlagEmbedding's formulas, and against the three apart."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from situate.embedders import Embedder, SparseVector
from situate.embedders.local.engine import Engine
from situate.errors import ConventionError, InputError, ModelError, UnsafeModelError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.search.query_vectors import WrittenQuery
from situate.retrievers.types import QueryText
from situate.types import Chunk, Document
from tests.tiny_models import PlainModel, unit

TEXTS = ["the cat sat on the mat", "the old red house in Berlin, the river", "dog"]
PLAIN: Any = {"query_instruction": "", "document_instruction": "", "device": "cpu", "dtype": "float32"}
#: The weights of words and the token vectors of the index's own embedder.
SIGNALS: Any = ({"kind": "sparse", "weight": 0.3}, {"kind": "tokens", "datatype": "float32"})


@pytest.fixture(scope="module")
def embedder(m3_path: Path) -> Embedder:
    return Embedder(str(m3_path), pooling="cls", token_heads=True, allow_pickle=True, **PLAIN)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each pass of a model reads."""
    counted: list[int] = []
    run = Engine._pass

    def counting(engine: Engine, rows: Any) -> None:
        counted.append(len(rows))
        run(engine, rows)

    monkeypatch.setattr(Engine, "_pass", counting)
    return counted


def by_flag_embedding(folder: Path, text: str) -> tuple[np.ndarray, np.ndarray, dict[int, float]]:
    """`BGEM3FlagModel`: the first state; those behind it, projected; the largest weight of each token of the text."""
    model = PlainModel(str(folder))
    states = model.hidden([1, *model.ids(text), 2])
    layers = {name: torch.load(folder / f"{name}_linear.pt", weights_only=True) for name in ("colbert", "sparse")}
    vectors, weights = (states @ own["weight"].numpy().T + own["bias"].numpy() for own in layers.values())
    largest: dict[int, float] = {}
    for token, weight in zip(model.ids(text), np.maximum(weights[1:-1, 0], 0).tolist(), strict=True):
        if weight > 0:
            largest[token] = max(weight, largest.get(token, 0.0))
    return unit(states[0]), np.array([unit(row) for row in vectors[1:]]), largest


def as_dict(vector: SparseVector) -> dict[int, float]:
    return dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))


def test_they_are_those_of_the_models_authors(embedder: Embedder, m3_path: Path) -> None:
    (made,) = embedder.encode_chunks([_document(TEXTS)], token_vectors=True)
    assert made.tokens is not None
    assert made.terms is not None
    asked = embedder.embed_queries_with_heads(TEXTS, TEXTS)
    for i, text in enumerate(TEXTS):
        dense, tokens, terms = by_flag_embedding(m3_path, text)
        for vectors in (made.dense[i], asked[0][i]):
            np.testing.assert_allclose(vectors, dense, atol=2e-5)
        for matrix in (made.tokens[i], asked[1][i]):
            np.testing.assert_allclose(matrix, tokens, atol=2e-5)
        for weights in (made.terms[i], asked[2][i]):
            assert as_dict(weights) == pytest.approx(terms, abs=2e-4)
    assert all(len(as_dict(terms)) for terms in made.terms)


def test_one_pass_gives_what_each_gives_apart(embedder: Embedder, passes: list[int]) -> None:
    """A chunk, or a query, is read once for all three; each alone is the same, bit for bit."""
    (made,) = embedder.encode_chunks([_document(TEXTS)], token_vectors=True)
    assert sum(passes) == len(TEXTS)
    passes.clear()
    rows, tokens, terms = embedder.embed_queries_with_heads(TEXTS[:1], TEXTS[:1])
    assert passes == [1]
    np.testing.assert_array_equal(rows, embedder.embed_queries(TEXTS[:1]))
    np.testing.assert_array_equal(tokens[0], embedder.embed_query_tokens(TEXTS[:1])[0])
    assert as_dict(terms[0]) == as_dict(embedder.embed_terms(TEXTS[:1], "query")[0])
    np.testing.assert_array_equal(made.dense, embedder.embed_documents(TEXTS))
    np.testing.assert_array_equal(made.dense, embedder.encode_chunks([_document(TEXTS)])[0].dense)
    for one, other in zip(made.tokens or (), embedder.embed_document_tokens(TEXTS), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [as_dict(each) for each in made.terms or ()] == [as_dict(each) for each in embedder.embed_terms(TEXTS)]


def test_an_index_stores_and_searches_all_three_by_one_pass_each(embedder: Embedder, passes: list[int]) -> None:
    config = PipelineConfig(lexical=None, signals=SIGNALS)
    with Index(embedder, config=config) as index:
        index.add_chunks([_document(TEXTS)])
        assert sum(passes) == len(TEXTS)
        passes.clear()
        vectors = index._query_encoder.encode(_written(TEXTS[0]))
        assert passes == [1]
        hits = {hit.chunk.text: hit.scores for hit in index.search_vectors(TEXTS[0], vectors, 3)}
    (query,), (asked,) = embedder.embed_terms(TEXTS[:1], "query"), embedder.embed_query_tokens(TEXTS[:1])
    expected: dict[str, dict[str, float]] = {}
    for text in TEXTS:
        (stored,), (rows,) = embedder.embed_terms([text]), embedder.embed_document_tokens([text])
        own = as_dict(stored)
        dot = sum(weight * own.get(token, 0.0) for token, weight in as_dict(query).items())
        dense = float(embedder.embed_queries(TEXTS[:1])[0] @ embedder.embed_documents([text])[0])
        maxsim = float((asked @ rows.T).max(1).sum())
        expected[text] = {"dense": dense, "maxsim": maxsim, **({"sparse": dot} if dot else {})}
    assert sum("sparse" in scores for scores in expected.values()) == 2
    for text, scores in expected.items():
        assert {step: hits[text].get(step) for step in scores} == pytest.approx(scores, rel=1e-4)
        assert ("sparse" in hits[text]) == ("sparse" in scores)


async def test_signals_that_are_filled_in_later_and_asynchronous_queries_are_the_same(
    embedder: Embedder, tmp_path: Path
) -> None:
    config = PipelineConfig(lexical=None, signals=SIGNALS)
    with Index(embedder, config=config) as whole, Index(embedder, path=tmp_path, config=PipelineConfig()) as plain:
        for index in (whole, plain):
            index.add_chunks([_document(TEXTS)])
        expected = [hit.scores for hit in whole.search(TEXTS[0], 3)]
        assert [hit.scores for hit in (await whole.asearch(TEXTS[0], 3))] == expected
    later = PipelineConfig(signals=SIGNALS)
    with Index(embedder, path=tmp_path, config=later) as index:
        with pytest.warns(UserWarning, match="lack the signals"):
            index.open()
        assert index.fill_signals() == len(TEXTS)
        scores = [hit.scores for hit in index.search(TEXTS[0], 3)]
    for own, other in zip(scores, expected, strict=True):
        assert {step: own.get(step) for step in other if step != "fused"} == pytest.approx(
            {step: score for step, score in other.items() if step != "fused"}, abs=1e-5
        )


def test_blank_texts_and_windows(embedder: Embedder) -> None:
    rows, tokens, terms = embedder.embed_queries_with_heads([" "], [" "])
    assert rows.shape == (1, 32)
    assert tokens[0].shape == (0, 32)
    assert len(terms[0].indices) == 0
    (nothing,) = embedder.embed_terms(["the"], "document")
    assert (nothing.values > 0).all()
    changes: Any = {"pooling": "mean", "on_overflow": "window", "max_tokens": 12}
    windowed = Embedder.from_settings(dataclasses.replace(embedder.settings, **changes))
    long = " ".join(TEXTS)
    (matrix,) = windowed.embed_document_tokens([long])
    assert len(matrix) == len(windowed.tokenizer.encode(long, add_special_tokens=False).ids) + 1


def test_what_cannot_be_is_refused(embedder: Embedder, m3_path: Path, minilm_path: str, tmp_path: Path) -> None:
    def made(path: Any = m3_path, **more: Any) -> Embedder:
        return Embedder(str(path), **{"pooling": "cls", "token_heads": True, **PLAIN, **more})

    with pytest.raises(UnsafeModelError, match=r"colbert_linear\.pt is a pickle.*allow_pickle=True"):
        made().embed_queries(["a"])
    with pytest.raises(ConventionError, match=r"has no heads of its own over tokens.*leave token_heads out"):
        made(minilm_path).embed_queries(["a"])
    for more in ({"dimensions": 8}, {"query_model": minilm_path}, {"routing_weight": 1.0}):
        with pytest.raises(InputError, match="leave dimensions, routing_weight and query_model out"):
            made(**more)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="token_heads"):
        made(token_heads="yes")
    with pytest.raises(InputError, match=r"the 'sparse' signal needs model='...', because Embedder"):
        Index(Embedder(minilm_path), config=PipelineConfig(signals=SIGNALS[:1]))
    with pytest.raises(InputError, match=r"prune=0.5 of 'tokens': token_heads"):
        Index(embedder, config=PipelineConfig(signals=({"kind": "tokens", "prune": 0.5},)))  # type: ignore[arg-type]
    broken = shutil.copytree(m3_path, tmp_path / "broken")
    torch.save({"weight": torch.zeros(3, 32), "bias": torch.zeros(3)}, broken / "colbert_linear.pt")
    with pytest.raises(ModelError, match=r"holds weight \(3, 32\), bias \(3,\), but a layer of 32 -> 32 numbers"):
        made(broken, allow_pickle=True).embed_queries(["a"])
    assert "token vectors and weights of words by its own heads" in embedder.describe()
    assert embedder.fingerprint == {**made(token_heads=False).fingerprint, "token_heads": True}


def _document(texts: list[str]) -> Any:
    document = Document("d", "\n".join(texts))
    ends = np.cumsum([len(text) + 1 for text in texts])
    spans = [(int(end) - 1 - len(text), int(end) - 1) for text, end in zip(texts, ends, strict=True)]
    return document, [Chunk.of(document, i, start, end) for i, (start, end) in enumerate(spans)]


def _written(text: str) -> Any:
    return WrittenQuery(text, [QueryText(text)])
