"""The map of queries: its gradients, that it learns what can be learnt, and that it is loaded by both frameworks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import Document as LlamaDocument

from situate.chunkers import Document
from situate.embedders import Embedder
from situate.embedders.models.query_map import QueryMap
from situate.errors import InputError
from situate.integrations.langchain import SituateEmbeddings, SituateRetriever as LangChainRetriever
from situate.integrations.llama_index import SituateEmbedding, SituateRetriever as LlamaIndexRetriever
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation.comparison import Comparison
from situate.retrievers.fit import fit
from situate.retrievers.fit.adapter import Lists, _loss, fitted_map, lists
from situate.retrievers.fit.report import Fit
from situate.vectors import unit


def turned(seed: int, questions: int, dimension: int = 16) -> Lists:
    """Queries that lie where a rotation of some dimensions has put them, and the passages they would be nearest to."""
    draw = np.random.default_rng(seed)
    passages = unit(draw.normal(size=(questions, 12, dimension)).astype(np.float32))
    rotation = np.eye(dimension)
    rotation[:4, :4] = np.linalg.qr(np.random.default_rng(9).normal(size=(4, 4)))[0]
    queries = unit((passages[:, 0] @ rotation).astype(np.float32))
    targets = np.zeros((questions, 12))
    targets[:, 0] = 1
    kept = np.ones((questions, 12), dtype=bool)
    kept[:, -1] = False
    return Lists(queries, passages, targets, kept)


def test_gradients_are_those_of_the_loss() -> None:
    data = turned(0, 5)
    draw = np.random.default_rng(1)
    weights = [draw.normal(0, 0.3, (16, 3)), draw.normal(0, 0.3, (3, 16))]
    _, gradients = _loss(data, *weights)
    for place in (0, 1):
        for row, column in ((0, 0), (2, 1)):
            sides = []
            for step in (1e-5, -1e-5):
                changed = [w.copy() for w in weights]
                changed[place][row, column] += step
                sides.append(_loss(data, *changed)[0])
            assert gradients[place][row, column] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-3, abs=1e-7)


def test_what_can_be_learnt_is_learnt_and_noise_is_not() -> None:
    moved, unseen = fitted_map(turned(0, 300)), turned(5, 200)
    assert moved is not None

    def right(queries: Any) -> float:
        scores = np.einsum("qd,qcd->qc", queries, unseen.passages)[:, :-1]
        return float((scores.argmax(axis=1) == 0).mean())

    assert right(moved(unseen.queries)) > right(unseen.queries) + 0.03
    noise = turned(0, 60)
    anywhere = np.eye(12)[np.random.default_rng(2).integers(0, 11, 60)]
    queries = unit(np.random.default_rng(3).normal(size=(60, 16)).astype(np.float32))
    assert fitted_map(Lists(queries, noise.passages, anywhere, noise.kept)) is None


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def test_targets_are_the_order_of_the_teacher(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Cats sleep all day.", "Cats sleep all day long.", "Bread rises in the oven.", "Planes fly high."]
    with Index(embedder, config=PipelineConfig.plain()) as index:
        index.add([Document(f"d{place}", text) for place, text in enumerate(texts)])
        rows = embedder.embed_queries(["Do cats sleep?"])
        found = {hit.chunk.document_id: hit for hit in index.search("Do cats sleep?", 4).hits}
        taught = [replace(found["d2"], score=0.9), replace(found["d0"], score=0.8)]
        data = lists(index, rows, [taught])
        read: list[int] = []
        scroll = index.client.scroll
        monkeypatch.setattr(index.client, "scroll", lambda *a, **k: _noted(scroll(*a, **k), read))
        monkeypatch.setattr("situate.retrievers.fit.adapter._NEAREST", 1)
        few = lists(index, rows, [taught])
        assert sum(read) == 2  # of a large collection only candidates are read
        assert np.array_equal(few.passages[0], data.passages[0, :2])
    vectors = embedder.embed_documents([texts[2], texts[0]])
    assert np.allclose(data.passages[0, :2], vectors, atol=1e-3)
    assert data.targets[0, 0] / data.targets[0, 1] == pytest.approx(np.exp(1))
    assert data.targets[0, 2] / data.targets[0, 1] == pytest.approx(np.exp(-8))
    assert data.targets.sum() == pytest.approx(1)
    assert data.kept.all()


def _noted(found: Any, read: list[int]) -> Any:
    read.append(len(found[0]))
    return found


def test_a_map_is_saved_and_loaded_by_both_frameworks(embedder: Embedder, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    down, up = (draw.normal(0, 0.2, shape).astype(np.float32) for shape in ((384, 4), (4, 384)))
    moved = QueryMap(down, up, QueryMap.basis(embedder.fingerprint))
    config = PipelineConfig.fast()
    comparison = Comparison("held back", {"as it was": {"found": np.zeros(3)}})
    Fit(config, moved, config, (), comparison, {"cloze": 3}, 9, 1.0, 1.0).save(tmp_path)
    assert "save() writes" in (tmp_path / "report.md").read_text()
    path = str(tmp_path / "query_map.safetensors")
    expected = moved(embedder.embed_queries(["cats"]))[0]
    lang, llama = SituateEmbeddings(query_adapter=path), SituateEmbedding(query_adapter=path)
    assert np.allclose(lang.embed_query("cats"), expected, atol=1e-3)
    assert np.allclose(llama.get_query_embedding("cats"), expected, atol=1e-3)
    assert np.allclose(llama.get_text_embedding("cats"), embedder.embed_documents(["cats"])[0], atol=1e-3)
    chain = LangChainRetriever.from_documents([LangChainDocument("Cats sleep.")], lang, config=config)
    engine = LlamaIndexRetriever.from_documents([LlamaDocument(text="Cats sleep.")], embed_model=llama, config=config)
    assert [each.page_content for each in chain.invoke("cats")] == [node.text for node in engine.retrieve("cats")]
    with Index(Embedder(query_adapter=path)) as index, pytest.raises(InputError, match="maps queries already"):
        fit(index)
