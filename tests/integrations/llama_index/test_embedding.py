"""The embedding on real weights: roles, batches, async, configuration, and the nodes that a pipeline skips."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from situate.embedders import Embedder
from situate.errors import InputError
from situate.integrations.llama_index import LateChunkingNodeParser, SituateEmbedding

TEXTS = ["The travel desk books trains.", "Lunch is at noon.", "", "Reports are due on Friday. " * 20]


def test_queries_and_documents_are_embedded_in_their_roles() -> None:
    model = SituateEmbedding(query_instruction="query: ", document_instruction="passage: ", device="cpu")
    embedder = Embedder(query_instruction="query: ", document_instruction="passage: ", device="cpu")
    np.testing.assert_allclose(model.get_query_embedding(TEXTS[0]), embedder.embed_queries(TEXTS[:1])[0], atol=1e-5)
    np.testing.assert_allclose(model.get_text_embedding_batch(TEXTS), embedder.embed_documents(TEXTS), atol=1e-5)
    assert not np.allclose(model.get_query_embedding(TEXTS[0]), model.get_text_embedding(TEXTS[0]), atol=1e-3)


def test_plain_python_floats(embed_model: SituateEmbedding) -> None:
    for vector in (embed_model.get_query_embedding("x"), *embed_model.get_text_embedding_batch(["x", "y"])):
        assert len(vector) == 384
        assert all(type(value) is float for value in vector)
    assert embed_model.get_text_embedding_batch([]) == []


async def test_async_says_the_same(embed_model: SituateEmbedding) -> None:
    def close(one: Any, other: Any) -> None:
        np.testing.assert_allclose(one, other, atol=1e-5)

    close(await embed_model.aget_query_embedding(TEXTS[0]), embed_model.get_query_embedding(TEXTS[0]))
    close(await embed_model.aget_text_embedding(TEXTS[0]), embed_model.get_text_embedding(TEXTS[0]))
    close(await embed_model.aget_text_embedding_batch(TEXTS), embed_model.get_text_embedding_batch(TEXTS))
    nodes = [TextNode(text=text) for text in TEXTS]
    await embed_model.acall(nodes)
    close([node.embedding for node in nodes], embed_model.get_text_embedding_batch(TEXTS))


async def test_the_event_loop_goes_on(ticking: Any) -> None:
    model = SituateEmbedding(device="cpu", dtype="float32", max_tokens=128)  # loads its weights in the first call
    _, ticks = await ticking(model.aget_text_embedding_batch([f"{TEXTS[3]} {i}" for i in range(96)]))
    assert ticks > 20


def test_a_batch_is_one_call(embed_model: SituateEmbedding, events: Any) -> None:
    texts = [f"text {i}" for i in range(300)]
    embed_model.get_text_embedding_batch(texts)
    assert [len(event.chunks) for event in events.of("EmbeddingEndEvent")] == [300]


@pytest.mark.skipif(not hasattr(BaseEmbedding, "to_payload"), reason="before 0.14.23 they are shown all of to_dict")
def test_observers_see_no_more_than_this(events: Any) -> None:
    model = SituateEmbedding(query_instruction="secret wording: ", device="cpu")
    model.get_query_embedding("x")
    [event] = events.of("EmbeddingStartEvent")
    assert event.model_dict == {
        "class_name": "SituateEmbedding",
        "model_name": "sentence-transformers/all-MiniLM-L6-v2",
        "embed_batch_size": 2048,
    }


def test_pickles_as_its_configuration() -> None:
    model = SituateEmbedding(query_instruction="query: ", device="cpu")
    before = model.get_query_embedding("hello")
    data = pickle.dumps(model)
    assert len(data) < 3000
    again = pickle.loads(data)
    assert again.to_dict() == model.to_dict()
    np.testing.assert_allclose(again.get_query_embedding("hello"), before, atol=1e-5)


def test_configuration_is_json_and_comes_back() -> None:
    model = SituateEmbedding(max_tokens=64, dtype="float32", embed_batch_size=7)
    again = SituateEmbedding.from_dict(json.loads(json.dumps(model.to_dict())))
    assert again.to_dict() == model.to_dict()
    assert again.embedder.max_tokens == 64


def test_around_an_embedder_of_ones_own() -> None:
    embedder = Embedder(max_tokens=32, device="cpu")
    model = SituateEmbedding.from_embedder(embedder, embed_batch_size=5)
    assert isinstance(model, BaseEmbedding)
    assert model.embed_batch_size == 5
    assert model.embedder is embedder
    np.testing.assert_allclose(model.get_text_embedding("x"), embedder.embed_documents(["x"])[0], atol=1e-5)
    again = pickle.loads(pickle.dumps(model))
    assert again.embedder.max_tokens == 32
    other = SituateEmbedding.from_embedder(Embedder(max_tokens=16, device="cpu"))
    assert other.to_dict() != model.to_dict(), "a pipeline's cache goes by this"
    with pytest.raises(ValueError, match="from_embedder"):
        SituateEmbedding.from_dict(model.to_dict()).get_text_embedding("x")


def test_a_cache_that_mixes_roles_is_refused() -> None:
    SituateEmbedding(embeddings_cache=SimpleKVStore(), device="cpu").get_text_embedding("symmetric")
    with pytest.raises(ValueError, match="a query would get a document's vector"):
        SituateEmbedding(embeddings_cache=SimpleKVStore(), query_instruction="query: ")


def parsed(embed_model: SituateEmbedding) -> list[TextNode]:
    from llama_index.core import Document

    parser = LateChunkingNodeParser(embed_model=embed_model, chunk_size=16)
    document = Document(text="It pays 180 euros. " * 3 + "Above that the head signs. " * 3, id_="d")
    return [node for node in parser([document]) if isinstance(node, TextNode)]


def test_finished_nodes_are_left_alone(embed_model: SituateEmbedding, events: Any) -> None:
    nodes = parsed(embed_model)
    late = [node.embedding for node in nodes]
    assert len(nodes) > 2
    plain = TextNode(text="plain")
    assert embed_model([*nodes, plain])[-1] is plain
    assert [node.embedding for node in nodes] == late
    assert events.embedded() == ["plain"]
    assert plain.embedding is not None


@pytest.mark.parametrize("change", ["text", "model", "inherited", "none"])
def test_unfinished_nodes_are_embedded(embed_model: SituateEmbedding, events: Any, change: str) -> None:
    node = parsed(embed_model)[0]
    model = embed_model
    match change:
        case "text":
            node.set_content("Redacted.")
        case "model":
            model = SituateEmbedding(document_instruction="passage: ", device="cpu")
        case "inherited":
            node = TextNode(text="new", embedding=node.embedding)
        case "none":
            node.embedding = None
    model([node])
    shown = node.get_content(metadata_mode=MetadataMode.EMBED)
    assert events.embedded() == [shown]
    np.testing.assert_allclose(node.embedding, model.get_text_embedding(shown), atol=1e-5)
    # A plain embedding is not taken for a late vector the next time.
    node.embedding = [0.0] * 384
    model([node])
    assert any(node.embedding)


def test_options_of_the_model_reach_the_embedder(minilm_path: str) -> None:
    cut = SituateEmbedding(model_name=minilm_path, layers=2, dimensions=64, dtype="float32")
    wanted = Embedder(minilm_path, layers=2, dimensions=64, dtype="float32").embed_queries(["mill"])[0]
    np.testing.assert_allclose(cut.get_query_embedding("mill"), wanted, atol=1e-6)
    assert cut.embedder.fingerprint["layers"] == 2
    adapted = SituateEmbedding(model_name=minilm_path, adapters={"legal": "/nowhere"}, adapter="tax")
    with pytest.raises(InputError, match="adapter 'tax' is not known"):
        _ = adapted.embedder
