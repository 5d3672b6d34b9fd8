"""An embedder is its settings: one frozen value that makes it again, that is compared, copied and pickled."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from situate.embedders import ChunkScheme, Embedder, EmbedderSettings, Extension
from situate.embedders.pairs.cross_encoder import CrossEncoderModel
from situate.errors import InputError
from situate.integrations.langchain import SituateEmbeddings
from situate.integrations.llama_index import SituateEmbedding

ALL: dict[str, Any] = {
    "model": "all-MiniLM-L6-v2",
    "query_instruction": "query: ",
    "document_instruction": "passage: ",
    "scheme": ChunkScheme(late=True),
    "dimensions": 64,
    "pooling": "max",
    "layers": 2,
    "device": ["cpu", "cpu"],
    "dtype": "float32",
    "adapters": {"law": "somewhere", "tax": "elsewhere"},
    "adapter": "law",
    "query_adapter": "tax",
    "extension": "ntk",
    "max_tokens": 128,
    "on_overflow": "window",
    "revision": "main",
    "trust_remote_code": True,
    "allow_pickle": True,
}


def test_the_settings_are_the_arguments_field_by_field() -> None:
    arguments = list(inspect.signature(Embedder.__init__).parameters)[1:]
    assert arguments == [field.name for field in dataclasses.fields(EmbedderSettings)]
    settings = Embedder(**ALL).settings
    once = {"device": ("cpu", "cpu"), "adapters": tuple(ALL["adapters"].items()), "extension": Extension("ntk")}
    assert {name: getattr(settings, name) for name in ALL} == {**ALL, **once}


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_embedder_is_made_again_from_its_settings(again: Any) -> None:
    embedder = Embedder(query_instruction="query: ", max_tokens=64, dtype="float32")
    vectors = embedder.embed_queries(["Who waits?"])
    for other in (again(embedder), Embedder.from_settings(embedder.settings)):
        assert other.settings == embedder.settings
        assert other.fingerprint == embedder.fingerprint
        np.testing.assert_array_equal(other.embed_queries(["Who waits?"]), vectors)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dimensions", 0),
        ("layers", -1),
        ("max_tokens", 0),
        ("pooling", "median"),
        ("dtype", "int4"),
        ("on_overflow", "cut"),
        ("bidirectional", "no"),
        ("trust_remote_code", "no"),
        ("allow_pickle", 0),
        ("routing_weight", "0.5"),
    ],
)
def test_a_value_that_no_model_could_have_is_refused_at_once(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} .*{value}"):
        Embedder(**{name: value})
    with pytest.raises(InputError, match=f"{name} .*{value}"):
        dataclasses.replace(EmbedderSettings(), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("dimensions", 2.5), ("dimensions", True), ("layers", True), ("max_tokens", "64"), ("task", 5)]
)
def test_a_value_of_another_type_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name}.*{value}"):
        Embedder(**{name: value})
    if not isinstance(value, str):  # which pydantic reads as a number
        for kind in (SituateEmbedding, SituateEmbeddings):
            with pytest.raises(ValidationError, match=name):
                kind(**{name: value})


def test_int8_beside_an_encoder_is_refused() -> None:
    with pytest.raises(InputError, match="dtype belong"):
        Embedder(dtype="int8", encoder=Embedder(dtype="float32").encoder)


def test_weights_are_rounded_in_one_way() -> None:
    with pytest.raises(InputError, match="rounds the weights itself"):
        Embedder(dtype="int8", weights="int4")


def test_what_a_model_may_run_is_asked_in_so_many_words() -> None:
    with pytest.raises(InputError, match="trust_remote_code is 'false'"):
        CrossEncoderModel(trust_remote_code="false")  # type: ignore[arg-type]


def test_no_device_is_refused() -> None:
    with pytest.raises(InputError, match="device is an empty list"):
        Embedder(device=[])
