"""Where the encoder's time goes, and how much faster than sentence-transformers it could be on this CPU at all.

    python -m benchmarks.encoder_profile [--texts 80] [--rounds 5]

torch's profiler adds up the operators' own times over all threads, for many texts at once and for queries one at a
time. Beside it stands a bound: sentence-transformers' time, taken in turns with the encoder's, over what the model's
matrix products alone would take at the best rate that torch's own product of such matrices reaches here, all else
taking no time. A goal above the bound cannot be reached in this format on this CPU, whatever surrounds the products.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from benchmarks.encoder import MODEL, compared, sample_texts, timed
from situate.chunkers.errors import TruncationWarning
from situate.embedders.encoder import Encoder
from situate.embedders.models import resolve_model
from situate.embedders.types import SpanText

#: What an operator's name begins with, and what it is to the model.
PARTS = {
    "products": ("quantized::linear", "aten::addmm", "aten::mm", "mkldnn::_linear", "mkl::_mkl_linear", "aten::linear"),
    "attention": ("aten::_scaled_dot_product", "aten::scaled_dot", "aten::bmm", "aten::baddbmm", "aten::exp2"),
    "activation": ("aten::gelu", "aten::relu"),
    "norms": ("aten::native_layer_norm", "aten::layer_norm"),
    "additions": ("aten::add", "aten::addcmul"),
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", TruncationWarning)
    from sentence_transformers import SentenceTransformer

    folder = resolve_model(MODEL).path
    encoder = Encoder(folder, device="cpu")
    theirs = SentenceTransformer(str(folder), device="cpu")
    texts = sample_texts(arguments.texts)
    queries = [text[:50] for text in sample_texts(40, 6, 12, seed=1)]
    weights = sum(
        module.weight.numel()
        for name, module in theirs.named_modules()
        if isinstance(module, torch.nn.Linear) and "pooler" not in name
    )
    single = [[query] for query in queries]
    # What each encodes together. Queries that come at once fill one pass here, and are one after the other there.
    rows = {
        "bulk": (texts, [texts], [texts]),
        "queries, one at a time": (queries, single, single),
        "queries at once": (queries, [queries], single),
    }
    print(f"{torch.get_num_threads()} threads, {encoder.dtype}, torch {torch.__version__}")
    for name, (words, calls, alone) in rows.items():
        ours = timed(lambda calls=calls: run(encoder, calls))
        peer = timed(lambda alone=alone: [theirs.encode(call) for call in alone])
        seconds, others, ratios = compared(ours, {"sentence-transformers": peer}, arguments.rounds)
        tokens = sum(min(len(ids), encoder.max_tokens) for ids in encoder.tokenizer.encode_batch(words))
        flops = 2.0 * weights * tokens
        shares = profiled(lambda calls=calls: run(encoder, calls))
        rate = best_rate(tokens // len(calls))
        print(f"\n{name}: {tokens:,} tokens in {len(calls)} calls, {1e3 * seconds:.0f} ms\n")
        print("| part | share of the operators' time |\n| --- | --- |")
        for part, share in shares.items():
            print(f"| {part} | {share:.0%} |")
        print(
            f"\nsentence-transformers {1e3 * others['sentence-transformers']:.0f} ms, "
            f"{ratios['sentence-transformers']:.2f} times ours. Products: {flops / 1e9:.1f} GFLOP; the best rate here "
            f"is {rate / 1e9:.0f} GFLOP/s, {1e3 * flops / rate:.0f} ms: no more than "
            f"{others['sentence-transformers'] * rate / flops:.1f} times is possible."
        )


def run(encoder: Encoder, calls: Sequence[Sequence[str]]) -> None:
    """Encode the texts of each call together."""
    for call in calls:
        encoder.encode([SpanText(text) for text in call], priority="query" if len(call) == 1 else "document")


def profiled(work: Callable[[], None]) -> dict[str, float]:
    """Share of each part in the operators' own time, over all threads."""
    from torch._C._profiler import _ExperimentalConfig  # the crew's threads are not seen otherwise

    work()
    with profile(
        activities=[ProfilerActivity.CPU], experimental_config=_ExperimentalConfig(profile_all_threads=True)
    ) as seen:
        work()
    found = dict.fromkeys([*PARTS, "all else"], 0.0)
    for event in seen.key_averages():
        part = next((name for name, starts in PARTS.items() if event.key.startswith(starts)), "all else")
        found[part] += event.self_cpu_time_total
    total = sum(found.values())
    return {name: spent / total for name, spent in found.items()}


def best_rate(rows: int, seconds: float = 2.0) -> float:
    """Floating-point operations a second of the fastest product of a pass's matrices, with MiniLM's largest weights.

    Args:
        rows: Tokens of a pass; at most 3,072 of them are multiplied at once.
        seconds: How long to try.
    """
    rows = min(rows, 3072)
    x, weight = torch.randn(rows, 384), torch.randn(1536, 384)
    times = []
    with torch.inference_mode():
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            started = time.perf_counter()
            functional.linear(x, weight)
            times.append(time.perf_counter() - started)
    fastest = statistics.quantiles(times, n=20)[0]
    return 2.0 * rows * weight.numel() / fastest


if __name__ == "__main__":
    main()
