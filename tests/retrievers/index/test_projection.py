"""Dense vectors searched by projections to fewer numbers: fitted on the collection, kept in it, scored again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from situate.embedders import Embedder
from situate.errors import FallbackWarning, IncompatibleIndexError, InputError, StorageError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.index import projection
from situate.retrievers.index.compression import Codes, Compression
from situate.retrievers.index.payload import CODES, DENSE
from situate.retrievers.index.projection import Centre, Projection
from situate.retrievers.search.gateway import ClientGateway
from situate.retrievers.search.hybrid import HybridSearch
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.storage.edge import EdgeClient, bind_tenant, prepare_for_tenants
from situate.types import Document
from situate.vectors import unit
from tests.crowded import Crowded
from tests.retrievers.index.test_compression import QUERIES, TEXTS

SHORT = PipelineConfig(lexical=None, compression="pca:96")
LEAST = projection.least
DOCUMENTS = [Document(str(i), text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32")


@pytest.fixture(scope="module")
def rows(embedder: Embedder) -> np.ndarray:
    return embedder.embed_documents(TEXTS)


@pytest.fixture(scope="module")
def index(embedder: Embedder) -> Iterator[Index]:
    """An index that fitted its projection on the first 200 chunks or so, and got the others later."""
    with pytest.MonkeyPatch.context() as patch, EdgeClient() as client:
        patch.setattr(projection, "least", lambda size: 200)
        made = Index(embedder, client=client, config=SHORT)
        made.add(DOCUMENTS[:100])
        assert made.gateway.codes is None, "too few to fit one on"
        assert made.search(QUERIES[0]).hits
        made.add(DOCUMENTS[100:])
        assert made.gateway.codes is not None
        yield made


def stored(index: Index, name: str) -> dict[int, Any]:
    records = index.client.scroll(index.collection, limit=1000, with_payload=True, with_vectors=[name])[0]
    rows = {int((r.payload or {})["document_id"]): r.vector for r in records}
    return {i: row[name] for i, row in rows.items() if isinstance(row, dict) and name in row}


def test_it_keeps_dot_products_best() -> None:
    random = np.random.default_rng(0)
    rows = (random.normal(size=(60, 5)) @ random.normal(size=(5, 20))).astype(np.float32)
    whole = Projection.fit(rows, 5)
    np.testing.assert_allclose(whole(rows) @ whole(rows).T, rows @ rows.T, rtol=0.02, atol=0.3)
    _, _, right = np.linalg.svd(rows, full_matrices=False)
    cut = Projection.fit(rows, 3)
    np.testing.assert_allclose(np.abs(np.sum(cut.matrix * right[:3].T, axis=0)), 1, atol=2e-3)
    few = Projection.fit(rows[:2], 8)  # beyond the rank of the sample
    np.testing.assert_allclose(few.matrix.T @ few.matrix, np.eye(8), atol=5e-3)
    np.testing.assert_array_equal(Projection.from_json(cut.to_json(), (20, 3)).matrix, cut.matrix)
    for wrong in (cut.to_json(), Projection(cut.matrix * np.float32(np.nan)).to_json()):
        with pytest.raises(StorageError, match="in place of \\(3, 20\\), or some that are not finite"):
            Projection.from_json(wrong, (3, 20))


def test_every_chunk_has_its_code_and_few_hits_are_lost(index: Index, embedder: Embedder, rows: np.ndarray) -> None:
    codes = index.gateway.codes
    assert codes is not None
    short, whole = stored(index, CODES), stored(index, DENSE)
    assert short.keys() == whole.keys() == set(range(len(TEXTS)))
    for i in (0, 150, len(TEXTS) - 1):
        np.testing.assert_allclose(short[i], unit(codes.coder(np.array(whole[i], dtype=np.float32))), atol=1e-5)
    recall = []
    for query in QUERIES:
        cosines = rows @ embedder.embed_queries([query])[0]
        hits = {int(hit.chunk.document_id): hit.score for hit in index.search(query, 10)}
        assert hits == pytest.approx({i: float(cosines[i]) for i in hits}, abs=1e-5), "scored again by the vectors"
        recall.append(len(hits.keys() & set(np.argsort(-cosines)[:10].tolist())) / 10)
    assert np.mean(recall) >= 0.95


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_binary_codes_are_signs_less_the_mean_of_the_collection(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shift: float
) -> None:
    """Vectors that lie around one direction, as those of E5 do, are found as well as others."""
    monkeypatch.setattr(projection, "least", lambda size: 200)
    crowded = Embedder(encoder=Crowded(embedder.encoder, shift))
    rows = crowded.embed_documents(TEXTS)
    config = PipelineConfig(lexical=None, compression="binary", oversampling=6.0)
    with Index(crowded, path=tmp_path, config=config) as first:
        first.add(DOCUMENTS[:100])
        assert first.gateway.codes is None, "too few for a mean"
        first.add(DOCUMENTS[100:300])
        codes = first.gateway.codes
        assert codes is not None
        first.add(DOCUMENTS[300:])
        short = stored(first, CODES)
        assert len(short) == len(TEXTS)
        for i in (0, 250, len(TEXTS) - 1):
            np.testing.assert_allclose(short[i], unit(codes.coder(rows[i])), atol=2e-3)
        vectors = first.client.get_collection(first.collection).config.params.vectors
        assert isinstance(vectors, dict)
        assert vectors[CODES].on_disk
        first.client.update_collection(
            first.collection, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10)
        )
        assert first.client.optimize(first.collection)  # type: ignore[attr-defined]
    with Index(crowded, path=tmp_path, config=PipelineConfig(lexical=None, oversampling=None)) as again:
        assert again.open().config.compression == "binary"
        kept = again.gateway.codes
        assert kept is not None
        np.testing.assert_array_equal(kept.coder(rows), codes.coder(rows))
        signs = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=False))
        points = again.client.query_points(
            again.collection, codes.coder(rows[7]), using=CODES, limit=3, search_params=signs
        ).points
        assert points[0].score > 2, "of signs, not of cosines"
    with Index(crowded, path=tmp_path, config=config) as again:
        recall = []
        for query in QUERIES:
            cosines = rows @ crowded.embed_queries([query])[0]
            hits = {int(hit.chunk.document_id): hit.score for hit in again.search(query, 10)}
            assert hits == pytest.approx({i: float(cosines[i]) for i in hits}, abs=1e-5), "scored again by the vectors"
            recall.append(len(hits.keys() & set(np.argsort(-cosines)[:10].tolist())) / 10)
        assert np.mean(recall) >= 0.95
        with (
            Index(crowded, client=again.client, config=replace(config, compression="int8")) as wrong,
            pytest.raises(IncompatibleIndexError, match="made with compression='binary', not with 'int8'"),
        ):
            wrong.open()


def test_few_hits_are_found_among_as_many_candidates_by_signs_as_a_hundred() -> None:
    def candidates(limit: int, oversampling: float | None = None) -> tuple[int, int]:
        compression = Compression("binary", oversampling=oversampling)
        asked = Codes(Centre(np.zeros(4, dtype=np.float32)), compression).query(np.ones(4, dtype=np.float32), limit)
        (first,) = asked["prefetch"]
        return first.limit, round(first.limit * first.params.quantization.oversampling)

    assert candidates(10) == candidates(20) == (100, 800)
    assert candidates(100) == (200, 800)
    assert candidates(300) == (600, 2400)
    assert candidates(10, oversampling=2.0) == (20, 20)


def test_a_lost_vector_of_codes_is_named(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "least", lambda size: 40)
    config = PipelineConfig(lexical=None, compression="binary")
    with EdgeClient() as client:
        Index(embedder, client=client, config=config).add(DOCUMENTS[:50])
        client.delete_vector_name("situate", CODES)
        with pytest.raises(StorageError, match=f"has lost its vector '{CODES}', the codes of compression='binary'"):
            Index(embedder, client=client, config=config).open()


def test_points_whose_segment_has_no_signs_are_found(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scores are cosines, those of others sums of signs, which are far greater."""
    monkeypatch.setattr(projection, "least", lambda size: 100)
    config = PipelineConfig(lexical=None, compression="binary")
    with EdgeClient(auto_optimize=False) as client:
        index = Index(embedder, client=client, config=config)
        index.open()
        client.update_collection("situate", optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10))
        index.add(DOCUMENTS[:300])
        assert client.optimize("situate")
        index.add(DOCUMENTS[300:])
        for i in (0, 150, 299, 300, 350, len(TEXTS) - 1):
            assert index.search(TEXTS[i], 1)[0].chunk.document_id == str(i)
        (query,) = embedder.embed_queries([TEXTS[350]])
        assert index.gateway.codes is not None
        ((first, *_),) = index.gateway.batch([models.QueryRequest(**index.gateway.codes.query(query, 1), limit=1)])
        assert first.score == pytest.approx(1.0, abs=1e-5)


