"""Retrieval quality of the chunkers for code, HTML, Markdown and dialogue, and of the context that they keep.

    python -m benchmarks.formats code
    python -m benchmarks.formats html FOLDER      # Python's documentation as HTML (python3-doc): faq/, tutorial/
    python -m benchmarks.formats markdown         # the examples' handbook
    python -m benchmarks.formats dialogue FOLDER  # JSON Lines with the document "chatlogs"

The judgements follow from the data: a function answers its docstring, a FAQ's section its heading (docstrings
and headings are taken out first). Configurations are compared query by query with 95 % paired bootstrap intervals.
Encoded texts are kept in .situate/encoded.sqlite (--cache).
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks._format_sets import code_set, dialogue_set, html_set, markdown_set, standard_library, words_of
from benchmarks.quality import CACHE, RESULTS, lexical_only
from situate.chunkers import (
    Chunker,
    CodeChunker,
    DialogueChunker,
    HeadingSituator,
    HtmlChunker,
    MarkdownChunker,
    Situator,
    TextChunker,
)
from situate.embedders import ChunkScheme, Embedder
from situate.retrievers import Hit, Index, LexicalScheme, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, Comparison, EvaluationSet, compare, load_jsonl

EXAMPLES = Path(__file__).parent.parent / "examples"
MEASURES = ("char_recall@800tokens", "char_recall@5")
#: The reciprocal rank of the first chunk that answers: it holds half of an answer, or this many characters of one.
PLACE, ENOUGH = "RR", 200
Search = Callable[[str], Sequence[Hit]]


@dataclass(frozen=True)
class Trial:
    """One configuration: how documents are cut, situated and searched.

    Attributes:
        chunker: The chunker.
        config: The pipeline's configuration.
        situators: They add context.
        bm25: Search by BM25 alone, with the config's `LexicalScheme`.
    """

    chunker: Chunker
    config: PipelineConfig = field(default_factory=PipelineConfig.plain)
    situators: tuple[Situator, ...] = ()
    bm25: bool = False


#: Title -> rows; the others are compared with the first row.
Tables = dict[str, dict[str, Trial]]


def dense(*context: str) -> PipelineConfig:
    """Dense vectors alone, of chunks behind these parts of their context."""
    return PipelineConfig(dense=ChunkScheme(context=context), lexical=None)


def code_tables(embedder: Embedder) -> Tables:
    """The rows on code."""
    text = TextChunker(size=200, tokenizer=embedder.tokenizer)
    code = CodeChunker(size=200, tokenizer=embedder.tokenizer)
    fast = PipelineConfig.fast()
    unsplit = replace(fast, lexical=LexicalScheme(split_identifiers=False))
    unnamed = replace(fast, lexical=LexicalScheme(context=()))
    return {
        "code, dense alone": {
            "TextChunker": Trial(text),
            "CodeChunker": Trial(code),
            "CodeChunker, names in front": Trial(code, dense("headings")),
        },
        "code, BM25 alone": {
            "CodeChunker": Trial(code, fast, bm25=True),
            "CodeChunker, identifiers whole": Trial(code, unsplit, bm25=True),
            "CodeChunker, without names": Trial(code, unnamed, bm25=True),
            "TextChunker": Trial(text, fast, bm25=True),
            "TextChunker, identifiers whole": Trial(text, unsplit, bm25=True),
        },
        "code, fast": {
            "CodeChunker": Trial(code, fast),
            "CodeChunker, identifiers whole": Trial(code, unsplit),
            "CodeChunker, BM25 without names": Trial(code, unnamed),
            "CodeChunker, dense without names": Trial(code, replace(fast, dense=replace(fast.dense, context=()))),
            "TextChunker": Trial(text, fast),
        },
    }


def html_tables(embedder: Embedder) -> tuple[Tables, Tables]:
    """The rows on HTML, and on the Markdown made of it."""
    text = TextChunker(size=200, tokenizer=embedder.tokenizer)
    html = HtmlChunker(size=200, tokenizer=embedder.tokenizer)
    markdown = MarkdownChunker(size=200, tokenizer=embedder.tokenizer)
    fast = PipelineConfig.fast()
    return {
        "html, dense alone": {
            "TextChunker": Trial(text),
            "HtmlChunker": Trial(html),
            "HtmlChunker, headings in front": Trial(html, dense("headings")),
        },
        "html, fast": {"TextChunker": Trial(text, fast), "HtmlChunker": Trial(html, fast)},
    }, {
        "html, dense alone": {
            "as Markdown, MarkdownChunker": Trial(markdown),
            "as Markdown, MarkdownChunker, headings in front": Trial(markdown, dense("headings")),
        },
        "html, fast": {"as Markdown, MarkdownChunker": Trial(markdown, fast)},
    }


def markdown_tables(embedder: Embedder) -> Tables:
    """The rows on Markdown."""
    text = TextChunker(size=200, tokenizer=embedder.tokenizer)
    markdown = MarkdownChunker(size=200, tokenizer=embedder.tokenizer)
    headings = (HeadingSituator(),)
    fast = PipelineConfig.fast()
    return {
        "markdown, dense alone": {
            "TextChunker": Trial(text),
            "TextChunker, headings in front": Trial(text, dense("headings"), headings),
            "MarkdownChunker": Trial(markdown),
            "MarkdownChunker, headings in front": Trial(markdown, dense("headings")),
        },
        "markdown, fast": {
            "TextChunker": Trial(text, fast),
            "TextChunker, with headings": Trial(text, fast, headings),
            "MarkdownChunker": Trial(markdown, fast),
        },
    }


def dialogue_tables(embedder: Embedder) -> Tables:
    """The rows on dialogue."""
    text = TextChunker(size=200, tokenizer=embedder.tokenizer)
    merged = DialogueChunker(size=200, tokenizer=embedder.tokenizer)
    turns = DialogueChunker(size=200, tokenizer=embedder.tokenizer, merge=False)
    fast = PipelineConfig.fast()
    return {
        "dialogue, dense alone": {
            "TextChunker": Trial(text),
            "DialogueChunker": Trial(merged),
            "DialogueChunker, speakers in front": Trial(merged, dense("speaker")),
            "DialogueChunker, a turn each": Trial(turns),
            "DialogueChunker, a turn each, speakers in front": Trial(turns, dense("speaker")),
        },
        "dialogue, fast": {
            "TextChunker": Trial(text, fast),
            "DialogueChunker": Trial(merged, fast),
            "DialogueChunker, a turn each": Trial(turns, fast),
        },
    }


def measure(
    data: EvaluationSet, tables: Tables, embedder: Embedder, shown: Callable[[Hit], Hit] = lambda hit: hit
) -> dict[str, Comparison]:
    """Index and search every row of the tables.

    Args:
        data: The judged set.
        tables: The rows to compare.
        embedder: With a cache, because rows share most of what they encode.
        shown: Replaces a hit for the measures: its text counts for the budget, its span for the recall.
    """
    count = TextChunker(tokenizer=embedder.tokenizer).count
    cut: dict[Chunker, list[tuple]] = {}
    compared = {}
    rows = sum(map(len, tables.values()))
    with tqdm(total=rows, desc=data.name, unit="configuration") as bar:
        for title, trials in tables.items():
            compared[title] = Comparison(title)
            for name, trial in trials.items():
                if trial.chunker not in cut:
                    cut[trial.chunker] = [(document, trial.chunker.split(document)) for document in data.documents]
                    sizes = [count(chunk.text) for _, chunks in cut[trial.chunker] for chunk in chunks]
                    bar.write(f"{name}: {len(sizes)} chunks of {sum(sizes) / len(sizes):.0f} tokens")
                chunks = cut[trial.chunker]
                for situator in trial.situators:
                    chunks = [(document, situator.situate(document, ones)) for document, ones in chunks]
                with Index(embedder, chunker=trial.chunker, config=trial.config) as index:
                    index.add_chunks(chunks)
                    compared[title].scores[name] = _scores(data, _search(index, trial.bm25, shown), count)
                bar.update()
    return compared


def _search(index: Index, bm25: bool, shown: Callable[[Hit], Hit]) -> Search:
    def search(query: str) -> list[Hit]:
        hits = lexical_only(index, query) if bm25 else index.search(query, k=100)
        return [shown(hit) for hit in hits]

    return search


def _scores(data: EvaluationSet, search: Search, count: Callable[[str], int]) -> dict[str, NDArray[np.float64]]:
    found = {text: search(text) for text in data.queries.values()}
    scores = compare(data, {"": found.__getitem__}, MEASURES, count_tokens=count).scores[""]
    answers: dict[str, list[dict[str, set[int]]]] = {}
    for judgement in data.judgements:
        characters = {at for span in judgement.spans or () for at in range(*span)}
        answers.setdefault(judgement.query_id, []).append({judgement.document_id: characters})
    places = [_place(found[data.queries[query_id]], wanted) for query_id, wanted in answers.items()]
    return {PLACE: np.array([1 / place if place else 0.0 for place in places]), **scores}


def _place(hits: Iterable[Hit], answers: Sequence[dict[str, set[int]]]) -> int | None:
    """The place, from 1, of the first chunk that answers."""
    for place, hit in enumerate(hits, start=1):
        for answer in answers:
            characters = answer.get(hit.chunk.document_id)
            if characters:
                common = len(characters.intersection(range(hit.chunk.start, hit.chunk.end)))
                if common >= min(len(characters) / 2, ENOUGH):
                    return place
    return None


def as_read(data: EvaluationSet) -> Callable[[Hit], Hit]:
    """Puts the words that a reader sees in the place of a hit's HTML."""
    words = {document.id: (document.text, words_of(document.text)) for document in data.documents}

    def shown(hit: Hit) -> Hit:
        source, spans = words[hit.chunk.document_id]
        start, end = hit.chunk.start, hit.chunk.end
        read = " ".join(source[max(a, start) : min(b, end)] for a, b in spans if a < end and b > start)
        return replace(hit, chunk=replace(hit.chunk, text=read))

    return shown


