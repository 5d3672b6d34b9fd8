"""Generated questions that a chunk does not answer are left out, by real models and by failing scorers."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from situate.chunkers import Chunk, Document, TextChunker
from situate.chunkers.situators.generating import FAILED, SituatingWarning
from situate.embedders import Embedder
from situate.embedders.models.families import Family
from situate.embedders.pairs.cross_encoder import CrossEncoderModel
from situate.errors import InputError, ModelError, StepError
from situate.retrievers import Index, QuestionFilter

DOCUMENT = Document("ferry", "The ferry leaves pier four at nine. Bicycles are carried for two coins each.")
ASKED = (
    ("When does the ferry leave?", "What is the passage about?"),
    ("What does it cost to take a bicycle?", "What is the passage about?", "Who painted the ceiling?"),
    (),
)


def chunks() -> list[Chunk]:
    spans = [(0, 35), (36, 76), (0, 76)]
    made = [Chunk.of(DOCUMENT, i, *span) for i, span in enumerate(spans)]
    return [
        replace(chunk, context=replace(chunk.context, questions=questions))
        for chunk, questions in zip(made, ASKED, strict=True)
    ]


def questions(situated: Sequence[Chunk]) -> list[tuple[str, ...]]:
    return [chunk.context.questions for chunk in situated]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32")  # alike alone and in a batch, whatever the CPU computes in


class Scorer:
    """A `PairScorer` with given scores."""

    def __init__(self, scores: Sequence[float] | Exception) -> None:
        self.scores = scores
        self.threads: set[int] = set()

    def score(self, pairs: Sequence[tuple[str, str]]) -> Any:
        self.threads.add(threading.get_ident())
        if isinstance(self.scores, Exception):
            raise self.scores
        return SimpleNamespace(scores=np.asarray(self.scores, dtype=np.float32))

    async def ascore(self, pairs: Sequence[tuple[str, str]]) -> Any:
        return self.score(pairs)


def test_an_embedder_keeps_what_is_near(embedder: Embedder) -> None:
    got = questions(QuestionFilter(embedder, at_least=0.3).situate(DOCUMENT, chunks()))
    assert got == [("When does the ferry leave?",), ("What does it cost to take a bicycle?",), ()]
    for chunk in chunks():
        for question in chunk.context.questions:
            cosine = float(embedder.embed_queries([question])[0] @ embedder.embed_documents([chunk.text])[0])
            for at_least in (cosine - 1e-4, cosine + 1e-4):
                (kept,) = questions(QuestionFilter(embedder, at_least=at_least).situate(DOCUMENT, [chunk]))
                assert (question in kept) == (at_least < cosine)


def test_vectors_of_any_length_are_compared_by_their_cosine(minilm_path: str) -> None:
    family = Family("by dot product", "this test", normalize=False, similarity="dot")
    normalised, plain = Embedder(minilm_path), Embedder(minilm_path, family=family)
    assert np.linalg.norm(plain.embed_queries(["ferry"])) > 1.5
    for at_least in (0.1, 0.3, 0.5):
        one, other = (
            QuestionFilter(each, at_least=at_least).situate(DOCUMENT, chunks()) for each in (normalised, plain)
        )
        assert questions(one) == questions(other)


def test_a_cross_encoder_keeps_what_it_scores_high(tmp_path: Path, minilm_path: str) -> None:
    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(minilm_path)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = [(question, chunk.text) for chunk in chunks() for question in chunk.context.questions]
    wanted = CrossEncoder(str(tmp_path), device="cpu").predict(pairs)
    middle = float(np.sort(wanted)[2:4].mean())
    keeps = QuestionFilter(CrossEncoderModel(str(tmp_path), dtype="float32", device="cpu"), at_least=middle)
    got = questions(keeps.situate(DOCUMENT, chunks()))
    found = iter(wanted > middle)
    assert got == [tuple(q for q in asked if next(found)) for asked in ASKED]
    assert 0 < sum(map(len, got)) < len(pairs)


async def test_asynchronously_the_same_in_another_thread() -> None:
    scorer = Scorer([1.0, 0.0, 0.5, 0.0, 0.2])
    keeps = QuestionFilter(scorer, at_least=0.5)
    got = await keeps.asituate(DOCUMENT, chunks())
    assert threading.get_ident() not in scorer.threads
    assert questions(got) == questions(keeps.situate(DOCUMENT, chunks())) == [ASKED[0][:1], ASKED[1][:1], ()]


def test_chunks_without_questions_need_no_scorer() -> None:
    plain = TextChunker(size=40).split(DOCUMENT)
    assert QuestionFilter(Scorer(RuntimeError()), at_least=0.5).situate(DOCUMENT, plain) == plain


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        (RuntimeError("https://key:secret@host is down"), "RuntimeError"),
        ([1.0], "ModelError"),
        ([1.0, np.nan, 1.0, 1.0, 1.0], "ModelError"),
    ],
)
def test_a_scorer_that_fails_leaves_all_questions_and_a_mark(scores: Any, kind: str) -> None:
    with pytest.warns(SituatingWarning, match=f"'ferry' could not be filtered: {kind}") as said:
        got = QuestionFilter(Scorer(scores), at_least=0.5).situate(DOCUMENT, chunks())
    assert "secret" not in str(said[0].message)
    assert questions(got) == list(ASKED)
    assert [chunk.metadata.get(FAILED) for chunk in got] == [kind, kind, None]
    with pytest.raises(StepError, match=kind) as error:
        QuestionFilter(Scorer(scores), at_least=0.5, on_error="raise").situate(DOCUMENT, chunks())
    assert isinstance(error.value.__cause__, ModelError if kind == "ModelError" else RuntimeError)


@pytest.mark.parametrize("options", [{"at_least": float("nan")}, {"at_least": 0.5, "on_error": "ignore"}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        QuestionFilter(Scorer([]), **options)


def test_an_index_asks_again_where_the_scorer_failed_and_where_the_filter_changed(embedder: Embedder) -> None:
    class Asks:
        def situate(self, document: Document, given: Sequence[Chunk]) -> list[Chunk]:
            return [replace(chunk, context=replace(chunk.context, questions=ASKED[1])) for chunk in given]

        async def asituate(self, document: Document, given: Sequence[Chunk]) -> list[Chunk]:
            return self.situate(document, given)

    scorer = Scorer(RuntimeError())
    keeps = QuestionFilter(scorer, at_least=0.5)
    with Index(embedder, situators=[Asks(), keeps]) as index:
        with pytest.warns(SituatingWarning):
            assert index.add([DOCUMENT]).added == 1
        assert index.get_chunks(["ferry"])[0].context.questions == ASKED[1]
        scorer.scores = [0.9, 0.1, 0.2]
        assert index.add([DOCUMENT]).replaced == 1
        assert index.get_chunks(["ferry"])[0].context.questions == ASKED[1][:1]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert asyncio.run(index.aadd([DOCUMENT])).unchanged == 1
        keeps.at_least = 0.15
        assert index.add([DOCUMENT]).replaced == 1
        assert index.get_chunks(["ferry"])[0].context.questions == (ASKED[1][0], ASKED[1][2])


def test_it_pickles_as_its_configuration(embedder: Embedder) -> None:
    for scorer in (embedder, CrossEncoderModel("cross-encoder/some")):
        keeps = QuestionFilter(scorer, at_least=0.4)
        copy = pickle.loads(pickle.dumps(keeps))
        assert json.dumps(copy.fingerprint()) == json.dumps(keeps.fingerprint())
        assert keeps.fingerprint() != QuestionFilter(scorer, at_least=0.5).fingerprint()
        assert keeps.fingerprint()["scorer"][1]
