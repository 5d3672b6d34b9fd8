"""Rerankers that read scores or vectors: their numbers, and unusual hits."""

from __future__ import annotations

import asyncio
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from situate.embedders.pairs.cross_encoder import PairScores
from situate.errors import InputError, ModelError, NonFiniteVectorError
from situate.retrievers.pipeline.steps import StepPolicy, StepRunner
from situate.retrievers.rerank import (
    ByDocument,
    ByPage,
    CrossEncoderReranker,
    DiffusionReranker,
    DuoReranker,
    LateInteractionReranker,
    ListwiseReranker,
    Mmr,
    PairwiseReranker,
    PointwiseReranker,
    Stage,
    Stages,
    StoredTokens,
    maxsim,
)
from situate.retrievers.rerank.diffusion import diffused
from situate.retrievers.rerank.mmr import mmr
from situate.retrievers.types import Hit, Reranker
from situate.types import Chunk, Context, Document

QUERY = "how long is parental leave?"
TEXTS = ("Travel is booked online.", "Parents may take twelve weeks of leave.", "The office opens at nine.", "Leave.")

both = pytest.mark.parametrize("mode", ["sync", "async"])


async def rerank(mode, reranker, query, hits):
    return reranker.rerank(query, hits) if mode == "sync" else await reranker.arerank(query, hits)


class Scores:
    """A `PairScorer` with the scores of a test."""

    def __init__(self, *scores):
        self.scores = scores
        self.pairs = []

    def score(self, pairs):
        self.pairs += pairs
        scores = np.array(self.scores, dtype=np.float32)
        return PairScores(scores, np.ones(len(scores), dtype=np.int64), 7, 0)

    async def ascore(self, pairs):
        return self.score(pairs)


class Longer:
    """A `DuelScorer` that prefers longer passages."""

    def compare(self, duels):
        scores = np.array([float(len(a) > len(b)) for _, a, b in duels], dtype=np.float32)
        return PairScores(scores, np.ones(len(scores), dtype=np.int64), 7, 0)

    async def acompare(self, duels):
        return self.compare(duels)


