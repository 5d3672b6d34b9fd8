"""What `RowSituator` changes for questions that name a row and a column of a table.

    python -m benchmarks.rows FOLDER [--rows 100] [--model MODEL]

FOLDER holds PDFs. Of each, rows of its tables are drawn and asked for: "What was Net sales in 2023?" A hit is right
where it holds a row of that name below a column of that name. Each file is searched alone. What was read and encoded is
kept in .situate/ (--cache).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.filings import read
from situate.chunkers import AutoChunker, Chunk, Document, RowSituator
from situate.chunkers.headings import table_rows
from situate.embedders import Embedder
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, Comparison

#: A row's name and a column's -> the places of such rows in the document's text.
Asked = dict[tuple[str, str], list[tuple[int, int]]]


def rows_of(document: Document) -> Asked:
    """The rows that a question can name: with a label in the first column and a value below a named column."""
    found: Asked = defaultdict(list)
    for row in table_rows(document.text):
        (_, label), *values = row.cells
        for column, _ in values if any(map(str.isalpha, label)) else ():
            if column:
                found[label, column].append((row.start, row.end))
    return found


def drawn(document: Document, count: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Questions, and the places of their rows."""
    rows = rows_of(document)
    names = sorted(rows)
    for place in np.random.default_rng(0).permutation(len(names))[:count]:
        label, column = names[place]
        yield f"What was {label.rstrip(':')} in {column}?", rows[label, column]


def reciprocal_rank(chunks: Sequence[Chunk], places: Sequence[tuple[int, int]]) -> float:
    """Of the first chunk that holds one of the rows; 0 where none does."""
    right = (any(start < chunk.end and chunk.start < end for start, end in places) for chunk in chunks)
    return next((1 / rank for rank, is_right in enumerate(right, 1) if is_right), 0.0)


def main() -> None:
    """Index each file with and without sentences of its rows, ask, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100, help="of each file")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path, default=Path(".situate"))
    arguments = parser.parse_args()
    plain = Embedder(arguments.model, dtype="float32")
    cached = CachedEncoder.of(plain, arguments.cache / "encoded.sqlite")
    embedder = Embedder(arguments.model, family=plain.family, encoder=cached)
    fast = PipelineConfig.fast()
    with_rows = replace(fast, dense=replace(fast.dense, context=("headings", "rows"), pool_context=True))
    pooled = replace(fast, dense=replace(fast.dense, pool_context=True))
    configs = {
        "fast": fast,
        "fast, headings pooled": pooled,
        "fast + rows": with_rows,
        "fast, dense alone": replace(fast, lexical=None),
        "fast, headings pooled, dense alone": replace(pooled, lexical=None),
        "fast + rows, dense alone": replace(with_rows, lexical=None),
    }
    scores: dict[str, list[float]] = {name: [] for name in configs}
    for document in read(arguments.folder, arguments.cache / "pdf"):
        asked = list(drawn(document, arguments.rows))
        for name, config in configs.items():
            situators = [RowSituator()] if "rows" in name else []
            chunker = AutoChunker(200, 0, embedder.tokenizer)
            with Index(embedder, chunker=chunker, config=config, situators=situators) as index:
                index.add([document])
                for text, places in asked:
                    chunks = [hit.chunk for hit in index.search(text, k=10).hits]
                    scores[name].append(reciprocal_rank(chunks, places))
    values = {name: {"RR@10": np.array(found), "in 5 hits": np.array(found) >= 0.2} for name, found in scores.items()}
    values = {name: {k: np.asarray(v, dtype=float) for k, v in both.items()} for name, both in values.items()}
    title = f"{len(next(iter(scores.values())))} questions about rows of tables"
    for alone in (False, True):
        shown = {name: both for name, both in values.items() if name.endswith("dense alone") == alone}
        print(Comparison(title, shown).table(next(iter(shown))))


if __name__ == "__main__":
    main()
