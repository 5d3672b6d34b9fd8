"""Prepending: which token of a prompt takes the last token's state, and behind which layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from situate.errors import ConventionError

if TYPE_CHECKING:
    from situate.embedders.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Prepending:
    """Token prepending (Fu et al. 2024) in one model.

    Attributes:
        token: The id whose first occurrence in a sequence is the place.
        skipped: Tokens at a sequence's beginning that are no place: the tokenizer's own.
        first: The first layer, counted from 1, behind which the place takes the last token's state.
        last: The last one.
    """

    token: int
    skipped: int
    first: int
    last: int


@dataclass(frozen=True)
class Prepend:
    """Token prepending, before the model's vocabulary is known.

    Attributes:
        token: The text of the special token whose first occurrence is the place.
        first: The first layer, counted from 1, behind which the place takes the last token's state.
        last: The last one.
    """

    token: str
    first: int
    last: int

    def of(self, tokenizer: TextTokenizer) -> Prepending:
        """The same with the token's id.

        Raises:
            ConventionError: The vocabulary has no such token, or the tokenizer is written in plain Python.
        """
        token = None if tokenizer.backend is None else tokenizer.backend.token_to_id(self.token)
        if token is None:
            raise ConventionError(f"prepend needs the token {self.token!r}, which the model's fast tokenizer has not")
        return Prepending(token, len(tokenizer.leading), self.first, self.last)
