"""Shared fixtures of the chunkers' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer

#: Every kind of character that has ever broken an offset.
AWKWARD = st.sampled_from(
    [
        "a", "b", ".", " ", "\n", "\r\n", "\r", "\t", "\0", "\x1f", "\u2028", "\u00a0", "é", "e\u0301", "ß", "字", "😀",
        "👩‍👩‍👧‍👦", "🇩🇪", "\ufeff", "\ud800", "\udfff", "#", "# ", "## h\n", "```\n", "- ", "| a | b |\n", "> ", "<p>",
        "---\n", "===\n", "שלום", "Sentence one. ", "word ", "Ann: ", "\n\n", "x" * 40,
    ]
)  # fmt: skip
TEXTS = st.one_of(st.lists(AWKWARD, max_size=40).map("".join), st.text(max_size=200))


@pytest.fixture(scope="session")
def tokenizer(minilm_path: str) -> Tokenizer:
    """all-MiniLM-L6-v2's tokenizer as the model ships it: truncating and padding."""
    tokenizer: Tokenizer = Tokenizer.from_file(str(Path(minilm_path) / "tokenizer.json"))
    return tokenizer
