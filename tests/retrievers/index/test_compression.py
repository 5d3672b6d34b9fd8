"""Compressed dense vectors through an index, against exact search of the vectors themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
from qdrant_client import models

from situate.embedders import Embedder
from situate.errors import InputError, SituateWarning
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.index.compression import Compression, CompressionKind, kind_of
from situate.retrievers.index.payload import CODES, DENSE
from situate.retrievers.search.gateway import ClientGateway
from situate.retrievers.search.hybrid import HybridSearch
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.signals.dense import Dense
from situate.retrievers.signals.muvera import Muvera
from situate.retrievers.storage.edge import EdgeClient
from situate.types import Document

WHO = (
    "a nurse",
    "the council",
    "my neighbour",
    "an old sailor",
    "the orchestra",
    "a chemist",
    "two farmers",
    "our bank",
)
DID = ("sold", "repaired", "painted", "lost", "described", "weighed", "inherited", "ordered")
WHAT = ("the bridge", "a violin", "ten apples", "an engine", "his letters", "a vaccine")
TEXTS = [f"{who} {did} {what}." for who, did, what in product(WHO, DID, WHAT)]
QUERIES = ("Who fixed the motor?", "music", "fruit on the market", "medicine", "crossing a river", "a sailor wrote")
PLAIN = PipelineConfig.plain()


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32")


@pytest.fixture(scope="module")
def rows(embedder: Embedder) -> np.ndarray:
    return embedder.embed_documents(TEXTS)


@pytest.fixture(scope="module", params=get_args(CompressionKind))
def index(request: pytest.FixtureRequest, embedder: Embedder) -> Iterator[Index]:
    """An index whose only segment has codes."""
    with EdgeClient(auto_optimize=False) as client:
        made = Index(embedder, client=client, config=replace(PLAIN, compression=request.param))
        made.open()
        client.update_collection("situate", optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10))
        made.add([Document(str(i), text) for i, text in enumerate(TEXTS)])
        assert client.optimize("situate")
        yield made


def found(index: Index, query: str, **changes: Any) -> dict[int, float]:
    """The best ten by an index over the same client whose configuration is changed."""
    other = Index(index.embedder, client=index.client, config=replace(index.config, **changes))
    return {int(hit.chunk.document_id): hit.score for hit in other.search(query, 10)}


def test_scores_are_exact_and_few_hits_are_lost(index: Index, embedder: Embedder, rows: np.ndarray) -> None:
    recall = []
    for query in QUERIES:
        cosines = rows @ embedder.embed_queries([query])[0]
        hits = found(index, query)
        assert hits == pytest.approx({i: float(cosines[i]) for i in hits}, abs=1e-5)
        recall.append(len(hits.keys() & set(np.argsort(-cosines)[:10].tolist())) / 10)
    assert np.mean(recall) >= 0.98


def test_codes_alone_score_otherwise(index: Index, embedder: Embedder, rows: np.ndarray) -> None:
    """Which shows that the searches above go through codes."""
    (query,) = embedder.embed_queries(QUERIES[:1])
    codes = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=False))
    points = index.client.query_points("situate", query, using="dense", limit=10, search_params=codes).points
    scores = [(point.payload or {})["document_id"] for point in points], [point.score for point in points]
    assert scores[1] != pytest.approx([float(rows[int(name)] @ query) for name in scores[0]], abs=1e-4)
    if index.config.compression != "signs":
        assert list(found(index, QUERIES[0], rescore=False, oversampling=None).values()) == pytest.approx(scores[1])


def test_an_index_that_names_no_compression_scores_again(index: Index) -> None:
    other = Index(index.embedder, client=index.client, config=PLAIN)
    assert other.open().config.compression == index.config.compression
    expected = found(index, QUERIES[1])
    assert {int(hit.chunk.document_id): hit.score for hit in other.search(QUERIES[1], 10)} == expected


@pytest.mark.parametrize("fusion", ["minmax", "rrf"])
def test_every_fusion_searches_by_the_same_parameters(index: Index, embedder: Embedder, fusion: Any) -> None:
    """The calls of any client find the same as the embedded engine's own."""
    index.open()
    anywhere = ClientGateway(index.client, "situate")
    anywhere.params = index.gateway.params
    (dense,) = embedder.embed_queries([QUERIES[2]])
    config = replace(index.config, fusion=fusion)
    ours, theirs = (
        [(hit.chunk.id, hit.score) for hit in HybridSearch(gateway, config).search(QueryVectors(dense), 10)]
        for gateway in (index.gateway, anywhere)
    )
    assert ours == theirs
    assert ours


