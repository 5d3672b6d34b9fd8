"""Retrieval quality of the presets, and of each part left out once.

    python -m benchmarks.quality FOLDER [FOLDER ...]

A folder holds JSON Lines (documents.jsonl, queries.jsonl, qrels.jsonl) or a BEIR set (corpus.jsonl, queries.jsonl,
qrels/test.tsv). Prints a table per set with paired bootstrap intervals, over each baseline of --over, and what fell
most since the results that are stored, and writes PNG and JSON to benchmarks/results/. One setting for every set:
nothing here is tuned to one of them. Encoded texts are kept in
.situate/encoded.sqlite (--cache, --no-cache), so that a second run takes a fraction of the first one's time.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from situate.chunkers import AutoChunker, Document
from situate.embedders import ChunkScheme, Embedder
from situate.retrievers import DocumentSignals, Hit, Index, LexicalScheme, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, EvaluationSet, Perturbation, compare, load_beir, load_jsonl

RESULTS = Path(__file__).parent / "results"
CACHE = Path(".situate/encoded.sqlite")
#: The baselines.
NAIVE, RRF = "naive: chunks alone, cosine", "hybrid: dense + BM25, RRF k=60"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DOCUMENT_MEASURES = ("nDCG@10", "R@100", "RR@10")
SPAN_MEASURES = ("char_recall@5", "char_precision@5", "char_iou@5", "char_recall@800tokens", "excerpt_nDCG@10")


def configurations() -> dict[str, PipelineConfig]:
    """The baselines, the presets, and each preset with one part left out or added."""
    fast, quality = PipelineConfig.fast(), PipelineConfig.quality()
    assert fast.lexical is not None
    assert quality.lexical is not None
    return {
        NAIVE: PipelineConfig.plain(),
        "BM25 with context": fast,  # searched without the dense side, below
        RRF: PipelineConfig.hybrid(),
        "late chunking, pure": PipelineConfig(dense=ChunkScheme(late=True, residual=0.0), lexical=None),
        "late chunking, residual": PipelineConfig(dense=ChunkScheme(late=True), lexical=None),
        "situated window, residual": PipelineConfig(dense=ChunkScheme(situated=300), lexical=None),
        "neighbours mixed": PipelineConfig(dense=ChunkScheme(neighbours=0.35), lexical=None),
        "title and headings in front": PipelineConfig(dense=ChunkScheme(context=("title", "headings")), lexical=None),
        "fast": fast,
        "fast, DBSF": replace(fast, fusion="dbsf"),
        "fast, RRF": replace(fast, fusion="rrf"),
        "fast + document scores": replace(fast, document=DocumentSignals()),
        "fast - dense neighbours": replace(fast, dense=replace(fast.dense, neighbours=0.0)),
        "fast - BM25 neighbours": replace(fast, lexical=replace(fast.lexical, neighbours=0.0)),
        "fast - BM25 context": replace(fast, lexical=replace(fast.lexical, context=())),
        "quality": quality,
        "quality, DBSF": replace(quality, fusion="dbsf"),
        "quality + document scores": replace(quality, document=DocumentSignals()),
        "quality - headings in front": replace(quality, dense=replace(quality.dense, context=())),
        "quality - late chunking": replace(quality, dense=fast.dense),
        "quality - residual": replace(quality, dense=replace(quality.dense, residual=0.0)),
        "quality - dense neighbours": replace(quality, dense=replace(quality.dense, neighbours=0.0)),
        "quality - BM25 neighbours": replace(quality, lexical=replace(quality.lexical, neighbours=0.0)),
        "quality - BM25 context": replace(quality, lexical=replace(quality.lexical, context=())),
        "quality - feedback": replace(quality, feedback=None),
        "quality - MaxSim": replace(quality, token_vectors=None),
    }


def load(folder: Path) -> EvaluationSet:
    """A set in either form; a title is part of the searched text, as in BEIR."""
    data = load_beir(folder) if (folder / "corpus.jsonl").exists() else load_jsonl(folder)
    if data.has_spans:
        return data  # offsets count from the text's first character
    return replace(data, documents=[_titled(document) for document in data.documents])


def _titled(document: Document) -> Document:
    title = document.title
    if title is None or document.text.lstrip().startswith(title):
        return document
    return replace(document, text=f"{title} {document.text}")


def by_excerpt(data: EvaluationSet) -> EvaluationSet:
    """The set with its judged excerpts as documents, for sets whose excerpts divide their documents (paragraphs)."""
    texts = {document.id: document.text for document in data.documents}
    documents: dict[str, Document] = {}
    judgements = []
    for judgement in data.judgements:
        for start, end in judgement.spans or ():
            name = f"{judgement.document_id}#{start}"
            documents[name] = Document(name, texts[judgement.document_id][start:end])
            judgements.append(replace(judgement, document_id=name, spans=None))
    return EvaluationSet(f"{data.name}-excerpts", list(documents.values()), data.queries, judgements)


def run(
    data: EvaluationSet,
    names: list[str] | None,
    model: str,
    cache: Path | None,
    perturb: Sequence[Perturbation] = (),
    over: Sequence[str] = (),
) -> None:
    """Compare the configurations on one set, print the table, write the results (those of perturbed queries not)."""
    plain = Embedder(model)
    # The family: what stands for the encoder knows no conventions of a model in a folder, its instructions.
    embedder = Embedder(model, family=plain.family, encoder=CachedEncoder.of(plain, cache))
    chunker = AutoChunker(size=200, tokenizer=plain.tokenizer)
    chosen = {name: config for name, config in configurations().items() if names is None or name in names}
    with ExitStack() as stack:
        searches: dict[str, Callable[[str], Iterator[Hit]]] = {}
        # Those with token vectors first: their encodings serve the others as well.
        order = sorted(chosen.items(), key=lambda item: item[1].token_vectors is None)
        for name, config in tqdm(order, desc=f"indexing {data.name}", unit="configuration"):
            index = stack.enter_context(Index(embedder, chunker=chunker, config=config))
            index.add(document for document in data.documents if document.text.strip())
            searches[name] = _search(name, index)
        searches = {name: searches[name] for name in chosen}
        comparison = compare(
            data,
            searches,
            SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES,
            count_tokens=chunker.count,
            perturb=perturb,
        )
    baseline = RRF if RRF in chosen else next(iter(chosen))
    for each in over or (baseline,):
        print(f"\n{comparison.table(each)}\n\nDifferences: points over {each!r} [95 % paired bootstrap]\n")
    if perturb:
        print(comparison.robustness((SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES)[0]))
        return
    RESULTS.mkdir(exist_ok=True)
    written = RESULTS / f"quality-{data.name}{'' if model == DEFAULT_MODEL else '-' + Path(model).name}"
    comparison.plot(written.with_suffix(".png"), (SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES)[0], baseline)
    about = {
        "model": model,
        "dtype": getattr(plain.encoder, "dtype", None),
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("situate", "torch", "transformers", "qdrant-edge-py")},
    }
    results = json.loads(comparison.to_json(baseline)) | about
    print(_fallen(results, written.with_suffix(".json")))
    written.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _fallen(results: Mapping[str, Any], stored: Path) -> str:
    """Which row fell most since the results that are stored."""
    if not stored.exists():
        return f"{stored} is new"
    before = json.loads(stored.read_text(encoding="utf-8"))["configurations"]
    changes = {
        (name, measure): 100 * (row["mean"] - before[name][measure]["mean"])
        for name, measures in results["configurations"].items()
        for measure, row in measures.items()
        if measure in before.get(name, {})
    }
    if not changes:
        return f"{stored} holds none of these rows"
    least = min(changes, key=lambda key: changes[key])
    return f"against {stored}, {len(changes)} means: the greatest fall is {changes[least]:+.2f} points, of {least}"


def _search(name: str, index: Index) -> Callable[[str], Iterator[Hit]]:
    def search(query: str) -> Iterator[Hit]:
        return iter(lexical_only(index, query) if name.startswith("BM25") else index.search(query, k=100))

    return search


def lexical_only(index: Index, query: str) -> list[Hit]:
    from situate.retrievers.index.collection import Collection
    from situate.retrievers.index.lexical import LexicalEncoder
    from situate.retrievers.index.payload import BM25, to_chunk

    scheme = index.config.lexical or LexicalScheme()
    terms = LexicalEncoder(scheme).encode_query(query, languages=Collection(index.gateway).languages())
    from qdrant_client import models

    vector = models.SparseVector(indices=terms.indices.tolist(), values=terms.values.tolist())
    points = index.client.query_points(index.collection, query=vector, using=BM25, limit=100, with_payload=True).points
    return [Hit(to_chunk(point.payload or {}), point.score) for point in points]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--only", action="append", help="a configuration's name; may be given several times")
    parser.add_argument("--over", action="append", default=[], help="a baseline's name; RRF by default")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where encoded texts are kept")
    parser.add_argument("--perturb", action="append", default=[], help="typos, asr or case; prints what they cost")
    parser.add_argument("--excerpts", action="store_true", help="search judged excerpts as documents of their own")
    parser.add_argument("--no-cache", action="store_true", help="encode everything anew")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        cache = None if arguments.no_cache else arguments.cache
        data = by_excerpt(load(folder)) if arguments.excerpts else load(folder)
        run(data, arguments.only, arguments.model, cache, arguments.perturb, arguments.over)


if __name__ == "__main__":
    main()
