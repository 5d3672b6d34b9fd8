"""The encoder on a GPU, on random weights of real geometry: speed does not depend on the weights' values."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import encoder as cpu
from situate.embedders.local.encoder import Encoder
from situate.embedders.models.resolve import resolve_model
from situate.embedders.types import SpanText


def saved(folder: Path, model: Any, max_tokens: int) -> Path:
    """A sentence-transformers folder with the model's random weights and MiniLM's tokenizer."""
    source = resolve_model(cpu.MODEL).path
    model.eval().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "modules.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_tokens}))
    return folder


def geometries() -> dict[str, Callable[[], tuple[Any, int]]]:
    """Name -> a function that builds the model and returns how many tokens it reads."""
    import transformers as tr

    def bert_base() -> tuple[Any, int]:
        return tr.BertModel(tr.BertConfig()), 512

    def minilm() -> tuple[Any, int]:
        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
        return tr.BertModel(tr.BertConfig(num_attention_heads=12, **sizes)), 512

    def long_encoder() -> tuple[Any, int]:
        config = tr.ModernBertConfig(vocab_size=30522, pad_token_id=0, max_position_embeddings=8192)
        return tr.ModernBertModel(config), 8192

    def decoder() -> tuple[Any, int]:
        config = tr.Qwen3Config(
            vocab_size=30522,
            hidden_size=1024,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            intermediate_size=3072,
            pad_token_id=0,
        )
        return tr.Qwen3Model(config), 512

    return {"BERT-base": bert_base, "MiniLM": minilm, "8,192-token encoder": long_encoder, "0.6B decoder": decoder}


def matmul_rate(size: int = 8192, rounds: int = 20) -> float:
    """Measured bf16 FLOP/s of a square product."""
    import torch

    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        a @ b
    torch.cuda.synchronize()
    return 2 * size**3 * rounds / (time.perf_counter() - start)


def main(rounds: int) -> int:
    """Run every row that this GPU has memory for."""
    import torch
    from sentence_transformers import SentenceTransformer

    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        return 1
    rate = matmul_rate()
    rows: list[cpu.Row] = []
    goals = {"BERT-base": (2.0, 3.0), "MiniLM": (3.0, 4.0)}
    for name, build in geometries().items():
        with tempfile.TemporaryDirectory() as scratch:
            torch.manual_seed(0)
            model, limit = build()
            parameters = sum(p.numel() for n, p in model.named_parameters() if "embeddings" not in n)
            folder = saved(Path(scratch) / "model", model, limit)
            ours = Encoder(folder, device="cuda", dtype="bfloat16")
            if limit > 512:
                rows.append(_late(name, ours, rounds))
                continue
            texts = cpu.sample_texts(4096 if name != "0.6B decoder" else 1024, 12, 370)
            inputs = [SpanText(text) for text in texts]
            peer = SentenceTransformer(str(folder), device="cuda", model_kwargs={"dtype": torch.bfloat16})
            seconds, theirs, ratios = cpu.compared(
                cpu.timed(lambda e=ours, i=inputs: e.encode(i)),  # type: ignore[misc]
                {"sentence-transformers bf16": cpu.timed(lambda p=peer, t=texts: p.encode(t, batch_size=128))},  # type: ignore[misc]
                rounds,
            )
            tokens = sum(min(limit, len(e.ids)) for e in ours.tokenizer.encode_batch(texts))
            share = 2 * parameters * tokens / seconds / rate
            note = f"{tokens / seconds:,.0f} tokens/s, {share:.0%} of {rate / 1e12:.0f} TFLOP/s"
            must, aim = goals.get(name, (None, None))
            rows.append(cpu.Row(f"{name}, bf16", seconds, dict(theirs), ratios, must, aim, len(texts), note))
            ours.close()
    cpu.report("encoder-cuda", rows, cpu.environment("cuda", 0))
    return 0


def _late(name: str, encoder: Encoder, rounds: int) -> cpu.Row:
    chunks = cpu.sample_texts(60, 70, 90, seed=2)
    document = " ".join(chunks)
    ends = np.cumsum([len(chunk) + 1 for chunk in chunks]) - 1
    spans = tuple((int(end) - len(chunk), int(end)) for chunk, end in zip(chunks, ends, strict=True))
    run = cpu.timed(lambda: encoder.encode([SpanText(document, spans, window=8192)]))
    run()
    return cpu.Row(f"{name}, late chunking", statistics.median(run() for _ in range(rounds)), note="60 chunks")


if __name__ == "__main__":
    raise SystemExit(main(5))