class Graded:
    """A language model that prefers passages with a late "e"."""

    def generate(self, prompts):
        return [
            self.answer(re.findall(r"<passage\w*>\n(.*?)\n</passage", prompt.text, re.DOTALL)) for prompt in prompts
        ]

    async def agenerate(self, prompts):
        return self.generate(prompts)

    def answer(self, passages):
        values = [passage.rfind("e") for passage in passages]
        if len(values) == 1:
            return str(min(3, values[0] // 10))
        if len(values) == 2:
            return "A" if values[0] > values[1] else "B"
        return " > ".join(f"[{place + 1}]" for place in sorted(range(len(values)), key=lambda at: -values[at]))


@pytest.fixture(scope="module")
def embedder(minilm_path):
    from situate.embedders.embedder import Embedder

    return Embedder(minilm_path, dtype="float32")


def texts(hits):
    return [hit.chunk.text for hit in hits]


# Cross-encoder


@both
@pytest.mark.parametrize("prior", [0.0, 0.5])
async def test_probabilities_are_relevance_and_other_scores_are_not(mode, hits, prior):
    probabilities, logits = Scores(0.1, 0.9, 0.2, 0.5), Scores(0.1, 0.9, 0.2, 0.5)
    probabilities.output, logits.output = "probability", "logit"
    expected = dict(zip(TEXTS, np.float32([0.1, 0.9, 0.2, 0.5]).tolist(), strict=True))
    found = await rerank(mode, CrossEncoderReranker(probabilities, prior=prior), QUERY, hits(*TEXTS, " "))
    assert {hit.chunk.text: hit.relevance for hit in found} == {**expected, " ": None}
    found = await rerank(mode, CrossEncoderReranker(logits, prior=prior), QUERY, hits(*TEXTS))
    assert [hit.relevance for hit in found] == [None] * 4


@both
@pytest.mark.parametrize(
    "build",
    [
        lambda prior: CrossEncoderReranker(Scores(0.1, 0.9, 0.2, 0.5), prior=prior),
        lambda prior: DuoReranker(Longer(), top=4, prior=prior),
        lambda prior: PointwiseReranker(Graded(), prior=prior),
        lambda prior: PairwiseReranker(Graded(), prior=prior),
        lambda prior: ListwiseReranker(Graded(), prior=prior),
    ],
    ids=["cross-encoder", "duo", "pointwise", "pairwise", "listwise"],
)
async def test_every_reranker_by_a_model_takes_a_share_of_the_scores_before(mode, hits, build):
    given = [replace(hit, score=1 - place / 10) for place, hit in enumerate(hits(*TEXTS))]
    alone = await rerank(mode, build(0.0), QUERY, given)
    assert texts(alone) != list(TEXTS)
    assert texts(await rerank(mode, build(1.0), QUERY, given)) == list(TEXTS)
    low, high = min(hit.score for hit in alone), max(hit.score for hit in alone)
    own = {hit.chunk.text: (hit.score - low) / (high - low) for hit in alone}
    for hit in await rerank(mode, build(0.25), QUERY, given):
        before = 1 - TEXTS.index(hit.chunk.text) / 3
        assert hit.score == pytest.approx(0.75 * own[hit.chunk.text] + 0.25 * before)
    with pytest.raises(InputError, match=r"prior=1\.5"):
        build(1.5)


@both
async def test_cross_encoder_orders_by_score_and_changes_nothing_it_was_given(mode, hits):
    given = hits(*TEXTS)
    before = list(given)
    found = await rerank(mode, CrossEncoderReranker(Scores(0.1, 0.9, 0.2, 0.5)), QUERY, given)
    assert texts(found) == [TEXTS[1], TEXTS[3], TEXTS[2], TEXTS[0]]
    assert found[0].score == pytest.approx(0.9)
    assert found[0].scores == {"search": before[1].score, "cross_encoder": pytest.approx(0.9)}
    assert given == before


def test_cross_encoder_end_to_end(tmp_path, minilm_path, hits):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from situate.embedders.pairs.cross_encoder import CrossEncoderModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=1,
        initializer_range=0.3,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_path, model_max_length=512).save_pretrained(tmp_path)
    found = CrossEncoderReranker(str(tmp_path)).rerank(QUERY, hits(*TEXTS))
    wanted = CrossEncoderModel(tmp_path).score([(QUERY, text) for text in TEXTS]).scores
    assert texts(found) == [TEXTS[i] for i in np.argsort(-wanted)]
    assert all(0 <= hit.score <= 1 for hit in found)


def test_ties_keep_their_order(hits):
    assert texts(CrossEncoderReranker(Scores(0.5, 0.5, 0.9, 0.5)).rerank(QUERY, hits(*"abcd"))) == list("cabd")


def test_context_is_read_in_front_of_the_passage(hits):
    scorer = Scores(0.5)
    document = Document("d", "Twelve weeks.", {"title": "Leave"})
    hit = Hit(Chunk.of(document, 0, 0, 13, Context(title="Leave", headings=("Parents",))), 0.5)
    CrossEncoderReranker(scorer, context=("title", "headings")).rerank(QUERY, [hit])
    assert scorer.pairs == [(QUERY, "Leave\nParents\nTwelve weeks.")]


@both
async def test_hits_without_text_go_last_without_an_invented_score(mode, hits):
    found = await rerank(mode, CrossEncoderReranker(Scores(0.3, 0.8)), QUERY, hits("", "a", " \n", "b"))
    assert texts(found) == ["b", "a", "", " \n"]
    assert "cross_encoder" not in found[2].scores
    assert found[2].score == pytest.approx(0.3)


@both
async def test_duplicate_hits_are_judged_and_returned_once(mode, hits):
    given = hits("a", "b")
    scorer = Scores(0.1, 0.2)
    assert texts(await rerank(mode, CrossEncoderReranker(scorer), QUERY, [*given, *given])) == ["b", "a"]
    assert len(scorer.pairs) == 2


@both
@pytest.mark.parametrize("query", ["", " \n"])
async def test_an_empty_query_orders_nothing(mode, hits, query, embedder):
    given = hits(*TEXTS)
    for reranker in (CrossEncoderReranker(Scores()), LateInteractionReranker(embedder), Mmr(embedder)):
        assert await rerank(mode, reranker, query, given) == given


@both
async def test_no_hits(mode, embedder):
    for reranker in (
        CrossEncoderReranker(Scores()),
        LateInteractionReranker(embedder),
        Mmr(embedder),
        ByDocument(),
        Stages(ByDocument()),
    ):
        assert await rerank(mode, reranker, QUERY, []) == []


@both
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
async def test_non_finite_scores_degrade_to_the_order_before(mode, hits, broken):
    given = hits("a", "b")
    reranker = CrossEncoderReranker(Scores(0.5, broken))
    with pytest.raises(NonFiniteVectorError):
        await rerank(mode, reranker, QUERY, given)
    trace = StepRunner(StepPolicy(retries=0)).trace()
    assert trace.run("rerank:cross_encoder", lambda: reranker.rerank(QUERY, given), given) == given
    assert trace.steps[0].error.startswith("NonFiniteVectorError")


def test_a_scorer_that_loses_pairs_is_an_error(hits):
    with pytest.raises(ModelError, match="1 scores for 2 pairs"):
        CrossEncoderReranker(Scores(0.5)).rerank(QUERY, hits("a", "b"))


def test_what_a_reranker_did_is_noted(hits):
    trace = StepRunner().trace()
    trace.run("rerank", lambda: CrossEncoderReranker(Scores(0.5, 0.1)).rerank(QUERY, hits("a", "b")), None)
    assert trace.steps[0].details == {"pairs": 2, "windows": 2, "tokens": 7, "lost_tokens": 0}


# Late interaction


def test_maxsim_equals_sentence_transformers():
    from sentence_transformers import util

    if not hasattr(util, "maxsim"):
        pytest.skip("sentence-transformers has maxsim since 6.0")
    reference = util.maxsim

    rng = np.random.default_rng(0)
    query = rng.normal(size=(7, 16)).astype(np.float32)
    passages = [rng.normal(size=(n, 16)).astype(np.float32) for n in (1, 30, 4)]
    wanted = [float(reference([torch.tensor(query)], [torch.tensor(p)])) for p in passages]
    np.testing.assert_allclose(maxsim(query, passages), wanted, rtol=1e-5)
    by_hand = [sum(max(float(q @ t) for t in p) for q in query) for p in passages]
    np.testing.assert_allclose(maxsim(query, passages), by_hand, rtol=1e-5)


def test_maxsim_of_nothing():
    empty = np.zeros((0, 4), dtype=np.float32)
    some = np.ones((2, 4), dtype=np.float32)
    assert maxsim(some, [empty, some]).tolist() == [0, 8]
    assert maxsim(empty, [some]).tolist() == [0]
    assert maxsim(some, []).shape == (0,)


def test_maxsim_refuses_other_dimensions_and_nan():
    with pytest.raises(InputError, match="different models"):
        maxsim(np.ones((2, 4), dtype=np.float32), [np.ones((2, 3), dtype=np.float32)])
    with pytest.raises(NonFiniteVectorError):
        maxsim(np.ones((2, 4), dtype=np.float32), [np.full((2, 4), np.nan, dtype=np.float32)])


@both
async def test_late_interaction_scores_token_vectors(mode, embedder, hits):
    found = await rerank(mode, LateInteractionReranker(embedder), QUERY, hits(*TEXTS))
    query = embedder.embed_query_tokens([QUERY])[0]
    wanted = {
        text: maxsim(query, [tokens])[0] / len(query)
        for text, tokens in zip(TEXTS, embedder.embed_document_tokens(TEXTS), strict=True)
    }
    assert texts(found) == sorted(TEXTS, key=lambda text: -wanted[text])
    assert found[0].chunk.text == TEXTS[1]
    for hit in found:
        assert hit.scores["maxsim"] == pytest.approx(wanted[hit.chunk.text], abs=1e-5)


def test_passages_are_encoded_once(embedder, hits):
    trace = StepRunner().trace()
    reranker = LateInteractionReranker(embedder)
    first, second = (trace.run("rerank", lambda: reranker.rerank(QUERY, hits(*TEXTS)), []) for _ in range(2))
    assert [step.details["encoded"] for step in trace.steps] == [4, 0]
    assert texts(first) == texts(second)
    np.testing.assert_allclose([h.score for h in first], [h.score for h in second], atol=1e-3)


def test_memory_is_bounded(embedder, hits):
    reranker = LateInteractionReranker(embedder, memory=5_000)
    reranker.rerank(QUERY, hits(*TEXTS))
    assert 0 < reranker._kept._vectors.currsize <= 5_000
    assert len(pickle.dumps(reranker)) < 5_000


def test_prior_share_keeps_part_of_the_order_before(embedder, hits):
    given = hits(*TEXTS)
    assert texts(LateInteractionReranker(embedder, prior=1.0).rerank(QUERY, given)) == list(TEXTS)
    half = LateInteractionReranker(embedder, prior=0.5).rerank(QUERY, given)
    raw = {h.chunk.text: h.score for h in LateInteractionReranker(embedder).rerank(QUERY, given)}
    stretched = {t: (raw[t] - min(raw.values())) / (max(raw.values()) - min(raw.values())) for t in TEXTS}
    prior = dict(zip(TEXTS, (1, 2 / 3, 1 / 3, 0), strict=True))
    for hit in half:
        expected = (stretched[hit.chunk.text] + prior[hit.chunk.text]) / 2
        assert hit.score == pytest.approx(expected, abs=1e-3)


@both
async def test_stored_token_vectors_are_used(mode, embedder):
    from situate.retrievers import Index, PipelineConfig

    with Index(embedder, config=PipelineConfig.quality()) as index:
        index.add([Document("handbook", " ".join(TEXTS), {"title": "Handbook"})])
        found = index.search(QUERY).hits
        stored = StoredTokens(index.client, index.collection)
        vectors = stored(found)
        assert set(vectors) == {hit.chunk.id for hit in found}
        trace = StepRunner().trace()
        reranker = LateInteractionReranker(embedder, stored=stored)
        if mode == "sync":
            ranked = trace.run("rerank", lambda: reranker.rerank(QUERY, found), [])
        else:
            ranked = await trace.arun("rerank", lambda: reranker.arerank(QUERY, found), [])
        assert trace.steps[0].details["encoded"] == 0
        query = embedder.embed_query_tokens([QUERY])[0]
        for hit in ranked:
            wanted = maxsim(query, [vectors[hit.chunk.id]])[0] / len(query)
            assert hit.score == pytest.approx(float(wanted), abs=1e-5)


@pytest.mark.parametrize("arguments", [{"prior": 2.0}, {"prior": -1.0}, {"memory": -1}])
def test_late_interaction_arguments_that_make_no_sense(embedder, arguments):
    with pytest.raises(InputError):
        LateInteractionReranker(embedder, **arguments)


# MMR


def test_mmr_equals_the_formula():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(9, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query, passages = vectors[0], vectors[1:]
    chosen: list[int] = []
    values = []
    while len(chosen) < 8:
        value, best = max(
            (
                0.6 * float(query @ passages[i])
                - 0.4 * max((float(passages[i] @ passages[j]) for j in chosen), default=0),
                -i,
            )
            for i in range(8)
            if i not in chosen
        )
        chosen.append(-best)
        values.append(value)
    order, got = mmr(query, passages, 0.6)
    assert order == chosen
    np.testing.assert_allclose(got, values, atol=1e-5)
    assert mmr(query, passages, 0.6, keep=3)[0] == chosen[:3]


@both
async def test_mmr_puts_a_repetition_behind_something_new(mode, embedder, hits):
    again = "Parents may take twelve weeks of leave!"
    found = await rerank(mode, Mmr(embedder, balance=0.5), QUERY, hits(TEXTS[1], again, TEXTS[3], ""))
    assert texts(found).index(TEXTS[3]) < max(texts(found).index(TEXTS[1]), texts(found).index(again))
    assert texts(found)[-1] == ""
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True)
    assert len(await rerank(mode, Mmr(embedder, keep=2), QUERY, hits(*TEXTS))) == 2


@pytest.mark.parametrize("arguments", [{"balance": 1.5}, {"keep": 0}])
def test_mmr_arguments_that_make_no_sense(embedder, arguments):
    with pytest.raises(InputError):
        Mmr(embedder, **arguments)


def test_mmr_refuses_nan():
    with pytest.raises(NonFiniteVectorError):
        mmr(np.array([1, np.nan], dtype=np.float32), np.eye(2, dtype=np.float32))


# Documents and stages


def of_document(document, index, score):
    text = f"{document}{index}"
    return Hit(Chunk(text, document, index, text, 0, 2), score)


CHUNKS = [of_document(*c) for c in (("a", 3, 0.9), ("b", 1, 0.8), ("b", 0, 0.7), ("b", 2, 0.6), ("a", 0, 0.1))]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("max", {"a": 0.9, "b": 0.8}),
        ("first", {"a": 0.1, "b": 0.7}),
        ("mean", {"a": 0.5, "b": 0.75}),
        ("sum", {"a": 1.0, "b": 1.5}),
    ],
)
@both
async def test_documents_are_ranked_by_their_chunks(mode, score, expected):
    found = await rerank(mode, ByDocument(score, top=2), QUERY, CHUNKS)
    best = max(expected, key=lambda name: expected[name])
    assert found[0].chunk.document_id == best
    assert {hit.chunk.document_id: hit.score for hit in found} == {k: pytest.approx(v) for k, v in expected.items()}
    assert [h.chunk.index for h in found if h.chunk.document_id == "b"] == [1, 0, 2]


