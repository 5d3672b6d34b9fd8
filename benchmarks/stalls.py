"""How long the event loop is held up while many retrievals run at once.

    python -m benchmarks.stalls [--calls 200] [--rounds 5]

A task notes the time between its wake-ups, a millisecond apart, while the calls run; the longest gap counts.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from situate.chunkers import Document
from situate.embedders import Embedder
from situate.retrievers import Index, PipelineConfig, Retriever
from situate.retrievers.rerank import LateInteractionReranker

TOPICS = ("leave", "travel", "purchasing", "laboratory safety", "releases", "security", "support", "equipment")


async def longest_gap(call: Callable[[str], Awaitable[object]], queries: Sequence[str]) -> tuple[float, float]:
    """Seconds: the longest that the loop was held up, and how long all calls took."""
    gaps: list[float] = []
    over = asyncio.Event()

    async def tick() -> None:
        while not over.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            gaps.append(time.perf_counter() - before - 0.001)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    started = time.perf_counter()
    await asyncio.gather(*(call(query) for query in queries))
    took = time.perf_counter() - started
    over.set()
    await ticker
    return max(gaps), took


def main() -> None:
    """Print the median over the rounds for each kind of retrieval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    embedder = Embedder()
    documents = [
        Document(f"{topic} {n}", " ".join(f"Rule {i} of {topic} in part {n} says what to do." for i in range(60)))
        for topic in TOPICS
        for n in range(25)
    ]
    queries = [f"what does rule {n} of {TOPICS[n % len(TOPICS)]} say?" for n in range(arguments.calls)]
    for name in ("fast", "quality"):
        with Index(embedder, config=getattr(PipelineConfig, name)()) as index:
            index.add(documents)
            retrievers = {name: Retriever(index)}
            if name == "fast":
                retrievers["fast, MaxSim rerank of 50"] = Retriever(
                    index, rerankers=[LateInteractionReranker(embedder)]
                )
            for label, retriever in retrievers.items():
                retriever.retrieve(queries[0])
                measured = [asyncio.run(longest_gap(retriever.aretrieve, queries)) for _ in range(arguments.rounds)]
                gaps, times = zip(*measured, strict=True)
                print(
                    f"{label}: longest gap {1000 * statistics.median(gaps):.0f} ms (median of {arguments.rounds}; "
                    f"{1000 * min(gaps):.0f} to {1000 * max(gaps):.0f}), {arguments.calls} calls in "
                    f"{statistics.median(times):.2f} s"
                )


if __name__ == "__main__":
    main()
