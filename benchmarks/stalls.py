"""How long the event loop is blocked while many retrievals run at once.

    python -m benchmarks.stalls [--calls 200] [--rounds 5] [--rerank]

A task notes the time between its wake-ups, a millisecond apart, while the calls run; the longest gap counts. Beside it
stand, of the same wake-ups, the longest without the time in which the machine had no core for the loop's thread (Linux
counts it), the loop's own computing, and the pauses for garbage collection. The baseline is the same task while as many
threads as there are cores compute without Python and without situate: what the machine and its other users do to any
event loop. Run it on a machine with nothing else to do. Frameworks have a baseline, too: a retriever that finds
nothing.

As a server should, this program calls ``gc.freeze()`` when everything is loaded: without it the interpreter's full
collections look at every object of torch, and the loop waits for them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import os
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from situate.chunkers import Document
from situate.embedders import Embedder
from situate.retrievers import Index, PipelineConfig, Retriever
from situate.retrievers.rerank import LateInteractionReranker

TOPICS = ("leave", "travel", "purchasing", "laboratory safety", "releases", "security", "support", "equipment")

Call = Callable[[str], Awaitable[Any]]


@dataclass(frozen=True)
class Stalls:
    """One round, in seconds: the longest gap, without waiting for a core, the loop's own computing, all calls."""

    gap: float
    with_core: float
    own: float
    took: float
    degraded: int = 0


def waited_for_core() -> float:
    """Seconds that this thread has been ready to run and had no core; 0 where the system does not count."""
    try:
        counted = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return int(counted.split()[1]) / 1e9


async def stalls(call: Call, queries: Sequence[str]) -> Stalls:
    """Measure one round."""
    gaps: list[tuple[float, float, float]] = []
    over = asyncio.Event()

    async def tick() -> None:
        while not over.is_set():
            # The system's counters are read outside of the gap: reading a file releases the interpreter four times, and
            # waits for it as often.
            queued = waited_for_core()
            own, before = time.thread_time(), time.perf_counter()
            await asyncio.sleep(0.001)
            gap = time.perf_counter() - before - 0.001
            own = time.thread_time() - own
            gaps.append((gap, gap - (waited_for_core() - queued), own))

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    started = time.perf_counter()
    found = await asyncio.gather(*(call(query) for query in queries))
    took = time.perf_counter() - started
    over.set()
    await ticker
    return Stalls(*(max(column) for column in zip(*gaps, strict=True)), took, sum(_degraded(each) for each in found))


def _degraded(found: Any) -> bool:
    return bool(getattr(found, "degraded", ()))


@contextmanager
def collecting() -> Iterator[list[float]]:
    """The lengths of garbage collections, in seconds."""
    pauses: list[float] = []
    began = [0.0]

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            began[0] = time.perf_counter()
        else:
            pauses.append(time.perf_counter() - began[0])

    gc.callbacks.append(note)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(note)


async def busy(pool: ThreadPoolExecutor, seconds: float) -> None:
    """Every core computes for so long, without holding the interpreter."""
    until = time.perf_counter() + seconds

    def compute() -> None:
        while time.perf_counter() < until:
            hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 20_000)

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(pool, compute) for _ in range(os.cpu_count() or 1)))


def report(label: str, call: Call, queries: Sequence[str], rounds: int) -> float:
    """Print the medians over the rounds; the median time of a round, in seconds."""
    with collecting() as pauses:
        measured = [asyncio.run(stalls(call, queries)) for _ in range(rounds)]

    def text(values: Sequence[float]) -> str:
        return f"{1000 * statistics.median(values):.0f} ms ({1000 * min(values):.0f} to {1000 * max(values):.0f})"

    took = statistics.median(each.took for each in measured)
    print(f"{label}: {len(queries)} calls in {took:.2f} s, degraded {sum(each.degraded for each in measured)}")
    print(f"    longest gap {text([m.gap for m in measured])}; with a core {text([m.with_core for m in measured])}")
    collection = 1000 * max(pauses, default=0)
    print(f"    loop's own computing {text([m.own for m in measured])}; longest collection {collection:.0f} ms")
    return took


def frameworks(retriever: Retriever) -> Iterator[tuple[str, Call]]:
    """The retriever in both frameworks, and retrievers of theirs that find nothing."""
    from langchain_core.retrievers import BaseRetriever as LangChainRetriever
    from llama_index.core.base.base_retriever import BaseRetriever as LlamaIndexRetriever

    from situate.integrations import langchain, llama_index

    class NothingInLangChain(LangChainRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
            return []

        async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
            return []

    class NothingInLlamaIndex(LlamaIndexRetriever):
        def _retrieve(self, query_bundle: Any) -> list[Any]:
            return []

        async def _aretrieve(self, query_bundle: Any) -> list[Any]:
            return []

    yield "LangChain ainvoke", langchain.SituateRetriever.from_pipeline(retriever).ainvoke
    yield "LangChain ainvoke of a retriever that finds nothing", NothingInLangChain().ainvoke
    yield "LlamaIndex aretrieve", llama_index.SituateRetriever(retriever).aretrieve
    yield "LlamaIndex aretrieve of a retriever that finds nothing", NothingInLlamaIndex().aretrieve


def main() -> None:
    """Print the medians over the rounds for each kind of retrieval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rerank", action="store_true", help="also MaxSim reranking of 50 hits each (minutes)")
    arguments = parser.parse_args()
    embedder = Embedder()
    documents = [
        Document(f"{topic} {n}", " ".join(f"Rule {i} of {topic} in part {n} says what to do." for i in range(60)))
        for topic in TOPICS
        for n in range(25)
    ]
    queries = [f"what does rule {n} of {TOPICS[n % len(TOPICS)]} say?" for n in range(arguments.calls)]
    took = 1.0
    for name in ("fast", "quality"):
        with Index(embedder, config=getattr(PipelineConfig, name)()) as index:
            index.add(documents)
            plain = Retriever(index)
            calls: list[tuple[str, Call]] = [(name, plain.aretrieve)]
            if name == "fast":
                calls += frameworks(plain)
                if arguments.rerank:
                    reranked = Retriever(index, rerankers=[LateInteractionReranker(embedder)])
                    calls.append(("fast, MaxSim rerank of 50", reranked.aretrieve))
            for label, call in calls:
                asyncio.run(_once(call, queries[0]))
                gc.collect()
                gc.freeze()
                took = report(label, call, queries, arguments.rounds)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        report("baseline: every core busy, no situate", lambda query: busy(pool, took), ["-"], arguments.rounds)


async def _once(call: Call, query: str) -> None:
    await call(query)


if __name__ == "__main__":
    main()
