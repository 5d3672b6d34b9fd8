"""Documents by one model, queries by another: who embeds what, and that their spaces are one."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from situate.embedders import Embedder, SpanText
from situate.errors import ConventionError, IncompatibleIndexError, InputError, SituateWarning
from situate.retrievers import Index, PipelineConfig
from situate.types import Document
from tests.conftest import MINILM
from tests.tiny_models import tiny_bert

TEXTS = ["Pears keep for months.", "How long do pears keep?"]
PLAIN = PipelineConfig.plain()


class Turned:
    """The vectors of an encoder in another order of their numbers: a model of an equal space of its own."""

    def __init__(self, embedder: Embedder) -> None:
        self.encoder = embedder.encoder
        self.dimension = embedder.dimension

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Any]:
        return [
            dataclasses.replace(
                one,
                vectors=np.roll(one.vectors, 100, axis=1),
                tokens=None if one.tokens is None else tuple(np.roll(each, 100, axis=1) for each in one.tokens),
            )
            for one in self.encoder.encode(inputs, token_vectors=token_vectors)
        ]

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Any]:
        return self.encode(inputs, token_vectors=token_vectors)


async def test_queries_are_the_query_models_and_documents_the_other_ones() -> None:
    whole, smaller = Embedder(MINILM), Embedder(MINILM, layers=5, query_instruction="ask: ")
    pair = Embedder(MINILM, query_model=smaller)
    for one in (pair, pickle.loads(pickle.dumps(pair))):
        np.testing.assert_array_equal(one.embed_queries(TEXTS), smaller.embed_queries(TEXTS))
        np.testing.assert_array_equal(one.embed_documents(TEXTS), whole.embed_documents(TEXTS))
    assert np.abs(pair.embed_queries(TEXTS) - whole.embed_queries(TEXTS)).max() > 0.01
    np.testing.assert_array_equal(await pair.aembed_queries(TEXTS), smaller.embed_queries(TEXTS))
    np.testing.assert_array_equal(await pair.aembed_documents(TEXTS), whole.embed_documents(TEXTS))
    tokens = smaller.embed_query_tokens(TEXTS)
    for made in (
        pair.embed_query_tokens(TEXTS),
        await pair.aembed_query_tokens(TEXTS),
        pair.embed_queries_with_tokens(TEXTS, TEXTS)[1],
    ):
        np.testing.assert_allclose(made[1], tokens[1], atol=1e-6)
    told, again = pair.instructed("find: "), Embedder(MINILM, layers=5, query_instruction="find: ")
    np.testing.assert_array_equal(told.embed_queries(TEXTS), again.embed_queries(TEXTS))
    assert told.fingerprint == pair.fingerprint
    assert told.query_fingerprint != pair.query_fingerprint


def test_a_query_model_that_is_named_alone_takes_what_is_said_of_queries() -> None:
    pair = Embedder(MINILM, query_model=MINILM, query_instruction="ask: ")
    alone = Embedder(MINILM, query_instruction="ask: ")
    np.testing.assert_array_equal(pair.embed_queries(TEXTS), alone.embed_queries(TEXTS))
    assert "'ask: ⟨text⟩'" in pair.describe()
    assert f"query model {MINILM}" in pair.describe()


def test_the_fingerprint_names_both_and_an_index_refuses_another_pair(tmp_path: Path) -> None:
    pair, alone = Embedder(MINILM, query_model=Embedder(MINILM, layers=5)), Embedder(MINILM)
    assert {**pair.fingerprint, "query_model": None} == {**alone.fingerprint, "query_model": None}
    assert pair.fingerprint["query_model"]["layers"] == 5
    with Index(pair, path=tmp_path, config=PLAIN) as index:
        index.add([Document("pears", TEXTS[0]), Document("rain", "It rained for days.")])
        assert index.search(TEXTS[1], 1).hits[0].chunk.document_id == "pears"
    with Index(alone, path=tmp_path, config=PLAIN) as index, pytest.raises(IncompatibleIndexError, match="query_model"):
        index.search(TEXTS[1])


async def test_vectors_that_cannot_be_compared_are_refused_before_documents_are_embedded(tmp_path: Path) -> None:
    other = Embedder(MINILM, encoder=Turned(Embedder(MINILM)))
    pair = Embedder(MINILM, query_model=other)
    refused = r"finds \d of 8 known passages"
    index = Index(pair, config=PLAIN)
    with pytest.raises(ConventionError, match=refused):
        index.add([Document("pears", TEXTS[0])])
    assert not index.count()
    with pytest.raises(ConventionError, match=refused):
        await pair.aembed_documents(TEXTS)
    with pytest.raises(ConventionError, match=r"finds \d of 8 known passages among the token vectors"):
        pair.embed_document_tokens(TEXTS)
    folder = tiny_bert(tmp_path / "small", "BertModel")
    tiny = Embedder(folder, pooling="mean", query_instruction="", document_instruction="")
    small = Embedder(MINILM, query_model=tiny)
    with pytest.raises(ConventionError, match=r"makes vectors of 32 numbers and '.*' of 384"):
        small.embed_documents(TEXTS)
    dots = dataclasses.replace(Embedder(MINILM).family, similarity="dot", normalize=False)
    with pytest.raises(ConventionError, match=r"compares vectors by dot and '.*' by cosine"):
        Embedder(MINILM, query_model=Embedder(MINILM, family=dots)).fingerprint  # noqa: B018


def test_a_model_that_refuses_the_texts_of_the_check_says_that_it_is_not_checked() -> None:
    short = Embedder(MINILM, max_tokens=8, on_overflow="raise", query_model=Embedder(MINILM))
    with pytest.warns(SituateWarning, match=r"not checked: max_tokens is \d+ and 8"):
        assert len(short.embed_documents(["Pears keep."])) == 1
    assert len(short.embed_documents(["Pears keep."])) == 1


def test_what_belongs_to_one_of_them_is_not_given_to_the_other() -> None:
    queries = Embedder(MINILM)
    with pytest.raises(InputError, match="query_instruction 'ask: ' is given beside an Embedder"):
        Embedder(MINILM, query_model=queries, query_instruction="ask: ")
    with pytest.raises(InputError, match="query_model has a query_model of its own"):
        Embedder(MINILM, query_model=Embedder(MINILM, query_model=MINILM))
    with pytest.raises(InputError, match="query_adapter 'tax' is an adapter of"):
        Embedder(MINILM, query_model=queries, adapters={"tax": "somewhere"}, query_adapter="tax")


def test_both_frameworks_take_a_query_model() -> None:
    from situate.integrations.langchain import SituateEmbeddings
    from situate.integrations.llama_index import SituateEmbedding

    wanted = Embedder(MINILM, query_model=MINILM).query_fingerprint
    for made in (SituateEmbedding(MINILM, query_model=MINILM), SituateEmbeddings(MINILM, query_model=MINILM)):
        assert made.embedder.query_fingerprint == wanted
    with pytest.raises(ValueError, match="embeds queries and documents differently"):
        SituateEmbedding(MINILM, query_model=MINILM, embeddings_cache=_cache())


def _cache() -> Any:
    from llama_index.core.storage.kvstore import SimpleKVStore

    return SimpleKVStore()
