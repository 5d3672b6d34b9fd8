"""A query's time in a process with idle threads that have embedded before, as a server's threads have.

    python -m benchmarks.idle_threads [--queries 40] [--threads 4] [--rounds 5]

In turns: queries while no other thread has embedded, and while some have and are idle. Each library has a process of
its own, since one library's threads would slow down the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from situate.embedders.models.resolve import resolve_model

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
LIBRARIES = ("situate", "sentence-transformers")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=40, help="queries of a round, alone and beside the threads")
    parser.add_argument("--threads", type=int, default=4, help="idle threads that have embedded before")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--library", choices=LIBRARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.library:
        print(json.dumps(measured(arguments.library, arguments.queries, arguments.threads, arguments.rounds)))
        return
    print(f"| one query, p50, ms | no other thread | {arguments.threads} idle threads | median ratio |")
    print("| --- | ---: | ---: | ---: |")
    for library in LIBRARIES:
        found = subprocess.run(
            [sys.executable, "-m", "benchmarks.idle_threads", *sys.argv[1:], "--library", library],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        alone, beside = (json.loads(found.stdout.splitlines()[-1])[name] for name in ("alone", "beside"))
        ratio = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
        print(
            f"| {library} | {1e3 * statistics.median(alone):.1f} | {1e3 * statistics.median(beside):.1f} "
            f"| {ratio:.2f} |",
            flush=True,
        )


def measured(library: str, queries: int, threads: int, rounds: int) -> dict[str, list[float]]:
    """Median seconds of a query, by round."""
    embed = embedding(library)
    texts = (f"which policy holds for the second quarter, asked for the time {n}" for n in range(10**6))

    def asked() -> float:
        times = []
        for _ in range(queries):
            started = time.perf_counter()
            embed(next(texts))
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    asked()
    found: dict[str, list[float]] = {"alone": [], "beside": []}
    for _ in range(rounds):
        found["alone"].append(asked())
        with idle_threads(threads, lambda: embed(next(texts))):
            found["beside"].append(asked())
    return found


def embedding(library: str) -> Callable[[str], object]:
    """A function that embeds one query."""
    if library == "situate":
        from situate.embedders import Embedder

        embedder = Embedder(MODEL, device="cpu")
        return lambda text: embedder.embed_queries([text])
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(resolve_model(MODEL).path), device="cpu").encode


@contextmanager
def idle_threads(count: int, work: Callable[[], object]) -> Iterator[None]:
    """Threads that have done some work, one after the other, and wait."""
    end = threading.Event()
    threads = []
    for _ in range(count):
        worked = threading.Event()

        def run(worked: threading.Event = worked) -> None:
            work()
            worked.set()
            end.wait()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        worked.wait()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
