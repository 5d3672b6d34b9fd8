"""Cutting where the topic changes between paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from situate.chunkers.base import SizedChunker
from situate.chunkers.semantic import Embed, unit_vectors
from situate.chunkers.sentences import sentence_spans
from situate.chunkers.spans import chunks_from_spans, trimmed
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.vectors import check_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from situate.types import Chunk, Document

#: Characters on each side of a place that are compared.
_COMPARED = 2_000
_BLANK_LINES = re.compile(r"(?:\r\n?|\n)(?:[ \t]*(?:\r\n?|\n))+")
_HEADING = re.compile(r"#{1,6}[ \t][^\r\n]*\Z")


class PairScorer(Protocol):
    """Scores how well two texts go together; the models of `situate.embedders` that score pairs do."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Any:
        """An object whose ``scores`` holds one number per pair, higher where they go together better."""
        ...


@checked_parameters
@dataclass(frozen=True)
class TopicChunker(SizedChunker):
    """Chunks end where the topic changes between two paragraphs.

    The ``block`` paragraphs before a place are compared with the ``block`` behind it, by an embedder or by a model that
    reads both (trained to tell whether two paragraphs of a law or a contract have the same topic, say: Aumiller et al.
    2021, "Structural Text Segmentation of Legal Documents"). The topic changes where the comparison falls far below its
    peaks on both sides (TextTiling, Hearst 1997), whatever its scale, or below ``threshold``. Paragraphs are separated
    by blank lines; a text without any is compared sentence by sentence. A heading belongs to what follows.

    Attributes:
        size: The most that a chunk holds; a longer one is divided.
        overlap: For paragraphs that are cut.
        tokenizer: The embedding model's tokenizer.
        embed: Texts to vectors, such as ``embedder.embed_documents``; one per paragraph.
        scorer: In its place, a model that scores pairs of texts; a pair per place between two paragraphs.
        block: Paragraphs on each side that are compared, 2,000 characters at most.
        threshold: The topic changes where the score is less; None: where it falls far below its peaks.
        depth: How far: standard deviations over the document's mean depth.

    Raises:
        InputError: There is not exactly one of ``embed`` and ``scorer``, or ``block`` is less than 1.
        NonFiniteVectorError: On use, where a score or a vector holds NaN or infinity.
    """

    embed: Embed | None = field(default=None, repr=False, compare=False)
    scorer: PairScorer | None = field(default=None, repr=False, compare=False)
    block: int = 2
    threshold: float | None = None
    depth: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.embed is None) == (self.scorer is None):
            raise InputError("TopicChunker needs one of embed=..., such as embedder.embed_documents, and scorer=...")
        if self.block < 1:
            raise InputError(f"block={self.block} must be 1 or more")

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        text = document.text
        paragraphs = _paragraphs(text)
        if len(paragraphs) < 2:
            paragraphs = sentence_spans(text)
        apart: frozenset[int] = frozenset()
        if len(paragraphs) > 1:
            scores = self._scores([text[start:end] for start, end in paragraphs])
            apart = frozenset(
                (np.flatnonzero(scores < self.threshold) + 1).tolist()
                if self.threshold is not None
                else _valleys(scores, self.depth)
            )
        return chunks_from_spans(document, self._packed(text, paragraphs, apart))

    def _scores(self, paragraphs: Sequence[str]) -> NDArray[np.float64]:
        """Per place between two paragraphs, how well its two sides go together."""
        places = range(1, len(paragraphs))
        if self.scorer is not None:
            pairs = [
                (
                    "\n".join(paragraphs[max(0, place - self.block) : place])[-_COMPARED:],
                    "\n".join(paragraphs[place : place + self.block])[:_COMPARED],
                )
                for place in places
            ]
            scores = np.asarray(self.scorer.score(pairs).scores, dtype=np.float64)
            if scores.shape != (len(pairs),):
                raise InputError(f"scorer returned the shape {scores.shape} for {len(pairs)} pairs: it needs one each")
            check_finite(scores, "scorer returned")
            return scores
        vectors = unit_vectors(self.embed, [paragraph[:_COMPARED] for paragraph in paragraphs]).astype(np.float64)
        sums = np.concatenate([np.zeros((1, vectors.shape[1])), vectors.cumsum(axis=0)])
        cosines = np.zeros(len(places))
        for i, place in enumerate(places):
            before = sums[place] - sums[max(0, place - self.block)]
            behind = sums[min(len(vectors), place + self.block)] - sums[place]
            norms = np.linalg.norm(before) * np.linalg.norm(behind)
            cosines[i] = before @ behind / norms if norms > 0 else 0.0
        return cosines


def _paragraphs(text: str) -> list[tuple[int, int]]:
    """The spans between blank lines, without white space around them; a heading with the paragraph behind it."""
    spans: list[tuple[int, int]] = []
    heading: int | None = None
    for piece in _between(text):
        start, end = trimmed(text, *piece)
        if start >= end:
            continue
        if _HEADING.match(text, start, end):
            heading = start if heading is None else heading
            continue
        spans.append((start if heading is None else heading, end))
        heading = None
    if heading is not None:
        spans.append(trimmed(text, heading, len(text)))
    return spans


def _between(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in _BLANK_LINES.finditer(text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)


def _valleys(scores: NDArray[np.float64], depth: float) -> list[int]:
    """The paragraphs that begin a topic: behind places whose score is far below its peaks, and below its neighbours.

    Hearst's depth of a place is the sum of the climbs from it to the nearest peak on each side.
    """
    before, behind = _climbs(scores), _climbs(scores[::-1])[::-1]
    depths = before + behind
    cutoff = depths.mean() + depth * depths.std()
    around = np.concatenate([[-np.inf], depths, [-np.inf]])
    lowest = (depths >= around[:-2]) & (depths > around[2:])
    return (np.flatnonzero(lowest & (depths > cutoff)) + 1).tolist()


def _climbs(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per place, how far the scores rise from it towards the beginning until they fall again."""
    climbs = np.zeros(len(scores))
    for place in range(1, len(scores)):
        if scores[place - 1] > scores[place]:
            climbs[place] = climbs[place - 1] + scores[place - 1] - scores[place]
    return climbs
