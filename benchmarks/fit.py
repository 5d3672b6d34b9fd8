"""What `situate.retrievers.fit` gives: fitted on the corpus alone, judged by the sets' own questions.

    python -m benchmarks.fit FOLDER [FOLDER ...] [--model MODEL] [--same-cost]
    python -m benchmarks.fit --table

A folder holds a judged set, as for `benchmarks.quality`. `fit` sees the documents and none of the questions.
--same-cost bars what costs a query more, and tries other builds of the index, which cost it nothing: where one is used,
the index is built anew and judged, too. Written to benchmarks/results/, from which --table prints the tables. Encoded
texts are kept in .situate/encoded.sqlite (--cache).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import CACHE, DEFAULT_MODEL, RESULTS, load
from situate.chunkers import AutoChunker
from situate.embedders import Embedder
from situate.retrievers import Hit, Index
from situate.retrievers.evaluation import CachedEncoder, EvaluationSet, compare
from situate.retrievers.fit import Fit, fit
from situate.retrievers.fit.corpus import Probe
from situate.retrievers.fit.fitting import REBUILD, judged_questions
from situate.retrievers.fit.thresholds import USUAL, best_hits

#: By these settings are judged, and other builds: of chunks of several sizes as many tokens are read.
SPANS, BUDGET, DOCUMENTS = "char_recall@5", "char_recall@800tokens", "nDCG@10"
Row = dict[str, Any]


def main() -> None:
    """Measure and write each set, or print the tables of what is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where encoded texts are kept")
    parser.add_argument("--same-cost", action="store_true", help="nothing that costs a query more, and other builds")
    parser.add_argument("--rebuild", type=int, default=REBUILD, help="chunks embedded for other builds; 0 for none")
    parser.add_argument("--table", action="store_true", help="print what is written")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    plain = Embedder(arguments.model)
    for folder in arguments.folders:
        data = load(folder)
        rebuild = arguments.rebuild if arguments.same_cost else 0
        found, row = measured(data, plain, arguments.cache, arguments.same_cost, rebuild, arguments.seed)
        name = f"fit-{Path(arguments.model).name}-{data.name}{'-same-cost' if arguments.same_cost else ''}.json"
        (RESULTS / name).write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{name}\n{json.dumps(row['judged'])}\n{found.table()}\n", flush=True)
    if arguments.table:
        print(tables([json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("fit-*.json"))]))


def measured(
    data: EvaluationSet, plain: Embedder, cache: Path, same_cost: bool, rebuild: int, seed: int
) -> tuple[Fit, Row]:
    """Fit on the documents of a set, and judge by its questions."""
    embedder = Embedder(plain.model, family=plain.family, encoder=CachedEncoder.of(plain, cache))
    chunker = AutoChunker(size=200, tokenizer=plain.tokenizer)
    measures = [SPANS, BUDGET] if data.has_spans else [DOCUMENTS]
    with Index(embedder, chunker=chunker) as index, tempfile.TemporaryDirectory() as work:
        index.add(document for document in data.documents if document.text.strip())
        found = fit(index, same_cost=same_cost, rebuild=rebuild, seed=seed)
        adapted = embedder
        if found.query_map is not None:
            found.save(work)
            adapted = embedder.using(embedder.adapter, f"{work}/query_map.safetensors")
        searches = {
            "before": _search(index),
            "after": _search(Index(adapted, client=index.client, config=found.config)),
        }
        if (build := found.rebuilt) is not None:
            anew = Index(adapted, chunker=build.chunker or chunker, config=build.config)
            anew.add(document for document in data.documents if document.text.strip())
            searches["indexed again"] = _search(anew)
        comparison = compare(data, searches, measures, count_tokens=chunker.count)
        after = found.verdicts[0].milliseconds if found.changes else found.milliseconds
        row: Row = {
            "set": data.name,
            "model": Path(plain.model).name,
            "same_cost": same_cost,
            "config": found.written(),
            "map": found.query_map is not None,
            "build": found.written_build(),
            "milliseconds": [found.milliseconds, after],
            "judged": json.loads(comparison.to_json("before"))["configurations"],
            "threshold": None if found.threshold is None else _thresholds(index, data, found),
            "tried": found.tried,
            "encoded": found.encoded,
            "seconds": found.seconds,
            "verdicts": {verdict.name: [verdict.words, verdict.judged.mean] for verdict in found.verdicts},
            "versions": {name: version(name) for name in ("situate", "torch", "qdrant-edge-py")},
        }
    return found, row


def _search(index: Index) -> Callable[[str], list[Hit]]:
    return lambda query: list(index.search(query, k=100).hits)


def _thresholds(index: Index, data: EvaluationSet, found: Fit) -> Row:
    """The shares of best hits that are told right of the sets' own questions, by the usual threshold and the fitted."""
    assert found.threshold is not None
    probe = Probe.of(index, judged_questions(index, data))
    hits = best_hits(probe, found.config, range(len(probe.questions)))
    scores, answers = np.array([hit.score for hit in hits]), np.array([hit.relevant for hit in hits])
    shares = {
        name: [float((scores[answers] >= value).mean()), float((scores[~answers] < value).mean())]
        for name, value in (("usual", USUAL), ("fitted", found.threshold.value))
    }
    return {"value": found.threshold.value, **shares}


def tables(rows: Sequence[Row]) -> str:
    """Markdown tables of what was measured, one for each cost."""
    parts: list[str] = []
    for same_cost in (True, False):
        chosen = [row for row in rows if row["same_cost"] is same_cost]
        lines = [
            f"| {'at the same cost of a query' if same_cost else 'whatever it costs'} | before | after | points "
            "| ms a search | what changed |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in sorted(chosen, key=lambda row: (row["model"], row["set"])):
            lines += [_line(row, name) for name in row["judged"] if name != "before"]
        for model in sorted({row["model"] for row in chosen}) if chosen else ():
            lines.append(_mean(model, [row for row in chosen if row["model"] == model]))
        parts.append("\n".join([*lines, _mean("all", chosen)] if chosen else lines))
    return "\n\n".join(parts)


def _measure(row: Row, name: str) -> str:
    if DOCUMENTS in row["judged"]["before"]:
        return DOCUMENTS
    return BUDGET if name == "indexed again" else SPANS


def _line(row: Row, name: str) -> str:
    measure = _measure(row, name)
    before, after = row["judged"]["before"][measure]["mean"], row["judged"][name][measure]
    points = [100 * after["difference"][key] for key in ("mean", "low", "high")]
    what = row["build"] if name == "indexed again" else row["config"]
    said = json.dumps(what, ensure_ascii=False) if what else "nothing"
    times = "to".join(f"{each:.1f} " for each in row["milliseconds"]).replace("to", "to ").strip()
    return (
        f"| {row['model']}, {row['set']}, {measure}{', indexed again' if name == 'indexed again' else ''} "
        f"| {before:.3f} | {after['mean']:.3f} | {points[0]:+.1f} [{points[1]:.1f}, {points[2]:.1f}] "
        f"| {times if name == 'after' else ''} | {said}{', map of queries' if row['map'] and name == 'after' else ''} |"
    )


def _mean(model: str, rows: Sequence[Row]) -> str:
    points = [100 * row["judged"]["after"][_measure(row, "after")]["difference"]["mean"] for row in rows]
    return f"| **{model}, mean of {len(points)}** | | | **{np.mean(points):+.2f}** | | worst {min(points):+.1f} |"


if __name__ == "__main__":
    main()
