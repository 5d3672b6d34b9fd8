"""An index of one model that another model's queries search through a bridge, until it is embedded anew."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from situate.embedders import Bridge, Embedder, Encoded, SpanText
from situate.errors import ConventionError, InputError
from situate.retrievers import Index, PipelineConfig
from situate.types import Document
from tests.conftest import MINILM
from tests.embedders.test_querier import Turned

PLAIN = PipelineConfig.plain()
THINGS = ["pears", "trains", "letters", "horses", "violins", "planets", "taxes", "bakers", "storms", "wolves", "rugs"]
DOES = ["are sold in the market", "arrive late at night", "cost more in winter", "were painted by a king"]
PLACES = ["near the harbour", "behind the old church", "in the north of Spain", "at the university", "on the farm"]
TEXTS = [f"{a.capitalize()} {b} {c}." for a, b, c in itertools.product(THINGS, DOES, PLACES)]


class Noise:
    """A vector per text that says nothing of it."""

    dimension = 64

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        rows = [np.random.default_rng(list(one.text.encode())).normal(size=(1, 64)) for one in inputs]
        return [Encoded((row / np.linalg.norm(row)).astype(np.float32)) for row in rows]

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        return self.encode(inputs)


@pytest.fixture(scope="module")
def new() -> Embedder:
    """A model of four layers whose space is another one."""
    return Embedder(MINILM, encoder=Turned(Embedder(MINILM, layers=4)))


@pytest.fixture(scope="module")
def bridge(new: Embedder) -> Bridge:
    """From it to MiniLM."""
    return Bridge.fit(Embedder(MINILM), new, TEXTS)


@pytest.fixture(scope="module")
def stored(bridge: Bridge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file."""
    path = tmp_path_factory.mktemp("bridge") / "bridge.safetensors"
    bridge.save(path)
    return path


def test_a_bridge_states_what_remains(bridge: Bridge, stored: Path, new: Embedder) -> None:
    asked = ["Which instruments did a king paint?", "When do locomotives come?"]
    assert bridge.recall >= 0.9
    assert 0.3 < bridge.overlap <= 1
    assert bridge.texts == len(TEXTS)
    again, vectors = Bridge.load(stored), new.embed_queries(asked)
    np.testing.assert_array_equal(again(vectors), bridge(vectors))
    assert (again.recall, again.overlap, again.texts) == (bridge.recall, bridge.overlap, bridge.texts)
    wanted = Embedder(MINILM).embed_queries(asked)
    assert (bridge(vectors) * wanted).sum(1).min() > 0.4 > np.abs((vectors * wanted).sum(1)).max()


async def test_an_index_is_searched_by_the_new_model_while_it_is_embedded_anew(stored: Path, new: Embedder) -> None:
    old = Embedder(MINILM)
    bridged = Embedder(MINILM, query_model=new, bridge=stored)
    np.testing.assert_array_equal(await bridged.aembed_queries(TEXTS[:2]), bridged.embed_queries(TEXTS[:2]))
    assert bridged.fingerprint == old.fingerprint
    assert bridged.query_fingerprint != old.query_fingerprint
    assert bridged.instructed("find: ").fingerprint == old.fingerprint
    with Index(old, config=PLAIN) as index:
        index.add(Document(str(i), text) for i, text in enumerate(TEXTS[::7]))
        assert set(index.texts()) == set(TEXTS[::7])
        assert len(index.texts(at_most=3)) == 3
        through = Index(bridged, client=index.client, config=PLAIN)
        anew = Index(new, client=index.client, collection="anew", config=PLAIN)
        anew.add_chunks((Document(c.document_id, c.text), [c]) for c in index.get_chunks(["0", "1"]))
        report = await anew.aadd_stored(index)  # two are there already
        assert (report.added, report.unchanged) == (len(TEXTS[::7]) - 2, 2)
        for text in TEXTS[:70:7]:
            assert through.search(text, 1).hits[0].chunk.text == text
            assert anew.search(text, 1).hits[0].chunk.text == text
        assert [c.id for c in anew.get_chunks(["3"])] == [c.id for c in index.get_chunks(["3"])]


def test_what_is_no_bridge_for_a_pair_is_refused(stored: Path, new: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ConventionError, match=r"find 0\.\d\d of what those .* 0\.8 is the least"):
        Bridge.fit(Embedder(MINILM), Embedder(MINILM, encoder=Noise()), TEXTS)
    with pytest.raises(InputError, match="fitted on 3 different texts: give at least 200"):
        Bridge.fit(Embedder(MINILM), new, TEXTS[:3] * 100)
    with pytest.raises(InputError, match=r"least is 2: a share in \[0, 1\]"):
        Bridge.fit(Embedder(MINILM), new, TEXTS, least=2)
    with pytest.raises(ConventionError, match=r"fitted for .* as the new model, and not for"):
        Embedder(MINILM, query_model=Embedder(MINILM, layers=2), bridge=stored).embed_queries(["x"])
    with pytest.raises(ConventionError, match="not its token vectors"):
        Embedder(MINILM, query_model=new, bridge=stored).embed_query_tokens(["x"])
    with pytest.raises(InputError, match="takes the vectors of query_model"):
        Embedder(MINILM, bridge=stored)
    (tmp_path / "else.safetensors").write_bytes(b"else")
    matrix = np.eye(384, dtype=np.float32)
    facts = {"recall": 0.9, "overlap": 0.5, "texts": 300, "models": {"old": {}, "new": {}}}
    hostile = [
        (matrix, "[" * 100_000),
        (matrix, "[]"),
        (matrix, json.dumps(facts | {"models": [1]})),
        (matrix, json.dumps(facts | {"models": {}})),
        (matrix, json.dumps(facts | {"recall": "x"})),
        (matrix, json.dumps(facts | {"further": 1})),
        (matrix.astype(np.int64), json.dumps(facts)),
        (matrix[0], json.dumps(facts)),
        (matrix * np.float32(np.nan), json.dumps(facts)),
    ]
    for number, (numbers, about) in enumerate(hostile):
        save_file({"matrix": numbers}, tmp_path / f"{number}.safetensors", metadata={"situate_bridge": about})
    (tmp_path / "cut.safetensors").write_bytes(stored.read_bytes()[:-100])
    names = [f"{number}.safetensors" for number in range(len(hostile))]
    for name in ("else.safetensors", "absent.safetensors", "cut.safetensors", *names):
        with pytest.raises(InputError, match="is no bridge"):
            Embedder(MINILM, query_model=new, bridge=tmp_path / name).embed_queries(["x"])


def test_both_frameworks_take_a_bridge(tmp_path: Path) -> None:
    from situate.integrations.langchain import SituateEmbeddings
    from situate.integrations.llama_index import SituateEmbedding

    same = Embedder(MINILM)
    path = str(tmp_path / "same.safetensors")
    Bridge(-np.eye(384, dtype=np.float32), 1.0, 1.0, 200, {"old": same.space, "new": same.space}).save(path)
    one = SituateEmbedding(MINILM, query_model=MINILM, bridge=path).get_query_embedding("Wolves on the farm")
    other = SituateEmbeddings(MINILM, query_model=MINILM, bridge=path).embed_query("Wolves on the farm")
    assert one == other
    np.testing.assert_allclose(one, -same.embed_queries(["Wolves on the farm"])[0], atol=1e-6)