def test_chunks_per_document():
    assert texts(ByDocument(per_document=1).rerank(QUERY, CHUNKS)) == ["a3", "b1"]


def test_hits_of_each_page():
    def on_page(page, score, document="a", **metadata):
        hit = of_document(document, int(10 * score), score)
        return replace(hit, chunk=replace(hit.chunk, metadata={"page": page, **metadata} if page else {}))

    found = [on_page(3, 0.9), on_page(3, 0.8), on_page(4, 0.7), on_page(3, 0.6, "b"), on_page(None, 0.5, "c")]
    found += [on_page(None, 0.4, "c"), on_page(3, 0.3)]
    assert [hit.score for hit in ByPage().rerank(QUERY, found)] == [0.9, 0.7, 0.6, 0.5, 0.4]
    assert ByPage(2).rerank(QUERY, found) == found[:-1]
    with pytest.raises(InputError, match="per_page=0"):
        ByPage(0)


def test_sums_of_negative_scores_are_refused():
    with pytest.raises(InputError, match="negative"):
        ByDocument("sum").rerank(QUERY, [of_document("a", 0, -1.0)])


@pytest.mark.parametrize("arguments", [{"score": "median"}, {"top": 0}, {"per_document": 0}])
def test_by_document_arguments_that_make_no_sense(arguments):
    with pytest.raises(InputError):
        ByDocument(**arguments)


