"""A collection compares vectors as their model was trained to be compared: by cosine, or by the dot product."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import models

from situate.chunkers import Document
from situate.embedders import Embedder, Family
from situate.retrievers import DocumentSignals, Index, PipelineConfig
from situate.retrievers.index.payload import DENSE, DOCUMENT, QUESTIONS

DOT = Family(name="dot", source="this test", normalize=False, similarity="dot", max_tokens=128)
DOCUMENTS = [
    Document("a", "Bees make honey out of nectar."),
    Document("b", "A beehive holds a queen, workers and drones, and combs of wax full of honey and pollen."),
    Document("c", "The committee met on Tuesday."),
]


@pytest.fixture
def bare(tmp_path: Path, minilm_path: str) -> Path:
    """The weights and the tokenizer alone, so that only a record defines how vectors are compared."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(minilm_path) / name, folder)
    return folder


@pytest.mark.parametrize(("family", "distance"), [(None, models.Distance.COSINE), (DOT, models.Distance.DOT)])
def test_the_collection_compares_as_the_model_was_trained(bare, minilm_path, family, distance) -> None:
    embedder = Embedder(minilm_path if family is None else bare, family=family, dtype="float32")
    config = replace(PipelineConfig.plain(), document=DocumentSignals(dense=1e-9, lexical=0.0), questions=1e-9)
    with Index(embedder, config=config) as index:
        index.add(DOCUMENTS)
        stored = index.client.get_collection(index.collection).config.params.vectors
        assert {name: params.distance for name, params in stored.items()} == dict.fromkeys(
            (DENSE, DOCUMENT, QUESTIONS), distance
        )
    with Index(embedder, config=PipelineConfig.plain()) as index:
        index.add(DOCUMENTS)
        hits = index.search("Who makes honey?", k=3).hits
    query = embedder.embed_queries(["Who makes honey?"])[0]
    vectors = embedder.embed_documents([document.text for document in DOCUMENTS])
    scores = {document.id: float(vector @ query) for document, vector in zip(DOCUMENTS, vectors, strict=True)}
    assert [hit.chunk.document_id for hit in hits] == sorted(scores, key=lambda name: -scores[name])
    if family is not None:
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).min() > 0.1
        # A query is searched for as a unit vector: its length changes no order. The documents' lengths stay.
        ratios = np.array([hit.score / scores[hit.chunk.document_id] for hit in hits])
        np.testing.assert_allclose(ratios, 1 / np.linalg.norm(query), rtol=1e-4)
    assert embedder.fingerprint.get("similarity") == (None if family is None else "dot")
