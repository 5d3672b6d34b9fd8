"""What changes when an application moves from the official classes of its framework to situate's.

    python -m benchmarks.migration

Runs the programs of examples/migration/ and asks the handbook's questions. A question's answer is the section that it
is about, so that no way of cutting has an advantage: how much of that section stands in the passages, and how much of
the passages is that section. Indexing and queries are timed in turns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from statistics import median
from typing import Any

from examples.asking import load_questions
from examples.migration.handbook import FOLDER
from situate.chunkers import Chunk, MarkdownChunker, read_documents
from situate.embedders import Embedder
from situate.retrievers import Hit
from situate.retrievers.evaluation import EvaluationSet, Judgement, compare

MEASURES = ("char_recall@5", "char_iou@5", "char_recall@400tokens")
BUILDS = 3


def handbook() -> EvaluationSet:
    """The questions, each with the span of the section that answers it."""
    documents = list(read_documents(FOLDER))
    chunks = [chunk for document in documents for chunk in MarkdownChunker().split(document)]
    questions = {str(n): q for n, q in enumerate(load_questions(FOLDER.parent / "questions.json")) if q.document}
    judgements = []
    for name, question in questions.items():
        answering = [chunk for chunk in chunks if question.is_answered_by(chunk)]
        span = (min(chunk.start for chunk in answering), max(chunk.end for chunk in answering))
        judgements.append(Judgement(name, answering[0].document_id, spans=(span,)))
    return EvaluationSet("handbook", documents, {name: q.text for name, q in questions.items()}, judgements)


def llama_index_hits(retriever: Any, question: str) -> Iterable[Hit]:
    """The nodes that a retriever of LlamaIndex finds."""
    for found in retriever.retrieve(question):
        node = found.node
        yield _hit(node.ref_doc_id, node.start_char_idx, node.get_content(), found.score)


def langchain_hits(retriever: Any, question: str) -> Iterable[Hit]:
    """The documents that a retriever of LangChain finds."""
    for found in retriever.invoke(question):
        yield _hit(found.metadata["source"], found.metadata["start_index"], found.page_content, 0.0)


def _hit(document_id: str, start: int, text: str, score: float) -> Hit:
    return Hit(Chunk(f"{document_id} {start}", document_id, 0, text, start, start + len(text)), score)


def measured(framework: str, hits: Callable[[Any, str], Iterable[Hit]], data: EvaluationSet) -> None:
    """Print the tables of one framework."""
    versions = {name: import_module(f"examples.migration.{framework}_{name}") for name in ("before", "after")}
    builds: dict[str, list[float]] = {name: [] for name in versions}
    retrievers: dict[str, Any] = {}
    for _ in range(BUILDS + 1):  # the first one loads the libraries
        for name, version in versions.items():
            started = time.perf_counter()
            retrievers[name] = version.application()
            list(hits(retrievers[name], "warm"))
            builds[name].append(time.perf_counter() - started)
    asked: dict[str, list[float]] = {name: [] for name in versions}
    for question in data.queries.values():
        for name, retriever in retrievers.items():
            started = time.perf_counter()
            list(hits(retriever, question))
            asked[name].append(time.perf_counter() - started)
    tokenizer = Embedder().tokenizer
    comparison = compare(
        replace(data, name=framework),
        {name: lambda query, r=retriever: hits(r, query) for name, retriever in retrievers.items()},  # type: ignore[misc]
        MEASURES,
        count_tokens=lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids),
    )
    print(comparison.table("before"))
    for name in versions:
        print(
            f"{name}: loaded and indexed in {median(builds[name][1:]):.2f} s, "
            f"a query in {1000 * median(asked[name]):.1f} ms"
        )


def main() -> None:
    """Print what is measured for both frameworks, as far as their official classes are installed."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    data = handbook()
    for framework, hits in (("llama_index", llama_index_hits), ("langchain", langchain_hits)):
        try:
            measured(framework, hits, data)
        except ModuleNotFoundError as error:
            print(f"{framework}: left out, {error.name} is not installed")


if __name__ == "__main__":
    main()
