"""A pass key hidden in texts of growing length (LongEmbed's task, generated here), and a model trained to find it.

The model is a tiny rotary encoder. Its base frequency is so low that its positions are used up at the length that it
is trained on, as a large model's are at its own. It reads up to 64 tokens in training; beyond, without an extension,
it guesses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional

from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from tests.conftest import short_of

TRAINED, KEYS, FILLERS = 64, 16, 40
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "passkey",
    *(f"k{i}" for i in range(KEYS)),
    *(f"w{i}" for i in range(FILLERS)),
]
FIRST_KEY, FIRST_FILLER = 5, 5 + KEYS


def haystacks(count: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 ``[count, length]`` ids: fillers, and somewhere "passkey" and a key after it; and which key it is."""
    keys = torch.randint(0, KEYS, (count,), generator=generator)
    ids = torch.randint(FIRST_FILLER, len(WORDS), (count, length), generator=generator)
    place = torch.randint(1, length - 3, (count,), generator=generator)
    rows = torch.arange(count)
    ids[rows, place], ids[rows, place + 1] = WORDS.index("passkey"), FIRST_KEY + keys
    ids[:, 0], ids[:, -1] = WORDS.index("[CLS]"), WORDS.index("[SEP]")
    return ids, keys


QUESTIONS = torch.tensor([[2, 4, FIRST_KEY + i, 3] for i in range(KEYS)])


def texts(ids: torch.Tensor) -> list[str]:
    return [" ".join(WORDS[i] for i in row[1:-1].tolist()) for row in ids]


def first_token(model: Any, ids: torch.Tensor) -> torch.Tensor:
    vectors: torch.Tensor = functional.normalize(model(input_ids=ids).last_hidden_state[:, 0], dim=-1)
    return vectors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for some seconds to put the pass key of a text into its first token."""
    if transformers.__version__.startswith("4."):
        pytest.skip("transformers has NomicBertModel since 5.0")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order everywhere
    config = transformers.NomicBertConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=TRAINED,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 50.0},
    )
    model = transformers.NomicBertModel(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    steps = 130
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        length = int(torch.randint(8, TRAINED + 1, (1,), generator=generator))
        ids, keys = haystacks(64, length, generator)
        scores = first_token(model, ids) @ first_token(model, QUESTIONS).T * 20
        optimizer.zero_grad()
        functional.cross_entropy(scores, keys).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    torch.set_num_threads(threads)
    folder = tmp_path_factory.mktemp("passkey")
    model.eval().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": TRAINED}
    (folder / "tokenizer_config.json").write_text(json.dumps(fast))
    return folder


def found(encoder: Encoder, length: int) -> float:
    """Share of 100 texts of so many tokens for which the right question is the nearest of all."""
    ids, keys = haystacks(100, length, torch.Generator().manual_seed(7))
    questions, vectors = (
        np.concatenate([r.vectors for r in encoder.encode([SpanText(text) for text in texts(rows)])])
        for rows in (QUESTIONS, ids)
    )
    return float(((vectors @ questions.T).argmax(1) == keys.numpy()).mean())


def unextended(folder: Path, length: int) -> float:
    """The same for the model with more positions alone: rotary ones have no end."""
    ids, keys = haystacks(100, length, torch.Generator().manual_seed(7))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        scores = first_token(model, ids) @ first_token(model, QUESTIONS).T
    return float((scores.argmax(1) == keys).float().mean())


def test_within_its_length_the_model_finds_the_key_and_beyond_it_guesses(folder: Path) -> None:
    encoder = Encoder(folder, pooling="cls", dtype="float32", device="cpu")
    assert found(encoder, TRAINED) > 0.95
    for length in (2 * TRAINED, 4 * TRAINED):
        assert unextended(folder, length) < 0.3


@pytest.mark.parametrize("times", short_of([4, 2], 2))
@pytest.mark.parametrize("method", ["linear", "ntk", "yarn", "self"])
def test_each_extension_finds_the_key_beyond_the_trained_length(folder: Path, method: Any, times: int) -> None:
    length = times * TRAINED
    encoder = Encoder(folder, pooling="cls", extension=method, max_tokens=length, dtype="float32", device="cpu")
    assert found(encoder, length) > 0.7
