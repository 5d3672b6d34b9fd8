"""A LoRA for a corpus: what it is trained on, and whether it finds more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.embedders.embedder import Embedder
from situate.embedders.lora import Example, train_lora, training_device
from situate.retrievers.fit.corpus import Probe, corpus_probe, stored_documents
from situate.retrievers.fit.questions import STAYING, Question
from situate.retrievers.fit.report import Verdict
from situate.retrievers.fit.split import held_back
from situate.retrievers.fit.trials import Trials
from situate.retrievers.index.index import Index
from situate.retrievers.types import Hit
from situate.types import Chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Hits that negatives are taken from; a passage that is scored so near to the one that answers may answer, too.
_MINED, _POSITIVE_AWARE = 50, 0.95


def fit_lora(
    index: Index,
    folder: str | Path,
    *,
    negatives: int = 4,
    number: int = 2000,
    chunks: int = 10_000,
    seed: int = 0,
    **training: Any,
) -> Verdict:
    """Train a LoRA on what the corpus asks about itself, and judge it on the half that is held back.

    Args:
        index: The index; its settings judge, and it is only read.
        folder: Where the adapter is saved.
        negatives: Passages of each question that do not answer it (`hard_negatives`).
        number: Questions that the corpus asks, at most.
        chunks: Chunks that are copied for that, at most.
        seed: Of all that is drawn.
        training: Further arguments of `train_lora`.

    Returns:
        Whether an index of its own, with ``Embedder(adapters={"fit": folder}, adapter="fit")``, finds more.

    Raises:
        InputError: There is no GPU and no ``device="cpu"``, or the index holds too little.
        MissingExtraError: A library for training is not installed.
    """
    training_device(training.get("device", "auto"))  # before the questions are made
    with corpus_probe(index, number=number, chunks=chunks, seed=seed) as probe:
        held = held_back(probe.questions, seed)
        trials = Trials(probe, max(_MINED, index.config.prefetch))
        train_lora(index.embedder, examples(trials, np.flatnonzero(~held).tolist(), negatives), folder, **training)
        adapted = Embedder.from_settings(
            replace(index.embedder.settings, adapters=(("fit", str(folder)),), adapter="fit")
        )
        with Index(adapted, config=index.config) as copy:
            copy.add_chunks(stored_documents(probe.index, probe.index.document_ids()))
            after = Trials(Probe.of(copy, probe.questions), index.config.prefetch)
            guards = np.array([question.kind in STAYING for question in probe.questions])
            judging, guarding = np.flatnonzero(held & ~guards).tolist(), np.flatnonzero(held & guards).tolist()

            def differences(numbers: Sequence[int]) -> NDArray[np.float64]:
                return after.gains(index.config, numbers) - trials.gains(index.config, numbers)

            (milliseconds,) = after.milliseconds([(index.config, after.vectors)])
            return Verdict.of("LoRA", differences(judging), differences(guarding), milliseconds)


def examples(trials: Trials, numbers: Sequence[int], negatives: int) -> list[Example]:
    """Questions with the passage that answers most of each, and negatives; those with too few of these are left out."""
    probe = trials.probe
    by_document: dict[str, list[Chunk]] = {}
    for chunk in probe.index.get_chunks({question.document_id for question in probe.questions}):
        by_document.setdefault(chunk.document_id, []).append(chunk)
    made: list[Example] = []
    for number in numbers:
        question = probe.questions[number]
        best = max(by_document[question.document_id], key=lambda chunk: _held(question, chunk))
        wrong = hard_negatives(question, best, trials.hits(probe.index.config, number, _MINED))[:negatives]
        if len(wrong) == negatives:
            made.append(Example(question.text, best.text, tuple(wrong)))
    return made


def hard_negatives(question: Question, positive: Chunk, hits: Sequence[Hit]) -> list[str]:
    """Texts of the best hits that do not answer, best first, without those that may (NV-Retriever).

    Left out are the document's other passages of the answer, and hits that score more than .95 of the one that answers.
    """
    score = next((hit.score for hit in hits if hit.chunk.id == positive.id), 1.0)
    return [
        hit.chunk.text
        for hit in hits
        if hit.score <= _POSITIVE_AWARE * score
        and not (hit.chunk.document_id == question.document_id and _held(question, hit.chunk))
    ]


def _held(question: Question, chunk: Chunk) -> int:
    """The characters of what answers that a chunk of the same document holds."""
    return sum(max(0, min(end, chunk.end) - max(start, chunk.start)) for start, end in question.spans)
