"""Where a very long text may be cut before it is tokenized, with the same tokens as without the cut.

The tokenizers library keeps about 300 bytes for each byte that it reads, so 10 MB in one call are 3 GB. A byte-level
BPE merges inside pre-tokens only. So a cut changes nothing where one pre-token ends anyway and the next is found
without looking back, which holds after a run of letters for the patterns below: every alternative with letters in it
ends with them, none looks back, and only white space looks ahead. `cuts` takes such places only, and there are none in
a run of letters (or of Chinese or Japanese without punctuation): such a text is tokenized whole, whatever the memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer

#: What pre-tokens look like in the vocabularies of Llama 3 and Qwen; GPT-2's is built into the library.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = frozenset({_CONTRACTIONS + r"\p{N}{1,3}" + _REST, _CONTRACTIONS + r"\p{N}" + _REST})

# Letters that every version of Unicode knows, before a character that is none, composes with nothing (NFC) and begins
# no contraction.
_SAFE = re.compile(
    r"[A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5]"
    r"""(?=[ \t\n0-9!"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~、。「」『』（），．：；！？])"""
)


def may_be_cut(tokenizer: Tokenizer) -> bool:
    """Whether `cuts` holds for this tokenizer: byte-level BPE over one of the known patterns, and nothing else."""
    parts: dict[str, Any] = json.loads(tokenizer.to_str())
    normalizer = parts["normalizer"] or {"type": "NFC"}
    return (
        normalizer["type"] == "NFC"
        and parts["model"]["type"] == "BPE"
        and not parts["model"].get("dropout")
        and _splits_behind_letters(parts["pre_tokenizer"] or {"type": ""})
        and not _trims_the_first_apart(parts["post_processor"] or {})
    )


def _splits_behind_letters(step: dict[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        return step["use_regex"] is True and step["add_prefix_space"] is False
    if step["type"] != "Sequence" or [part["type"] for part in step["pretokenizers"]] != ["Split", "ByteLevel"]:
        return False
    split, byte_level = step["pretokenizers"]
    return (
        split["pattern"].get("Regex") in _PATTERNS
        and split["behavior"] == "Isolated"
        and split["invert"] is False
        and byte_level["use_regex"] is False
        and byte_level["add_prefix_space"] is False
    )


def _trims_the_first_apart(step: dict[str, Any]) -> bool:
    """Whether the blank before a text's first token is left in its offsets, and other blanks are not."""
    steps = [step, *step.get("processors", ())]
    return any(one.get("trim_offsets") and one.get("add_prefix_space") for one in steps)


def cuts(text: str, size: int, added: Iterable[str]) -> list[int]:
    """Where ``text`` may be cut, the pieces being of about ``size`` characters, or longer where there is no place.

    Args:
        text: The text.
        size: Characters of a piece.
        added: The tokenizer's added tokens, which it looks for before anything else: no cut goes through or beside one.
    """
    tokens = [token for token in added if token]
    found: list[int] = []
    last = 0
    while last + size < len(text):
        place = next(
            (
                match.end()
                for match in _SAFE.finditer(text, last + size)
                if not any(
                    token in text[max(0, match.end() - len(token)) : match.end() + len(token)] for token in tokens
                )
            ),
            None,
        )
        if place is None:
            break
        found.append(place)
        last = place
    return found