def test_the_compression_of_a_stored_collection_changes(embedder: Embedder) -> None:
    def kinds(client: EdgeClient) -> dict[str, str | None]:
        vectors = client.get_collection("situate").config.params.vectors
        assert isinstance(vectors, dict)
        assert all(v.on_disk is (kind_of(v) is not None or None) for v in vectors.values())
        return {name: kind_of(params) for name, params in vectors.items()}

    with EdgeClient() as client:
        Index(embedder, client=client, config=PLAIN).add([Document("a", TEXTS[0])])
        assert kinds(client) == {"dense": None}
        for kind in get_args(CompressionKind):
            changed = Index(embedder, client=client, config=replace(PLAIN, compression=kind))
            assert [hit.chunk.text for hit in changed.search("nurse", 3)] == TEXTS[:1]
            assert kinds(client) == {"dense": kind}
        second = Dense(Embedder(dtype="float32", document_instruction="fact: "), weight=0.5)
        more = Index(embedder, client=client, config=replace(PLAIN, compression="int8", signals=(second,)))
        with pytest.warns(match="lack the signals"):
            more.open()
        more.fill_signals()
        assert kinds(client) == {"dense": "int8", "dense_2": "int8"}


def test_encodings_of_muvera_take_int8_alone(embedder: Embedder) -> None:
    """Their codes lose nothing as int8 (docs/signals.md); other forms were not measured, and leave them whole."""
    for kind in ("int8", "signs"):
        config = PipelineConfig(compression=kind, signals=(Muvera(repetitions=2, bits=2),))
        with Index(embedder, config=config) as made:
            made.add([Document("a", TEXTS[0])])
            assert "muvera" in made.search("nurse")[0].scores
            vectors = made.client.get_collection(made.collection).config.params.vectors
            assert isinstance(vectors, dict)
            assert (kind_of(vectors["dense"]), kind_of(vectors["muvera"])) == (kind, kind if kind == "int8" else None)


def test_one_parameter_in_both_frameworks(embedder: Embedder) -> None:
    from langchain_core.documents import Document as LangChainDocument
    from llama_index.core import Document as LlamaDocument

    from situate.integrations.langchain import SituateDocumentIndex, SituateEmbeddings, SituateRetriever
    from situate.integrations.llama_index import SituateEmbedding, SituateRetriever as LlamaRetriever

    embeddings = SituateEmbeddings(model="sentence-transformers/all-MiniLM-L6-v2")
    by_chain = SituateRetriever.from_documents(
        [LangChainDocument(page_content=TEXTS[0])], embeddings, compression="binary"
    )
    assert by_chain.invoke("nurse")[0].page_content == TEXTS[0]
    by_llama = LlamaRetriever.from_documents(
        [LlamaDocument(text=TEXTS[0])],
        embed_model=SituateEmbedding("sentence-transformers/all-MiniLM-L6-v2"),
        compression="binary",
    )
    assert by_llama.retrieve("nurse")[0].text == TEXTS[0]
    by_index = SituateDocumentIndex(embedding=embeddings, compression="binary")
    for index in (by_chain.index, by_llama.index, by_index.index):
        vectors = index.client.get_collection(index.collection).config.params.vectors
        assert isinstance(vectors, dict)
        assert {name: kind_of(params) for name, params in vectors.items()} == {DENSE: None, CODES: "signs"}


def test_signs_of_vectors_around_one_direction_are_warned_of() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)
    spread, crowded = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, rows + 2))
    with pytest.warns(SituateWarning, match="signs hardly differ: compression='signs'"):
        Compression("signs").check_vectors(crowded)
    Compression("signs").check_vectors(spread)
    Compression("binary").check_vectors(crowded)
    Compression("int8").check_vectors(crowded)


def test_what_cannot_be_is_refused() -> None:
    for unknown in ("zip", "pca", "pca:0", "pca:-4", "pca:half", "pca:99999", "pca:" + "1" * 9999, 8):
        with pytest.raises(InputError, match=f"{unknown!r:.40} is not one of 'binary', 'int8', 'signs', 'product'"):
            PipelineConfig(compression=unknown)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"oversampling=0\.5"):
        PipelineConfig(compression="int8", oversampling=0.5)
    with pytest.raises(InputError, match=r"oversampling=2\.0 with rescore=False"):
        PipelineConfig(compression="int8", rescore=False, oversampling=2.0)
    for kind in ("binary", "signs"):
        with pytest.raises(InputError, match=f"rescore=False with compression='{kind}': its codes add up signs"):
            PipelineConfig(compression=kind, rescore=False)
    with pytest.raises(InputError, match="set compression, too"):
        PipelineConfig(oversampling=2.0)
