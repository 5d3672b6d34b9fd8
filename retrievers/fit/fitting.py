"""`fit`: the settings that suit one's own documents, if any are better than those of before."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from situate.errors import InputError
from situate.retrievers.evaluation.comparison import Comparison
from situate.retrievers.evaluation.judgements import EvaluationSet
from situate.retrievers.fit.corpus import Probe, corpus_probe
from situate.retrievers.fit.questions import STAYING, Question
from situate.retrievers.fit.report import DEFAULT, Fit, Verdict
from situate.retrievers.fit.settings import MOST, best_of, candidates, nearby
from situate.retrievers.fit.trials import Trials

if TYPE_CHECKING:
    from situate.retrievers.index.index import Index

#: Questions of the user's from which on these alone judge.
ENOUGH = 80
#: Documents from which on they are split whole into those that are fitted on and those that are held back.
_DOCUMENTS = 10
#: Characters by which fewer documents are split.
_STRETCH = 2_000


def fit(
    index: Index,
    *,
    questions: EvaluationSet | None = None,
    number: int = 800,
    chunks: int = 3000,
    same_cost: bool = False,
    seed: int = 0,
) -> Fit:
    """Find settings of the search that are better for these documents than those of the index.

    The corpus asks itself (`ask_corpus`), on a copy in memory without the words that ask. Half of the documents choose
    the settings, by successive halving; the other half, which chose nothing, judges them once by a paired bootstrap.
    What is not better beyond chance there, or worse for the questions whose words stay in the text, is not used:
    ``Fit.config`` is then the index's own. All settings search the collection as it is stored.

    Args:
        index: The index; it is only read.
        questions: Questions of your own, with the documents or passages that answer. From `ENOUGH` on they alone judge,
            and nothing is embedded but them.
        number: Questions that the corpus asks, at most.
        chunks: Chunks that are copied for that, at most.
        same_cost: Leave out settings that ask the store for more than the index's own do (feedback, more candidates).
        seed: Of all that is drawn.

    Returns:
        The settings, and a report: ``print(fit(index).table())``.

    Raises:
        InputError: The index is empty, holds no text to ask about, or lacks the documents that questions name.
    """
    started = time.perf_counter()
    own = [] if questions is None else judged_questions(index, questions)
    if len(own) >= ENOUGH:
        return _fitted(Probe.of(index, own), same_cost, seed, started)
    with corpus_probe(index, own, number=number, chunks=chunks, seed=seed) as probe:
        return _fitted(probe, same_cost, seed, started)


def judged_questions(index: Index, questions: EvaluationSet) -> list[Question]:
    """The judged questions of a set about the documents of an index.

    Raises:
        InputError: None of the documents that answer is in the index.
    """
    known = set(index.document_ids())
    found: list[Question] = []
    for query_id, text in questions.queries.items():
        relevant = [each for each in questions.of(query_id) if each.grade > 0 and each.document_id in known]
        if relevant:
            first, *others = relevant
            spans = tuple(first.spans or ())
            found.append(Question(text, first.document_id, spans, others=frozenset(j.document_id for j in others)))
    if questions.queries and not found:
        raise InputError(f"the index on {index.collection!r} holds no document that answers one of the questions")
    return found


def _fitted(probe: Probe, same_cost: bool, seed: int, started: float) -> Fit:
    default = probe.index.config
    trials = Trials(probe, max(MOST, default.prefetch))
    held = _held_back(probe.questions, seed)
    guards = np.array([question.kind in STAYING for question in probe.questions])
    judging, guarding = np.flatnonzero(held & ~guards).tolist(), np.flatnonzero(held & guards).tolist()
    choosing = np.flatnonzero(~held & ~guards).tolist(), np.flatnonzero(~held & guards).tolist()
    if not judging or not choosing[0]:
        raise InputError(
            f"{len(probe.questions)} questions cannot be split by document into those that choose and those that "
            "judge: add documents, or questions"
        )
    settings = candidates(default, same_cost=same_cost)
    chosen = best_of(settings, trials.gains, *choosing, seed)
    further = nearby(chosen)
    chosen = best_of([chosen, *further], trials.gains, *choosing, seed)
    comparison = Comparison("held back", {DEFAULT: {"found": trials.gains(default, judging)}})
    verdicts: list[Verdict] = []
    times = trials.milliseconds([(default, trials.vectors), (chosen, trials.vectors)])
    used = default
    if chosen is not default:
        found = comparison.scores["settings"] = {"found": trials.gains(chosen, judging)}
        verdict = Verdict.of(
            "settings",
            found["found"] - comparison.scores[DEFAULT]["found"],
            trials.gains(chosen, guarding) - trials.gains(default, guarding),
            times[1],
        )
        verdicts.append(verdict)
        used = chosen if verdict.used else default
    return Fit(
        config=used,
        default=default,
        verdicts=tuple(verdicts),
        comparison=comparison,
        asked=dict(Counter(question.kind for question in probe.questions)),
        tried=len(settings) + len(further),
        seconds=time.perf_counter() - started,
        milliseconds=times[0],
    )


def _held_back(questions: Sequence[Question], seed: int) -> NDArray[np.bool_]:
    """bool ``[questions]``: whether each is held back; all of one document are, or none, where there are enough."""
    several = len({question.document_id for question in questions}) >= _DOCUMENTS
    places = [
        (question.document_id, 0 if several or not question.spans else question.spans[0][0] // _STRETCH)
        for question in questions
    ]
    groups = sorted(set(places))
    chosen = np.random.default_rng(seed).permutation(len(groups))[: len(groups) // 2]
    held = {groups[place] for place in chosen.tolist()}
    return np.array([place in held for place in places], dtype=bool)
