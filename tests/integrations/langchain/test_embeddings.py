"""`SituateEmbeddings` passes LangChain's standard tests, and keeps roles apart."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from situate.embedders import Embedder
from situate.errors import InputError
from situate.integrations.langchain import SituateEmbeddings


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return SituateEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "sentence-transformers/all-MiniLM-L6-v2"}


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return SituateEmbeddings


def test_plain_embedding_equals_sentence_transformers(embeddings: SituateEmbeddings, minilm_path: str) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["How long is parental leave?", "Sixteen weeks.", ""]
    expected = SentenceTransformer(minilm_path, device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(embeddings.embed_documents(texts), expected, atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_query(texts[0]), expected[0], atol=1e-5)


def test_query_and_document_carry_their_own_instruction(embeddings: SituateEmbeddings) -> None:
    instructed = SituateEmbeddings(dtype="float32", query_instruction="query: ", document_instruction="passage: ")
    np.testing.assert_allclose(instructed.embed_query("leave"), embeddings.embed_query("query: leave"), atol=1e-5)
    np.testing.assert_allclose(
        instructed.embed_documents(["leave"]), embeddings.embed_documents(["passage: leave"]), atol=1e-5
    )


def test_texts_of_one_call_do_not_see_each_other(embeddings: SituateEmbeddings) -> None:
    texts = ["They are unpaid.", "Sabbaticals last three months."]
    together = embeddings.embed_documents(texts)
    np.testing.assert_allclose(together, [embeddings.embed_documents([t])[0] for t in texts], atol=1e-5)


async def test_async_equals_sync_and_lets_the_loop_turn(embeddings: SituateEmbeddings, watched: Any) -> None:
    texts = [f"{number} weeks of leave are granted to parents." for number in range(200)]
    expected = embeddings.embed_documents(texts)
    async with watched():
        vectors = await embeddings.aembed_documents(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(await embeddings.aembed_query("leave"), embeddings.embed_query("leave"), atol=1e-5)


def test_nothing_in_nothing_out(embeddings: SituateEmbeddings) -> None:
    assert embeddings.embed_documents([]) == []


def test_pickles_as_its_configuration(embeddings: SituateEmbeddings) -> None:
    embeddings.embed_query("load the weights")
    data = pickle.dumps(embeddings)
    assert len(data) < 4096
    again = pickle.loads(data)
    assert again.model_dump() == embeddings.model_dump()
    assert again.embed_query("leave") == embeddings.embed_query("leave")


def test_around_an_embedder() -> None:
    embedder = Embedder(dtype="float32")
    around = SituateEmbeddings.from_embedder(embedder)
    assert around.embedder is embedder
    assert around.model == embedder.fingerprint["model"]


def test_misspelt_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="dimension"):
        SituateEmbeddings(dimension=64)  # type: ignore[call-arg]


def test_options_of_the_model_reach_the_embedder(minilm_path: str) -> None:
    cut = SituateEmbeddings(model=minilm_path, layers=2, dimensions=64, dtype="float32")
    wanted = Embedder(minilm_path, layers=2, dimensions=64, dtype="float32").embed_queries(["mill"])[0]
    np.testing.assert_allclose(cut.embed_query("mill"), wanted, atol=1e-6)
    assert cut.embedder.fingerprint["layers"] == 2
    adapted = SituateEmbeddings(model=minilm_path, adapters={"legal": "/nowhere"}, adapter="tax")
    with pytest.raises(InputError, match="adapter 'tax' is not known"):
        _ = adapted.embedder
