"""The cutting that keeps most similarity inside of chunks, found by dynamic programming."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from situate.chunkers.packing import within
from situate.chunkers.semantic import Embed, unit_vectors
from situate.chunkers.sizing import SizedChunker
from situate.chunkers.spans import chunks_from_spans
from situate.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from situate.types import Chunk, Document


@dataclass(frozen=True)
class ClusterSemanticChunker(SizedChunker):
    """Small pieces joined so that the similarity within chunks is largest (Smith and Troynikov 2024).

    The document is cut into pieces of about ``piece`` tokens. Of all ways to join neighbours into chunks of at most
    ``size``, the one is taken whose chunks have the largest sum of pairwise similarities, each reduced by the
    document's mean similarity of neighbours. It costs an embedding per piece, and at an equal budget of retrieved
    tokens it did not find more than `TextChunker` in what was measured.

    Attributes:
        size: The most that a chunk holds.
        overlap: Must be 0.
        tokenizer: The embedding model's tokenizer.
        embed: Texts to vectors, such as ``embedder.embed_documents``.
        piece: Tokens (characters without a tokenizer) of a piece.

    Raises:
        InputError: There is no ``embed``, ``overlap`` is not 0, or ``piece`` is not between 1 and ``size``.
        NonFiniteVectorError: On use, where ``embed`` returns NaN or infinity.
    """

    embed: Embed | None = field(default=None, repr=False, compare=False)
    piece: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed is None:
            raise InputError("ClusterSemanticChunker needs embed=..., such as embedder.embed_documents")
        if self.overlap:
            raise InputError(f"overlap={self.overlap}: joined pieces cannot overlap, so it must be 0")
        if not 1 <= self.piece <= self.size:
            raise InputError(f"piece={self.piece} must lie between 1 and size={self.size}")

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        text = document.text
        pieces = SizedChunker(self.piece, 0, self.tokenizer)._text_spans(text, 0, len(text))
        if not pieces:
            return []
        texts = [text[start:end] for start, end in pieces]
        lengths = self.counts(texts)
        groups = best_groups(unit_vectors(self.embed, texts), lengths, self.size)
        spans = [(pieces[first][0], pieces[last - 1][1]) for first, last in groups]
        # Joined pieces can have a token more than they had apart.
        sizes = replace(self)
        return chunks_from_spans(document, [part for span in spans for part in within(sizes, text, *span)])


def best_groups(vectors: NDArray[np.float32], lengths: list[int], size: int) -> list[tuple[int, int]]:
    """The ``[first, last)`` groups of neighbours with the largest reward, each at most ``size`` long.

    A group's reward is the sum over all pairs in it of their cosine minus the mean cosine of neighbours. Time and
    memory grow with the number of vectors times the largest group, not with its square.

    Args:
        vectors: float32 ``[n, dimension]``, rows of length 1.
        lengths: Length of each.
        size: The most that a group's lengths may add up to.
    """
    count = len(vectors)
    mean = float(np.einsum("ij,ij->i", vectors[:-1], vectors[1:]).mean()) if count > 1 else 0.0
    best = np.zeros(count + 1)
    cut = list(range(count + 1))
    for end in range(1, count + 1):
        best[end] = -np.inf
        reward, total, first = 0.0, 0, end - 1
        while first >= 0:
            total += lengths[first]
            if total > size and first < end - 1:
                break
            # The new first piece meets those that are in the group already.
            reward += float((vectors[first + 1 : end] @ vectors[first] - mean).sum())
            if best[first] + reward > best[end]:
                best[end], cut[end] = best[first] + reward, first
            first -= 1
    groups: list[tuple[int, int]] = []
    end = count
    while end:
        groups.append((cut[end], end))
        end = cut[end]
    return groups[::-1]
