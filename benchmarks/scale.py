"""Growth: indexing, search, memory and disk at 10,000, 100,000 and a million chunks, beside other stores.

    python -m benchmarks.scale                                    10,000 chunks, all stores
    python -m benchmarks.scale --points 10000 100000 1000000      more; qdrant-client's local mode up to 100,000
    python -m benchmarks.scale --points 1000000 --stores chroma   a piece: its rows are added to those measured before

Every store is on disk, gets the same chunks and runs in a process of its own, one after the other. Where other work
keeps the machine busy, compare CPU time (of all threads and processes) instead of rates. Vectors are those of
real passages (of this repository's prose) with noise, so that encoding does not dominate; a query is a passage's vector
with other noise. Peers run through their LangChain stores and are left out where they are not installed
(langchain-qdrant; langchain-chroma and chromadb; lancedb and langchain-community). Results go to
benchmarks/results/scale.{json,md,png}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from benchmarks.encoder import RESULTS, environment, sample_texts
from benchmarks.storage import disk_mb, resident_mb, summary
from situate.embedders.types import Encoded, SpanText

PASSAGES, QUERIES, WARM_UP, GROUPS = 1000, 100, 5, 100
#: Queries for local mode, which takes seconds for one.
FEW = 15
BATCH = 500
#: Chunks of one document.
CHUNKS = 50
#: Lengths of the noise, of a unit vector: of chunks and of queries.
NOISE = (0.6, 0.4)
LOCAL = "qdrant-client local"
STORES = ("situate, dense", "situate, fast", LOCAL, "chroma", "lancedb", "lancedb, index")
LOCAL_MODE_POINTS = 100_000


class Data:
    """Chunks and queries with their vectors.

    Args:
        points: Number of chunks.
        base: float32 ``[PASSAGES, dimension]``: the passages' vectors.
    """

    def __init__(self, points: int, base: NDArray[np.float32]) -> None:
        passages, generator = sample_texts(PASSAGES, 40, 60), np.random.default_rng(0)
        rows = generator.integers(0, PASSAGES, points)
        self.texts = [f"{passages[row]} ({i})" for i, row in enumerate(rows.tolist())]
        self.vectors = _noisy(base[rows], NOISE[0], generator)
        self.groups = [f"group {i}" for i in generator.integers(0, GROUPS, points)]
        asked = generator.integers(0, points, QUERIES)
        self.queries = [" ".join(self.texts[i].split()[3:11]) + f" ({n})" for n, i in enumerate(asked)]
        self.query_vectors = _noisy(self.vectors[asked], NOISE[1], generator)
        self.query_groups = [self.groups[i] for i in asked]
        self._places = {text: i for i, text in enumerate(self.texts)}
        self._asked = dict(zip(self.queries, self.query_vectors, strict=True))

    def nearest(self, query: int) -> set[int]:
        """The ten chunks nearest to a query, by comparing all."""
        scores = self.vectors @ self.query_vectors[query]
        return set(np.argpartition(-scores, 10)[:10].tolist())

    # The encoder of situate's index
    pools_spans = False

    @property
    def dimension(self) -> int:
        return self.vectors.shape[1]

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        return [Encoded(self.known(item.text)[None]) for item in inputs]

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        return await asyncio.to_thread(self.encode, inputs)

    def known(self, text: str) -> NDArray[np.float32]:
        """The vector of a text; of one that a store makes up by itself some other."""
        found = self._asked.get(text)
        return self.vectors[self._places.get(text, 0)] if found is None else found


def _noisy(vectors: NDArray[np.float32], length: float, generator: np.random.Generator) -> NDArray[np.float32]:
    found = generator.standard_normal(vectors.shape, dtype=np.float32)
    found *= length / vectors.shape[1] ** 0.5
    found += vectors
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


class Store(Protocol):
    """One store on disk. A search returns the numbers of ten chunks."""

    def add(self, first: int, last: int) -> None: ...
    def finish(self) -> None: ...  # after the last chunk: what its documentation advises
    def search(self, query: int, group: str | None = None) -> list[int]: ...
    def close(self) -> None: ...


class Situate:
    """An `Index`; the preset "fast" is hybrid, with BM25."""

    def __init__(self, data: Data, folder: Path, preset: str) -> None:
        from situate.embedders import Embedder
        from situate.retrievers import Index, PipelineConfig

        self.data = data
        embedder = Embedder(encoder=data, max_tokens=256)
        self.index = Index(embedder, path=folder, config=getattr(PipelineConfig, preset)())

    def add(self, first: int, last: int) -> None:
        from situate.chunkers import Chunk, Document

        items = []
        for begin in range(first, last, CHUNKS):
            texts = self.data.texts[begin : min(begin + CHUNKS, last)]
            document = Document(f"{begin}", "\n".join(texts), {})
            chunks, at = [], 0
            for i, text in enumerate(texts):
                metadata = {"group": self.data.groups[begin + i]}
                chunks.append(Chunk(f"{begin}-{i}", document.id, i, text, at, at + len(text), metadata=metadata))
                at += len(text) + 1
            items.append((document, chunks))
        self.index.add_chunks(items)

    def finish(self) -> None:
        # As docs/storage.md advises for a key that is filtered by; other stores look through it, or index all keys.
        self.index.client.create_payload_index("situate", "metadata.group", models.PayloadSchemaType.KEYWORD)
        self.index.client.optimize("situate")  # type: ignore[attr-defined]

    def search(self, query: int, group: str | None = None) -> list[int]:
        condition = None if group is None else {"group": group}
        return [_number(hit.chunk.text) for hit in self.index.search(self.data.queries[query], k=10, filter=condition)]

    def close(self) -> None:
        self.index.close()


class LangChain:
    """A LangChain vector store.

    Args:
        data: What it is given.
        store: The store.
        condition: A group -> the search's keyword arguments that filter by it.
        finish: Called after the last chunk.
        close: Ends it.
    """

    def __init__(
        self,
        data: Data,
        store: Any,
        condition: Callable[[str], dict[str, Any]],
        finish: Callable[[], object] = lambda: None,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self.data, self.store, self.condition = data, store, condition
        self.finish_store, self.close_store = finish, close

    def add(self, first: int, last: int) -> None:
        rows = range(first, last)
        metadata = [{"group": self.data.groups[i]} for i in rows]
        self.store.add_texts([self.data.texts[i] for i in rows], metadata)

    def search(self, query: int, group: str | None = None) -> list[int]:
        more = {} if group is None else self.condition(group)
        found = self.store.similarity_search(self.data.queries[query], k=10, **more)
        return [_number(document.page_content) for document in found]

    def finish(self) -> None:
        self.finish_store()

    def close(self) -> None:
        self.close_store()


def _number(text: str) -> int:
    return int(text[text.rindex("(") + 1 : -1])


def opened(name: str, data: Data, folder: Path) -> Store:
    """The store of a name; ImportError where it is not installed."""
    if name.startswith("situate"):
        return Situate(data, folder, "fast" if name.endswith("fast") else "plain")
    from langchain_core.embeddings import Embeddings

    class Prepared(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [data.known(text).tolist() for text in texts]

        def embed_query(self, text: str) -> list[float]:
            row: list[float] = data.known(text).tolist()
            return row

    if name == "chroma":
        from langchain_chroma import Chroma

        space: Any = {"hnsw:space": "cosine"}
        chroma = Chroma("chunks", Prepared(), persist_directory=str(folder), collection_metadata=space)
        return LangChain(data, chroma, lambda group: {"filter": {"group": group}})
    if name.startswith("lancedb"):
        import lancedb
        from langchain_community.vectorstores import LanceDB

        # The store's default mode, "overwrite", keeps the chunks of its last call alone.
        lance = LanceDB(lancedb.connect(str(folder)), Prepared(), table_name="chunks", distance="cosine", mode="append")

        def finish() -> None:
            lance.get_table().optimize()
            if name.endswith("index"):
                lance.create_index(vector_col="vector", metric="cosine")

        return LangChain(
            data, lance, lambda group: {"filter": f"metadata.group = '{group}'", "prefilter": True}, finish
        )
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(folder))
    if not client.collection_exists("c"):
        client.create_collection("c", models.VectorParams(size=data.dimension, distance=models.Distance.COSINE))
    store = QdrantVectorStore(client, "c", Prepared())

    def condition(group: str) -> dict[str, Any]:
        match = models.MatchValue(value=group)
        return {"filter": models.Filter(must=[models.FieldCondition(key="metadata.group", match=match)])}

    return LangChain(data, store, condition, close=client.close)


def cpu_seconds() -> float:
    """CPU time of this process and of those that it started and that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def measured(name: str, points: int, vectors: Path) -> dict[str, Any]:
    """One store at one size, in this process."""
    local = name == LOCAL
    data = Data(points, np.load(vectors))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        before = resident_mb()
        store = opened(name, data, folder)
        start, used = time.perf_counter(), cpu_seconds()
        for first in range(0, points, BATCH):
            store.add(first, min(first + BATCH, points))
        written, writing = time.perf_counter() - start, cpu_seconds() - used
        store.finish()
        took = time.perf_counter() - start
        result: dict[str, Any] = {"chunks_per_s": points / took, "written_per_s": points / written}
        result |= {"writing_cpu_ms": 1e3 * writing / points, "cpu_ms": 1e3 * (cpu_seconds() - used) / points}
        for title, grouped in (("search", False), ("filtered", True)):
            asked = [(i, data.query_groups[i] if grouped else None) for i in range(FEW if local else QUERIES)]
            for query, group in asked[:WARM_UP]:
                store.search(query, group)
            found, times, used = [], [], cpu_seconds()
            for query, group in asked:
                start = time.perf_counter()
                found.append(store.search(query, group))
                times.append(time.perf_counter() - start)
            result[title] = summary(times) | {"cpu_ms": 1e3 * (cpu_seconds() - used) / len(asked)}
            if not grouped:
                shares = [len(set(hits) & data.nearest(i)) / 10 for i, hits in enumerate(found)]
                result["recall_at_10"] = statistics.mean(shares)
        result["resident_mb"] = resident_mb() - before
        store.close()
        result["disk_mb"] = disk_mb(folder)
        start = time.perf_counter()
        again = opened(name, data, folder)
        again.search(0)
        result["reopen_s"] = time.perf_counter() - start
        again.close()
    return result


