"""Reranker speed: ours against sentence-transformers' CrossEncoder.predict and LlamaIndex's reranker, in one run.

    make bench-rerank

Models have the geometry of cross-encoder/ms-marco-MiniLM-L6-v2 and -L12-v2, the trained body of all-MiniLM-L6-v2 and a
random head: attention is as sharp as real models have it, and nothing is downloaded. How far the scores are from
predict's is printed too. Contenders take turns, so that other work on the machine affects all of them; but it slows
those most that spread each operator over all cores, so run it on a quiet machine. The median of the rounds is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

QUERY = "how many weeks of paid parental leave may an employee take?"


def passages(count: int, shape: str, seed: int = 0) -> list[str]:
    """Made-up passages of mixed lengths: few are long, as in a handbook or the web."""
    rng = np.random.default_rng(seed)
    words = ["leave", "parents", "weeks", "policy", "travel", "office", "money", "of", "the", "salary", "paid", "year"]
    if shape == "mixed":
        lengths = np.clip(rng.lognormal(4.0, 0.9, count), 8, 450).astype(int)
    else:
        lengths = rng.integers(90, 130, count)
    return [" ".join(rng.choice(words, n)) for n in lengths]


def saved_model(folder: Path, layers: int) -> str:
    """A cross-encoder of all-MiniLM-L6-v2's trained body, its six layers repeated for more, under a random head.

    Trained attention is sharp. Fresh random weights attend evenly, which hides errors of a faster pass.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertForSequenceClassification

    from situate.embedders.models.resolve import resolve_model

    trained = resolve_model().path
    body = AutoModel.from_pretrained(trained)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig.from_pretrained(trained, num_hidden_layers=layers, num_labels=1))
    model.bert.embeddings.load_state_dict(body.embeddings.state_dict())
    for place, layer in enumerate(model.bert.encoder.layer):
        layer.load_state_dict(body.encoder.layer[place % len(body.encoder.layer)].state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(trained, model_max_length=512).save_pretrained(folder)
    return str(folder)


def medians(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each contender, taking turns."""
    for run in contenders.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def contenders_of(folder: str, texts: list[str], with_maxsim: bool) -> dict[str, Callable[[], Any]]:
    """The contenders on one model and one set of passages."""
    from llama_index.core.postprocessor import SentenceTransformerRerank
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from sentence_transformers import CrossEncoder

    from situate.embedders import Embedder
    from situate.embedders.pairs.cross_encoder import CrossEncoderModel
    from situate.retrievers.rerank import CrossEncoderReranker, LateInteractionReranker
    from situate.retrievers.types import Hit
    from situate.types import Chunk

    pairs = [(QUERY, text) for text in texts]
    hits = [Hit(Chunk(str(i), str(i), 0, text, 0, len(text)), 0.0) for i, text in enumerate(texts)]
    predict = CrossEncoder(folder, device="cpu", local_files_only=True)
    bf16 = CrossEncoderReranker(CrossEncoderModel(folder, device="cpu"))
    fp32 = CrossEncoderReranker(CrossEncoderModel(folder, device="cpu", dtype="float32"))
    found: dict[str, Callable[[], Any]] = {
        "CrossEncoder.predict": lambda: predict.predict(pairs, show_progress_bar=False),
        "situate cross-encoder, auto": lambda: bf16.rerank(QUERY, hits),
        "situate cross-encoder, float32": lambda: fp32.rerank(QUERY, hits),
    }
    stock = SentenceTransformerRerank(model=folder, top_n=len(texts), device="cpu", trust_remote_code=False)

    def llama_index() -> None:
        nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in texts]
        stock.postprocess_nodes(nodes, QueryBundle(QUERY))

    found["LlamaIndex SentenceTransformerRerank"] = llama_index
    if with_maxsim:
        embedder = Embedder()
        cold = LateInteractionReranker(embedder, memory=0)
        warm = LateInteractionReranker(embedder)
        stored = dict(zip((hit.chunk.id for hit in hits), embedder.embed_document_tokens(texts), strict=True))
        kept = LateInteractionReranker(embedder, stored=lambda _: stored)
        found["MaxSim, passages encoded on the spot"] = lambda: cold.rerank(QUERY, hits)
        found["MaxSim, passages in memory"] = lambda: warm.rerank(QUERY, hits)
        found["MaxSim, vectors stored"] = lambda: kept.rerank(QUERY, hits)
    return found


def errors_of(folder: str, texts: list[str]) -> dict[str, float]:
    """The greatest difference to a logit of ``CrossEncoder.predict``, in standard deviations of these logits."""
    from sentence_transformers import CrossEncoder

    from situate.embedders.pairs.cross_encoder import CrossEncoderModel

    # sentence-transformers cuts longer passages, situate reads them in windows.
    pairs = [(QUERY, text) for text in texts if len(text.split()) < 300]
    predict = CrossEncoder(folder, device="cpu", local_files_only=True)
    expected = np.asarray(predict.predict(pairs, show_progress_bar=False, activation_fn=_unchanged))
    found: dict[str, float] = {}
    for dtype in ("auto", "float32"):
        got = CrossEncoderModel(folder, device="cpu", dtype=dtype, output="logit").score(pairs).scores
        found[f"situate cross-encoder, {dtype}"] = float(np.abs(got - expected).max() / expected.std())
    return found


def _unchanged(logits: Any) -> Any:
    return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hits", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rerank.json"))
    arguments = parser.parse_args()
    # stock components warn about the lengths that this benchmark is about
    warnings.simplefilter("ignore")

    import torch

    report: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "hits": arguments.hits,
        "rounds": arguments.rounds,
        "seconds": {},
        "errors": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for layers in (6, 12):
            model = saved_model(Path(folder) / f"l{layers}", layers)
            for shape in ("mixed", "even"):
                name = f"MiniLM-L{layers}, {shape} lengths"
                texts = passages(arguments.hits, shape)
                seconds = medians(contenders_of(model, texts, with_maxsim=True), arguments.rounds)
                report["seconds"][name] = seconds
                baseline = seconds["CrossEncoder.predict"]
                report["errors"][name] = errors = errors_of(model, texts)
                print(f"\n{name}, {arguments.hits} hits")
                for contender, error in errors.items():
                    print(f"  {contender:40} {error:9.4f} of the scores' spread off")
                for contender, value in seconds.items():
                    rate, gain = arguments.hits / value, baseline / value
                    print(f"  {contender:40} {value * 1e3:9.1f} ms  {rate:8.0f} pairs/s  {gain:6.2f} x")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
