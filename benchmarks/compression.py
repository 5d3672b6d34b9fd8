"""Recall@10 against bytes in RAM for each form of compressed vectors, with and without rescoring.

    python -m benchmarks.compression FOLDER ... [--model NAME] [--points 20000]

The vectors are those of the sets' chunks (folders as `benchmarks.quality` reads them), filled up to ``--points`` with
mixtures of two of them; the queries are the sets' own. Recall is measured against the exact nearest neighbours, so
"none" shows what the graph alone loses.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from qdrant_client import models

from benchmarks.quality import CACHE, load
from situate.chunkers import AutoChunker
from situate.embedders import Embedder
from situate.embedders.types import Vectors
from situate.retrievers.evaluation import CachedEncoder
from situate.retrievers.index.compression import BINARY, Codes, Compression, CompressionKind
from situate.retrievers.index.payload import CODES, DENSE
from situate.retrievers.index.projection import Centre, Coder, Projection
from situate.retrievers.storage.edge import EdgeClient
from situate.vectors import unit

BYTES = {"none": 4.0, "int8": 1.0, "product": 0.25, "signs": 0.125, BINARY: 0.125}
QUERIES = 200


def vectors_of(folders: Sequence[Path], model: str, points: int, cache: Path = CACHE) -> tuple[Vectors, Vectors]:
    """float32 ``[points, dimension]`` and ``[queries, dimension]``."""
    plain = Embedder(model)
    embedder = Embedder(model, family=plain.family, encoder=CachedEncoder.of(plain, cache))
    chunker = AutoChunker(size=100, tokenizer=plain.tokenizer)
    texts, queries = [], []
    for folder in folders:
        data = load(folder)
        texts += [chunk.text for document in data.documents for chunk in chunker.split(document)]
        queries += list(data.queries.values())
    random = np.random.default_rng(0)
    asked = [queries[i] for i in random.permutation(len(queries))[:QUERIES]]
    rows = embedder.embed_documents(texts)
    print(f"{len(rows)} chunks, {len(asked)} queries")
    if (more := points - len(rows)) > 0:
        first, second = random.integers(0, len(rows), (2, more))
        share = random.uniform(0.5, 0.9, (more, 1)).astype(np.float32)
        rows = np.concatenate([rows, unit(share * rows[first] + (1 - share) * rows[second])])
    return rows, embedder.embed_queries(asked)


def measure(rows: Vectors, queries: Vectors, kind: CompressionKind | None) -> None:
    """Print the rows of one form."""
    exact = [set(np.argsort(-(rows @ query))[:10].tolist()) for query in queries]
    stored = {} if kind is None else Compression(kind).params()
    with EdgeClient(auto_optimize=False) as client:
        client.create_collection(
            "c",
            models.VectorParams(size=rows.shape[1], distance=models.Distance.COSINE, **stored),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1000),
        )
        client.upload_collection("c", rows, ids=range(len(rows)))
        client.optimize("c")
        ways: list[Compression | None] = [None]
        if kind is not None:
            ways = [Compression(kind, oversampling=times) for times in (1, 2, 4, 8, 16)]
        if kind in ("int8", "product"):
            ways = [Compression(kind, rescore=False), *ways]
        for limit in (10, 100):
            for way in ways:
                params = None if way is None else way.search()
                found, started = [], time.perf_counter()
                for query in queries:
                    points = client.query_points("c", query, limit=limit, search_params=params, with_payload=False)
                    found.append({point.id for point in points.points[:10]})
                took = (time.perf_counter() - started) / len(queries)
                recall = np.mean([len(a & b) / 10 for a, b in zip(found, exact, strict=True)])
                again = "" if way is None else f"x {way.oversampling}" if way.rescore else "codes alone"
                bytes_ = BYTES[kind or "none"] * rows.shape[1]
                print(
                    f"{kind or 'none':8} {bytes_:6.0f} B {again:12} limit {limit:3}: "
                    f"recall@10 {recall:.3f} {1e3 * took:.2f} ms",
                    flush=True,
                )


def measure_codes(rows: Vectors, queries: Vectors, kind: str, fitted_on: int) -> None:
    """Print the rows of codes that are fitted on the first so many vectors, which are chunks."""
    exact = [set(np.argsort(-(rows @ query))[:10].tolist()) for query in queries]
    form = Compression(kind)
    coder: Coder = Projection.fit(rows[:fitted_on], form.size) if form.size else Centre.fit(rows[:fitted_on])
    bytes_ = 4 * form.size if form.size else BYTES[kind] * rows.shape[1]
    with EdgeClient(auto_optimize=False) as client:
        kept = models.VectorParams(size=rows.shape[1], distance=models.Distance.COSINE, **form.params())
        short = form.codes(rows.shape[1], models.Distance.COSINE)
        indexed = models.OptimizersConfigDiff(indexing_threshold=1000)
        client.create_collection("c", {DENSE: kept, CODES: short}, optimizers_config=indexed)
        client.upload_collection("c", {DENSE: rows, CODES: coder(rows)}, ids=range(len(rows)))
        client.optimize("c")
        alone = [Compression(kind, rescore=False)] if form.size else []
        for limit in (10, 100):
            for way in (*alone, *(Compression(kind, oversampling=times) for times in (1, 2, 4, 8, 16, 32))):
                found, started = [], time.perf_counter()
                for query in queries:
                    asked = Codes(coder, way).query(query, limit)
                    points = client.query_points("c", **asked, limit=limit, with_payload=False)
                    found.append({point.id for point in points.points[:10]})
                took = (time.perf_counter() - started) / len(queries)
                recall = np.mean([len(a & b) / 10 for a, b in zip(found, exact, strict=True)])
                again = f"x {way.oversampling}" if way.rescore else "codes alone"
                print(
                    f"{kind:8} {bytes_:6.0f} B {again:12} limit {limit:3}: "
                    f"recall@10 {recall:.3f} {1e3 * took:.2f} ms (fitted on {fitted_on})",
                    flush=True,
                )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--sizes", type=int, nargs="*", default=[192, 128, 96, 64], help="numbers of projections")
    parser.add_argument("--fitted-on", type=int, default=1000, help="vectors that codes are fitted on")
    parser.add_argument("--codes", action="store_true", help="measure codes of their own alone")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where encoded texts are kept")
    arguments = parser.parse_args()
    rows, queries = vectors_of(arguments.folders, arguments.model, arguments.points, arguments.cache)
    for kind in () if arguments.codes else (None, *get_args(CompressionKind)):
        measure(rows, queries, kind)
    for kind in (BINARY, *(f"pca:{size}" for size in arguments.sizes)):
        measure_codes(rows, queries, kind, arguments.fitted_on)


if __name__ == "__main__":
    main()
