"""The presets' time per query, and of indexing.

    python -m benchmarks.presets FOLDER [FOLDER ...] [--chunks 5000] [--indexed 300] [--rounds 5]

A folder holds a judged set, as for `benchmarks.quality`. Some hundred chunks are indexed again and again under new ids
until there are as many as asked for; the sets' own queries are asked, ten of them by each preset in turn, so that other
work on the machine affects all of them, and each has the processor's cache to itself for a while, as in an application.
A query's time is that of `Index.search`, its embedding included; beside it stands the embedding alone. Processors
differ, and the same one does from hour to hour, so its share of what sentence-transformers takes in its turn only to
embed the query is given, too. Indexing is that of `Index.add_chunks` into a new folder, over the time that the model
takes for the same chunks alone; --rounds 0 leaves it out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

from benchmarks.quality import load
from situate.chunkers import AutoChunker, Chunk, Document
from situate.embedders import ChunkScheme, Embedder
from situate.embedders.models.resolve import resolve_model
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder

PRESETS = {
    "plain": PipelineConfig.plain(),
    "fast": PipelineConfig.fast(),
    "fast, fused by Qdrant (DBSF)": replace(PipelineConfig.fast(), fusion="dbsf"),
    "quality": PipelineConfig.quality(),
}
#: The first queries, whose times do not count. No query repeats, because vectors of queries are cached.
WARM_UP = 10
#: Queries of one preset before the next one's turn.
TURN = 10
#: The row below the presets'.
PEER = "sentence-transformers, embedding the query alone"
Cut = tuple[Document, Sequence[Chunk]]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--chunks", type=int, default=5000, help="chunks to search in")
    parser.add_argument("--indexed", type=int, default=300, help="different chunks")
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5, help="of indexing")
    arguments = parser.parse_args()
    sets = [load(folder) for folder in arguments.folders]
    embedder = Embedder()
    chunker = AutoChunker(size=200, tokenizer=embedder.tokenizer)
    # Long documents are cut, so that several go into the sample.
    whole = [document for judged in sets for document in judged.documents if document.text.strip()]
    items: list[Cut] = []
    for document in whole:
        part = replace(document, text=document.text[:20_000])
        items.append((part, chunker.split(part)))
        if sum(len(chunks) for _, chunks in items) >= arguments.indexed:
            break
    documents = [document for document, _ in items]
    queries = list(chain.from_iterable(judged.queries.values() for judged in sets))
    queries = queries[:: max(1, len(queries) // (arguments.queries + WARM_UP))][: arguments.queries + WARM_UP]
    embedder.embed_queries(queries[:1])
    query_times(embedder, chunker, documents, queries, arguments.chunks)
    if arguments.rounds:
        indexing_times(embedder, chunker, items, arguments.rounds)


def query_times(
    embedder: Embedder, chunker: AutoChunker, documents: Sequence[Document], queries: Sequence[str], chunks: int
) -> None:
    """Print the median and the 95th percentile of a query, by preset."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(resolve_model(embedder.model).path), device="cpu")
    with ExitStack() as opened:
        indexes: dict[str, Index] = {}
        for name, config in PRESETS.items():
            # The copies cost no pass of the model; each query does, as none repeats.
            cached = Embedder(encoder=CachedEncoder.of(embedder, None))
            index = indexes[name] = opened.enter_context(Index(cached, chunker=chunker, config=config))
            copy = held = 0
            while held < chunks:
                copies = [replace(document, id=f"{document.id}, copy {copy}") for document in documents]
                held += index.add(copies).chunks
                copy += 1
        searched: dict[str, list[float]] = {name: [] for name in (*PRESETS, PEER)}
        embedded: dict[str, list[float]] = {name: [] for name in searched}
        for first in range(0, len(queries), TURN):
            for name, index in indexes.items():
                for place, query in enumerate(queries[first : first + TURN], first):
                    started = time.perf_counter()
                    result = index.search(query, k=10)
                    if place >= WARM_UP:
                        searched[name].append(time.perf_counter() - started)
                        embedded[name].append(next(step.seconds for step in result.steps if step.name == "embed"))
            for place, query in enumerate(queries[first : first + TURN], first):
                started = time.perf_counter()
                peer.encode(query)
                if place >= WARM_UP:
                    searched[PEER].append(time.perf_counter() - started)
                    embedded[PEER].append(searched[PEER][-1])
    unit = statistics.median(searched[PEER])
    print(
        f"| {len(queries) - WARM_UP} queries, {held:,} chunks | p50, ms | p95, ms | of which embedding, p50, ms "
        "| p50 over sentence-transformers' embedding |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name in searched:
        ordered = sorted(searched[name])
        p95 = ordered[int(0.95 * (len(ordered) - 1))]
        print(
            f"| {name} | {1e3 * statistics.median(ordered):.1f} | {1e3 * p95:.1f} "
            f"| {1e3 * statistics.median(embedded[name]):.1f} | {statistics.median(ordered) / unit:.2f} |"
        )


def indexing_times(embedder: Embedder, chunker: AutoChunker, items: Sequence[Cut], rounds: int) -> None:
    """Print the median time of indexing by preset, over that of embedding the chunks alone."""
    times: dict[str, list[float]] = {name: [] for name in ("alone", *PRESETS)}
    for _ in range(rounds):
        started = time.perf_counter()
        embedder.encode_chunks(items, scheme=ChunkScheme())
        times["alone"].append(time.perf_counter() - started)
        for name, config in PRESETS.items():
            with (
                tempfile.TemporaryDirectory() as folder,
                Index(embedder, path=Path(folder) / "store", chunker=chunker, config=config) as index,
            ):
                index.client.count(index.collection)  # opened: a store is made once
                started = time.perf_counter()
                index.add_chunks(items)
                times[name].append(time.perf_counter() - started)
    alone = statistics.median(times["alone"])
    print(
        f"\n| {sum(len(cut) for _, cut in items)} chunks of {len(items)} documents | seconds | over the model alone |"
    )
    print("| --- | --- | --- |")
    print(f"| the model, chunks alone | {alone:.2f} | |")
    for name in PRESETS:
        ratio = statistics.median(t / a for t, a in zip(times[name], times["alone"], strict=True))
        print(f"| indexing, {name} | {statistics.median(times[name]):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