def test_binary_for_a_collection_without_codes_takes_the_signs_as_they_are(embedder: Embedder) -> None:
    with EdgeClient() as client:
        Index(embedder, client=client, config=PipelineConfig(lexical=None)).add(DOCUMENTS[:3])
        for name in ("binary", None, "binary"):
            opened = Index(embedder, client=client, config=PipelineConfig(lexical=None, compression=name))
            assert opened.open().config.compression == "signs"
            assert opened.search(TEXTS[1], 1)[0].chunk.document_id == "1"
            opened.add(DOCUMENTS[3:5])
        more = Index(
            embedder,
            client=client,
            config=PipelineConfig(lexical=None, compression="binary", signals=({"kind": "muvera"},)),  # type: ignore[arg-type]
        )
        with pytest.warns(match="lack the signals"):
            more.open()
        more.fill_signals()
        vectors = client.get_collection("situate").config.params.vectors
        assert isinstance(vectors, dict)
        assert vectors.keys() == {DENSE, "muvera"}
        # Its fingerprint names no compression, as those of collections do that earlier versions made.
        for name in ("binary", "int8", None):
            config = PipelineConfig(lexical=None, compression=name, signals=more.config.signals)
            assert Index(embedder, client=client, config=config).open().count() == 5


def test_codes_alone_score_as_the_projections_do(index: Index, embedder: Embedder, rows: np.ndarray) -> None:
    alone = Index(embedder, client=index.client, config=replace(SHORT, rescore=False))
    hits = {int(hit.chunk.document_id): hit.score for hit in alone.search(QUERIES[1], 10)}
    codes = alone.gateway.codes
    assert codes is not None
    scores = unit(codes.coder(rows)) @ unit(codes.coder(embedder.embed_queries([QUERIES[1]])[0]))
    assert hits == pytest.approx({int(i): float(scores[i]) for i in np.argsort(-scores)[:10]}, abs=1e-4)


