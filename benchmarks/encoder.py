"""The encoder's speed, beside other libraries.

    make bench-encoder                                     every row, on CPU
    python -m benchmarks.encoder --rows bulk query         some rows
    python -m benchmarks.gpu                               on a GPU

Peers run in an environment of their own, which the first run sets up, and take turns with the encoder: A, B, A, B.
The reported ratio is the median over the rounds, so that a machine that slows down slows both. A peer that cannot be
installed or started is reported as such. Results of a run of all rows go to benchmarks/results/; a run of some only
prints them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from situate.embedders.local.encoder import Encoder
from situate.embedders.models.resolve import resolve_model
from situate.embedders.types import SpanText

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PEERS = ROOT / "build" / "bench-peers"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
#: The packages of each peer, installed one by one, so that one without a release for the current transformers does not
#: stop the others.
PACKAGES: dict[str, list[list[str]]] = {
    "sentence-transformers": [],  # a dependency of ours: it runs in this environment
    "openvino-bf16": [["openvino"]],
    "onnx-int8": [["onnx", "onnxruntime"]],
    "llama-index": [["llama-index-embeddings-huggingface"]],
    # Its upper bound on sentence-transformers is older than the one here; the class itself works with it.
    "langchain": [["langchain-core"], ["--no-deps", "langchain-huggingface"]],
}


@dataclass
class Row:
    """One comparison.

    Attributes:
        name: What is done.
        ours: Median seconds of the encoder.
        unit: How ``ours`` and ``theirs`` are shown: "s", "ms", "texts/s" or "".
        theirs: Median seconds of each peer, or why there are none.
        ratios: Median over the rounds of peer / encoder.
        must: The ratio to reach.
        aim: The ratio hoped for.
        per_second: Texts in a run, where speed is shown as a rate.
        note: A remark.
    """

    name: str
    ours: float
    theirs: dict[str, float | str] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    must: float | None = None
    aim: float | None = None
    per_second: int | None = None
    note: str = ""

    def line(self) -> list[str]:
        """Cells of the printed table."""

        def shown(seconds: float | str) -> str:
            if isinstance(seconds, str):
                return seconds
            return f"{self.per_second / seconds:.0f}/s" if self.per_second else f"{seconds * 1e3:.2f} ms"

        peers = "; ".join(
            f"{name} {shown(s)}" + (f" ({self.ratios[name]:.2f}x)" if name in self.ratios else "")
            for name, s in self.theirs.items()
        )
        goal = "" if self.must is None else f"must {self.must}x, aim {self.aim}x"
        return [self.name, shown(self.ours) if self.ours else "", peers, goal, self.note]


class PeerProcess:
    """A peer in the peers' environment."""

    def __init__(self, name: str, model: Path, folder: Path, threads: int) -> None:
        self.name = name
        self.why = _installed(name)
        if self.why:
            return
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
        environment["TOKENIZERS_PARALLELISM"] = "true"
        self.process = subprocess.Popen(
            [_peer_python(name), str(Path(__file__).with_name("_encoder_peer.py")), name, str(model), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        hello = self._read()
        if not hello.get("ready"):
            self.why = f"does not start: {hello.get('why', 'it ended')}"

    def ask(self, do: str, texts: Sequence[str], **more: Any) -> dict[str, Any]:
        """Send the peer a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, "texts": list(texts), **more}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def seconds(self, do: str, texts: Sequence[str]) -> Callable[[], float]:
        """A run of it, for `compared`."""
        return lambda: float(self.ask(do, texts)["seconds"])

    def close(self) -> None:
        """End it."""
        if not self.why and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait(20)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        return answer


def _peer_python(name: str) -> str:
    return str(PEERS / "bin" / "python") if PACKAGES[name] else sys.executable


def _installed(name: str) -> str:
    """Install a peer's packages, once; "" or why they cannot be installed."""
    if not PACKAGES[name]:
        return ""
    marker = PEERS / f".{name}"
    python = _peer_python(name)
    if not marker.is_file():
        if not Path(python).exists():
            venv.create(PEERS, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        why = ""
        for packages in [["torch", "sentence-transformers"], *PACKAGES[name]]:
            done = subprocess.run(
                [*pip, "-c", str(ROOT / "constraints.txt"), *packages], capture_output=True, text=True, check=False
            )
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                why = f"not installable beside these versions: {errors[0][7:160] if errors else 'pip failed'}"
                break
        marker.write_text(why)
    return marker.read_text()


def sample_texts(count: int, least: int = 30, most: int = 180, seed: int = 0) -> list[str]:
    """Runs of words of this repository's own prose, of mixed lengths."""
    words: list[str] = []
    for file in [ROOT / "LICENSE", *sorted((ROOT / "docs").glob("*.md"))]:
        words += re.findall(r"\S+", file.read_text(encoding="utf-8"))
    chance = random.Random(seed)  # noqa: S311  texts, not secrets
    texts = []
    for _ in range(count):
        size = chance.randint(least, most)
        start = chance.randrange(len(words) - size)
        texts.append(" ".join(words[start : start + size]))
    return texts


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """``run`` as a function that returns the seconds it took."""

    def once() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return once


def compared(
    ours: Callable[[], float], theirs: dict[str, Callable[[], float]], rounds: int
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Median seconds of ours, of each of theirs, and the median ratio, taking turns after a warm-up."""
    runs = {"": ours, **theirs}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if round_:
                times[name].append(seconds)
    median = {name: statistics.median(t) for name, t in times.items()}
    ratios = {name: statistics.median(b / a for a, b in zip(times[""], times[name], strict=True)) for name in theirs}
    return median.pop(""), median, ratios


class CpuBench:
    """Every row on this CPU."""

    def __init__(self, texts: int, rounds: int, threads: int, peers: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        self.rounds = rounds
        self.texts = sample_texts(texts)
        self.queries = [text[:50] for text in sample_texts(64, 6, 12, seed=1)]
        model = resolve_model(MODEL).path
        self.fast = Encoder(model, device="cpu")
        self.exact = Encoder(model, device="cpu", dtype="float32")
        names = list(PACKAGES) if peers else ["sentence-transformers"]
        self._scratch = tempfile.TemporaryDirectory()
        self.peers = {name: PeerProcess(name, model, Path(self._scratch.name), threads) for name in names}

    def close(self) -> None:
        """End the peers."""
        for peer in self.peers.values():
            peer.close()
        self._scratch.cleanup()

    def row(
        self,
        name: str,
        ours: Callable[[], float],
        do: str,
        texts: Sequence[str],
        peers: Sequence[str],
        goals: tuple[float, float],
        per_second: int | None = None,
    ) -> Row:
        """One comparison with some of the peers."""
        present = {p: self.peers[p] for p in peers if p in self.peers}
        running = {p: peer.seconds(do, texts) for p, peer in present.items() if not peer.why}
        seconds, theirs, ratios = compared(ours, running, self.rounds)
        absent: dict[str, float | str] = {p: peer.why for p, peer in present.items() if peer.why}
        return Row(name, seconds, {**theirs, **absent}, ratios, *goals, per_second)

    def bulk(self) -> Row:
        """All texts in one call."""
        inputs = [SpanText(text) for text in self.texts]
        peers = ("sentence-transformers", "openvino-bf16", "onnx-int8")
        return self.row(
            f"bulk, {self.fast.dtype}",
            timed(lambda: self.fast.encode(inputs)),
            "bulk",
            self.texts,
            peers,
            (4.5, 6.0),
            len(inputs),
        )

    def tens(self) -> Row:
        """The same in calls of ten, as both frameworks do it."""
        calls = [[SpanText(t) for t in self.texts[i : i + 10]] for i in range(0, len(self.texts), 10)]
        ours = timed(lambda: [self.fast.encode(call) for call in calls])
        peers = ("sentence-transformers", "llama-index", "langchain")
        return self.row("calls of ten", ours, "tens", self.texts, peers, (5.0, 8.0), len(self.texts))

    def exact_mode(self) -> Row:
        """All texts in one call, in float32."""
        inputs = [SpanText(text) for text in self.texts]
        ours = timed(lambda: self.exact.encode(inputs))
        return self.row("exact mode", ours, "bulk", self.texts, ("sentence-transformers",), (2.5, 3.0), len(inputs))

    def query(self) -> Row:
        """One query at a time: the median query."""

        def ours() -> float:
            times = []
            for text in self.queries:
                start = time.perf_counter()
                self.fast.encode([SpanText(text)], role="query")
                times.append(time.perf_counter() - start)
            return statistics.median(times)

        peers = ("sentence-transformers", "openvino-bf16", "onnx-int8")
        return self.row("single query, p50", ours, "queries", self.queries, peers, (4.0, 8.0))

    def concurrent(self) -> Row:
        """64 queries from as many tasks."""

        async def ask() -> None:
            await asyncio.gather(*(self.fast.aencode([SpanText(q)], role="query") for q in self.queries))

        return self.row(
            "64 concurrent queries",
            timed(lambda: asyncio.run(ask())),
            "concurrent",
            self.queries,
            ("llama-index", "langchain"),
            (8.0, 12.0),
            len(self.queries),
        )

    def accuracy(self) -> Row:
        """The lowest cosine to sentence-transformers in float32."""
        reference = np.array(self.peers["sentence-transformers"].ask("bulk", self.texts, vectors=True)["vectors"])
        lowest = {}
        # A CPU without bfloat16 units emulates it, slowly: a few texts are enough for the cosine.
        half = Encoder(self.fast.model, device="cpu", dtype="bfloat16")
        for encoder, count in ((half, 16), (self.exact, None), (self.fast, None)):
            found = np.concatenate([r.vectors for r in encoder.encode([SpanText(t) for t in self.texts[:count]])])
            cosines = (found * reference[:count]).sum(1) / np.linalg.norm(reference[:count], axis=1)
            lowest[encoder.dtype] = float(cosines.min())
        note = ", ".join(f"{dtype} {value:.6f}" for dtype, value in lowest.items())
        return Row("lowest cosine to sentence-transformers fp32", 0.0, note=f"{note} (bfloat16 must 0.9999)")

    def late(self) -> Row:
        """Late chunking a document of 50 chunks, against the same chunks alone in one call."""
        chunks = sample_texts(50, 30, 70, seed=2)  # none longer than the model reads
        document = " ".join(chunks)
        ends = np.cumsum([len(chunk) + 1 for chunk in chunks]) - 1
        spans = tuple((int(end) - len(chunk), int(end)) for chunk, end in zip(chunks, ends, strict=True))
        whole = [SpanText(document, spans, window=256, overlap=64)]
        apart = [SpanText(chunk) for chunk in chunks]
        late, alone, ratios = compared(
            timed(lambda: self.fast.encode(apart)), {"late": timed(lambda: self.fast.encode(whole))}, self.rounds
        )
        note = f"late chunking takes {ratios['late']:.2f}x the time of the chunks alone (must 1.5x or less, aim 1.35x)"
        return Row("late chunking, 50 chunks", alone["late"], {"chunks alone": late}, {}, note=note)


ROWS: dict[str, Callable[[CpuBench], Row]] = {
    "bulk": CpuBench.bulk,
    "tens": CpuBench.tens,
    "exact": CpuBench.exact_mode,
    "query": CpuBench.query,
    "concurrent": CpuBench.concurrent,
    "accuracy": CpuBench.accuracy,
    "late": CpuBench.late,
}


def environment(threads: int) -> dict[str, Any]:
    """The machine and versions of the measurement."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found[1] if found else cpu
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")
    return {
        "device": cpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def report(name: str, rows: Sequence[Row], where: dict[str, Any], *, write: bool = True) -> None:
    """Print the table; write it, the numbers and a plot."""
    lines = [row.line() for row in rows]
    heads = ["row", "situate", "others (their time / ours)", "goal", "note"]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * 5, *lines])
    print(table)
    if not write:
        return
    RESULTS.mkdir(exist_ok=True)
    values = {"environment": where, "rows": [asdict(row) for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
    title = f"# {name}\n\n{where}\n\n"
    (RESULTS / f"{name}.md").write_text(title + table + "\n")
    plot(RESULTS / f"{name}.png", rows)


def plot(file: Path, rows: Sequence[Row]) -> None:
    """Bars: how many times as fast as each peer, with the goals marked."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    bars = [(f"{row.name}\nvs {peer}", ratio, row.must) for row in rows for peer, ratio in row.ratios.items()]
    if not bars:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.6 * len(bars) + 1))
    axes.barh([b[0] for b in bars], [b[1] for b in bars], color="#3b6ea5")
    for place, (_, ratio, must) in enumerate(bars):
        axes.text(ratio, place, f" {ratio:.1f}x", va="center")
        if must is not None:
            axes.plot([must, must], [place - 0.4, place + 0.4], color="#c0392b", linewidth=2)
    axes.invert_yaxis()
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("times as fast (red: must)")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder", description="Encoder speed.")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-peers", action="store_true", help="sentence-transformers alone")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    bench = CpuBench(chosen.texts, chosen.rounds, chosen.threads, not chosen.no_peers)
    try:
        rows = []
        for name in chosen.rows:
            rows.append(ROWS[name](bench))
            print(" | ".join(rows[-1].line()), file=sys.stderr, flush=True)
    finally:
        bench.close()
    # Without bfloat16 in hardware everything runs in float32: another table, which must not replace the first.
    report(f"encoder-cpu-{bench.fast.dtype}", rows, environment(chosen.threads), write=chosen.rows == tuple(ROWS))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
