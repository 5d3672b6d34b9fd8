"""`fit`: the settings that suit one's own documents, if any are better than those of before."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from situate.embedders.models.query_map import QueryMap
from situate.errors import InputError
from situate.retrievers.config import Feedback, PipelineConfig
from situate.retrievers.evaluation.comparison import Comparison
from situate.retrievers.evaluation.judgements import EvaluationSet, Judgement
from situate.retrievers.fit.adapter import fitted_map, lists
from situate.retrievers.fit.corpus import Probe, corpus_probe
from situate.retrievers.fit.questions import STAYING, Question
from situate.retrievers.fit.rebuilding import Rebuilder
from situate.retrievers.fit.report import BUILT, DEFAULT, Fit, Verdict
from situate.retrievers.fit.settings import MOST, best_of, candidates, nearby, nearer_share, score
from situate.retrievers.fit.split import held_back
from situate.retrievers.fit.thresholds import fitted_threshold
from situate.retrievers.fit.trials import Trials
from situate.retrievers.fit.written import written_questions
from situate.retrievers.types import Hit, Reranker
from situate.types import TextGenerator

if TYPE_CHECKING:
    from situate.retrievers.index.index import Index

#: Questions of the user's from which on these alone judge.
ENOUGH = 80
#: Chunks that are embedded for other builds of the index, about: a minute or two of two cores.
REBUILD = 1500
#: Hits that a map of queries learns the order of.
_TAUGHT = 50
#: How strong it is tried: shares of what moves a query.
_STRENGTHS = (0.25, 0.5, 1.0)


def fit(
    index: Index,
    *,
    questions: EvaluationSet | None = None,
    generator: TextGenerator | None = None,
    number: int = 800,
    chunks: int = 3000,
    same_cost: bool = False,
    adapter: bool = True,
    rebuild: int = REBUILD,
    teacher: Reranker | None = None,
    seed: int = 0,
) -> Fit:
    """Find settings of the search that are better for these documents than those of the index.

    The corpus asks itself (`ask_corpus`), on a copy in memory without the words that ask. Half of the documents choose
    the settings, by successive halving; the other half, which chose nothing, judges them once by a paired bootstrap.
    What is not better beyond chance there, or worse for the questions whose words stay in the text, is not used:
    ``Fit.config`` is then the index's own, and in any case searches the collection as it is stored.

    Args:
        index: The index; it is only read.
        questions: Questions of your own, with the documents or passages that answer. From `ENOUGH` on they alone judge,
            and what they are about is copied for ``rebuild`` alone.
        generator: A language model, which then writes questions, too (`written_questions`).
        number: Questions that are asked, at most: of more of your own so many are drawn.
        chunks: Chunks that are copied for that, at most.
        same_cost: Leave out settings that ask the store for more than the index's own do (feedback, more candidates).
        adapter: Also fit a linear map of queries: ``Embedder(query_adapter=...)`` takes the file that ``Fit.save``
            writes. It costs a query some microseconds.
        rebuild: Chunks that are embedded, about, to try on a sample what needs the documents to be indexed again: chunk
            sizes, contexts, neighbours, late chunking. 0 leaves it out. What is better is ``Fit.rebuilt``.
        teacher: What the map learns the order of passages from, a `CrossEncoderReranker` say; None: the search by the
            settings found, with feedback (and MaxSim, where token vectors are stored).
        seed: Of all that is drawn.

    Returns:
        The settings, and a report: ``print(fit(index).table())``.

    Raises:
        GenerationError: The language model failed.
        InputError: The index is empty, holds no text to ask about, or lacks the documents that questions name. Or its
            embedder has a map of queries already.
    """
    if adapter and (known := index.embedder.querier.settings.query_map) is not None:
        raise InputError(
            f"the embedder maps queries already, by {known!r}: give an index whose embedder has no query_adapter, or "
            "adapter=False"
        )
    if rebuild < 0:
        raise InputError(f"rebuild is {rebuild}: a number of chunks, or 0 to try no other index")
    how = _How(same_cost, adapter, rebuild, teacher, seed)
    started = time.perf_counter()
    own = [] if questions is None else judged_questions(index, questions)
    if number < 1:
        raise InputError(f"number is {number}: ask 1 question or more")
    own = own if len(own) <= number else Random(seed).sample(own, number)  # noqa: S311 - a sample, no secret
    if len(own) >= ENOUGH:
        return _fitted(Probe.of(index, own), how, started)
    with corpus_probe(index, own, number=number, chunks=chunks, seed=seed) as probe:
        if generator is not None:
            written = written_questions(probe.index, generator, seed=seed)
            probe = Probe.of(probe.index, [*probe.questions, *written])
        return _fitted(probe, how, started)


def judged_questions(index: Index, questions: EvaluationSet) -> list[Question]:
    """The judged questions of a set about the documents of an index.

    Raises:
        InputError: None of the documents that answer is in the index.
    """
    known = set(index.document_ids())
    answers: dict[str, list[Judgement]] = {}
    for each in questions.judgements:
        if each.grade > 0 and each.document_id in known:
            answers.setdefault(each.query_id, []).append(each)
    found: list[Question] = []
    for query_id, text in questions.queries.items():
        if relevant := answers.get(query_id):
            first = relevant[0].document_id
            spans = tuple(span for each in relevant if each.document_id == first for span in each.spans or ())
            others = frozenset(each.document_id for each in relevant) - {first}
            found.append(Question(text, first, spans, others=others))
    if questions.queries and not found:
        raise InputError(f"the index on {index.collection!r} holds no document that answers one of the questions")
    return found


@dataclass(frozen=True)
class _How:
    """The arguments of `fit` that say what is fitted."""

    same_cost: bool
    adapter: bool
    rebuild: int
    teacher: Reranker | None
    seed: int


def _fitted(probe: Probe, how: _How, started: float) -> Fit:
    default = probe.index.config
    trials = Trials(probe, max(MOST, default.prefetch))
    held = held_back(probe.questions, how.seed)
    guards = np.array([question.kind in STAYING for question in probe.questions])
    judging, guarding = np.flatnonzero(held & ~guards).tolist(), np.flatnonzero(held & guards).tolist()
    choosing = np.flatnonzero(~held & ~guards).tolist(), np.flatnonzero(~held & guards).tolist()
    if not judging or not choosing[0]:
        raise InputError(
            f"{len(probe.questions)} questions cannot be split by document into those that choose and those that "
            "judge: add documents, or questions"
        )
    settings = candidates(default, same_cost=how.same_cost)
    chosen = best_of(settings, trials.gains, *choosing, how.seed)
    chosen = nearer_share(chosen, default, trials.gains, *choosing)
    further = nearby(chosen)
    chosen = best_of([chosen, *further], trials.gains, *choosing, how.seed)
    comparison = Comparison("held back", {DEFAULT: {"found": trials.gains(default, judging)}})
    verdicts: list[Verdict] = []

    def judge(name: str, tried: tuple[Trials, PipelineConfig], before: tuple[Trials, PipelineConfig]) -> bool:
        found, known = (each[0].gains(each[1], judging) for each in (tried, before))
        guarded = tried[0].gains(tried[1], guarding) - before[0].gains(before[1], guarding)
        comparison.scores[name] = {"found": found}
        verdicts.append(Verdict.of(name, found - known, guarded, milliseconds[id(tried[1])]))
        return verdicts[-1].used

    times = trials.milliseconds([(default, trials.vectors), (chosen, trials.vectors)])
    milliseconds = {id(default): times[0], id(chosen): times[1]}
    used = chosen if chosen is not default and judge("settings", (trials, chosen), (trials, default)) else default
    moved = _map(trials, used, choosing, how) if how.adapter else None
    if moved is not None and not judge("map of queries", (_mapped(trials, moved), used), (trials, used)):
        moved = None
    rebuilder = Rebuilder(probe, how.rebuild, how.seed) if how.rebuild else None
    rebuilt = None if rebuilder is None else rebuilder.best(used, choosing)
    if rebuilder is not None and rebuilt is not None:
        judged, guarded = rebuilder.differences(rebuilt, used, (judging, guarding))
        # The sample is smaller, so that its own times compare with none of the others.
        taken = verdicts[0].milliseconds if used is not default else times[0]
        verdict = Verdict.of(BUILT, judged, guarded, taken * rebuilder.slower(rebuilt, used))
        verdicts.append(verdict)
        rebuilt = rebuilt.on(used) if verdict.used else None
    threshold = fitted_threshold(probe, used, choosing[0], judging)
    return Fit(
        config=used,
        query_map=moved,
        default=default,
        verdicts=tuple(verdicts),
        comparison=comparison,
        asked=dict(Counter(question.kind for question in probe.questions)),
        tried=len(settings) + len(further) + (0 if rebuilder is None else rebuilder.tried),
        seconds=time.perf_counter() - started,
        milliseconds=times[0],
        rebuilt=rebuilt,
        threshold=threshold if threshold is not None and threshold.used else None,
        encoded=0 if rebuilder is None else rebuilder.embedded,
    )


def _map(
    trials: Trials, config: PipelineConfig, choosing: tuple[Sequence[int], Sequence[int]], how: _How
) -> QueryMap | None:
    """A map of queries that is fitted on the questions that choose, as strong as they find most; None for none."""
    probe, numbers = trials.probe, sorted([*choosing[0], *choosing[1]])
    taught = config if config.feedback is not None else replace(config, feedback=Feedback(), fusion="minmax")
    found: list[Sequence[Hit]] = [trials.hits(taught, number, _TAUGHT) for number in numbers]
    if how.teacher is not None:
        asked = [probe.questions[number].text for number in numbers]
        found = [how.teacher.rerank(text, hits) for text, hits in zip(asked, found, strict=True)]
    whole = fitted_map(lists(probe.index, trials.dense[numbers], found), how.seed)
    if whole is None:
        return None
    basis = QueryMap.basis(probe.index.embedder.querier.fingerprint)
    maps = [QueryMap(whole.down, (share * whole.up).astype(np.float32), basis) for share in _STRENGTHS]

    def gained(moved: QueryMap) -> float:
        mapped = _mapped(trials, moved)
        judged, guarded = (mapped.gains(config, some) - trials.gains(config, some) for some in choosing)
        return score(judged, guarded)

    return max(maps, key=gained)


def _mapped(trials: Trials, moved: QueryMap) -> Trials:
    return trials.with_dense(moved(trials.dense))