@both
async def test_stages_cut_between_them(mode, hits):
    cheap, costly = Scores(0.1, 0.2, 0.3), Scores(0.9, 0.1)
    stages = Stages(
        Stage(CrossEncoderReranker(cheap, name="cheap"), keep=2, depth=3), CrossEncoderReranker(costly, name="costly")
    )
    found = await rerank(mode, stages, QUERY, hits(*"abcd"))
    assert [passage for _, passage in cheap.pairs] == ["a", "b", "c"]
    assert [passage for _, passage in costly.pairs] == ["c", "b"]
    assert texts(found) == ["c", "b"]
    assert set(found[0].scores) == {"search", "cheap", "costly"}


def test_stages_that_make_no_sense():
    with pytest.raises(InputError):
        Stages()
    with pytest.raises(InputError):
        Stage(ByDocument(), keep=0)


def test_all_are_rerankers(embedder):
    rerankers = [CrossEncoderReranker(Scores()), LateInteractionReranker(embedder), Mmr(embedder), ByDocument()]
    assert all(isinstance(reranker, Reranker) for reranker in [*rerankers, Stages(*rerankers)])


async def test_many_at_once_each_get_their_own_order(embedder, hits):
    reranker = LateInteractionReranker(embedder)
    given = hits(*TEXTS)
    results = await asyncio.gather(*(reranker.arerank(QUERY, given) for _ in range(50)))
    assert all(texts(result)[0] == TEXTS[1] for result in results)


