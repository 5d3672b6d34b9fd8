"""The share of matrix products in the encoder's time, and the upper bound of its speed over sentence-transformers.

    python -m benchmarks.encoder_profile [--texts 80] [--rounds 5] [--frameworks]

For many texts at once, for queries one at a time and for queries at once: what the model's matrix products alone would
take at the best rate that torch reaches here with large matrices, all else taking no time, as a share of what the
encoder takes. Beside it stands a bound: sentence-transformers' time, taken in turns with the encoder's, over that of
the products. A goal above the bound cannot be reached in this format on this CPU.
--frameworks measures LlamaIndex's and LangChain's classes as well, with a query from each of 64 tasks, installed as by
`make bench-encoder`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.encoder import MODEL, PeerProcess, compared, sample_texts, timed
from situate.embedders.local.encoder import Encoder
from situate.embedders.models.resolve import resolve_model
from situate.embedders.types import SpanText
from situate.errors import TruncationWarning


def main() -> None:
    """Print the results for each kind of call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frameworks", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", TruncationWarning)
    from sentence_transformers import SentenceTransformer

    folder = resolve_model(MODEL).path
    encoder = Encoder(folder, device="cpu")
    theirs = SentenceTransformer(str(folder), device="cpu")
    texts = sample_texts(arguments.texts)
    queries = [text[:50] for text in sample_texts(64, 6, 12, seed=1)]
    weights = sum(
        module.weight.numel()
        for name, module in theirs.named_modules()
        if isinstance(module, torch.nn.Linear) and "pooler" not in name
    )
    texts_in_one = {"sentence-transformers": timed(lambda: theirs.encode(texts))}
    one_by_one = {"sentence-transformers": timed(lambda: [theirs.encode(query) for query in queries])}
    print(f"{torch.get_num_threads()} threads, {encoder.dtype}, torch {torch.__version__}")
    rates = {str(dtype)[6:]: best_rate(3072, dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)}
    print("Products here, GFLOP/s: " + ", ".join(f"{rate:.0f} in {dtype}" for dtype, rate in rates.items()))
    with ExitStack() as opened:
        at_once = dict(one_by_one)
        if arguments.frameworks:
            scratch = Path(opened.enter_context(tempfile.TemporaryDirectory()))
            for name in ("llama-index", "langchain"):
                peer = PeerProcess(name, folder, scratch, torch.get_num_threads())
                opened.callback(peer.close)
                if peer.why:
                    print(f"{name} is left out: {peer.why}")
                else:
                    at_once[name] = peer.seconds("concurrent", queries)
        # Simultaneous queries fill one pass here.
        bound(encoder, "bulk", [texts], texts_in_one, weights, arguments.rounds)
        bound(encoder, "queries, one at a time", [[query] for query in queries], one_by_one, weights, arguments.rounds)
        bound(encoder, "queries at once", [queries], at_once, weights, arguments.rounds)


def bound(
    encoder: Encoder,
    name: str,
    calls: Sequence[Sequence[str]],
    peers: dict[str, Callable[[], float]],
    weights: int,
    rounds: int,
) -> None:
    """Print the products' share in these calls, and the largest possible ratio to every peer's time."""
    seconds, others, ratios = compared(timed(lambda: run(encoder, calls)), peers, rounds)
    words = [text for call in calls for text in call]
    tokens = sum(min(len(ids), encoder.max_tokens) for ids in encoder.tokenizer.encode_batch(words))
    flops = 2.0 * weights * tokens
    rate = best_rate(3072)
    print(
        f"\n{name}: {tokens:,} tokens in {len(calls)} calls, {1e3 * seconds:.0f} ms, of which products "
        f"({flops / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s) would take {flops / rate / seconds:.0%}."
    )
    for peer, time_taken in others.items():
        print(
            f"{peer} {1e3 * time_taken:.0f} ms, {ratios[peer]:.2f} times ours; "
            f"no more than {time_taken * rate / flops:.1f} times is possible."
        )


def run(encoder: Encoder, calls: Sequence[Sequence[str]]) -> None:
    """Encode the texts of each call together."""
    for call in calls:
        encoder.encode([SpanText(text) for text in call], role="query" if len(call) == 1 else "document")


def best_rate(rows: int, dtype: torch.dtype = torch.float32, seconds: float = 2.0) -> float:
    """Floating-point operations a second of the fastest product of a pass's matrices, with MiniLM's largest weights.

    Args:
        rows: Tokens of a pass; at most 3,072 of them are multiplied at once.
        dtype: Format of the matrices.
        seconds: How long to try.
    """
    rows = min(rows, 3072)
    x, weight = torch.randn(rows, 384).to(dtype), torch.randn(1536, 384).to(dtype)
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
