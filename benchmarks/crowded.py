"""A query's time beside other busy processes, against sentence-transformers'.

    python -m benchmarks.crowded [--queries 60] [--busy 2]

Both embed the same single queries, a few in turn; first alone, then beside as many busy processes as there are cores.
With half of every core a query should take twice as long. Any further time is lost by the threads of one operator
waiting for one another, because the operating system no longer gives each a core of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sentence_transformers import SentenceTransformer

from situate.embedders import Embedder
from situate.embedders.models.resolve import resolve_model

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
#: Queries of one library before the other's turn, and those at the beginning that are not counted.
TURN, WARM_UP = 5, 10
BUSY = "while True: pass"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=60, help="queries of each, alone and crowded")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="processes beside it")
    arguments = parser.parse_args()
    embedder = Embedder(MODEL)
    theirs = SentenceTransformer(str(resolve_model(MODEL).path), device="cpu")
    ways: dict[str, Callable[[str], object]] = {
        "sentence-transformers": lambda query: theirs.encode(query),
        "situate": lambda query: embedder.embed_queries([query]),
    }
    print("| one query, p50 / p95, ms | alone | crowded |")
    print("| --- | ---: | ---: |")
    alone = times(ways, arguments.queries, "alone")
    with busy(arguments.busy):
        crowded = times(ways, arguments.queries, "crowded")
    for name in ways:
        print(f"| {name} | {spread(alone[name])} | {spread(crowded[name])} |")


def times(ways: dict[str, Callable[[str], object]], count: int, word: str) -> dict[str, list[float]]:
    """Seconds of every query, by way; no query repeats."""
    queries = [f"what is the rate of heat transfer in layer {place} of it, {word}?" for place in range(count + WARM_UP)]
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for first in range(0, len(queries), TURN):
        for name, embed in ways.items():
            for place, query in enumerate(queries[first : first + TURN], first):
                started = time.perf_counter()
                embed(query)
                if place >= WARM_UP:
                    taken[name].append(time.perf_counter() - started)
    return taken


@contextmanager
def busy(count: int) -> Iterator[None]:
    """``count`` processes that run an empty loop."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def spread(seconds: list[float]) -> str:
    """Median and 95th percentile in milliseconds."""
    ordered = sorted(seconds)
    return f"{1e3 * statistics.median(ordered):.1f} / {1e3 * ordered[int(0.95 * (len(ordered) - 1))]:.1f}"


if __name__ == "__main__":
    main()
