"""Stages of benchmarks/gpu.py that measure what each way of running saves: with it and without, in turns."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks._gpu_models import model_folder, rank_folder
from benchmarks._gpu_run import Row, Settings
from benchmarks._gpu_tools import engine_of, seconds_of
from benchmarks.encoder import compared, sample_texts, timed
from situate.embedders.local import encoder as encoders
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText


def overlap(settings: Settings) -> Iterator[Row]:
    """A bulk call that tokenizes while the device computes, against slice after slice."""
    for name, count in (("MiniLM-L6", 12288), ("BERT-base", 6144)):
        texts = sample_texts(24 if settings.smoke else count, 8, 250)
        inputs = [SpanText(text) for text in texts]
        ours = Encoder(model_folder(name, settings), device=settings.device, max_tokens=512)

        def serial(ours: Encoder = ours, inputs: list[SpanText] = inputs) -> None:
            with mock.patch.object(encoders, "_SLICES_AHEAD", 0):
                ours.encode(inputs)

        mine, medians, ratios = compared(
            timed(lambda e=ours, i=inputs: e.encode(i)),  # type: ignore[misc]
            {"serial": timed(serial)},
            1 if settings.smoke else 2,
        )
        reading = timed(lambda e=ours, i=inputs: e._read(i, 0))()  # type: ignore[misc]
        row: Row = {"model": name, "texts": len(texts), "s": mine, "without overlap s": medians["serial"]}
        yield {**row, "ratio": ratios["serial"], "reading alone s": reading}
        ours.close()


def ways(settings: Settings) -> Iterator[Row]:
    """Fused norms in bulk, graphs for a query, attention in groups, compiled decoders: with each and without."""
    yield from _fused_and_grouped(settings)
    yield from _graphs(settings)
    yield from _compiled(settings)


def _fused_and_grouped(settings: Settings) -> Iterator[Row]:
    import torch

    from situate.embedders.forward.gpu import fused, groups
    from situate.embedders.forward.packing import Packing

    device = torch.device(settings.device)
    without = {
        "add and norm in one kernel": ("BERT-base", mock.patch.object(fused, "works", return_value=False), "float16"),
        "attention in groups": ("MPNet-base", mock.patch.object(groups, "pays", return_value=False), "float16"),
        "attention in groups, float32": ("BERT-base", mock.patch.object(groups, "pays", return_value=False), "float32"),
    }
    for what, (name, patch, dtype) in without.items():
        folder = model_folder(name, settings)
        chance = np.random.default_rng(0)
        lengths = sorted(chance.integers(16, 512, 4 if settings.smoke else 100).tolist(), reverse=True)
        ids = torch.randint(1000, 30000, (sum(lengths),), device=device)
        times = []
        for active in (False, True):
            # The choice of kernels is made when the model is loaded, that of groups in each pass.
            with patch if active else contextlib.nullcontext():
                engine = engine_of(Encoder(folder, device=settings.device, dtype=dtype, batch_tokens=32768 + active))  # type: ignore[arg-type]
                run = lambda e=engine, i=ids, n=lengths: e.choice.forward(i, Packing.of(n, device))  # type: ignore[misc]  # noqa: E731
                with torch.inference_mode():
                    times.append(seconds_of(settings, run))
        row: Row = {"what": what, "model": name, "tokens": sum(lengths), "ms": 1e3 * times[0]}
        yield {**row, "without ms": 1e3 * times[1], "ratio": times[1] / times[0]}


def _graphs(settings: Settings) -> Iterator[Row]:
    queries = [SpanText(text) for text in sample_texts(4 if settings.smoke else 100, 5, 10, seed=1)]
    for name in ("MiniLM-L6", "BERT-base"):
        ours = Encoder(model_folder(name, settings), device=settings.device)
        forward = engine_of(ours).choice.forward
        graphs = getattr(forward, "graphs", None)

        def median(ours: Encoder = ours) -> float:
            for query in queries[:4]:
                ours.encode([query], role="query")
            return statistics.median(
                timed(lambda q=query: ours.encode([q], role="query"))()  # type: ignore[misc]
                for query in queries
            )

        row: Row = {"what": "CUDA graphs for a query", "model": name, "ms": 1e3 * median()}
        if graphs is not None:
            forward.graphs = None
        apart = median()
        yield {**row, "without ms": 1e3 * apart, "ratio": 1e3 * apart / row["ms"], "captured": graphs is not None}
        ours.close()


def _compiled(settings: Settings) -> Iterator[Row]:
    import torch

    from situate.embedders.forward.gpu.compiled import CompiledForward
    from situate.embedders.forward.packing import Packing

    engine = engine_of(Encoder(model_folder("Qwen3-0.6B", settings), device=settings.device, dtype="bfloat16"))
    forward = engine.choice.forward
    if not isinstance(forward, CompiledForward):
        yield {"what": "compiled decoder layers", "note": f"not on {settings.device}"}
        return
    lengths = [512] * (2 if settings.smoke else 64)
    ids = torch.randint(1000, 30000, (sum(lengths),), device=settings.device)
    packing = Packing.of(lengths, ids.device)
    with torch.inference_mode():
        plain = seconds_of(settings, lambda: forward(ids, packing))
        start = time.perf_counter()
        forward._after = 0
        forward(ids, packing)
        ready = forward.wait(max(1.0, settings.deadline - time.time() - 10))
        taken = time.perf_counter() - start
        fast = seconds_of(settings, lambda: forward(ids, packing))
    row: Row = {"what": "compiled decoder layers", "model": "Qwen3-0.6B", "tokens": sum(lengths), "ms": 1e3 * fast}
    yield {**row, "without ms": 1e3 * plain, "ratio": plain / fast, "compiled in s": taken, "captured": ready}


def rerankers(settings: Settings) -> Iterator[Row]:
    """T5 and SPLADE over a query's passages, beside transformers and sentence-transformers called as their cards do."""
    import torch

    from situate.embedders.library.sparse import SparseEmbedder
    from situate.embedders.pairs.t5 import MonoT5Model

    passages = sample_texts(2 if settings.smoke else 100, 10, 220, seed=5)
    query = "how many weeks of paid parental leave may an employee take?"
    rounds = 1 if settings.smoke else 3
    folder = rank_folder("t5", settings)
    ours = MonoT5Model(folder, true="true", false="false", device=settings.device, dtype="bfloat16")
    pairs = [(query, passage) for passage in passages]
    peer = _padded_t5(folder, settings)
    mine, medians, ratios = compared(timed(lambda: ours.score(pairs)), {"peer": timed(lambda: peer(pairs))}, rounds)
    row: Row = {"reranker": "monoT5-base", "passages": len(pairs), "ms": 1e3 * mine, "peer ms": 1e3 * medians["peer"]}
    yield {**row, "ratio": ratios["peer"]}

    from sentence_transformers import SparseEncoder

    folder = rank_folder("splade", settings)
    sparse = SparseEmbedder(folder, device=settings.device, dtype="bfloat16", batch_size=32)
    plain = SparseEncoder(str(folder), device=settings.device, model_kwargs={"dtype": torch.bfloat16})
    mine, medians, ratios = compared(
        timed(lambda: sparse.embed_documents(passages)),
        {"peer": timed(lambda: plain.encode(passages, batch_size=32, save_to_cpu=True, show_progress_bar=False))},
        rounds,
    )
    row = {"reranker": "SPLADE (BERT-base)", "passages": len(passages), "ms": 1e3 * mine}
    yield {**row, "peer ms": 1e3 * medians["peer"], "ratio": ratios["peer"]}


