"""Cutting by meaning: at breakpoints, or by the similarity within chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from situate.chunkers.base import SizedChunker
from situate.chunkers.sentences import sentence_spans
from situate.chunkers.spans import chunks_from_spans
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.vectors import check_finite, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from situate.types import Chunk, Document

#: Texts -> float ``[texts, dimension]``; `Embedder.embed_documents` is one.
Embed: TypeAlias = "Callable[[Sequence[str]], NDArray[np.float32]]"


@checked_parameters
@dataclass(frozen=True)
class SemanticChunker(SizedChunker):
    """Breakpoints where neighbouring sentences differ most (Kamradt 2023, as in LangChain and LlamaIndex).

    Each sentence is embedded together with its neighbours; where the cosine distance to the next one is above the
    document's ``percentile``, a chunk ends. It costs an embedding per sentence, and at an equal budget of retrieved
    tokens it did not find more than `TextChunker` in what was measured.

    Attributes:
        size: The most that a chunk holds; a longer one is divided.
        overlap: For sentences that are cut.
        tokenizer: The embedding model's tokenizer.
        embed: Texts to vectors, such as ``embedder.embed_documents``.
        buffer: Neighbours on each side that a sentence is embedded with.
        percentile: Share of distances, 0 to 100, that do not end a chunk.

    Raises:
        InputError: There is no ``embed``, or a number is out of range.
        NonFiniteVectorError: On use, where ``embed`` returns NaN or infinity.
    """

    embed: Embed | None = field(default=None, repr=False, compare=False)
    buffer: int = 1
    percentile: float = 95.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed is None:
            raise InputError("SemanticChunker needs embed=..., such as embedder.embed_documents")
        if self.buffer < 0 or not 0 <= self.percentile <= 100:
            raise InputError(f"buffer={self.buffer} must be 0 or more, percentile={self.percentile} within 0 and 100")

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        text = document.text
        sentences = sentence_spans(text)
        apart: frozenset[int] = frozenset()
        if len(sentences) > 1:
            groups = [
                text[sentences[max(0, n - self.buffer)][0] : sentences[min(len(sentences) - 1, n + self.buffer)][1]]
                for n in range(len(sentences))
            ]
            vectors = unit_vectors(self.embed, groups)
            distances = 1.0 - np.einsum("ij,ij->i", vectors[:-1], vectors[1:])
            apart = frozenset((np.flatnonzero(distances > np.percentile(distances, self.percentile)) + 1).tolist())
        return chunks_from_spans(document, self._filled(text, self._packed(text, sentences, apart)))


@checked_parameters
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
        parts = [part for span in spans for part in self._within(text, *span)]
        return chunks_from_spans(document, self._filled(text, parts))


def unit_vectors(embed: Embed | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """The texts' vectors, float32 ``[texts, dimension]``, rows of length 1 (or 0 where there is nothing).

    Raises:
        InputError: ``embed`` does not return one vector per text.
        NonFiniteVectorError: A vector holds NaN or infinity.
    """
    assert embed is not None
    vectors = np.asarray(embed(texts), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise InputError(f"embed returned the shape {vectors.shape} for {len(texts)} texts: it needs one row for each")
    check_finite(vectors, "embed returned")
    return unit(vectors)


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
