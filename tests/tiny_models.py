"""Random models of the trained kinds, small enough to be made by a fixture."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] [Q] [D] the a cat dog sat on mat red house city berlin river old . , ! runs"


def asks_for_attention(family: str) -> bool:
    """Whether transformers' model asks the attention interface, without which it cannot be packed.

    Before 5.0, BERT has attention classes and ModernBERT attention functions of its own, and their forward passes on no
    further argument by which an attention could know where sequences end.
    """
    modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    return hasattr(modeling, "ALL_ATTENTION_FUNCTIONS")


def tiny_bert(folder: Path, head: str) -> Path:
    """A random BERT of two layers with a vocabulary of a few words."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text(WORDS.replace(" ", "\n"))
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=24).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS.count(" ") + 1, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=24,
    )  # fmt: skip
    getattr(transformers, head)(config).save_pretrained(folder)
    return folder


def tiny_colbert(folder: Path) -> Path:
    """A ColBERT: markers, a projection, query expansion, punctuation left out."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    base = tiny_bert(folder / "base", "BertModel")
    transformer = Transformer(str(base), document_length=12, query_expansion={"strategy": "fixed", "length": 8})
    modules = [
        transformer,
        Dense(32, 16, bias=False, module_input_name="token_embeddings"),
        MultiVectorMask(skiplist_words=[".", ",", "!"]),
        Normalize(module_input_name="token_embeddings"),
    ]
    model = MultiVectorEncoder(modules=modules, prompts={"query": "[Q] ", "document": "[D] "}, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def tiny_splade(folder: Path) -> Path:
    """A SPLADE model: logits over the vocabulary, pooled by their maximum."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    base = tiny_bert(folder / "base", "BertForMaskedLM")
    model = SparseEncoder(modules=[MLMTransformer(str(base)), SpladePooling()], device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def tiny_language_model(folder: Path, kind: str, size: int = 32) -> Path:
    """A random language model with sharp weights and a byte-level vocabulary: "llama", "qwen3", "olmoe" or "bert".

    Llama's texts begin with a token of its own, those of Qwen3 and BERT end with one.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([f"{WORDS} Bees make honey. This sentence means in one word: Rewrite"], trainer)
    around = {"llama": "<s> $A", "qwen3": "$A </s>", "olmoe": "$A", "bert": "<s> $A </s>"}[kind]
    backend.post_processor = TemplateProcessing(single=around, special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"} | (
        {"mask_token": "<mask>"} if kind == "bert" else {}
    )
    folder.mkdir(parents=True)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=192, **names)
    fast.save_pretrained(folder)
    shape: dict[str, Any] = {
        "vocab_size": backend.get_vocab_size(), "hidden_size": size, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 48 if size == 32 else 2 * size, "max_position_embeddings": 192, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(5)
    model: Any
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**shape))
    elif kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, num_key_value_heads=2))
    elif kind == "qwen3":
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape, num_key_value_heads=2, head_dim=8))
    else:
        config = transformers.OlmoeConfig(**shape, num_key_value_heads=2, num_experts=6, num_experts_per_tok=2)
        model = transformers.OlmoeForCausalLM(config)
    with torch.no_grad():  # fresh weights are so small that attention would hardly matter
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.mul_(4.0)
    model.save_pretrained(folder)
    return folder


def tiny_m3(folder: Path) -> Path:
    """A random encoder with BGE-M3's heads over tokens, saved as its authors do."""
    import torch

    tiny_language_model(folder, "bert")
    torch.manual_seed(7)
    for name, size in (("colbert_linear", 32), ("sparse_linear", 1)):
        weight, bias = 4 * torch.nn.Linear(32, size).weight.data, torch.full((size,), 4.0 if size == 1 else 0.5)
        torch.save({"weight": weight, "bias": bias}, folder / f"{name}.pt")
    return folder


class PlainModel:
    """A language model as transformers runs it: one text at a time, unpadded."""

    def __init__(self, folder: str) -> None:
        import transformers

        self.model = transformers.AutoModel.from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        around = self.tokenizer("a").input_ids
        self.leading = [1] if around[0] == 1 else []
        self.trailing = [2] if around[-1] == 2 else []

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, without special ones around it."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def hidden(self, ids: list[int], **more: Any) -> np.ndarray:
        """float32 ``[tokens, hidden]``."""
        return self.call(ids, **more).last_hidden_state[0].numpy()

    def call(self, ids: list[int], **more: Any) -> Any:
        """What the model returns."""
        import torch

        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([ids]), **more)


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector with norm 1."""
    normed: np.ndarray = vector / np.linalg.norm(vector)
    return normed
