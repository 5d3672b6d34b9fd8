"""Texts inside prompts, and answers out of them; see `situate.chunkers.prompting`, which the situators need too."""

from __future__ import annotations

from situate.chunkers.prompting import (
    ANSWER_LIMIT,
    PASSAGE_LIMIT,
    QUERY_LIMIT,
    Usable,
    aask,
    ask,
    clamp,
    filled,
    lines,
    one_line,
    quoted,
    usable,
)

__all__ = [
    "ANSWER_LIMIT",
    "PASSAGE_LIMIT",
    "QUERY_LIMIT",
    "Usable",
    "aask",
    "ask",
    "clamp",
    "filled",
    "lines",
    "one_line",
    "quoted",
    "usable",
]
