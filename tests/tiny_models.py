"""Random models of the trained kinds, small enough to be made by a fixture."""

from __future__ import annotations

from pathlib import Path

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] [Q] [D] the a cat dog sat on mat red house city berlin river old . , ! runs"


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