@pytest.mark.parametrize("fusion", ["minmax", "rrf", "dbsf"])
def test_every_fusion_and_every_client_searches_by_them(index: Index, embedder: Embedder, fusion: Any) -> None:
    index.open()
    anywhere = ClientGateway(index.client, index.collection)
    anywhere.codes = index.gateway.codes
    (dense,) = embedder.embed_queries([QUERIES[2]])
    config = replace(SHORT, fusion=fusion)
    every = models.Filter(must=[models.FieldCondition(key="index", range=models.Range(gte=0))])
    for where in (None, every, {"no": "such key"}):
        ours, theirs = (
            [(hit.chunk.id, hit.score) for hit in HybridSearch(gateway, config).search(QueryVectors(dense), 9, where)]
            for gateway in (index.gateway, anywhere)
        )
        assert ours == theirs
        assert bool(ours) == (where is None or where is every)


async def test_beside_bm25_dense_scores_are_exact(embedder: Embedder, rows: np.ndarray) -> None:
    query = "a chemist lost an engine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "least", lambda size: 100)
        with Index(embedder, config=PipelineConfig(compression="pca:96")) as made:
            made.add(DOCUMENTS[:110])
            assert made.gateway.codes is not None
            hits = made.search(query, 5).hits
            assert (await made.asearch(query, 5)).hits == hits
    (asked,) = embedder.embed_queries([query])
    dense = {int(hit.chunk.document_id): hit.scores["dense"] for hit in hits}
    assert dense == pytest.approx({i: float(rows[i] @ asked) for i in dense}, abs=1e-5)
    assert any("bm25" in hit.scores for hit in hits)


