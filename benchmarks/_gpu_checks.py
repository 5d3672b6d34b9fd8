"""Stages of benchmarks/gpu.py that check results, and the one that describes the machine."""

from __future__ import annotations

import contextlib
import inspect
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._gpu_models import model_folder
from benchmarks._gpu_run import PEAK, Row, Settings
from benchmarks._gpu_tools import engine_of, seconds_of, vectors_of
from benchmarks.encoder import ROOT, sample_texts
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText

_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "triton", "numpy", "flash-attn")
#: Lowest cosine to float32 on CPU, by the format computed in.
_LOWEST = {"float32": 0.99999, "bfloat16": 0.999, "float16": 0.999}


def environment(settings: Settings) -> Iterator[Row]:
    """Hardware, driver, versions, and the device's measured peak."""
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device")
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = re.search(r"model name\s*:\s*(.+)", file.read())
    yield {"what": "CPU", "value": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores"}
    yield {"what": "Python, kernel", "value": f"{platform.python_version()}, {platform.release()}"}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield {"what": package, "value": version(package)}
    with contextlib.suppress(ImportError):
        from torch.nn.attention.varlen import varlen_attn

        yield {"what": "varlen_attn", "value": ", ".join(inspect.signature(varlen_attn).parameters)}
    if settings.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        yield {"what": "GPU", "value": f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {card.major}.{card.minor}"}
        yield {"what": "CUDA, cuDNN", "value": f"{torch.version.cuda}, {torch.backends.cudnn.version()}"}
        asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
            yield {"what": "driver, clock, power limit", "value": done.stdout.strip() or done.stderr.strip()}
    size = 256 if settings.smoke else 8192
    a, b = (torch.randn(size, size, device=settings.device, dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * size**3 / seconds_of(settings, lambda: a @ b)
    yield {"what": PEAK, "value": peak}
    source = torch.empty(1 << (16 if settings.smoke else 30), device=settings.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    moved = 2 * source.numel() / seconds_of(settings, lambda: target.copy_(source))
    yield {"what": "copy on the device, read and written B/s", "value": moved}


def kernel(settings: Settings) -> Iterator[Row]:
    """Packed attention against its definition in float32; on a GPU, whether strided thirds cost anything."""
    import torch

    from situate.embedders.forward.attention import packed_attention
    from situate.embedders.forward.packing import Packing
    from tests.embedders.forward.test_packed import naive_attention

    device = torch.device(settings.device)
    lengths = [1, 8, 9, 9, 30, 2, 200, 129]
    rules = ((False, None, 4), (True, None, 4), (False, 8, 4), (True, 8, 2), (True, None, 2))
    for size in (16, 64) if settings.smoke else (16, 32, 64, 128, 256):
        worst = 0.0
        for causal, window, key_heads in rules:
            torch.manual_seed(3)
            q = torch.randn(sum(lengths), 4, size).bfloat16()
            k, v = (torch.randn(sum(lengths), key_heads, size).bfloat16() for _ in range(2))
            packing = Packing.of(lengths, device)
            given: dict[str, Any] = {"scale": size**-0.5, "causal": causal, "window": window}
            got = packed_attention(q.to(device), k.to(device), v.to(device), packing, **given).float().cpu()
            wanted = naive_attention(q, k, v, lengths, **given)
            error = float((got - wanted).norm() / wanted.norm())
            worst = max(worst, error if np.isfinite(error) else float("inf"))
        yield {"head size": size, "largest error": worst, "verdict": "right" if worst < 0.01 else "wrong"}
    if settings.device == "cuda":
        yield from _kernel_times(settings)


def _kernel_times(settings: Settings) -> Iterator[Row]:
    import torch

    from situate.embedders.forward.attention import packed_attention
    from situate.embedders.forward.packing import Packing

    for length, heads, size in ((512, 12, 32), (512, 12, 64), (64, 12, 64)):
        packing = Packing.of([length] * (32768 // length), torch.device("cuda"))
        thirds = torch.randn(32768, 3, heads, size, device="cuda", dtype=torch.bfloat16).unbind(1)
        apart = [third.contiguous() for third in thirds]
        row: Row = {"head size": size, "sequences of": length}
        with torch.inference_mode():
            for name, (q, k, v) in (("strided ms", thirds), ("contiguous ms", apart)):
                run = lambda q=q, k=k, v=v, p=packing: packed_attention(q, k, v, p, scale=0.125)  # noqa: E731
                row[name] = 1e3 * seconds_of(settings, run)
        yield row


def families(settings: Settings) -> Iterator[Row]:
    """Every architecture with sharp weights, in every format, against float32 on CPU, and whether it runs packed."""
    import torch

    from situate.errors import FallbackWarning
    from tests.embedders.forward.test_packed import FAMILIES, TEXTS, save, sharpened

    texts = [f"{TEXTS[i % 5]} number {i}" for i in range(12 if settings.smoke else 120)]
    inputs = [SpanText(text) for text in texts] + [SpanText(text, ((0, 5), (3, 11))) for text in texts[:20]]
    for name in ("bert", "qwen3") if settings.smoke else sorted(FAMILIES):
        build, packs = FAMILIES[name]
        with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
            torch.manual_seed(1)
            folder = save(Path(scratch), sharpened(build()))
            wanted = vectors_of(Encoder(folder, device="cpu", dtype="float32"), inputs)
            for dtype, least in _LOWEST.items():
                row: Row = {"family": name, "dtype": dtype}
                with warnings.catch_warnings(record=True) as given:
                    warnings.simplefilter("always")
                    try:
                        encoder = Encoder(folder, device=settings.device, dtype=dtype)  # type: ignore[arg-type]
                        cosine = float((vectors_of(encoder, inputs) * wanted).sum(1).min())
                    except Exception as error:  # noqa: BLE001  the other families are checked all the same
                        yield {**row, "verdict": "wrong", "why": f"{type(error).__name__}: {error}"[:200]}
                        continue
                packed = engine_of(encoder).packed
                why = [str(w.message) for w in given if issubclass(w.category, FallbackWarning)] if packs else []
                verdict = "right" if cosine > least and packed == packs else "wrong"
                yield {**row, "lowest cosine": cosine, "packed": packed, "verdict": verdict, "why": "; ".join(why)}


def suite(settings: Settings) -> Iterator[Row]:
    """`pytest -m cuda`, on a machine without pytest-asyncio and with other versions, whose warnings are no errors."""
    options = ["-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-rfE", *options]
    log = settings.out / "gpu-pytest.txt"
    with log.open("w") as file:  # what a run that is cut off had printed stays
        limit = max(20.0, settings.deadline - time.time() - 5)
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*command, "tests/embedders/local/test_cuda.py"],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            )
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    summary = lines[-1].strip("= ")
    right = not failed and ("passed" if settings.device == "cuda" else "skipped") in summary
    yield {"test": summary, "verdict": "right" if right else "wrong"}
    yield from ({"test": line[:300], "verdict": "wrong"} for line in failed[:30])


def memory(settings: Settings) -> Iterator[Row]:
    """Growth over calls, what `close` gives back, and halved passes under a limit."""
    if settings.device != "cuda":
        yield {"after": "nothing was done: memory is counted on CUDA"}
        return
    import gc

    import torch

    def held(after: str) -> Row:
        taken, kept = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        return {"after": after, "allocated MiB": taken >> 20, "reserved MiB": kept >> 20}

    folder = model_folder("BERT-base", settings)
    inputs = [SpanText(text) for text in sample_texts(256 if settings.smoke else 2048, 8, 250)]
    encoder = Encoder(folder, device="cuda", dtype="bfloat16")
    for call in range(3):
        wanted = np.concatenate([result.vectors for result in encoder.encode(inputs, token_vectors=call == 2)])
        yield held(f"call {call + 1}" + (" (token vectors)" if call == 2 else ""))
    encoder.close()
    gc.collect()
    torch.cuda.empty_cache()
    yield held("close")
    encoder = Encoder(folder, device="cuda", dtype="bfloat16", batch_tokens=400_000)
    encoder.encode(inputs[:1])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (768 << 20)) / total)
    try:
        cosine = float((vectors_of(encoder, inputs) * wanted).sum(1).min())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    row = {**held("a limit of 768 MiB more"), "tokens of a pass": engine_of(encoder).batch_tokens}
    yield {**row, "cosine": cosine, "verdict": "right" if cosine > 0.999 else "wrong"}
