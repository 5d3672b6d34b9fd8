"""Stages of benchmarks/gpu.py that measure speed, beside sentence-transformers in the same format."""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks._gpu_models import model_folder, work_of
from benchmarks._gpu_run import Row, Settings
from benchmarks._gpu_tools import engine_of, seconds_of, synchronize, vectors_of
from benchmarks.encoder import compared, sample_texts, timed
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText


def forward(settings: Settings) -> Iterator[Row]:
    """The device alone: passes of several sizes; how long the host takes to hand one over; the share of the peak."""
    import torch

    from situate.embedders.forward.packing import Packing

    device = torch.device(settings.device)
    for name in ("MiniLM-L6", "BERT-base", "BERT-large", "MPNet-base", "Qwen3-0.6B"):
        folder = model_folder(name, settings)
        engine = engine_of(Encoder(folder, device=settings.device, dtype="bfloat16"))
        for budget in (512,) if settings.smoke else (8192, 32768, 131072):
            chance = random.Random(0)  # noqa: S311  lengths, not secrets
            lengths: list[int] = []
            while sum(lengths) < budget:
                lengths.append(chance.randint(16, 512))
            lengths.sort(reverse=True)
            packing, ids = Packing.of(lengths, device), torch.randint(1000, 30000, (sum(lengths),), device=device)
            run = lambda e=engine, i=ids, p=packing: e.choice.forward(i, p)  # noqa: E731
            with torch.inference_mode():
                taken = seconds_of(settings, run)
                host = timed(run)()
                synchronize(settings)
            row = {"model": name, "way": type(engine.choice.forward).__name__, "packed": engine.packed}
            row |= {"tokens": sum(lengths), "ms": 1e3 * taken, "of it host ms": 1e3 * host}
            work = work_of(folder, lengths)
            yield {**row, "tokens/s": sum(lengths) / taken, "FLOP/s": work / taken, **_share(settings, work / taken)}
        if settings.device == "cuda" and name in ("BERT-base", "Qwen3-0.6B"):
            _profile(settings, name, run)


def _profile(settings: Settings, name: str, run: Callable[[], object]) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled, torch.inference_mode():
        run()
        torch.cuda.synchronize()
    table = profiled.key_averages().table(sort_by="cuda_time_total", row_limit=25)
    (settings.out / f"gpu-profile-{name}.txt").write_text(table, encoding="utf-8")


def bulk(settings: Settings) -> Iterator[Row]:
    """All texts in one call, taking turns with sentence-transformers in bfloat16."""
    import torch
    from sentence_transformers import SentenceTransformer

    cases = (
        ("BERT-base", 8, 250, 8192),
        ("MiniLM-L6", 8, 250, 8192),
        ("MiniLM-L6", 4, 24, 16384),
        ("Qwen3-0.6B", 8, 250, 1536),
        ("BERT-large", 8, 250, 3072),
        ("MPNet-base", 8, 250, 4096),
    )
    for name, least, most, count in cases:
        row: Row = {"model": name, "words": f"{least} to {most}"}
        if not settings.smoke and settings.deadline - time.time() < 20:
            yield {**row, "note": "no time left"}
            continue
        folder = model_folder(name, settings)
        texts = sample_texts(16 if settings.smoke else count, least, most)
        inputs = [SpanText(text) for text in texts]
        ours = Encoder(folder, device=settings.device, dtype="bfloat16", max_tokens=512)
        peer = SentenceTransformer(str(folder), device=settings.device, model_kwargs={"dtype": torch.bfloat16})
        peer.max_seq_length = 512
        theirs = np.asarray(peer.encode(texts[:64], normalize_embeddings=True), dtype=np.float32)
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)  # it normalises in bfloat16
        cosine = float((vectors_of(ours, inputs[:64]) * theirs).sum(1).min())
        runs = {"st": timed(lambda p=peer, t=texts: p.encode(t, batch_size=128))}  # type: ignore[misc]
        mine, medians, ratios = compared(
            timed(lambda e=ours, i=inputs: e.encode(i)),  # type: ignore[misc]
            runs,
            1 if settings.smoke else 3,
        )
        start = time.perf_counter()
        plans = ours._read(inputs, 0)
        reading = time.perf_counter() - start
        lengths = [len(ids) for plan in plans for ids in plan.sequences]
        work = work_of(folder, lengths)
        row |= {"packed": engine_of(ours).packed, "texts": len(texts), "tokens": sum(lengths), "s": mine}
        row |= {"sentence-transformers s": medians["st"], "ratio": ratios["st"], "reading alone s": reading}
        yield {**row, "tokens/s": sum(lengths) / mine, **_share(settings, work / mine), "cosine to it": cosine}
        ours.close()


