"""The shared part of rerankers: which hits are judged, which text of them is read, and the order by scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from situate.errors import InputError
from situate.retrievers.search.fusion import stretched
from situate.retrievers.types import Hit, InstructedReranker, Reranker
from situate.types import Chunk, Context
from situate.vectors import check_finite


@dataclass(frozen=True)
class RerankSettings:
    """How a reranker that judges hits by a model chooses, reads and orders them.

    Attributes:
        name: The step's name, under which the score is noted.
        context: `Context` fields that are read in front of the passage.
        prior: Share of the score that the hits came with, in [0, 1] (Birch, Akkalyoncu Yilmaz et al. 2019; CEDR,
            MacAvaney et al. 2019). Both are stretched to [0, 1] over the judged hits of the query first; 0 ranks by the
            reranker's scores as they are.
        top: Only the first so many hits are judged, the others follow in their order; None for all.

    Raises:
        InputError: ``prior`` is not in [0, 1], ``top`` is less than 1, or a context has no such field.
    """

    name: str
    context: tuple[str, ...] = ()
    prior: float = 0.0
    top: int | None = None

    def __post_init__(self) -> None:
        Context().render(self.context)  # refuses what are no fields
        if not 0 <= self.prior <= 1:
            raise InputError(f"prior={self.prior} must lie between 0 and 1")
        if self.top is not None and self.top < 1:
            raise InputError(f"top={self.top} must be 1 or more, or None for all hits")

    def judged(self, query: str, hits: Sequence[Hit]) -> tuple[list[Hit], list[Hit]]:
        """The distinct hits, and those of them that are judged: none by an empty query, and none without text."""
        found = distinct(hits)
        return found, [hit for hit in found if has_text(hit)][: self.top] if query.strip() else []

    def passages(self, judged: Sequence[Hit]) -> list[str]:
        """The text that is read of each: the named fields of its context, and its own."""
        return [passage(hit, self.context) for hit in judged]

    def ranked(
        self,
        hits: Sequence[Hit],
        judged: Sequence[Hit],
        scores: Sequence[float | None],
        relevance: Sequence[float | None] | None = None,
    ) -> list[Hit]:
        """``hits`` with the judged ones first, in the order of their ``scores``; the others keep theirs behind them.

        Args:
            hits: All hits.
            judged: Those that were judged.
            scores: Per judged hit; None where the judgement could not be read.
            relevance: The same as probabilities, from a reranker whose scores mean the same for every query.

        Raises:
            NonFiniteVectorError: A score is NaN or infinite.
        """
        if relevance is not None:
            judged = [
                hit if known is None else replace(hit, relevance=known)
                for hit, known in zip(judged, relevance, strict=True)
            ]
        first = reranked(self.name, judged, self._with_prior(judged, scores))
        ids = {hit.chunk.id for hit in judged}
        lowest = first[-1].score
        # Hits that were not judged follow the judged ones, whatever the scale of their own scores.
        others = [hit for hit in hits if hit.chunk.id not in ids]
        return first + [replace(hit, score=lowest if self.top is None else min(hit.score, lowest)) for hit in others]

    def _with_prior(self, judged: Sequence[Hit], scores: Sequence[float | None]) -> Sequence[float | None]:
        own = [float(score) for score in scores if score is not None]
        if not self.prior or not own or not all(map(math.isfinite, own)):
            return scores
        shares = iter(stretched(own))
        before = stretched([hit.score for hit in judged])
        return [
            None if score is None else (1 - self.prior) * next(shares) + self.prior * earlier
            for score, earlier in zip(scores, before, strict=True)
        ]


class ModelReranker(ABC):
    """A reranker by a model of its own, which can be loaded before the first query.

    Attributes:
        settings: How it chooses, reads and orders hits.
    """

    settings: RerankSettings

    @abstractmethod
    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits, best first."""

    def warm_up(self) -> None:
        """Load the model, by two short passages that it judges.

        Raises:
            ModelError: The model cannot be used.
        """
        texts = ("warm", "up")
        self.rerank("warm up", [Hit(Chunk(text, text, 0, text, 0, len(text)), 0.0) for text in texts])


def warm_up(reranker: Reranker) -> None:
    """Load the model of a reranker that has one to load; a language model is not called."""
    load = getattr(reranker, "warm_up", None)
    if load is not None:
        load()


def told(reranker: Reranker, instruction: str | None) -> Reranker:
    """The reranker for a query's instruction, where there is one and it takes one; else itself."""
    if instruction is None or not isinstance(reranker, InstructedReranker):
        return reranker
    return reranker.instructed(instruction)


def distinct(hits: Sequence[Hit]) -> list[Hit]:
    """The hits without repetitions of a chunk; the first, which is the better one, stays."""
    seen: dict[str, Hit] = {}
    for hit in hits:
        seen.setdefault(hit.chunk.id, hit)
    return list(seen.values())


def has_text(hit: Hit) -> bool:
    """Whether the hit has text to judge."""
    return bool(hit.chunk.text.strip())


def reranked(name: str, hits: Sequence[Hit], scores: Sequence[float | None]) -> list[Hit]:
    """New hits in the order of ``scores``; ties keep their order.

    A hit that could not be judged (None) gets no invented score: it follows the others with their lowest score, which
    its ``scores`` do not name. If none was judged, the hits stay as they are.

    Raises:
        NonFiniteVectorError: A score is NaN or infinite.
    """
    judged = [score for score in scores if score is not None]
    check_finite(judged, f"nothing is ranked: the reranker {name!r} computed a score that is")
    if not judged:
        return list(hits)
    lowest = min(judged)
    found = [
        (score is None, replace(hit, score=lowest) if score is None else hit.rescored(name, float(score)))
        for hit, score in zip(hits, scores, strict=True)
    ]
    return [hit for _, hit in sorted(found, key=lambda pair: (-pair[1].score, pair[0]))]


def passage(hit: Hit, context: Sequence[str]) -> str:
    """A hit's text, with the named fields of its context before it."""
    before = hit.chunk.context.render(context) if context else ""
    return f"{before}\n{hit.chunk.text}" if before else hit.chunk.text
