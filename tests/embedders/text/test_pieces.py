"""A long text that is tokenized in pieces gives the same tokens, at the same characters, as one that is not."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from situate.embedders.text import tokenizer as _tokens
from situate.embedders.text.pieces import _PATTERNS, cuts, may_be_cut
from situate.embedders.text.tokenizer import TextTokenizer
from tests.conftest import FULL

TRIALS = 3000 if FULL else 150
SURFACES = """I'm don't we'll WE'VE it's 's'll x y 1984 3.14159 0x1F a1b2c3 'tis '' -- ... (see) [12] {"k":1} </s>
<|im_start|> m<|im_end|>n naïve Ångström 東京都。千代田区、 「引用」 カタカナ！ 한국어 ไทย 👩‍👩‍👧 abcdefghijklmnop
QmFzZTY0IHRleHQ+/12== https://a.b/c?d=e&f=1#g snake_case_2 CamelCase2"""
WORDS = [*SURFACES.split(), *[" ", "\n", "\r\n", "\t", "\n\n   ", "\u200b", "\ufeff", "e\u0301", "\u0301", "か\u3099"]]


def trained(pre_tokenizer: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer.add_tokens([AddedToken("h1 h2", rstrip=True), AddedToken("42", single_word=True)])
    return tokenizer


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, byte_level])


def first_apart() -> Tokenizer:
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=True)
    return tokenizer


TOKENIZERS = {
    "GPT-2": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    **{
        f"pattern {number}": lambda pattern=pattern: trained(split_by(pattern), normalizers.NFC())
        for number, pattern in enumerate(sorted(_PATTERNS))
    },
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_give_the_tokens_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TOKENIZERS[name]()
    assert may_be_cut(backend)
    chance = random.Random(name)
    texts = []
    for _ in range(TRIALS):
        words = [*chance.choices(WORDS, k=chance.randint(1, 60)), *chance.choices(["h1 h2 x", "42", "a42 b"], k=2)]
        chance.shuffle(words)
        texts.append(chance.choice(["", " ", "  "]).join(words))
    tokenizer = TextTokenizer(backend)
    whole = tokenizer.tokenize(texts)
    monkeypatch.setattr(_tokens, "_PIECE", 20)
    monkeypatch.setattr(_tokens, "_FETCHED", 8)
    pieces = tokenizer.tokenize(texts)
    unplaced = tokenizer.tokenize(texts, offsets=False)
    for one, other, ids in zip(whole, pieces, unplaced, strict=True):
        assert one.text == other.text
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.ids, ids.ids)
        np.testing.assert_array_equal(one.offsets, other.offsets)
    assert sum(len(tokenizer._cuts(text)) for text in texts) > TRIALS


def test_pieces_have_about_the_given_size_and_spare_added_tokens() -> None:
    text = "word " * 1000
    bounds = [0, *cuts(text, 100, []), len(text)]
    assert all(100 <= last - first <= 105 for first, last in itertools.pairwise(bounds[:-1]))
    assert cuts("x" * 1000, 100, []) == []
    assert cuts("東京都" * 1000, 100, []) == []
    assert cuts("ab<|im_start|>" * 20, 5, ["<|im_start|>"]) == []
    assert cuts("short", 100, []) == []


@pytest.mark.parametrize(
    "tokenizer",
    [
        trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        trained(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFKC()),
        trained(split_by(r"\p{L}+|\s")),
        first_apart(),
        Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
        Tokenizer(models.Unigram([("?", -9.0), (" ", -1.0), ("a", -2.0)], unk_id=0)),
    ],
    ids=["prefix space", "NFKC", "unknown pattern", "first apart", "WordPiece", "Unigram"],
)
def test_where_it_cannot_be_shown_nothing_is_cut(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not may_be_cut(tokenizer)
    monkeypatch.setattr(_tokens, "_PIECE", 20)
    (long, short) = TextTokenizer(tokenizer).tokenize(["a 1 " * 50, "a"])
    np.testing.assert_array_equal(long.ids, tokenizer.encode("a 1 " * 50, add_special_tokens=False).ids)
    assert (long.text, short.text) == ("a 1 " * 50, "a")
