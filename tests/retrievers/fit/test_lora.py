"""What a LoRA is trained on, and that a training changes what a model is for, and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from situate.chunkers import Document
from situate.embedders import Embedder
from situate.embedders.lora import Example, train_lora
from situate.errors import InputError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.fit import Question, fit_lora
from situate.retrievers.fit.lora import hard_negatives
from situate.retrievers.types import Hit
from situate.types import Chunk


def hit(name: str, document: str, start: int, end: int, score: float) -> Hit:
    return Hit(Chunk(name, document, 0, f"text of {name}", start, end), score)


def test_negatives_leave_out_what_may_answer() -> None:
    question = Question("?", "a", ((100, 200),))
    hits = [
        hit("answer", "a", 50, 180, 0.9),
        hit("twin", "b", 0, 100, 0.89),
        hit("rest", "a", 180, 300, 0.7),
        hit("near", "b", 100, 200, 0.6),
        hit("apart", "a", 300, 400, 0.5),
    ]
    assert hard_negatives(question, hits[0].chunk, hits) == ["text of near", "text of apart"]


def test_a_training_says_what_it_lacks(tmp_path: Path) -> None:
    embedder = Embedder()
    with pytest.raises(InputError, match="two or more"):
        train_lora(embedder, [Example("a", "b")], tmp_path)
    with pytest.raises(InputError, match="same number"):
        train_lora(embedder, [Example("a", "b"), Example("a", "b", ("c",))], tmp_path)
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device='cpu'"):
            train_lora(embedder, [Example("a", "b")] * 2, tmp_path)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # of the libraries that train
def test_a_training_brings_questions_to_their_passages(tmp_path: Path) -> None:
    embedder = Embedder()
    words = ["bodega", "cirrus", "dolmen", "epaulet", "fjord", "gimbal", "heron", "isotope"]
    pairs = [
        Example(f"code {n}", f"The {word} is kept here.", ("Nothing is kept here.",)) for n, word in enumerate(words)
    ]
    folder = train_lora(embedder, pairs * 4, tmp_path / "lora", rank=8, epochs=8, rate=2e-3, device="cpu")
    adapted = Embedder(adapters={"mine": folder}, adapter="mine")

    def right(model: Embedder) -> float:
        scores = model.embed_queries([e.query for e in pairs]) @ model.embed_documents([e.positive for e in pairs]).T
        return float((scores.argmax(axis=1) == np.arange(len(pairs))).mean())

    assert right(adapted) > right(embedder) + 0.3
    assert adapted.fingerprint != embedder.fingerprint
    assert np.array_equal(adapted.using(None).embed_queries(["code 1"]), embedder.embed_queries(["code 1"]))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_a_lora_is_judged_on_what_it_did_not_see(tmp_path: Path) -> None:
    documents = [
        Document(
            f"d{n}", " ".join(f"Rule {n} of part {m} says that visitor {n * m} signs in form {m}." for m in range(12))
        )
        for n in range(16)
    ]
    with Index(Embedder(), config=PipelineConfig.plain()) as index:
        index.add(documents)
        verdict = fit_lora(index, tmp_path / "lora", number=60, negatives=1, device="cpu")
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    assert verdict.name == "LoRA"
    assert verdict.judged.low <= verdict.judged.mean <= verdict.judged.high
