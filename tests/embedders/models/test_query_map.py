"""A map of queries: what it computes, that it is kept whole, and that it serves only the vectors it was fitted for."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from situate.embedders import Embedder
from situate.embedders.models.query_map import QueryMap
from situate.errors import ConventionError, InputError, ModelNotFoundError

TEXTS = ["How long is parental leave?", "Who books hotels?"]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture
def moved(embedder: Embedder) -> QueryMap:
    draw = np.random.default_rng(0)
    down, up = (draw.normal(0, 0.2, shape).astype(np.float32) for shape in ((384, 8), (8, 384)))
    return QueryMap(down, up, QueryMap.basis(embedder.fingerprint))


def test_it_moves_queries_and_keeps_their_length(moved: QueryMap) -> None:
    rows = np.random.default_rng(1).normal(size=(3, 384)).astype(np.float32)
    whole = np.eye(384) + moved.down.astype(np.float64) @ moved.up
    expected = rows @ whole
    expected *= np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(moved(rows), expected, atol=1e-5)
    assert np.array_equal(moved(np.zeros((1, 384), dtype=np.float32)), np.zeros((1, 384)))


async def test_an_embedder_moves_queries_alone(embedder: Embedder, moved: QueryMap, tmp_path: Path) -> None:
    path = moved.save(tmp_path / "deep" / "map.safetensors")
    mapped = pickle.loads(pickle.dumps(Embedder(query_adapter=path)))
    plain = embedder.embed_queries(TEXTS)
    assert np.allclose(mapped.embed_queries(TEXTS), moved(plain), atol=1e-3)
    assert not np.allclose(mapped.embed_queries(TEXTS), plain, atol=0.05)
    assert np.allclose(await mapped.aembed_queries(TEXTS), moved(plain), atol=1e-3)
    rows, tokens = mapped.embed_queries_with_tokens(TEXTS, TEXTS)
    assert np.allclose(rows, moved(plain), atol=1e-3)
    assert np.allclose(tokens[0], embedder.embed_query_tokens(TEXTS)[0], atol=1e-3)
    assert np.allclose(mapped.embed_documents(TEXTS), embedder.embed_documents(TEXTS), atol=1e-3)
    # One collection serves both; their queries are told apart.
    assert mapped.fingerprint == embedder.fingerprint
    assert mapped.query_fingerprint != embedder.query_fingerprint
    assert np.array_equal(mapped.using(None).embed_queries(TEXTS), plain)
    assert str(path) in mapped.describe()


def test_what_it_was_not_fitted_for_is_refused(moved: QueryMap, tmp_path: Path) -> None:
    path = moved.save(tmp_path / "map.safetensors")
    with pytest.raises(ConventionError, match=r"pooling='mean' \(now 'cls'\)"):
        Embedder(pooling="cls", query_adapter=path).embed_queries(TEXTS)
    with pytest.raises(ModelNotFoundError, match="is no file"):
        Embedder(query_adapter=tmp_path / "none.safetensors").embed_queries(TEXTS)
    (tmp_path / "other.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ConventionError, match="no map of queries"):
        QueryMap.load(tmp_path / "other.safetensors")
    from safetensors.numpy import save_file

    save_file({"down": np.zeros((4, 2), dtype=np.float32)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ConventionError, match="no map of queries"):
        QueryMap.load(tmp_path / "foreign.safetensors")
    for number, about in enumerate(("5", "[]", "null", "[" * 100_000)):
        file = tmp_path / f"hostile{number}.safetensors"
        save_file({"down": moved.down, "up": moved.up}, file, metadata={"situate_query_map": about})
        with pytest.raises(ConventionError, match=r"no map of queries|what it was fitted for"):
            QueryMap.load(file)
    with pytest.raises(InputError, match="holds float32"):
        QueryMap(moved.down.astype(np.int8), moved.up.astype(np.int8))
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        moved.save(tmp_path / "map.npz")
    with pytest.raises(InputError, match="dimension, rank"):
        QueryMap(moved.down, moved.down)
    with pytest.raises(InputError, match="'lora' is not known"):
        Embedder(query_adapter="lora")