def _padded_t5(folder: Path, settings: Settings) -> Callable[[list[tuple[str, str]]], Any]:
    """MonoT5 in batches of 32 in the order given, as rerankers libraries run it."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForSeq2SeqLM.from_pretrained(str(folder), dtype=torch.bfloat16).to(settings.device).eval()

    @torch.inference_mode()
    def score(pairs: list[tuple[str, str]]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(pairs), 32):
            texts = [f"Query: {q} Document: {p} Relevant:" for q, p in pairs[start : start + 32]]
            given = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
            given = {key: given[key].to(settings.device) for key in ("input_ids", "attention_mask")}
            begin = torch.zeros((len(texts), 1), dtype=torch.int64, device=settings.device)
            logits = model(**given, decoder_input_ids=begin, use_cache=False).logits[:, 0, [5, 6]]
            scores += logits.float().softmax(-1)[:, 0].tolist()
        return scores

    return score


def several_cards(settings: Settings) -> Iterator[Row]:
    """A process for each card, against one card."""
    import torch

    count = torch.cuda.device_count() if settings.device == "cuda" else 0
    if count < 2:
        yield {"devices": count, "note": "fewer than two cards: nothing to compare"}
        return
    devices = [f"cuda:{i}" for i in range(count)]
    folder = model_folder("BERT-base", settings)
    inputs = [SpanText(text) for text in sample_texts(24 if settings.smoke else 8192, 8, 250)]
    alone = Encoder(folder, device=devices[0], max_tokens=512)
    with Encoder(folder, device=devices, max_tokens=512) as team:
        mine, medians, ratios = compared(
            timed(lambda: team.encode(inputs)),
            {"one": timed(lambda: alone.encode(inputs))},
            1 if settings.smoke else 2,
        )
        query = statistics.median(
            timed(lambda i=item: team.encode([i], role="query"))()  # type: ignore[misc]
            for item in inputs[:20]
        )
    row: Row = {"devices": count, "texts": len(inputs), "s": mine, "one device s": medians["one"]}
    yield {**row, "ratio": ratios["one"], "query ms, p50": 1e3 * query}
