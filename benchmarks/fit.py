"""What `situate.retrievers.fit` gives: fitted on the corpus alone, judged by the sets' own questions.

    python -m benchmarks.fit FOLDER [FOLDER ...] [--model MODEL] [--same-cost]

A folder holds a judged set, as for `benchmarks.quality`. `fit` sees the documents and none of the questions. Encoded
texts are kept in .situate/encoded.sqlite (--cache).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.quality import CACHE, load
from situate.chunkers import AutoChunker
from situate.embedders import Embedder
from situate.retrievers import Hit, Index, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, Interval, compare
from situate.retrievers.fit import Fit, fit


def main() -> None:
    """Print a row per set, and each report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where encoded texts are kept")
    parser.add_argument("--same-cost", action="store_true", help="no further requests a query")
    parser.add_argument("--preset", default="fast", help="the configuration to start with")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    plain = Embedder(arguments.model)
    embedder = Embedder(arguments.model, family=plain.family, encoder=CachedEncoder.of(plain, arguments.cache))
    print(
        f"| {arguments.model}, {arguments.preset} | measure | before | after | points | ms a search | configuration |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    reports: list[str] = []
    total: list[Interval] = []
    work = Path(tempfile.mkdtemp())
    for folder in arguments.folders:
        data = load(folder)
        measure = "char_recall@5" if data.has_spans else "nDCG@10"
        config: PipelineConfig = getattr(PipelineConfig, arguments.preset)()
        with Index(embedder, chunker=AutoChunker(size=200, tokenizer=plain.tokenizer), config=config) as index:
            index.add(document for document in data.documents if document.text.strip())
            found = fit(index, same_cost=arguments.same_cost, seed=arguments.seed)
            adapted = embedder if found.query_map is None else _adapted(embedder, found, work)
            fitted = Index(adapted, client=index.client, config=found.config)
            searches = {"before": _search(index), "after": _search(fitted)}
            comparison = compare(data, searches, [measure])
        difference = comparison.difference("after", "before", measure)
        total.append(difference)
        points = f"{100 * difference.mean:+.1f} [{100 * difference.low:.1f}, {100 * difference.high:.1f}]"
        after = found.verdicts[0].milliseconds if found.changes else found.milliseconds
        print(
            f"| {data.name} | {measure} | {comparison.mean('before', measure):.3f} "
            f"| {comparison.mean('after', measure):.3f} | {points} | {found.milliseconds:.1f} to {after:.1f} "
            f"| {found.written() or 'as before'}{'' if found.query_map is None else ', map of queries'} |",
            flush=True,
        )
        reports.append(f"{data.name}\n{found.table()}")
    print(f"\nmean: {100 * sum(each.mean for each in total) / len(total):+.2f}\n")
    print("\n\n".join(reports))


def _adapted(embedder: Embedder, found: Fit, folder: Path) -> Embedder:
    found.save(folder)
    return embedder.using(embedder.adapter, str(folder / "query_map.safetensors"))


def _search(index: Index) -> Callable[[str], list[Hit]]:
    return lambda query: list(index.search(query, k=100).hits)


if __name__ == "__main__":
    main()
