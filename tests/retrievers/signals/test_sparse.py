"""Learned sparse vectors through an index, against the library's own dot products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SparseEncoder

from situate.embedders import Embedder, SparseEmbedder
from situate.errors import InputError, ModelNotFoundError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.signals.base import Batch, signal_from_json
from situate.retrievers.signals.sparse import Sparse
from situate.types import Document

TEXTS = {"cat": "the cat sat on the mat .", "river": "old river runs .", "house": "red house , old city"}
QUERY = "the old cat"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32")


@pytest.fixture(scope="module")
def model(splade_path: Path) -> SparseEmbedder:
    return SparseEmbedder(splade_path, device="cpu", dtype="float32")


def scores(embedder: Embedder, signal: Sparse) -> dict[str, float]:
    with Index(embedder, config=PipelineConfig(lexical=None, signals=(signal,))) as index:
        index.add([Document(name, text) for name, text in TEXTS.items()])
        return {hit.chunk.document_id: hit.scores["sparse"] for hit in index.search(QUERY, 3)}


def test_scores_are_the_librarys(embedder: Embedder, model: SparseEmbedder, splade_path: Path) -> None:
    reference = SparseEncoder(str(splade_path), device="cpu")
    query = reference.encode_query([QUERY], convert_to_sparse_tensor=False).numpy()[0]
    rows = reference.encode_document(list(TEXTS.values()), convert_to_sparse_tensor=False).numpy()
    assert scores(embedder, Sparse(model)) == pytest.approx(dict(zip(TEXTS, (rows @ query).tolist(), strict=True)))
    # Of a chunk the largest numbers stay, of the query all.
    cut = np.where(rows >= np.sort(rows, 1)[:, -5:-4], rows, 0)
    assert scores(embedder, Sparse(model, max_active=5)) == pytest.approx(
        dict(zip(TEXTS, (cut @ query).tolist(), strict=True))
    )


def test_a_query_by_its_tokens_is_read_by_no_network(embedder: Embedder, model: SparseEmbedder) -> None:
    counted = model.count_tokens(["old old cat", ""])
    assert counted[0].values.tolist() == [1, 2]
    assert len(counted[1].indices) == 0
    assert model.count_tokens([]) == []
    weights = [
        dict(zip(v.indices.tolist(), v.values.tolist(), strict=True))
        for v in model.embed_documents(list(TEXTS.values()))
    ]
    (query,) = model.count_tokens([QUERY])
    expected = {
        name: sum(own.get(i, 0.0) for i in query.indices.tolist()) for name, own in zip(TEXTS, weights, strict=True)
    }
    found = scores(embedder, Sparse(model, query_by="tokens"))
    assert found == pytest.approx({name: score for name, score in expected.items() if name in found})


def test_the_context_is_read_too(embedder: Embedder, model: SparseEmbedder) -> None:
    from situate.types import Chunk

    document = Document("d", TEXTS["cat"], {"title": "berlin river"})
    batch = Batch([(document, [Chunk.of(document, 0, 0, len(document.text))])], embedder, [])
    ((with_title,),) = Sparse(model).encode(batch)
    ((without,),) = Sparse(model, context=()).encode(batch)
    assert with_title is not None
    assert without is not None
    assert with_title.values.tolist() == model.embed_documents(["berlin river\n" + TEXTS["cat"]])[0].values.tolist()
    assert without.values.tolist() == model.embed_documents([TEXTS["cat"]])[0].values.tolist()


def test_signals_that_name_one_model_hold_it_once(splade_path: Path) -> None:
    one, two = (signal_from_json({"kind": "sparse", "model": str(splade_path), "name": name}) for name in "ab")
    assert isinstance(one, Sparse)
    assert isinstance(two, Sparse)
    assert one.embedder is two.embedder


def test_what_cannot_be_is_refused(model: SparseEmbedder, embedder: Embedder) -> None:
    with pytest.raises(InputError, match="the 'sparse' signal needs model"):
        Index(embedder, config=PipelineConfig(signals=("sparse",)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a Embedder is no model for this signal: give a SparseEmbedder, or a"):
        Sparse(embedder)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_active=0"):
        Sparse(model, max_active=0)
    with pytest.raises(InputError, match="query_by='both'"):
        Sparse(model, query_by="both")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds a SparseEmbedder, which JSON cannot: name the model"):
        Sparse(model).to_json()
    absent = Index(embedder, config=PipelineConfig(signals=(Sparse("no/such-model"),)))
    with pytest.raises(ModelNotFoundError, match="no/such-model"):
        absent.open()