def test_it_is_kept_in_the_collection(embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "least", lambda size: 200)
    with Index(embedder, path=tmp_path, config=SHORT) as first:
        first.add(DOCUMENTS[:220])
        matrix = first.gateway.codes.coder.matrix  # type: ignore[union-attr]
        # As a crash, or a writer that did not know of the projection, leaves it.
        id_ = first.client.scroll(first.collection, limit=1)[0][0].id
        first.client.delete_vectors(first.collection, [CODES], [id_])
        assert len(stored(first, CODES)) == 219
    with Index(embedder, path=tmp_path, config=PipelineConfig(lexical=None)) as again:  # names no compression
        assert again.open().config.compression == "pca:96"
        np.testing.assert_array_equal(again.gateway.codes.coder.matrix, matrix)  # type: ignore[union-attr]
        assert len(stored(again, CODES)) == 220
        again.add(DOCUMENTS[220:230])
        assert len(stored(again, CODES)) == 230
        name, kept = again.collection, dict(again._collection().projection() or {})
        damaged = {"situate_projection": {**kept, "digest": "0"}}
        again.client.update_collection(name, metadata=damaged)
    with Index(embedder, path=tmp_path, config=SHORT) as broken, pytest.raises(StorageError, match="is damaged"):
        broken.open()
    for other in ("pca:32", "int8"):
        config = replace(SHORT, compression=other)
        with (
            Index(embedder, path=tmp_path, config=config) as wrong,
            pytest.raises(IncompatibleIndexError, match="pca:96"),
        ):
            wrong.open()


def test_writers_that_fit_at_one_moment_agree_on_one_projection(
    embedder: Embedder, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "least", lambda size: 40)
    made = projection._make_codes
    another = Projection.fit(rows[100:], 16)
    with EdgeClient() as client:
        index = Index(embedder, client=client, config=replace(SHORT, compression="pca:16"))

        def overtaken(*arguments: Any) -> None:
            made(*arguments)
            client.update_collection(index.collection, metadata={"situate_projection": another.to_json()})

        monkeypatch.setattr(projection, "_make_codes", overtaken)
        index.add(DOCUMENTS[:50])
        codes = index.gateway.codes
        assert codes is not None
        np.testing.assert_array_equal(codes.coder.matrix, another.matrix)
        whole, short = stored(index, DENSE), stored(index, CODES)
        assert short.keys() == whole.keys() == set(range(50))
        for i, row in whole.items():
            np.testing.assert_allclose(short[i], unit(another(np.array(row, dtype=np.float32))), atol=1e-3)


@pytest.mark.parametrize("kind", ["pca:16", "binary"])
def test_a_tenant_who_may_keep_none_stores_and_searches_exactly(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(projection, "least", lambda size: 40)
    config = replace(SHORT, compression=kind)
    with EdgeClient() as client:
        with Index(embedder, client=client, config=config) as index:
            index.open()
        prepare_for_tenants(client, "situate", "tenant")
        with Index(embedder, client=bind_tenant(client, "tenant", "a"), config=config) as index:
            with pytest.warns(FallbackWarning, match=f"'{kind}', so that the collection is searched exactly"):
                assert index.add(DOCUMENTS[:50]).added == 50
            assert index.add(DOCUMENTS[50:60]).added == 10
            assert (index.count(), index.gateway.codes) == (60, None)
            assert index.search(TEXTS[3], 1)[0].chunk.document_id == "3"
        assert "situate_projection" not in (client.get_collection("situate").config.metadata or {})


def test_what_cannot_be_is_refused(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="compression='pca:384', but vectors have 384 numbers: project to fewer"):
        Index(embedder, config=replace(SHORT, compression="pca:384")).open()
    index = Index(embedder, config=PipelineConfig(lexical=None))
    index.open()
    short = Index(embedder, client=index.client, config=SHORT)
    with pytest.raises(IncompatibleIndexError, match="made with compression=None, not with 'pca:96'"):
        short.open()
    assert (LEAST(96), LEAST(512)) == (1000, 2048)
    with pytest.raises(StorageError, match="cannot be read"):
        Projection.from_json({"matrix": "%"}, (1,))