# -- duo


class Duels:
    """A `DuelScorer` with a score for every two texts, biased towards the first."""

    def __init__(self, worth, liking=0.0):
        self.worth = worth
        self.liking = liking
        self.asked = []

    def compare(self, duels):
        self.asked.append(list(duels))
        scores = [min(1.0, self.liking + self.worth[a] / (self.worth[a] + self.worth[b])) for _, a, b in duels]
        return PairScores(np.array(scores, dtype=np.float32), np.ones(len(scores), dtype=np.int64), 7, 0)

    async def acompare(self, duels):
        return self.compare(duels)


@both
async def test_duo_is_the_papers_sum_over_both_orders(mode, hits):
    worth = {"a": 1.0, "b": 2.0, "c": 4.0}
    scorer = Duels(worth, liking=0.1)
    found = await rerank(mode, DuoReranker(scorer, top=3), QUERY, hits("a", "b", "c", "d"))
    assert [hit.chunk.text for hit in found] == ["c", "b", "a", "d"]
    p = {(i, j): np.float32(0.1 + worth[i] / (worth[i] + worth[j])) for i in worth for j in worth if i != j}
    for hit in found[:3]:
        i = hit.chunk.text
        expected = sum(p[i, j] + (1 - p[j, i]) for j in worth if j != i) / 4
        assert hit.scores["duo"] == pytest.approx(expected, abs=1e-6)
    assert "duo" not in found[3].scores
    assert found[3].score <= found[2].score
    assert len(scorer.asked) == 1
    assert len(scorer.asked[0]) == 6


