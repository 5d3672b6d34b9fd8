"""Sets of documents, queries and judgements: JSON Lines and BEIR folders."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from situate.errors import InputError
from situate.outside import load_json
from situate.types import Document


@dataclass(frozen=True)
class Judgement:
    """A document or its spans that are relevant to a query.

    Attributes:
        query_id: The query.
        document_id: The document.
        grade: Gain; 0 is not relevant.
        spans: ``[start, end)`` character offsets of the relevant excerpts, or None where the whole document is meant.
    """

    query_id: str
    document_id: str
    grade: float = 1.0
    spans: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """Documents, queries and judgements.

    Attributes:
        name: The set's name in tables.
        documents: The documents to search.
        queries: Query id -> text.
        judgements: The relevant documents or spans; only queries that have some are measured.
    """

    name: str
    documents: Sequence[Document]
    queries: Mapping[str, str]
    judgements: Sequence[Judgement]

    @property
    def has_spans(self) -> bool:
        """Whether excerpts are judged, not whole documents."""
        return any(judgement.spans is not None for judgement in self.judgements)

    def of(self, query_id: str) -> list[Judgement]:
        """The judgements of a query."""
        return [judgement for judgement in self.judgements if judgement.query_id == query_id]


def load_jsonl(folder: str | Path) -> EvaluationSet:
    """A folder with ``documents.jsonl`` (id, title, text), ``queries.jsonl`` (id, text) and ``qrels.jsonl``
    (query_id, document_id, grade, spans or null).

    Raises:
        InputError: A file is missing.
    """
    folder = Path(folder)
    documents = [
        Document(str(row["id"]), row["text"], {k: v for k, v in row.items() if k not in ("id", "text") and v})
        for row in _rows(folder / "documents.jsonl")
    ]
    queries = {str(row["id"]): row["text"] for row in _rows(folder / "queries.jsonl")}
    judgements = [
        Judgement(
            str(row["query_id"]),
            str(row["document_id"]),
            float(row.get("grade", 1)),
            tuple((start, end) for start, end in row["spans"]) if row.get("spans") is not None else None,
        )
        for row in _rows(folder / "qrels.jsonl")
    ]
    return EvaluationSet(folder.resolve().name, documents, queries, judgements)


def load_beir(folder: str | Path, split: str = "test") -> EvaluationSet:
    """A BEIR folder (Thakur et al. 2021): ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``.

    Raises:
        InputError: A file is missing.
    """
    folder = Path(folder)
    documents = [
        Document(str(row["_id"]), row["text"], {"title": row["title"]} if row.get("title") else {})
        for row in _rows(folder / "corpus.jsonl")
    ]
    path = folder / "qrels" / f"{split}.tsv"
    _needed(path)
    with path.open(encoding="utf-8", newline="") as lines:
        judgements = [
            Judgement(row["query-id"], row["corpus-id"], float(row["score"]))
            for row in csv.DictReader(lines, delimiter="\t")
        ]
    judged = {judgement.query_id for judgement in judgements}
    queries = {str(r["_id"]): r["text"] for r in _rows(folder / "queries.jsonl") if str(r["_id"]) in judged}
    return EvaluationSet(folder.resolve().name, documents, queries, judgements)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    _needed(path)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield load_json(line, f"line {number} of {path}")


def _needed(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing: an evaluation set is a folder of documents, queries and judgements")
