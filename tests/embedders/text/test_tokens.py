"""Tokens have their exact characters, with every tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from situate.embedders.text.tokenizer import _QUERY, TextTokenizer, TokenizedText, recovered_offsets
from situate.errors import ConventionError, ModelNotFoundError

TEXT = "Über Kiel  weht\u3000ein Wind, 👩‍👧 überall."


def words(text: str, offsets: np.ndarray) -> list[str]:
    return [text[start:end] for start, end in offsets.tolist()]


def test_offsets_are_trimmed_of_the_blanks_that_vocabularies_glue_to_words() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(["one two one two"] * 3, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    (tokens,) = TextTokenizer(tokenizer).tokenize(["one two  one"])
    assert "one" in words(tokens.text, tokens.offsets)
    assert not any(word.startswith(" ") and word.strip() for word in words(tokens.text, tokens.offsets))


def test_byte_level_tokens_of_one_character_share_its_offsets() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["abc"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    (tokens,) = TextTokenizer(tokenizer).tokenize([TEXT])
    starts = tokens.offsets[:, 0]
    assert (np.diff(starts) >= 0).all()
    assert {TEXT[start] for start in starts.tolist()} >= {"Ü", "👩", "."}


@pytest.mark.parametrize(
    ("surfaces", "wanted"),
    [
        (["über", "kiel", "weht", "ein", "wind", ",", "👩‍👧", "überall", "."],) * 2,
        # An unknown token covers the characters between its neighbours.
        (
            ["über", "kiel", "weht", "ein", "wind", ",", "[UNK]", "überall", "."],
            ["über", "kiel", "weht", "ein", "wind", ",", "👩‍👧", "überall", "."],
        ),
        (["[UNK]", "[UNK]", "weht"], None),
        (["über"], None),
    ],
)
def test_offsets_are_recovered_for_tokenizers_that_keep_none(surfaces: list[str], wanted: list[str] | None) -> None:
    found = recovered_offsets(TEXT, surfaces)
    assert (None if found is None else [w.lower() for w in words(TEXT, found)]) == wanted


def test_spans_without_offsets_are_refused_with_a_way_out() -> None:
    with pytest.raises(ConventionError, match=r"tokenizer\.json"):
        _ = TokenizedText("text", np.array([1, 2]), None).offsets


def test_begin_and_end_tokens_follow_the_tokenizer_config(tmp_path: Path) -> None:
    """Decoders' tokenizers leave both to tokenizer_config.json where they have no template of their own."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "word": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True, "add_eos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = TextTokenizer.load(tmp_path)
    assert (loaded.leading.tolist(), loaded.trailing.tolist()) == ([1], [2])
    bare = TextTokenizer.load(tmp_path, add_special_tokens=False)
    assert bare.special_count == 0
    assert bare.tokenize(["word"])[0].ids.tolist() == [3]


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no tokenizer could be loaded"):
        TextTokenizer.load(tmp_path)


@pytest.mark.parametrize("offsets", [True, False])
def test_a_text_that_comes_alone_has_the_tokens_that_it_has_among_others(minilm_path: str, offsets: bool) -> None:
    tokenizer = TextTokenizer.load(Path(minilm_path))
    texts = ["", "A river.", "Flu\u00df und \U0001f30a", "broken \ud800 half", "word " * 150, "word " * 250]
    assert len(texts[-2]) <= _QUERY < len(texts[-1])
    for text, among in zip(texts, tokenizer.tokenize(texts, offsets=offsets), strict=True):
        (alone,) = tokenizer.tokenize([text], offsets=offsets)
        np.testing.assert_array_equal(alone.ids, among.ids)
        if offsets:
            np.testing.assert_array_equal(alone.offsets, among.offsets)