def pairs(settings: Settings) -> Iterator[Row]:
    """A cross-encoder's scores against float32 on CPU, and its speed against `CrossEncoder.predict` in bfloat16."""
    import torch
    from sentence_transformers import CrossEncoder

    from situate.embedders.pairs.cross_encoder import CrossEncoderModel

    raw: dict[str, Any] = {"activation_fn": torch.nn.Identity(), "show_progress_bar": False}
    for name in ("MiniLM-L6", "BERT-base"):
        folder = model_folder(name, settings, pairs=True)
        query = "how many weeks of paid parental leave may an employee take?"
        asked = [(query, passage) for passage in sample_texts(16 if settings.smoke else 1024, 10, 220, seed=5)]
        ours = CrossEncoderModel(folder, device=settings.device, dtype="bfloat16", output="logit")
        peer = CrossEncoder(str(folder), device=settings.device, model_kwargs={"dtype": torch.bfloat16})
        exact = CrossEncoder(str(folder), device="cpu")
        wanted = np.ravel(exact.predict(asked[:12], **raw))
        spread = float(wanted.std())
        error = float(abs(ours.score(asked[:12]).scores - wanted).max()) / spread
        peers_error = float(abs(np.ravel(peer.predict(asked[:12], **raw)).astype(np.float32) - wanted).max()) / spread
        right = error < max(0.1, 2 * peers_error)
        for count in (8,) if settings.smoke else (100, len(asked)):
            some = asked[:count]
            mine, medians, ratios = compared(
                timed(lambda e=ours, s=some: e.score(s)),  # type: ignore[misc]
                {"st": timed(lambda p=peer, s=some: p.predict(s, batch_size=128, show_progress_bar=False))},  # type: ignore[misc]
                1 if settings.smoke else 3,
            )
            row = {"model": name, "pairs": count, "ms": 1e3 * mine, "CrossEncoder ms": 1e3 * medians["st"]}
            row |= {"ratio": ratios["st"], "error/spread": error, "CrossEncoder's": peers_error}
            yield {**row, "packed": ours.scheduler.engine.packed, "verdict": "right" if right else "wrong"}
        ours.close()


def latency(settings: Settings) -> Iterator[Row]:
    """One query alone, 64 at once, and one at a time while a bulk job runs."""
    import torch
    from sentence_transformers import SentenceTransformer

    queries = [SpanText(text) for text in sample_texts(8 if settings.smoke else 64, 5, 10, seed=1)]
    documents = [SpanText(text) for text in sample_texts(32 if settings.smoke else 4096, 8, 250, seed=7)]
    for name in ("MiniLM-L6", "BERT-base", "Qwen3-0.6B"):
        folder = model_folder(name, settings)
        ours = Encoder(folder, device=settings.device, dtype="bfloat16", max_tokens=512)
        peer = SentenceTransformer(str(folder), device=settings.device, model_kwargs={"dtype": torch.bfloat16})

        def one(query: SpanText, ours: Encoder = ours) -> float:
            return timed(lambda: ours.encode([query], role="query"))()

        async def crowd(ours: Encoder = ours) -> None:
            await asyncio.gather(*(ours.aencode([query], role="query") for query in queries))

        for query in queries[:4]:
            one(query)
            peer.encode(query.text)
        alone = [one(query) for query in queries * 2]
        theirs = [timed(lambda q=query, p=peer: p.encode(q.text))() for query in queries * 2]  # type: ignore[misc]
        asyncio.run(crowd())
        together = statistics.median(timed(lambda c=crowd: asyncio.run(c()))() for _ in range(3))  # type: ignore[misc]
        job = threading.Thread(target=ours.encode, args=(documents,))
        job.start()
        beside = []
        while job.is_alive():
            beside.append(one(queries[len(beside) % len(queries)]))
            time.sleep(0.002)
        job.join()
        row: Row = {"model": name, "query ms, p50 / p99": _percentiles(alone)}
        row |= {"sentence-transformers": _percentiles(theirs), f"{len(queries)} at once ms": 1e3 * together}
        yield {**row, "beside a bulk job": _percentiles(beside), "so many": len(beside)}
        ours.close()