def first_error(stderr: str) -> str:
    """The first error that a process told of: those behind it follow from it, as its files are gone by then."""
    errors = [line for line in stderr.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors[0] if errors else stderr[-200:]).replace("|", "/")[:200]


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    columns = ["chunks", "store", "chunks/s", "CPU ms a chunk", "search p50 / p95, ms", "filtered p50 / p95, ms"]
    columns += ["recall@10", "RAM, MB", "disk, MB", "reopen, s", "load"]
    lines = [f"| {' | '.join(columns)} |", "| ---: | --- |" + " ---: |" * (len(columns) - 2)]
    for row in results:
        if "why" in row:
            lines.append(f"| {row['points']:,} | {row['store']} | {row['why']} |" + " |" * (len(columns) - 3))
            continue
        times = [f"{row[t]['p50_ms']:.1f} / {row[t]['p95_ms']:.1f}" for t in ("search", "filtered")]
        recall = "hybrid" if row["store"].endswith("fast") else f"{row['recall_at_10']:.3f}"
        numbers = [f"{row['resident_mb']:.0f}", f"{row['disk_mb']:.0f}", f"{row['reopen_s']:.2f}"]
        rates = [f"{row['chunks_per_s']:,.0f}", f"{row['cpu_ms']:.2f}"]
        cells = [f"{row['points']:,}", row["store"], *rates, *times, recall, *numbers, f"{row['load']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], target: Path) -> None:
    """Search and indexing by size, on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for name in STORES:
        rows = [row for row in results if row["store"] == name and "why" not in row]
        sizes = [row["points"] for row in rows]
        left.loglog(sizes, [row["search"]["p50_ms"] for row in rows], "o-", label=name)
        right.loglog(sizes, [row["chunks_per_s"] for row in rows], "o-", label=name)
    left.set(xlabel="chunks", ylabel="search p50, ms")
    right.set(xlabel="chunks", ylabel="chunks indexed a second")
    left.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=120)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[10_000])
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--one", nargs=2, metavar=("STORE", "VECTORS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, vectors = arguments.one
        try:
            print(json.dumps(measured(name, arguments.points[0], Path(vectors))))
        except ImportError as error:
            print(json.dumps({"why": f"not installed: {error.name}"}))
        return
    from situate.embedders import Embedder

    RESULTS.mkdir(exist_ok=True)
    about = {"platform": platform.platform(terse=True), "cpu": environment(1)["device"], "cores": os.cpu_count()}
    before = RESULTS / "scale.json"
    results: list[dict[str, Any]] = json.loads(before.read_text(encoding="utf-8"))["results"] if before.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        vectors = Path(folder) / "vectors.npy"
        np.save(vectors, Embedder().embed_documents(sample_texts(PASSAGES, 40, 60)))
        for points in arguments.points:
            for name in arguments.stores:
                if name == LOCAL and points > LOCAL_MODE_POINTS:
                    continue
                load = round(os.getloadavg()[0], 1)
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--points", str(points)]
                done = subprocess.run(
                    [*command, "--one", name, str(vectors)], capture_output=True, text=True, check=False
                )
                answer = done.stdout.strip().splitlines()
                found = json.loads(answer[-1]) if not done.returncode and answer else {"why": first_error(done.stderr)}
                results = [row for row in results if (row["points"], row["store"]) != (points, name)]
                results.append({"points": points, "store": name, "load": load, **found})
                print(results[-1], flush=True)
                results.sort(key=lambda row: (row["points"], STORES.index(row["store"])))
                report = {"machine": about, "results": results}
                before.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "scale.md").write_text(f"{about}\n\n{table(results)}\n", encoding="utf-8")
    plot(results, RESULTS / "scale.png")
    print(table(results))


if __name__ == "__main__":
    main()
