"""Late-interaction and learned sparse models: sentence-transformers' results, in arrays, without blocking."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers

from situate.embedders import MultiVectorEmbedder, SparseEmbedder
from situate.errors import InputError, ModelError, ModelNotFoundError, TruncationWarning, UnsafeModelError

TEXTS = ["the cat sat on the mat .", "berlin !", "", "old river runs"]
QUERIES = ["the cat", "berlin !", "", "river"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def colbert(colbert_path: Path) -> Path:
    return colbert_path


@pytest.fixture
def splade(splade_path: Path) -> Path:
    return splade_path


def test_a_library_that_is_too_old_is_named(splade, monkeypatch):
    monkeypatch.delattr(sentence_transformers, "MultiVectorEncoder", raising=False)
    with pytest.raises(ModelError, match=r"has no MultiVectorEncoder: install 6\.0 or newer"):
        MultiVectorEmbedder(splade, device="cpu").embed_query_tokens(QUERIES)


async def test_token_vectors_are_the_librarys(colbert):
    from sentence_transformers import MultiVectorEncoder

    reference = MultiVectorEncoder(str(colbert), device="cpu")
    embedder = MultiVectorEmbedder(colbert, device="cpu", dtype="float32")
    queries, documents = embedder.embed_query_tokens(QUERIES), embedder.embed_document_tokens(TEXTS)
    for found, wanted in (
        (queries, reference.encode_query(QUERIES, convert_to_numpy=True)),
        (documents, reference.encode_document(TEXTS, convert_to_numpy=True)),
        (await embedder.aembed_query_tokens(QUERIES), queries),
        (await embedder.aembed_document_tokens(TEXTS), documents),
    ):
        assert [m.shape for m in found] == [m.shape for m in wanted]
        for one, two in zip(found, wanted, strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, two, atol=1e-5)
    assert all(matrix.shape == (8, 16) for matrix in queries)
    assert embedder.dimension == 16
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(documents), axis=1), 1, atol=1e-5)


def test_punctuation_has_no_document_vectors(colbert):
    embedder = MultiVectorEmbedder(colbert, device="cpu", dtype="float32")
    with_mark, without = embedder.embed_document_tokens(["berlin !", "berlin"])
    assert with_mark.shape == without.shape


def test_a_cut_gives_a_warning(colbert):
    embedder = MultiVectorEmbedder(colbert, device="cpu", dtype="float32")
    # Twenty words, two special tokens, and a marker that this vocabulary reads as three.
    with pytest.warns(TruncationWarning, match=r"1 of 2 texts are longer than the 12 tokens .* lost 13 tokens"):
        embedder.embed_document_tokens(["cat " * 20, "cat"])
    with pytest.warns(TruncationWarning, match=r"1 of 2 texts are longer than the 8 tokens .* lost 17 tokens"):
        embedder.embed_query_tokens(["cat " * 20, "cat"])


async def test_sparse_vectors_are_the_librarys(splade):
    from sentence_transformers import SparseEncoder

    reference = SparseEncoder(str(splade), device="cpu").encode(TEXTS, convert_to_sparse_tensor=False).numpy()
    embedder = SparseEmbedder(splade, device="cpu", dtype="float32")
    for found in (
        embedder.embed_documents(TEXTS),
        embedder.embed_queries(TEXTS),
        await embedder.aembed_documents(TEXTS),
        await embedder.aembed_queries(TEXTS),
    ):
        for vector, wanted in zip(found, reference, strict=True):
            dense = np.zeros(embedder.dimension, dtype=np.float32)
            dense[vector.indices] = vector.values
            np.testing.assert_allclose(dense, wanted, atol=1e-5)
            assert (np.diff(vector.indices) > 0).all()
            assert (vector.values > 0).all()


def test_only_the_largest_numbers_are_kept(splade):
    whole = SparseEmbedder(splade, device="cpu", dtype="float32").embed_documents(TEXTS[:1])[0]
    few = SparseEmbedder(splade, device="cpu", dtype="float32", max_active=3).embed_documents(TEXTS[:1])[0]
    assert len(few.values) == 3
    np.testing.assert_allclose(np.sort(few.values), np.sort(whole.values)[-3:], atol=1e-6)


def test_a_cut_of_a_sparse_text_gives_a_warning(splade):
    with pytest.warns(TruncationWarning, match="24 tokens"):
        SparseEmbedder(splade, device="cpu", dtype="float32").embed_documents(["cat " * 40])


@pytest.mark.parametrize("kind", [MultiVectorEmbedder, SparseEmbedder])
def test_both_pickle_as_configuration_and_load_late(kind, colbert, splade):
    path = colbert if kind is MultiVectorEmbedder else splade
    embedder = kind(path, device="cpu", dtype="float32")
    call = "embed_document_tokens" if kind is MultiVectorEmbedder else "embed_documents"
    assert getattr(embedder, call)([]) == []
    copy = pickle.loads(pickle.dumps(embedder))
    assert copy.fingerprint == embedder.fingerprint
    assert len(getattr(copy, call)(TEXTS)) == len(TEXTS)
    with pytest.raises(InputError, match="give a list"):
        getattr(embedder, call)("text")
    missing = kind("nobody/no-such-model")
    with pytest.raises(ModelNotFoundError):
        getattr(missing, call)(["x"])
    with pytest.raises(InputError, match="batch_size is 0"):
        kind(path, batch_size=0)


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(UnsafeModelError, match="allow_pickle=True"):
        MultiVectorEmbedder(tmp_path).embed_query_tokens(["x"])