@both
async def test_a_liking_for_the_first_place_cancels_out(mode, hits):
    same = dict.fromkeys(TEXTS, 1.0)
    found = await rerank(mode, DuoReranker(Duels(same, liking=0.4)), QUERY, hits(*TEXTS))
    assert [hit.chunk.text for hit in found] == list(TEXTS)
    assert [hit.score for hit in found] == pytest.approx([0.5] * len(TEXTS))


@both
@pytest.mark.parametrize(("query", "texts"), [("", TEXTS), (QUERY, ("one",)), (QUERY, ()), (QUERY, (" ", "one", ""))])
async def test_duo_with_nothing_to_compare_asks_no_model(mode, hits, query, texts):
    scorer = Duels({})
    given = hits(*texts)
    assert await rerank(mode, DuoReranker(scorer), query, given) == given
    assert scorer.asked == []


def test_duo_end_to_end_judges_duplicates_once_and_is_a_reranker(hits):
    given = hits(*TEXTS)
    scorer = Duels({text: len(text) for text in TEXTS})
    found = DuoReranker(scorer).rerank(QUERY, [*given, *given])
    assert len(found) == len(TEXTS)
    assert len(scorer.asked[0]) == len(TEXTS) * (len(TEXTS) - 1)
    assert isinstance(DuoReranker(scorer), Reranker)


def test_duo_refuses_nan_lost_comparisons_and_nonsense(hits):
    class Broken(Duels):
        def compare(self, duels):
            return self.result

    broken = Broken({})
    broken.result = PairScores(np.full(6, np.nan, dtype=np.float32), np.ones(6, dtype=np.int64), 0, 0)
    with pytest.raises(NonFiniteVectorError):
        DuoReranker(broken).rerank(QUERY, hits("a", "b", "c"))
    broken.result = PairScores(np.zeros(2, dtype=np.float32), np.ones(2, dtype=np.int64), 0, 0)
    with pytest.raises(ModelError, match="2 scores for 6"):
        DuoReranker(broken).rerank(QUERY, hits("a", "b", "c"))
    with pytest.raises(InputError, match="top=1"):
        DuoReranker(broken, top=1)


