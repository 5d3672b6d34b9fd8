"""Whether a threshold on a hit's relevance separates questions with an answer from those without.

    python -m benchmarks.relevance FOLDER [FOLDER ...] [--model MODEL]

A folder holds a judged set, as for `benchmarks.quality`. Every second document is indexed and all questions are asked:
those whose answers lie in the others have none here. A question's number is the greatest relevance among its ten hits.
Printed are the area under the ROC curve (the probability that a question with an answer gets more than one without),
and what a threshold of .5 lets through; beside them the same of the fused score, which orders one query's hits. One
calibration for all sets: nothing here is tuned to one of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import CACHE, load
from situate.chunkers import AutoChunker
from situate.embedders import Embedder
from situate.retrievers import Index
from situate.retrievers.evaluation import CachedEncoder

THRESHOLD = 0.5


def area(answered: NDArray[np.bool_], values: NDArray[np.float64]) -> float:
    """The probability that an answered question has the greater value; ties count half."""
    with_answer, without = values[answered][:, None], values[~answered][None]
    return float(((with_answer > without) + 0.5 * (with_answer == without)).mean())


def run(folder: Path, model: str, cache: Path) -> None:
    """Print a set's row."""
    data = load(folder)
    plain = Embedder(model)
    embedder = Embedder(model, family=plain.family, encoder=CachedEncoder.of(plain, cache))
    kept = {document.id for document in data.documents[::2]}
    answered: list[bool] = []
    relevance: list[float] = []
    fused: list[float] = []
    with Index(embedder, chunker=AutoChunker(size=200, tokenizer=plain.tokenizer)) as index:
        index.add([document for document in data.documents if document.id in kept and document.text.strip()])
        started = time.perf_counter()
        index.background()
        seconds = time.perf_counter() - started
        for query, text in data.queries.items():
            answers = {judgement.document_id for judgement in data.of(query) if judgement.grade > 0}
            hits = index.search(text)
            if answers and hits:
                answered.append(bool(answers & kept))
                relevance.append(max(hit.relevance or 0.0 for hit in hits))
                fused.append(hits[0].score)
        chunks = index.count()
    _print(data.name, model, chunks, seconds, np.array(answered), relevance, fused)


def _print(
    name: str,
    model: str,
    chunks: int,
    seconds: float,
    answered: NDArray[np.bool_],
    relevance: Sequence[float],
    fused: Sequence[float],
) -> None:
    found = np.array(relevance)
    passed = found >= THRESHOLD
    print(
        f"| {name} | {Path(model).name} | {chunks} | {len(answered)}, {answered.mean():.0%} "
        f"| {area(answered, found):.4f} | {passed[answered].mean():.1%} | {passed[~answered].mean():.1%} "
        f"| {area(answered, np.array(fused)):.3f} | {(np.array(fused)[~answered] >= 0.9).mean():.0%} "
        f"| {1e3 * seconds:.0f} ms |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path, default=CACHE)
    arguments = parser.parse_args()
    print(
        "| set | model | chunks | questions, with an answer | AUC | answerable at .5 | unanswerable at .5 "
        "| AUC, fused score | unanswerable at .9 of it | measured in |"
    )
    print("|" + " --- |" * 10)
    for folder in arguments.folders:
        run(folder, arguments.model, arguments.cache)


if __name__ == "__main__":
    main()
