"""The embedded store against qdrant-client's local mode, paired in one run, and against the bare engine.

    make bench-storage                                    # 10,000 and 100,000 points of 384 and of 768 dimensions
    python -m benchmarks.storage --points 10000 --size 768

Both get the same points (dense vector, BM25-like sparse vector, payload) and the same queries in turn,
so that a busy machine slows both. The cost of our client over the engine is measured on one and the same shard, call by
call in turn. Local mode commits point by point into a folder, so there it is given the first points only, in turns with
ours, without queries: it answers from memory in either case. Results go to benchmarks/results/storage.{json,md,png}. On
two quiet CPUs all four sizes take about a quarter of an hour and 5 GB of RAM; `--size 384` alone takes a third of that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import QdrantClient, models
from tqdm import tqdm

from situate.retrievers.storage.edge import EdgeClient

RESULTS = Path(__file__).parent / "results"
GROUPS = 100
WORDS = 20_000
BATCH = 512
#: Queries for the engine, and for local mode, which takes up to a second for one.
QUERIES, FEW = 200, 15
#: Points that local mode gets in a folder, and the number of turns with ours.
FOLDER_POINTS, TURNS = 2_000, 5
QUESTIONS = ("search", "filtered search", "hybrid search")
#: The goals at 100,000 x 384, as ratios over local mode.
GOALS = {"search": 50, "filtered search, indexed key": 200, "ingest to disk": 20}


class Data:
    """Points like a text corpus': vectors in overlapping clusters with a decaying spectrum, words by Zipf's law."""

    def __init__(self, points: int, size: int) -> None:
        rng = np.random.default_rng(0)
        spectrum = 1 / np.sqrt(1 + np.arange(size) / 20)
        centres = rng.normal(size=(max(20, points // 500), size)) * spectrum
        vectors = centres[rng.integers(0, len(centres), points)] + 0.8 * rng.normal(size=(points, size)) * spectrum
        self.vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        noisy = self.vectors[rng.integers(0, points, QUERIES)] + 0.3 * rng.normal(size=(QUERIES, size)) / size**0.5
        self.queries = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
        self.words = [np.unique(np.minimum(rng.zipf(1.3, 30), WORDS)) for _ in range(points)]
        self.groups = [f"group {i}" for i in rng.integers(0, GROUPS, points)]
        text = "a passage of about two hundred characters, as a chunk of text in a payload would have it; " * 2
        rows = self.vectors.tolist()
        self.points = [
            models.PointStruct.model_construct(
                id=i,
                vector={
                    "dense": rows[i],
                    "words": models.SparseVector.model_construct(
                        indices=self.words[i].tolist(), values=[1.0 + 1 / (1 + j) for j in range(len(self.words[i]))]
                    ),
                },
                payload={"group": self.groups[i], "text": text, "index": i},
            )
            for i in range(points)
        ]
        self.sparse_queries = [
            models.SparseVector(indices=self.words[i][-4:].tolist(), values=[1.0] * len(self.words[i][-4:]))
            for i in rng.integers(0, points, QUERIES)
        ]

    def exact(self, query: int, group: str | None = None) -> set[int]:
        """The ten points nearest to a query, of one group where that is given; fewer where it has fewer."""
        scores = self.vectors @ self.queries[query]
        if group is None:
            return set(np.argsort(-scores)[:10].tolist())
        members = np.flatnonzero(np.array(self.groups) == group)
        return set(members[np.argsort(-scores[members])[:10]].tolist())


def create(client: QdrantClient, size: int, *, index: bool) -> None:
    client.create_collection(
        "c",
        {"dense": models.VectorParams(size=size, distance=models.Distance.COSINE)},
        sparse_vectors_config={"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    if index:
        client.create_payload_index("c", "group", models.PayloadSchemaType.KEYWORD)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def disk_mb(folder: Path) -> float:
    return sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file()) / 2**20


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"p50_ms": 1e3 * statistics.median(ordered), "p95_ms": 1e3 * ordered[int(0.95 * (len(ordered) - 1))]}


def filter_of(group: str) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key="group", match=models.MatchValue(value=group))])


def questions(data: Data) -> dict[str, Callable[[QdrantClient, int], Any]]:
    def hybrid(client: QdrantClient, i: int) -> Any:
        return client.query_points(
            "c",
            prefetch=[
                models.Prefetch(query=data.queries[i].tolist(), using="dense", limit=50),
                models.Prefetch(query=data.sparse_queries[i], using="words", limit=50),
            ],
            query=models.FusionQuery(fusion=models.Fusion.DBSF),
            limit=10,
        )

    def search(client: QdrantClient, i: int) -> Any:
        return client.query_points("c", data.queries[i], using="dense", limit=10)

    def filtered(client: QdrantClient, i: int) -> Any:
        condition = filter_of(data.groups[i])
        return client.query_points("c", data.queries[i], using="dense", query_filter=condition, limit=10)

    return {"search": search, "filtered search": filtered, "hybrid search": hybrid}


def compare(points: int, size: int, folder: Path) -> dict[str, Any]:
    """One size: ingest, search, filtered and hybrid search on every backend."""
    data = Data(points, size)
    clients: dict[str, QdrantClient] = {}
    result: dict[str, Any] = {"points": points, "size": size, "backends": {}}
    makers: dict[str, Callable[[], QdrantClient]] = {
        "EdgeClient, folder": lambda: EdgeClient(folder / "edge", auto_optimize=False),
        "EdgeClient, :memory:": lambda: EdgeClient(auto_optimize=False),
        "local mode, folder": lambda: QdrantClient(path=str(folder / "local")),
        "local mode, :memory:": lambda: QdrantClient(":memory:"),
    }
    for together in (["EdgeClient, folder", "local mode, folder"], ["EdgeClient, :memory:"], ["local mode, :memory:"]):
        before = resident_mb()
        rates: dict[str, list[float]] = {name: [] for name in together}
        for name in together:
            client = clients[name] = makers[name]()
            create(client, size, index=isinstance(client, EdgeClient))
        for turn in tqdm(range(TURNS), desc=f"{points} x {size}: ingest, {', '.join(together)}"):
            for name in together:
                given = data.points[:FOLDER_POINTS] if name == "local mode, folder" else data.points
                part = given[turn * len(given) // TURNS : (turn + 1) * len(given) // TURNS]
                took = seconds(lambda client=clients[name], part=part: ingest(client, part))
                rates[name].append(len(part) / took)
        for name in together:
            client = clients[name]
            entry = result["backends"][name] = {"ingest_points_per_s": statistics.median(rates[name])}
            if isinstance(client, EdgeClient):
                entry["optimize_s"] = seconds(lambda client=client: client.optimize("c"))
            if name != "local mode, folder":
                entry["resident_mb"] = resident_mb() - before
            if name == "EdgeClient, folder":
                entry["disk_mb"] = disk_mb(folder / "edge")
        if len(together) > 1:
            ingest_ratio = statistics.median(ours / local for ours, local in zip(*rates.values(), strict=True))
    clients.pop("local mode, folder").close()
    for question, ask in questions(data).items():
        times: dict[str, list[float]] = {name: [] for name in clients}
        for i in tqdm(range(QUERIES), desc=question):
            for name, client in clients.items():
                if i < FEW or isinstance(client, EdgeClient):
                    times[name].append(seconds(lambda ask=ask, client=client, i=i: ask(client, i)))
        for name in clients:
            result["backends"][name][question] = summary(times[name])
    ours = clients["EdgeClient, folder"]
    assert isinstance(ours, EdgeClient)
    result["recall_at_10"] = recall(
        [(questions(data)["search"](ours, i).points, data.exact(i)) for i in range(QUERIES)]
    )
    result["filtered_recall_at_10"] = recall(
        [(questions(data)["filtered search"](ours, i).points, data.exact(i, data.groups[i])) for i in range(QUERIES)]
    )
    result["over_the_engine"] = over_the_engine(ours, data, size, folder)
    for client in clients.values():
        client.close()
    backends = result["backends"]
    edge_disk, local = (backends[n] for n in ("EdgeClient, folder", "local mode, :memory:"))
    result["ratios_over_local_mode"] = {
        "ingest to disk": ingest_ratio,
        "search": local["search"]["p50_ms"] / edge_disk["search"]["p50_ms"],
        "filtered search, indexed key": local["filtered search"]["p50_ms"] / edge_disk["filtered search"]["p50_ms"],
        "hybrid search": local["hybrid search"]["p50_ms"] / edge_disk["hybrid search"]["p50_ms"],
    }
    return result


def ingest(client: QdrantClient, points: list[models.PointStruct]) -> None:
    for i in range(0, len(points), BATCH):
        client.upsert("c", points[i : i + BATCH])


def recall(answers: list[tuple[list[models.ScoredPoint], set[int]]]) -> float:
    """The mean share of the expected points that were found."""
    return statistics.mean(len({p.id for p in found} & expected) / len(expected) for found, expected in answers)


def over_the_engine(client: EdgeClient, data: Data, size: int, folder: Path) -> dict[str, float]:
    """The client's overhead over the engine's own calls: on a search of ten hits with payload, and on ingesting."""
    shard = client._client.store.collection("c").shard
    theirs, ours = [], []
    rows = data.queries.tolist()
    for row in rows * 3:
        request = edge.QueryRequest(limit=10, query=edge.Query.Nearest(row, using="dense"), with_payload=True)
        theirs.append(seconds(lambda request=request: shard.query(request)))
        ours.append(seconds(lambda row=row: client.query_points("c", row, using="dense", limit=10)))
    points = data.points[:20_000]
    bare_rates, our_rates = [], []
    for turn in range(5):
        bare = edge.EdgeShard.create(
            str(folder / f"bare {turn}"),
            edge.EdgeConfig(
                vectors={"dense": edge.EdgeVectorParams(size, edge.Distance.Cosine)},
                sparse_vectors={"words": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
            ),
        )
        bare.update(edge.UpdateOperation.create_field_index("group", edge.PayloadSchemaType.Keyword))

        def ingest_bare(bare: Any = bare) -> None:
            for i in range(0, len(points), BATCH):
                batch = []
                for p in points[i : i + BATCH]:
                    words = p.vector["words"]
                    named = {"dense": p.vector["dense"], "words": edge.SparseVector(words.indices, words.values)}
                    batch.append(edge.Point(p.id, named, p.payload))
                bare.update(edge.UpdateOperation.upsert_points(batch))

        def ingest_ours(other: EdgeClient) -> None:
            for i in range(0, len(points), BATCH):
                other.upsert("c", points[i : i + BATCH])

        with EdgeClient(folder / f"ours {turn}", auto_optimize=False) as other:
            create(other, size, index=True)
            runs = [(bare_rates, ingest_bare), (our_rates, lambda other=other: ingest_ours(other))]
            for rates, run in runs if turn % 2 else reversed(runs):
                rates.append(len(points) / seconds(run))
        bare.close()
    return {
        "engine_search_p50_ms": 1e3 * statistics.median(theirs),
        "search_overhead_p50_ms": 1e3 * statistics.median(o - t for o, t in zip(ours, theirs, strict=True)),
        "engine_ingest_points_per_s": statistics.median(bare_rates),
        "ingest_overhead_percent": 100
        * (statistics.median(b / o for b, o in zip(bare_rates, our_rates, strict=True)) - 1),
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    columns = ["", "ingest, points/s", *(f"{q} p50 / p95, ms" for q in QUESTIONS), "resident, MB", "disk, MB"]
    lines = []
    for result in results:
        lines += [f"### {result['points']:,} x {result['size']}", "", f"| {' | '.join(columns)} |"]
        lines.append("| --- |" + " ---: |" * (len(columns) - 1))
        for name, entry in result["backends"].items():
            cells = [f"{entry[q]['p50_ms']:.2f} / {entry[q]['p95_ms']:.2f}" if q in entry else "" for q in QUESTIONS]
            cells.append(f"{entry['resident_mb']:.0f}" if "resident_mb" in entry else "")
            cells.append(f"{entry['disk_mb']:.0f}" if "disk_mb" in entry else "")
            lines.append(f"| {name} | {entry['ingest_points_per_s']:,.0f} | {' | '.join(cells)} |")
        ratios = ", ".join(f"{k} {v:.0f} x" for k, v in result["ratios_over_local_mode"].items())
        over = result["over_the_engine"]
        lines += [
            "",
            f"Over local mode: {ratios}. Recall@10 against exact search: {result['recall_at_10']:.3f} "
            f"(filtered: {result['filtered_recall_at_10']:.3f}). Our client over the bare engine: "
            f"{over['search_overhead_p50_ms']:+.2f} ms on a search that takes the engine "
            f"{over['engine_search_p50_ms']:.2f} ms, {over['ingest_overhead_percent']:+.0f} % on ingesting. Optimising "
            f"(HNSW) took {result['backends']['EdgeClient, folder']['optimize_s']:.0f} s in a process of its own.",
            "",
        ]
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], target: Path) -> None:
    """Bars of the ratios over local mode; nothing where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: the plot is left out")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    names = list(results[0]["ratios_over_local_mode"])
    width = 0.8 / len(results)
    for i, result in enumerate(results):
        places = [j + i * width for j in range(len(names))]
        bars = axes.bar(
            places,
            [result["ratios_over_local_mode"][n] for n in names],
            width,
            label=f"{result['points']:,} x {result['size']}",
        )
        axes.bar_label(bars, fmt="%.0f x", fontsize=8)
    axes.set_yscale("log")
    axes.set_xticks([j + width * (len(results) - 1) / 2 for j in range(len(names))], names, fontsize=9)
    axes.set_ylabel("times local mode")
    axes.set_title("Embedded store over qdrant-client's local mode", fontsize=10)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000], help="how many points")
    parser.add_argument("--size", type=int, nargs="+", default=[384, 768], help="dimensions")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Local mode|Payload indexes have no effect")
    machine = {
        "cpus": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        **{p: version(p) for p in ("qdrant-client", "qdrant-edge-py", "numpy")},
    }
    results: list[dict[str, Any]] = []
    for size in arguments.size:
        for points in arguments.points:
            folder = Path(tempfile.mkdtemp(prefix="bench-storage-"))
            try:
                results.append(compare(points, size, folder))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            write(arguments.output, machine, results)  # after each, so that a run that is cut short leaves something
    plot(results, arguments.output / "storage.png")
    print(table(results))


def write(output: Path, machine: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """The results as JSON and as Markdown."""
    output.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "goals_at_100000_x_384": GOALS, "results": results}
    (output / "storage.json").write_text(json.dumps(report, indent=1) + "\n")
    header = "# Embedded storage\n\n`make bench-storage`: " + ", ".join(f"{k} {v}" for k, v in machine.items()) + "\n\n"
    (output / "storage.md").write_text(header + table(results))


if __name__ == "__main__":
    main()
