"""Every public class copies, pickles, and refuses a parameter that it does not have by naming the one it has."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from situate.embedders import (
    ChunkScheme,
    CrossEncoderModel,
    DuoT5Model,
    Embedder,
    EmbedderSettings,
    Encoder,
    Extension,
    Family,
    Int8Quantizer,
    LibraryEncoder,
    LoadOptions,
    MonoT5Model,
    MultiVectorEmbedder,
    SpanText,
    SparseEmbedder,
    family_of,
    resolve_model,
)
from situate.errors import InputError, UnknownArgumentError

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MADE: dict[str, Callable[[], Any]] = {
    "Embedder": lambda: Embedder(query_instruction="q: ", scheme=ChunkScheme(late=True), adapters={"law": "folder"}),
    "Embedder over another encoder": lambda: Embedder(MODEL, encoder=Encoder(MODEL, device="cpu")),
    "Encoder": lambda: Encoder(MODEL, extension="ntk", max_tokens=600),
    "LibraryEncoder": lambda: LibraryEncoder(MODEL, corpus=["a", "b"]),
    "MultiVectorEmbedder": lambda: MultiVectorEmbedder("colbert-ir/colbertv2.0"),
    "SparseEmbedder": lambda: SparseEmbedder("naver/splade-v3"),
    "CrossEncoderModel": lambda: CrossEncoderModel("BAAI/bge-reranker-v2-m3"),
    "MonoT5Model": lambda: MonoT5Model("castorini/monot5-base-msmarco"),
    "DuoT5Model": lambda: DuoT5Model("castorini/duot5-base-msmarco"),
}
VALUES: dict[str, Callable[[], Any]] = {
    "EmbedderSettings": lambda: Embedder(adapters={"law": "folder"}, extension="yarn").settings,
    "Family": lambda: family_of("intfloat/e5-base-v2"),
    "FewShotFamily": lambda: family_of("BAAI/bge-en-icl"),
    "ChunkScheme": lambda: ChunkScheme(late=True, context=("title",)),
    "Extension": lambda: Extension("self", neighbours=40),
    "LoadOptions": lambda: LoadOptions("main", trust_remote_code=True),
    "SpanText": lambda: SpanText("a text", ((0, 1),)),
    "ResolvedModel": resolve_model,
}
AGAIN = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda made: pickle.loads(pickle.dumps(made))}


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("name", MADE)
def test_every_class_copies_and_pickles_as_its_configuration(name: str, again: str) -> None:
    made = MADE[name]()
    other = AGAIN[again](made)
    assert type(other) is type(made)
    assert other is not made
    assert repr(other) == repr(made)
    assert len(pickle.dumps(other)) < 5_000


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("name", VALUES)
def test_every_value_copies_and_pickles_as_itself(name: str, again: str) -> None:
    made = VALUES[name]()
    other = AGAIN[again](made)
    assert other == made
    assert hash(other) == hash(made)


@pytest.mark.parametrize("again", AGAIN)
def test_what_is_in_use_copies_without_its_model_and_computes_the_same(again: str) -> None:
    encoder = Encoder(MODEL, device="cpu", dtype="float32")
    (used,) = encoder.encode([SpanText("Who waits?")])
    (other,) = AGAIN[again](encoder).encode([SpanText("Who waits?")])
    np.testing.assert_array_equal(used.vectors, other.vectors)
    quantizer = Int8Quantizer.fit(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    np.testing.assert_array_equal(AGAIN[again](quantizer).low, quantizer.low)


@pytest.mark.parametrize(
    ("cls", "unknown", "right"),
    [
        (Embedder, "model_name", "model"),
        (Embedder, "model_name_or_path", "model"),
        (Embedder, "max_length", "max_tokens"),
        (Embedder, "max_seq_length", "max_tokens"),
        (Embedder, "query_prefix", "query_instruction"),
        (Embedder, "text_instruction", "document_instruction"),
        (Embedder, "truncate_dim", "dimensions"),
        (Embedder, "torch_dtype", "dtype"),
        (Embedder, "normalize_embeddings", "family"),
        (Embedder, "pooling_mode", "pooling"),
        (Embedder, "query_instructions", "query_instruction"),
        (EmbedderSettings, "model_name", "model"),
        (Encoder, "normalize_embeddings", "normalize"),
        (Encoder, "batch_size", "batch_tokens"),
        (LibraryEncoder, "max_length", "max_tokens"),
        (MultiVectorEmbedder, "model_name", "model"),
        (SparseEmbedder, "model_name", "model"),
        (CrossEncoderModel, "model_name", "model"),
        (CrossEncoderModel, "max_length", "max_tokens"),
        (MonoT5Model, "model_name", "model"),
        (DuoT5Model, "torch_dtype", "dtype"),
        (Family, "query_prefix", None),
        (Extension, "neighbors", "neighbours"),
        (ChunkScheme, "window_size", "window"),
    ],
)
def test_an_unknown_parameter_names_the_right_one(cls: Any, unknown: str, right: str | None) -> None:
    with pytest.raises(UnknownArgumentError, match=cls.__name__) as raised:
        cls("x", **{unknown: 1})
    assert isinstance(raised.value, InputError)
    assert right is None or f"(here it is {right}=)" in str(raised.value)
