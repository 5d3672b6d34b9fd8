"""Whether the page that holds an answer is among five hits: PDFs with judged questions, read as a user would.

    python -m benchmarks.filings FOLDER QUESTIONS.jsonl [--alone] [--only NAME ...] [--model MODEL]

FOLDER holds PDFs. A line of QUESTIONS names a file (without its ending), a question and its pages (from 0),
as in FinanceBench (Islam et al. 2023, arXiv:2311.11944): {"doc_name", "question", "evidence": [{"evidence_page_num"}]}.
Questions about files that are not there are left out. All files are in one collection, or, with --alone, each in its
own. A hit is right where it stands on one of those pages. Every second file, by name, is kept back: what is tried out
is judged on the others.

What was read and encoded is kept in .situate/ (--cache).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from situate.chunkers import AutoChunker, Chunk, Document, RowSituator, read_documents
from situate.embedders import Embedder
from situate.retrievers import DocumentSignals, Hit, Index, LexicalScheme, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, Comparison
from situate.types import PAGE, PAGES

#: Hits that a reader looks at, and those of which the first ones of each page are taken.
SHOWN, FOUND = 5, 25
RRF = "hybrid: dense + BM25, RRF k=60"


@dataclass(frozen=True)
class Question:
    """A question, its file, and the pages that answer it, from 1."""

    text: str
    file: str
    pages: frozenset[int]

    def answered_by(self, chunk: Chunk) -> bool:
        """Whether a chunk stands on one of the pages."""
        first, last = chunk.metadata[PAGES]
        return chunk.document_id == self.file and any(first <= page <= last for page in self.pages)


def configurations() -> dict[str, PipelineConfig]:
    """The presets, and what may help collections of documents that are alike."""
    fast = PipelineConfig.fast()
    named = LexicalScheme(context=("path", "title", "headings"))
    return {
        "plain": PipelineConfig.plain(),
        RRF: PipelineConfig.hybrid(),
        "fast": fast,
        "quality": PipelineConfig.quality(),
        "fast + document scores": replace(fast, document=DocumentSignals()),
        "fast, file names in BM25": replace(fast, lexical=named),
        "fast, file names, document scores": replace(fast, lexical=named, document=DocumentSignals()),
        "fast + rows": replace(fast, dense=replace(fast.dense, context=("headings", "rows"), pool_context=True)),
    }


def read(folder: Path, cache: Path) -> list[Document]:
    """The PDFs of a folder; each is read once."""
    cache.mkdir(parents=True, exist_ok=True)
    documents: list[Document] = []
    for file in sorted(folder.glob("*.pdf")):
        kept = cache / f"{file.stem}-{file.stat().st_size}.json"
        if not kept.exists():
            found = [{"id": one.id, "text": one.text, "metadata": one.metadata} for one in read_documents(file)]
            kept.write_text(json.dumps(found), encoding="utf-8")
        documents += [Document(**values) for values in json.loads(kept.read_text(encoding="utf-8"))]
    return documents


def load_questions(file: Path, documents: Sequence[Document]) -> list[Question]:
    """The questions about these documents."""
    names = {document.id for document in documents}
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    asked = [
        Question(
            line["question"],
            f"{line['doc_name']}.pdf",
            frozenset(each["evidence_page_num"] + 1 for each in line["evidence"]),
        )
        for line in lines
    ]
    return [question for question in asked if question.file in names]


def judged(hits: Sequence[Hit], question: Question) -> list[float]:
    """Whether one of five hits is right; one of the first hits of five pages; one of the right file."""
    shown = hits[:SHOWN]
    apart: dict[tuple[str, int], Hit] = {}
    for hit in hits:
        apart.setdefault((hit.chunk.document_id, hit.chunk.metadata[PAGE]), hit)
    return [
        float(any(question.answered_by(hit.chunk) for hit in shown)),
        float(any(question.answered_by(hit.chunk) for hit in list(apart.values())[:SHOWN])),
        float(any(hit.chunk.document_id == question.file for hit in shown)),
    ]


def search(
    embedder: Embedder,
    config: PipelineConfig,
    documents: Sequence[Document],
    questions: Sequence[Question],
    rows: bool,
) -> dict[Question, list[Hit]]:
    """The hits of each question about these documents, in one collection."""
    chunker = AutoChunker(200, 0, embedder.tokenizer)
    with Index(embedder, chunker=chunker, config=config, situators=[RowSituator()] if rows else []) as index:
        index.add(documents)
        return {question: list(index.search(question.text, k=FOUND).hits) for question in questions}


def main() -> None:
    """Read, index and ask; print a table per half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--alone", action="store_true", help="each file in a collection of its own")
    parser.add_argument("--only", action="append", choices=list(configurations()))
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path, default=Path(".situate"))
    arguments = parser.parse_args()
    plain = Embedder(arguments.model, dtype="float32")
    cached = CachedEncoder.of(plain, arguments.cache / "encoded.sqlite")
    embedder = Embedder(arguments.model, family=plain.family, encoder=cached)
    documents = read(arguments.folder, arguments.cache / "pdf")
    questions = load_questions(arguments.questions, documents)
    documents = [one for one in documents if any(question.file == one.id for question in questions)]
    values: dict[str, np.ndarray] = {}
    for name, config in configurations().items():
        if arguments.only and name not in arguments.only:
            continue
        found: dict[Question, list[Hit]] = {}
        for group in [[one] for one in documents] if arguments.alone else [documents]:
            names = {document.id for document in group}
            asked = [question for question in questions if question.file in names]
            found |= search(embedder, config, group, asked, "rows" in config.dense.context)
        values[name] = np.array([judged(found[question], question) for question in questions])
    files = sorted(document.id for document in documents)
    kept_back = np.array([question.file in files[1::2] for question in questions])
    where = "each file alone" if arguments.alone else f"{len(files)} files in one collection"
    halves = {"all": np.ones_like(kept_back), "files tried out on": ~kept_back, "files kept back": kept_back}
    for half, chosen in halves.items():
        measures = ("page in 5 hits", "page in 5 pages", "file in 5 hits")
        scores = {name: dict(zip(measures, matrix[chosen].T, strict=True)) for name, matrix in values.items()}
        comparison = Comparison(f"{where}, {half}: {chosen.sum()} questions", scores)
        print(comparison.table(RRF if RRF in scores else next(iter(scores))))


if __name__ == "__main__":
    main()