def late_chunking(settings: Settings) -> Iterator[Row]:
    """One document that fills an 8,192-token window, against its chunks alone in one call, and against
    sentence-transformers' token vectors, averaged by their offsets."""
    import torch
    from sentence_transformers import SentenceTransformer

    for name in ("ModernBERT-base", "Qwen3-0.6B"):
        folder = model_folder(name, settings)
        ours = Encoder(folder, device=settings.device, dtype="bfloat16")
        chunks: list[str] = []
        room = 300 if settings.smoke else 8000
        for text in sample_texts(120, 80, 100, seed=2):
            room -= len(ours.tokenizer.encode(text, add_special_tokens=False).ids)
            if room < 0:
                break
            chunks.append(text)
        document = " ".join(chunks)
        ends = np.cumsum([len(chunk) + 1 for chunk in chunks]) - 1
        spans = tuple((int(end) - len(chunk), int(end)) for chunk, end in zip(chunks, ends, strict=True))
        whole, apart = [SpanText(document, spans, window=8192)], [SpanText(chunk) for chunk in chunks]
        plan = ours._read(whole, 0)[0]
        peer = SentenceTransformer(str(folder), device=settings.device, model_kwargs={"dtype": torch.bfloat16})
        peer.max_seq_length = 8192
        # A BERT's tokenizer stands in: before transformers 5 it hands over token types, which ModernBERT does not take.
        peer.tokenizer.model_input_names = ["input_ids", "attention_mask"]

        def pooled(
            peer: Any = peer, document: str = document, spans: tuple[tuple[int, int], ...] = spans
        ) -> np.ndarray:
            tokens = peer.encode([document], output_value="token_embeddings", convert_to_numpy=False)[0].float().cpu()
            offsets = np.array(peer.tokenizer(document, return_offsets_mapping=True)["offset_mapping"])
            means = [tokens[(offsets[:, 0] < end) & (offsets[:, 1] > start)].mean(0).numpy() for start, end in spans]
            vectors = np.stack(means)
            return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

        late, medians, _ = compared(
            timed(lambda e=ours, w=whole: e.encode(w)),  # type: ignore[misc]
            {"apart": timed(lambda e=ours, a=apart: e.encode(a)), "peer": timed(pooled)},  # type: ignore[misc]
            1 if settings.smoke else 3,
        )
        row: Row = {"model": name, "tokens": sum(map(len, plan.sequences)), "windows": len(plan.sequences)}
        yield {
            **row,
            "chunks": len(chunks),
            "late ms": 1e3 * late,
            "chunks alone ms": 1e3 * medians["apart"],
            "token vectors pooled ms": 1e3 * medians["peer"],
            "cosine to it": float((ours.encode(whole)[0].vectors * pooled()).sum(1).min()),
        }
        ours.close()


def _share(settings: Settings, rate: float) -> Row:
    return {} if settings.peak is None else {"share of peak": rate / settings.peak}


def _percentiles(seconds: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in np.percentile(seconds, [50, 99]) * 1e3)