def run(kind: str, folder: Path | None, embedder: Embedder) -> dict[str, Comparison]:
    """The tables of one kind of document."""
    if kind == "code":
        sources = {path.name: path.read_text(encoding="utf-8") for path in standard_library()}
        return measure(code_set("code", sources), code_tables(embedder), embedder)
    if kind == "markdown":
        data = markdown_set(EXAMPLES / "documents", EXAMPLES / "questions.json")
        return measure(data, markdown_tables(embedder), embedder)
    if folder is None:
        raise SystemExit(f"{kind} needs FOLDER")
    if kind == "dialogue":
        return measure(dialogue_set(load_jsonl(folder)), dialogue_tables(embedder), embedder)
    paths = [path for part in ("faq", "tutorial") for path in sorted((folder / part).glob("*.html"))]
    pages = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    (html, markdown), (over_html, over_markdown) = html_set("html", pages), html_tables(embedder)
    compared = measure(html, over_html, embedder, as_read(html))
    for title, comparison in measure(markdown, over_markdown, embedder).items():
        compared[title].scores |= comparison.scores
    return compared


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["code", "html", "markdown", "dialogue"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where encoded texts are kept")
    arguments = parser.parse_args()
    plain = Embedder(arguments.model)
    embedder = Embedder(arguments.model, encoder=CachedEncoder.of(plain, arguments.cache))
    results = []
    for comparison in run(arguments.kind, arguments.folder, embedder).values():
        baseline = next(iter(comparison.scores))
        queries = len(comparison.scores[baseline][PLACE])
        print(
            f"\n{queries} questions; points over {baseline!r} [95 % paired bootstrap]\n\n{comparison.table(baseline)}"
        )
        results.append(json.loads(comparison.to_json(baseline)))
    about = {
        "model": arguments.model,
        "dtype": getattr(plain.encoder, "dtype", None),
        "python": platform.python_version(),
    }
    written = RESULTS / f"formats-{arguments.kind}.json"
    written.write_text(json.dumps(about | {"tables": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
