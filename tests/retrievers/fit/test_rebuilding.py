"""Builds of an index: what is tried, that each text is embedded once, and that a better one is found and judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from situate.chunkers import AutoChunker, Document
from situate.configuration import load
from situate.embedders import ChunkScheme, Embedder
from situate.errors import InputError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation import EvaluationSet, Judgement
from situate.retrievers.fit import fit
from situate.retrievers.fit.corpus import Probe, corpus_probe
from situate.retrievers.fit.fitting import judged_questions
from situate.retrievers.fit.rebuilding import Build, Rebuilder, builds
from situate.retrievers.fit.thresholds import fitted_threshold
from situate.retrievers.fit.trials import Trials
from situate.types import Context

ANIMALS = ["heron", "otter", "badger", "lynx", "walrus", "gecko", "toucan", "yak", "puffin", "moose", "tapir", "hyena"]
FOODS = ["berries", "clams", "moss", "beetles", "grass", "rice", "roots", "honey"]
#: Neighbouring sentences that have nothing to do with each other: a chunk's vector is best by itself.
DOCUMENTS = [
    Document(
        f"farm {n}",
        "\n\n".join(f"On farm {n} the {ANIMALS[(n + m) % 12]} is fed with {food}." for m, food in enumerate(FOODS)),
    )
    for n in range(12)
]
QUERIES = {
    f"{n}-{m}": f"What does the {ANIMALS[(n + m) % 12]} on farm {n} eat?" for n in range(12) for m in range(len(FOODS))
}


def judged() -> EvaluationSet:
    """Each question with the sentence that answers it."""
    judgements = []
    for document in DOCUMENTS:
        n = document.id.removeprefix("farm ")
        for m, sentence in enumerate(document.text.split("\n\n")):
            at = document.text.index(sentence)
            judgements.append(Judgement(f"{n}-{m}", document.id, spans=((at, at + len(sentence)),)))
    return EvaluationSet("own", [], QUERIES, judgements)


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    """An index whose chunks hardly have vectors of their own."""
    embedder = Embedder()
    config = PipelineConfig(dense=ChunkScheme(neighbours=5.0), lexical=None)
    with Index(embedder, chunker=AutoChunker(16, tokenizer=embedder.tokenizer), config=config) as made:
        made.add(DOCUMENTS)
        yield made


@pytest.fixture(scope="module")
def probe(index: Index) -> Probe:
    return Probe.of(index, judged_questions(index, judged()))


def test_builds_differ_in_one_setting_each(index: Index) -> None:
    fast, chunker = PipelineConfig.fast(), AutoChunker(200, 20)
    found = builds(fast, chunker, index.embedder)
    names = [build.changed[0] for build in found]
    assert names.count("size") == names.count("context") == names.count("neighbours") == 2
    assert [each.chunker for each in found if each.chunker] == [AutoChunker(100, 10), AutoChunker(400, 40)]
    assert all(each.config is fast for each in found if each.chunker)
    assert "late" in names
    cls = Embedder(pooling="cls", family=replace(index.embedder.family, pooling="cls", late="no"))
    assert "late" not in [build.changed[0] for build in builds(fast, None, cls)]


def test_a_build_finds_what_an_index_of_it_finds_and_texts_are_embedded_once(index: Index, probe: Probe) -> None:
    rebuilder = Rebuilder(probe, 6000, 0)
    names = [document.id for document in DOCUMENTS]
    same = rebuilder.gains(Build(index.config), names)
    assert np.allclose([same[n] for n in range(len(probe.questions))], Trials(probe, 100).gains(index.config))
    known = rebuilder.embedded
    other = replace(index.config, dense=ChunkScheme(neighbours=0.0))
    alone = rebuilder.gains(Build(other), names)
    assert rebuilder.embedded == known  # neighbours are mixed out of the same vectors
    with Index(index.embedder, chunker=index.chunker, config=other) as built:
        built.add(DOCUMENTS)
        direct = Trials(Probe.of(built, probe.questions), 100).gains(other)
    assert np.allclose([alone[n] for n in range(len(direct))], direct)


def test_a_better_build_is_found_judged_and_reported(index: Index, tmp_path: Path) -> None:
    found = fit(index, questions=judged(), adapter=False, same_cost=True)
    assert found.rebuilt is not None
    assert found.rebuilt.config.dense.neighbours < 5
    assert found.config.stored() == index.config.stored()  # which searches the collection as it is
    verdict = next(each for each in found.verdicts if each.name == "indexed again")
    assert verdict.used
    table = found.table()
    assert f"{found.tried} settings tried" in table
    assert f"{found.encoded} texts embedded for those of a new index" in table
    found.save(tmp_path)
    assert json.loads((tmp_path / "rebuilt.json").read_text())["config"]["dense"]["neighbours"] < 5
    # What is written can be put into situate.yaml.
    larger = replace(found, rebuilt=replace(found.rebuilt, chunker=AutoChunker(32, 4, index.embedder.tokenizer)))
    written = load({"preset": "plain", **json.loads(json.dumps(larger.written_build()))})
    assert written.pipeline() == found.rebuilt.config
    assert written.index().chunker == AutoChunker(32, 4)
    with pytest.raises(InputError, match="rebuild is -1"):
        fit(index, rebuild=-1)


def test_documents_are_not_cut_again_where_a_language_model_wrote_into_their_chunks(index: Index) -> None:
    with Index(index.embedder, config=index.config) as written:
        written.add_chunks(
            (
                document,
                [replace(chunk, context=Context(sentence="Of farms.")) for chunk in index.chunker.split(document)],
            )
            for document in DOCUMENTS[:2]
        )
        probe = Probe.of(written, judged_questions(written, judged()))
        assert Rebuilder(probe, 600, 0)._chunker() is None
    with corpus_probe(index, number=20, chunks=40, seed=0) as copied:
        assert Rebuilder(copied, 600, 0)._chunker() == index.chunker


def test_a_threshold_tells_answers_from_the_rest(probe: Probe) -> None:
    config = replace(probe.index.config, dense=ChunkScheme())
    with Index(probe.index.embedder, chunker=probe.index.chunker, config=config) as built:
        built.add(DOCUMENTS)
        own = Probe.of(built, judged_questions(built, judged()))
        found = fitted_threshold(own, config, range(0, 96, 2), range(1, 96, 2))
        few = fitted_threshold(own, config, range(10), range(10, 20))
    assert few is None
    assert found is not None
    assert 0 < found.value < 1
    assert found.kept + found.refused > 1
    assert found.used is (found.gained.low > 0)
