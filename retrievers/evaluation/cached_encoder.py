"""Embeddings kept in memory while several configurations are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from situate.embedders.types import Encoded, SpanEncoder, SpanText


class CachedEncoder:
    """A `SpanEncoder` that encodes each text once, however many configurations ask for it.

    What is kept is never thrown away while the object lives: it is meant for a comparison, not for a service.

    Args:
        encoder: What encodes.
    """

    def __init__(self, encoder: SpanEncoder) -> None:
        self.encoder = encoder
        self._known: dict[tuple[SpanText, bool], Encoded] = {}

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.encoder.dimension

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """As the encoder beneath."""
        missing = list(dict.fromkeys(text for text in inputs if (text, token_vectors) not in self._known))
        if missing:
            for text, encoded in zip(missing, self.encoder.encode(missing, token_vectors=token_vectors), strict=True):
                self._known[text, token_vectors] = encoded
        return [self._known[text, token_vectors] for text in inputs]

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """`encode` without blocking the event loop."""
        return await asyncio.to_thread(self.encode, inputs, token_vectors=token_vectors)
