"""Fitting to a corpus: what it asks, that settings are searched as an index would, and that nothing worse is used."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import Document as LlamaDocument

from situate.chunkers import Document, MarkdownChunker
from situate.embedders import Embedder
from situate.errors import InputError
from situate.integrations.langchain import SituateEmbeddings, SituateRetriever as LangChainRetriever
from situate.integrations.llama_index import SituateRetriever as LlamaIndexRetriever
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.config import DocumentSignals, Feedback, LexicalScheme
from situate.retrievers.evaluation import EvaluationSet, Judgement
from situate.retrievers.evaluation.comparison import Interval
from situate.retrievers.fit import Question, ask_corpus, fit
from situate.retrievers.fit.corpus import Probe, asked_of, corpus_probe, stored_documents
from situate.retrievers.fit.fitting import judged_questions
from situate.retrievers.fit.questions import HIDDEN
from situate.retrievers.fit.report import Verdict
from situate.retrievers.fit.settings import best_of, candidates, nearby, nearer_share
from situate.retrievers.fit.trials import Trials, gain
from situate.retrievers.fit.written import written_questions
from situate.retrievers.search.gateway import gateway
from situate.retrievers.search.hybrid import HybridSearch
from situate.retrievers.search.relevance import PASSAGES
from situate.retrievers.types import Hit
from situate.types import Chunk

HANDBOOK = Document(
    "handbook",
    "# Leave and absence\n\nA parent takes twelve weeks of paid leave after a birth. The weeks may be split in two.\n\n"
    "## When you are ill\n\nWrite to your lead before nine in the morning. A certificate is a note that a doctor "
    "signs. It is needed from the third day on, and the office keeps a copy of it.\n\n"
    "## Travel and hotels\n\nThe travel desk books flights, trains and hotels for everybody. A hotel may cost up to "
    "one hundred and eighty euros a night, breakfast included. Receipts are handed in within a month.\n",
    {"title": "The handbook of the house"},
)
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def coded(number: int) -> list[Document]:
    """Documents of invented words, of which each has one of its own, as a parts list has: vectors blur it."""
    draw = random.Random(1)

    def word() -> str:
        return "".join(draw.choice(SYLLABLES) for _ in range(3))

    common, documents = [word() for _ in range(30)], []
    for place in range(number):
        own = word()
        sentences = [" ".join([*draw.sample(common, 6), own, draw.choice(common)]) for _ in range(9)]
        documents.append(Document(f"d{place:02}", ". ".join(map(str.capitalize, sentences)) + "."))
    return documents


QUERY = coded(1)[0].text[:20]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture(scope="module")
def index(embedder: Embedder) -> Iterator[Index]:
    """Documents that BM25 tells apart, in an index that hardly heeds it."""
    config = replace(PipelineConfig.fast(), lexical=LexicalScheme(language="english"), lexical_share=0.05)
    with Index(embedder, config=config) as made:
        made.add(coded(40))
        yield made


def test_what_asks_is_taken_out_of_what_is_searched() -> None:
    (asked,) = ask_corpus([HANDBOOK], number=20, seed=2)
    assert (asked,) == tuple(ask_corpus([HANDBOOK], number=20, seed=2))
    text = asked.document.text
    assert {"title", "heading", "opening"} & {question.kind for question in asked.questions}
    assert len(HANDBOOK.text) * 0.75 <= len(text) < len(HANDBOOK.text)
    for question in asked.questions:
        (start, end) = question.spans[0]
        assert 0 <= start < end <= len(text)
        hidden = question.kind not in ("anchors", "definition")
        assert (question.text in text) < hidden or not hidden
        if question.kind == "anchors":
            assert all(word in text[start:end] for word in question.text.split())
    for found in asked.found:
        if found.kind == "title":
            assert asked.document.title is None


def test_each_kind_asks_for_its_passage() -> None:
    def only(kind: Any) -> list[Question]:
        return ask_corpus([HANDBOOK], kinds=(kind,), number=50)[0].questions

    assert [each.text for each in only("title")] == ["The handbook of the house"]
    assert {each.text for each in only("heading")} <= {"Leave and absence", "When you are ill", "Travel and hotels"}
    (definition,) = only("definition")
    assert definition.text == "What is certificate?"
    assert HANDBOOK.text[slice(*definition.spans[0])].startswith("A certificate is a note")
    (asked,) = ask_corpus([HANDBOOK], kinds=("cloze",), number=1)
    (found,) = asked.found
    assert " ".join(HANDBOOK.text[slice(*found.out)].split()) == found.text
    assert asked.document.text == HANDBOOK.text[: found.out[0]] + HANDBOOK.text[found.out[1] :]
    with pytest.raises(InputError, match="'riddle'"):
        only("riddle")
    with pytest.raises(InputError, match="hold no sentence"):
        ask_corpus([Document("empty", "")])


def test_a_copy_keeps_chunks_and_contexts_without_what_asks(embedder: Embedder) -> None:
    with Index(embedder, chunker=MarkdownChunker(size=200)) as index:
        index.add([HANDBOOK])
        (stored,) = stored_documents(index, ["handbook"])
        document, chunks = stored
        assert all(document.text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
        own = Question("Who books?", "handbook", ((HANDBOOK.text.index("The travel desk"), len(HANDBOOK.text)),))
        with corpus_probe(index, [own], number=6, chunks=100, seed=0) as probe:
            copied = probe.index.get_chunks(["handbook"])
            texts = " ".join(" ".join([chunk.text, *chunk.context.headings]) for chunk in copied)
            assert "heading" in {question.kind for question in probe.questions}
            assert not any(question.text in texts for question in probe.questions if question.kind in HIDDEN)
            given = next(question for question in probe.questions if question.kind == "given")
            (copy,) = stored_documents(probe.index, ["handbook"])
            assert "hotel" in copy[0].text[slice(*given.spans[0])]


@pytest.mark.parametrize("preset", ["fast", "quality"])
def test_settings_find_what_an_index_with_them_finds(embedder: Embedder, preset: str) -> None:
    config = getattr(PipelineConfig, preset)()
    with Index(embedder, config=config) as index:
        index.add([HANDBOOK, *(Document(f"p{place}", text) for place, text in enumerate(PASSAGES))])
        questions = ["Who books hotels?", "sick note from a doctor"]
        probe = Probe.of(index, [Question(text, "handbook") for text in questions])
        trials = Trials(probe, 200)
        asked: list[str] = []
        nearest = trials._gateway.gateway.nearest
        trials._gateway.gateway.nearest = lambda q, *rest: asked.extend(q) or nearest(q, *rest)  # type: ignore[method-assign, func-returns-value]
        further = [replace(config, prefetch=2), replace(config, fusion="dbsf")]
        for tried in [*candidates(config)[:: len(candidates(config)) // 6], *further]:
            for vectors in probe.vectors:
                found = HybridSearch(trials._gateway, tried).search(vectors, 5)
                searched = HybridSearch(gateway(index.client, index.collection), tried).search(vectors, 5)
                assert [hit.chunk.id for hit in found] == [hit.chunk.id for hit in searched]
                assert np.allclose([h.score for h in found], [h.score for h in searched], atol=1e-6)
        assert asked.count("bm25") == 2  # each question once, by however many settings


def hit(document: str, start: int, end: int) -> Hit:
    return Hit(Chunk("id", document, 0, "x" * (end - start), start, end), 1.0)


def test_passages_count_by_their_characters_and_what_is_read_before_them() -> None:
    asked = Question("?", "a", ((100, 200),))
    assert gain(asked, [hit("a", 50, 250)]) == 1
    assert gain(asked, [hit("b", 0, 800), hit("a", 150, 300)]) == pytest.approx(0.5 / np.log2(3))
    assert gain(asked, [hit("a", 100, 150), hit("a", 120, 200)]) == pytest.approx(0.5 + 0.5 / np.log2(2 + 50 / 800))
    whole = Question("?", "a", others=frozenset({"c"}))
    assert gain(whole, [hit("b", 0, 9), hit("a", 0, 9), hit("a", 9, 12), hit("c", 0, 9)]) == pytest.approx(
        (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    )
    assert gain(whole, []) == 0


def test_halving_finds_the_best_and_keeps_the_default_where_words_that_stay_lose() -> None:
    tried = candidates(PipelineConfig.fast())
    noise = np.random.default_rng(0).normal(0, 0.2, (len(tried), 600))

    def measure(config: PipelineConfig, numbers: Any) -> Any:
        place = next(i for i, each in enumerate(tried) if each is config)
        good = config.lexical_share == 0.8 and config.feedback == Feedback(3, 0.3)
        loss = np.array([-0.5 if lost and n >= 400 else 0.0 for n in numbers])
        return noise[place][list(numbers)] + 0.2 * good + good * loss

    lost = False
    best = best_of(tried, measure, range(400), range(400, 600))
    assert (best.lexical_share, best.feedback) == (0.8, Feedback(3, 0.3))
    lost = True
    best = best_of(tried, measure, range(400), range(400, 600))
    assert (best.lexical_share, best.feedback) != (0.8, Feedback(3, 0.3))
    assert best_of(tried[:1], measure, range(400), []) is tried[0]


def test_a_share_of_the_same_worth_that_is_nearer_to_the_default_is_taken() -> None:
    default = PipelineConfig.fast()
    noise = np.random.default_rng(0).normal(0, 0.1, 400)

    def measure(config: PipelineConfig, numbers: Any) -> Any:
        found = min(abs(config.lexical_share - default.lexical_share), 0.2)  # as much from .7 on
        own = noise[list(numbers)] * (1 + config.lexical_share)
        return own + found

    best = replace(default, lexical_share=0.9, feedback=Feedback(3, 0.3))
    found = nearer_share(best, default, measure, range(300), range(300, 400))
    assert (found.lexical_share, found.feedback) == (0.7, best.feedback)
    assert nearer_share(default, default, measure, range(300), []) is default


def test_settings_of_the_same_cost_ask_for_no_more() -> None:
    fast = PipelineConfig.fast()
    for each in candidates(fast, same_cost=True):
        assert (each.feedback, each.prefetch) == (None, 100)
        assert each.stored() == fast.stored()
    assert any(each.feedback for each in candidates(fast))
    assert {each.lexical_share for each in candidates(PipelineConfig.plain())} == {0.5}


def test_signals_of_named_models_are_weighed_as_far_as_their_shares_go() -> None:
    options: Any = {"kind": "sparse", "model": "not/loaded", "options": {"batch_size": 8}, "weight": 0.5}
    whole: Any = {"kind": "document", "name": "other", "weight": 0.3}
    config = PipelineConfig(document=DocumentSignals(dense=0.3, lexical=0.2), questions=0.1, signals=(options, whole))
    tried = candidates(config)
    assert tried[0] is config
    assert all(each not in tried[:place] for place, each in enumerate(tried))
    # Twice a half leaves nothing for the dense vectors, which questions raise; twice .3 is more than the other half.
    weights = [tuple(signal.weight for signal in each.signals) for each in nearby(config)]
    assert np.allclose(weights, [(0.25, 0.3), (0.75, 0.3), (0.5, 0.15), (0.5, 0.45)])


def test_a_document_may_have_metadata_of_any_kind() -> None:
    tagged = replace(HANDBOOK, metadata={**HANDBOOK.metadata, "tags": ["leave"]})
    assert [each.document.metadata["tags"] for each in ask_corpus([tagged])] == [["leave"]]


def test_a_gain_by_chance_is_not_used() -> None:
    draw = np.random.default_rng(1)
    none = np.zeros(0)
    assert Verdict.of("a", draw.normal(0.1, 0.2, 200), none, 1.0).used
    assert not Verdict.of("a", draw.normal(0.0, 0.2, 200), none, 1.0).used
    assert not Verdict.of("a", draw.normal(0.1, 0.2, 200), draw.normal(-0.09, 0.8, 200), 1.0).used
    worse = Verdict.of("a", draw.normal(0.1, 0.2, 200), draw.normal(-0.3, 0.2, 200), 1.0)
    assert not worse.used
    assert worse.words == "worse where words stay: not used"
    assert isinstance(worse.guarded, Interval)


def test_a_setting_that_finds_more_is_used(index: Index) -> None:
    before = [(h.chunk.id, h.score) for h in index.search(QUERY).hits]
    found = fit(index, number=160, same_cost=True, rebuild=0)
    assert found.changes["lexical_share"] >= 0.5
    assert found.config.stored() == index.config.stored()
    verdict = found.verdicts[0]
    assert verdict.used
    assert verdict.judged.low > 0
    table = found.table()
    assert "better: used" in table
    assert f"{found.tried} settings tried" in table
    assert index.config is found.default
    assert [(h.chunk.id, h.score) for h in index.search(QUERY).hits] == before
    # Both frameworks take it as it is.
    llama = LlamaIndexRetriever.from_documents([LlamaDocument(text="Cats sleep.")], config=found.config)
    chain = LangChainRetriever.from_documents(
        [LangChainDocument("Cats sleep.")], SituateEmbeddings(), config=found.config
    )
    assert llama.index.config == chain.index.config == found.config
    assert [node.text for node in llama.retrieve("cats")] == [each.page_content for each in chain.invoke("cats")]


def test_a_corpus_that_gains_nothing_keeps_its_settings(embedder: Embedder) -> None:
    words = coded(1)[0].text
    with Index(embedder) as index:
        index.add([Document(f"d{place:02}", words) for place in range(12)])
        found = fit(index, number=60, same_cost=True, adapter=False, rebuild=0)
    assert found.config is found.default
    assert not found.changes
    assert "Configuration: as before" in found.table()


def test_ones_own_questions_judge_alone_where_there_are_enough(index: Index) -> None:
    documents = coded(40)
    queries = {
        f"{document.id}-{i}": sentence
        for document in documents
        for i, sentence in enumerate(document.text.split(". ")[:3])
    }
    judged = [Judgement(name, name.split("-")[0]) for name in queries]
    own = EvaluationSet("own", [], queries, judged)
    found = fit(index, questions=own, same_cost=True, adapter=False, rebuild=0)
    assert dict(found.asked) == {"given": 120}
    some = fit(
        index, questions=EvaluationSet("own", [], queries, judged), number=90, same_cost=True, adapter=False, rebuild=0
    )
    assert dict(some.asked) == {"given": 90}
    with pytest.raises(InputError, match="no document that answers"):
        fit(index, questions=EvaluationSet("own", [], {"q": "?"}, [Judgement("q", "elsewhere")]))


def test_all_passages_that_answer_count_and_a_question_that_lost_its_answer_is_left_out(embedder: Embedder) -> None:
    places = [HANDBOOK.text.index(words) for words in ("twelve weeks", "travel desk")]
    judged = [Judgement("q", "handbook", spans=((at, at + 11),)) for at in places]
    with Index(embedder) as index:
        index.add([HANDBOOK])
        (question,) = judged_questions(index, EvaluationSet("own", [], {"q": "How long?"}, judged))
        assert question.spans == tuple((at, at + 11) for at in places)
        assert not question.others
    (asked,) = ask_corpus([HANDBOOK])
    assert asked_of(asked, replace(question, spans=(asked.outs[0],))) is None
    assert asked_of(asked, replace(question, spans=())) == replace(question, spans=())
    moved = asked_of(asked, replace(question, spans=(asked.found[0].answer, asked.outs[0])))
    assert moved == replace(question, spans=asked.questions[0].spans)


@pytest.mark.parametrize(("limit", "message"), [({"number": -1}, "number is -1"), ({"chunks": 0}, "chunks is 0")])
def test_less_than_one_question_or_chunk_is_refused(index: Index, limit: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(index, **limit)  # type: ignore[arg-type]


def test_an_empty_index_is_refused(embedder: Embedder) -> None:
    with Index(embedder) as empty, pytest.raises(InputError, match="holds no document"):
        fit(empty)


def test_a_language_model_asks_at_three_levels_and_what_does_not_come_back_is_dropped(
    embedder: Embedder, scripted: Any
) -> None:
    def answer(prompt: Any) -> str:
        if "as a whole" in prompt.system:
            return "What of " + " ".join(prompt.text.split("\n")[1].split()[:6]) + "?"
        if "**" in prompt.text:
            start = prompt.text.index("**")
            return prompt.text[start : prompt.text.index("**", start + 2)].strip("* ") + "?"
        return "Which is the tallest volcano of Iceland?"

    model = scripted(answer)
    with Index(embedder, chunker=MarkdownChunker(size=60)) as index:
        index.add([HANDBOOK, *(Document(f"p{place}", text) for place, text in enumerate(PASSAGES * 3))])
        found = written_questions(index, model, number=30, seed=1)
    assert len(model.calls) == 1
    assert {question.kind for question in found} == {"written"}
    assert any(not question.spans for question in found)  # about a whole document
    assert len({question.text for question in found}) == len(found)
    for question in found:
        if question.spans and question.document_id == "handbook":
            assert HANDBOOK.text[slice(*question.spans[0])].strip() == question.text.strip("?")
