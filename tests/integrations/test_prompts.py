"""A language model as an embedder, by one parameter in both frameworks and in `situate.yaml`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from situate.configuration import load
from situate.embedders import Embedder
from situate.errors import InputError
from situate.integrations.langchain import SituateEmbeddings
from situate.integrations.llama_index import SituateEmbedding
from situate.retrievers import Index, PipelineConfig
from situate.types import Document

TEXT = "the cat sat on a mat"


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": "eol"},
        {"prompts": {"name": "eol", "prepend": [1, 2]}},
        {"prompts": {"templates": ['"{text}" is {task}:"'], "task": "about"}},
        {"prompts": "echo", "layers": 2},
    ],
    ids=["name", "prepending", "templates", "echo, fewer layers"],
)
def test_each_way_computes_the_same(decoder_path: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    model, given = str(decoder_path), {**settings, "device": "cpu", "dtype": "float32"}
    wanted = Embedder(model, **given).embed_queries([TEXT])[0]
    llama_index = SituateEmbedding(model_name=model, **given)
    again = SituateEmbedding.from_dict(llama_index.to_dict())
    langchain = SituateEmbeddings(model, **given)
    configured = load({"model": {"name": model, **given}}).embedder()
    assert configured.settings == langchain.embedder.settings == again.embedder.settings
    np.testing.assert_allclose(llama_index.get_query_embedding(TEXT), wanted, atol=1e-6)
    np.testing.assert_allclose(langchain.embed_query(TEXT), wanted, atol=1e-6)
    np.testing.assert_allclose(configured.embed_queries([TEXT])[0], wanted, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        *({"prompts": name} for name in ("eol", "metaeol", "promptbert", "echo", "promptreps")),
        {"prompts": {"name": "inbedder", "task": "What is it about?"}},
        {"prompts": {"name": "eol", "prepend": [1, 7]}},
        {"bidirectional": True},
        {"routing_weight": 0.5},
        {"weights": "int8"},
        {"weights": "int4"},
        *({"extension": method} for method in ("grouped", "recurrent", "interpolated", "ntk", "self")),
    ],
    ids=str,
)
def test_every_way_is_one_parameter_in_both_frameworks_and_in_a_file(settings: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "situate.yaml"
    file.write_text(json.dumps({"model": {"name": "some/decoder", **settings}}))
    configured = load(file).embedder().settings
    assert SituateEmbedding(model_name="some/decoder", **settings).embedder.settings == configured
    assert SituateEmbeddings("some/decoder", **settings).embedder.settings == configured
    assert all(getattr(configured, name) for name in settings)


def test_a_wrong_name_is_refused_where_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "situate.yaml"
    file.write_text("model:\n  name: some/decoder\n  prompts: eql\n")
    with pytest.raises(InputError, match=r"(?s)situate.yaml.*'eql' names none of eol"):
        load(file)
    with pytest.raises(InputError, match="'eql' names none of eol"):
        _ = SituateEmbeddings("some/decoder", prompts="eql").embedder


def test_an_index_finds_by_prompts(decoder_path: Path) -> None:
    embedder = Embedder(decoder_path, prompts="eol", device="cpu", dtype="float32")
    documents = [Document(str(n), text) for n, text in enumerate([TEXT, "old red house , berlin", "the river runs"])]
    with Index(embedder, config=PipelineConfig(lexical=None)) as index:
        index.add(documents)
        assert index.search("old red house , berlin", 1)[0].chunk.document_id == "1"
