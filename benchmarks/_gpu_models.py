"""Models of real geometry with random weights: speed does not depend on the weights' values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from benchmarks._gpu_run import Settings

#: Fresh weights make attention nearly uniform, and a wrong mask or scale would hardly show.
_SHARPER, _SHARPER_PAIRS = 1.5, 3.0
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


def _bert(hidden: int, layers: int, heads: int, intermediate: int) -> tuple[Any, Any, int]:
    import transformers as tr

    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": intermediate}
    return tr.BertModel, tr.BertConfig(num_attention_heads=heads, **sizes), 512


def _mpnet(smoke: bool) -> tuple[Any, Any, int]:
    import transformers as tr

    tiny = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    fixed = {"vocab_size": 30527, "pad_token_id": 1, "max_position_embeddings": 514}
    return tr.MPNetModel, tr.MPNetConfig(**fixed, **(tiny if smoke else {})), 512


def _modernbert(smoke: bool) -> tuple[Any, Any, int]:
    import transformers as tr

    tiny = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
    fixed = {"vocab_size": 30522, "pad_token_id": 0, "max_position_embeddings": 8192}
    return tr.ModernBertModel, tr.ModernBertConfig(**fixed, **(tiny if smoke else {})), 8192


def _qwen3(smoke: bool) -> tuple[Any, Any, int]:
    import transformers as tr

    names = "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"
    sizes = (64, 2, 4, 2, 16) if smoke else (1024, 28, 16, 8, 128)
    fixed = {"vocab_size": 30522, "pad_token_id": 0, "max_position_embeddings": 8192}
    wide = 96 if smoke else 3072
    config = tr.Qwen3Config(**fixed, **dict(zip(names, sizes, strict=True)), intermediate_size=wide)
    return tr.Qwen3Model, config, 8192


#: Name -> (smoke) -> the model's class, its configuration, and how many tokens it reads.
GEOMETRIES: dict[str, Callable[[bool], tuple[Any, Any, int]]] = {
    "MiniLM-L6": lambda smoke: _bert(32, 2, 2, 64) if smoke else _bert(384, 6, 12, 1536),
    "BERT-base": lambda smoke: _bert(64, 2, 2, 128) if smoke else _bert(768, 12, 12, 3072),
    "BERT-large": lambda smoke: _bert(64, 3, 2, 128) if smoke else _bert(1024, 24, 16, 4096),
    "MPNet-base": _mpnet,
    "ModernBERT-base": _modernbert,
    "Qwen3-0.6B": _qwen3,
}


def model_folder(name: str, settings: Settings, *, pairs: bool = False) -> Path:
    """A folder with random weights and the tokenizer: for sentence-transformers, or a cross-encoder. Made once."""
    import torch
    import transformers

    folder = settings.scratch / (f"{name}-pairs" if pairs else name)
    if folder.exists():
        return folder
    kind, config, limit = GEOMETRIES[name](settings.smoke)
    if pairs:
        config.num_labels = 1
        kind = transformers.BertForSequenceClassification
    torch.manual_seed(0)
    with torch.device(settings.device):  # a CPU takes seconds for the random numbers of the larger ones
        model = kind(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in key and "relative" not in key:
                weight.mul_(_SHARPER_PAIRS if pairs else _SHARPER)
    half_made = folder.with_suffix(".part")  # a stopped stage may have left one
    _save(model, half_made, settings)
    if not pairs:
        _describe_modules(half_made, config.hidden_size, limit)
    half_made.rename(folder)
    return folder


def rank_folder(kind: Literal["t5", "splade"], settings: Settings) -> Path:
    """A folder with a reranker of base size: a T5 that answers true or false, or a SPLADE. Made once."""
    import torch
    import transformers as tr

    folder = settings.scratch / f"rank-{kind}"
    if folder.exists():
        return folder
    torch.manual_seed(0)
    model: Any
    if kind == "t5":
        tiny = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
        base = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
        sizes: dict[str, Any] = tiny if settings.smoke else base
        model = tr.T5ForConditionalGeneration(tr.T5Config(vocab_size=30522, decoder_start_token_id=0, **sizes))
    else:
        model = tr.BertForMaskedLM(_bert(*((64, 2, 2, 128) if settings.smoke else (768, 12, 12, 3072)))[1])
    half_made = folder.with_suffix(".part")
    _save(model, half_made, settings)
    if kind == "splade":
        from sentence_transformers import SparseEncoder
        from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

        words, half_made = half_made, folder.with_suffix(".whole")
        SparseEncoder(modules=[MLMTransformer(str(words)), SpladePooling()], device="cpu").save(str(half_made))
    half_made.rename(folder)
    return folder


def _save(model: Any, folder: Path, settings: Settings) -> None:
    folder.mkdir(exist_ok=True)
    model.eval().cpu().save_pretrained(folder)
    for file in _TOKENIZER_FILES:
        if (settings.tokenizer / file).is_file():
            (folder / file).write_bytes((settings.tokenizer / file).read_bytes())


def _describe_modules(folder: Path, hidden_size: int, max_tokens: int) -> None:
    """Write the files that sentence-transformers reads beside the weights."""

    def write(name: str, value: Any) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))

    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    write(
        "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    write("1_Pooling/config.json", {"word_embedding_dimension": hidden_size, "pooling_mode_mean_tokens": True})
    write("sentence_bert_config.json", {"max_seq_length": max_tokens})
    config = folder / "tokenizer_config.json"
    known = json.loads(config.read_text()) if config.is_file() else {}
    write("tokenizer_config.json", {**known, "model_max_length": max_tokens})


def work_of(folder: Path, lengths: list[int]) -> float:
    """FLOP of a pass over sequences of these lengths: products of the layers and attention, without embeddings."""
    config = json.loads((folder / "config.json").read_text())
    hidden, wide, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads = config["num_attention_heads"]
    queries = heads * (config.get("head_dim") or hidden // heads)
    keys = queries * (config.get("num_key_value_heads") or heads) // heads
    gated = 3 if config["model_type"] in ("qwen3", "modernbert") else 2
    seen = 0.5 if config["model_type"] == "qwen3" else 1.0  # of a causal model, half of all pairs of tokens
    products = 2 * sum(lengths) * (2 * hidden * queries + 2 * hidden * keys + gated * hidden * wide)
    return float(layers * (products + 4 * seen * queries * sum(length**2 for length in lengths)))