# Sentences, and the score before


@both
async def test_sentences_are_judged_one_by_one_and_the_best_count(mode, hits):
    scorer = Scores(0.1, 0.9, 0.5, 0.8, 0.2)
    scorer.output = "probability"
    passages = hits("Travel is online. Parents take leave. It is paid.", "Leave is long.", "...")
    reranker = CrossEncoderReranker(scorer, sentences=2)
    found = await rerank(mode, reranker, QUERY, passages)
    assert [text for _, text in scorer.pairs] == [
        "Travel is online.",
        "Parents take leave.",
        "It is paid.",
        "Leave is long.",
        "...",
    ]
    assert [hit.score for hit in found] == pytest.approx([0.8, 0.7, 0.2])
    assert [hit.chunk.id for hit in found] == ["chunk-1", "chunk-0", "chunk-2"]
    assert [hit.relevance for hit in found] == [hit.score for hit in found]


def test_each_sentence_is_read_behind_its_context(hits):
    scorer = Scores(0.1, 0.9)
    hit = hits("Twelve weeks. Paid.")[0]
    hit = replace(hit, chunk=replace(hit.chunk, context=Context(title="Leave")))
    CrossEncoderReranker(scorer, sentences=1, context=["title"]).rerank(QUERY, [hit])
    assert [text for _, text in scorer.pairs] == ["Leave\nTwelve weeks.", "Leave\nPaid."]
    with pytest.raises(InputError, match="sentences=0"):
        CrossEncoderReranker(scorer, sentences=0)


@both
async def test_mmr_takes_the_score_before_for_relevance(mode, embedder, hits):
    found = await rerank(mode, Mmr(embedder, balance=1.0, prior=1.0), QUERY, hits(*TEXTS))
    assert texts(found) == list(TEXTS)
    assert [hit.score for hit in found] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    with pytest.raises(InputError, match=r"prior=1\.5"):
        Mmr(embedder, prior=1.5)


# Diffusion


def test_diffusion_is_the_limit_of_its_steps():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = rng.random(7)
    weights = np.zeros((7, 7))
    for i in range(7):
        cosines = {j: max(float(vectors[i] @ vectors[j]), 0) for j in range(7) if j != i}
        nearest = sorted(cosines, key=lambda j: -cosines[j])[:3]
        for j in nearest:
            weights[i, j] = cosines[j] / 3
    expected = scores.copy()
    for _ in range(200):
        expected = 0.6 * scores + 0.4 * weights @ expected
    np.testing.assert_allclose(diffused(scores, vectors, 0.4, 3), expected, atol=1e-6)
    np.testing.assert_allclose(diffused(scores, vectors, 0.0, 3), scores)
    np.testing.assert_allclose(diffused(scores[:1], vectors[:1], 0.4, 3), 0.6 * scores[:1])
    np.testing.assert_allclose(diffused(scores[:2], np.eye(2, dtype=np.float32), 0.4, 3), 0.6 * scores[:2])


@both
async def test_diffusion_lifts_a_passage_among_good_ones_over_an_isolated_one(mode, embedder, hits):
    leave = [f"Parental leave is {n} weeks long and paid." for n in ("twelve", "ten", "eleven")]
    given = hits(leave[0], leave[1], "Flights are booked online.", leave[2])
    found = await rerank(mode, DiffusionReranker(embedder, share=0.5, neighbours=2), QUERY, given)
    assert texts(found)[-1] == "Flights are booked online."
    assert texts(await rerank(mode, DiffusionReranker(embedder, share=0), QUERY, given)) == texts(given)
    for wrong in ({"share": 1.0}, {"share": -0.1}, {"neighbours": 0}, {"top": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            DiffusionReranker(embedder, **wrong)
