"""Maximal marginal relevance: passages that answer the query and differ (Carbonell and Goldstein 1998)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.concurrency import model_limit
from situate.retrievers.rerank.ranking import ModelReranker, RerankSettings
from situate.retrievers.search.fusion import stretched
from situate.retrievers.types import Hit
from situate.vectors import check_finite


class DenseEmbedder(Protocol):
    """The part of an `Embedder` that gives a vector per text."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 ``[texts, dimension]``."""
        ...

    async def aembed_queries(self, texts: Sequence[str]) -> Vectors:
        """`embed_queries` without blocking the event loop."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 ``[texts, dimension]``."""
        ...

    async def aembed_documents(self, texts: Sequence[str]) -> Vectors:
        """`embed_documents` without blocking the event loop."""
        ...


@checked_parameters
class Mmr(ModelReranker):
    """Orders hits by relevance minus likeness to those before.

    Args:
        embedder: Its cosines measure relevance and likeness.
        balance: The paper's lambda: 1 is relevance alone, 0 diversity alone.
        keep: How many hits to choose; None for all.
        context: `Context` fields that are read in front of the passage.
        prior: Share of the score that the hits came with in their relevance, stretched to [0, 1]; 1: they are as
            relevant as the step before says, and the embedder judges their likeness alone.
        name: The step's name, under which the value at which a hit was chosen is noted.

    Raises:
        InputError: ``balance`` or ``prior`` is not in [0, 1], or ``keep`` is less than 1.
    """

    def __init__(
        self,
        embedder: DenseEmbedder,
        *,
        balance: float = 0.7,
        keep: int | None = None,
        context: Sequence[str] = (),
        prior: float = 0.0,
        name: str = "mmr",
    ) -> None:
        if not 0 <= balance <= 1:
            raise InputError(f"balance={balance} must lie between 0 and 1")
        if keep is not None and keep < 1:
            raise InputError(f"keep={keep} must be 1 or more, or None for all")
        if not 0 <= prior <= 1:
            raise InputError(f"prior={prior} must lie between 0 and 1")
        self.settings = RerankSettings(name, tuple(context))
        self.prior = prior
        self.embedder = embedder
        self.balance = balance
        self.keep = keep
        self.name = name
        self._limit = model_limit(self.embedder, 1)

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits in the order in which they were chosen. An empty query orders nothing.

        Raises:
            NonFiniteVectorError: A vector holds NaN or infinity.
        """
        found, judged = self.settings.judged(query, hits)
        if not judged:
            return found
        vector, vectors = (
            self.embedder.embed_queries([query])[0],
            self.embedder.embed_documents(self.settings.passages(judged)),
        )
        return self._ranked(found, judged, vector, vectors)

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank` without blocking the event loop."""
        found, judged = self.settings.judged(query, hits)
        if not judged:
            return found
        async with self._limit.slot():
            if self._limit.at_once == 1:
                return await self._limit.in_thread(lambda: self.rerank(query, found))
            vector = (await self.embedder.aembed_queries([query]))[0]
            vectors = await self.embedder.aembed_documents(self.settings.passages(judged))
            return await self._limit.in_thread(lambda: self._ranked(found, judged, vector, vectors))

    def _ranked(self, hits: list[Hit], judged: list[Hit], query: Vectors, vectors: Vectors) -> list[Hit]:
        prior = self.prior * np.array(stretched([hit.score for hit in judged])) if self.prior else None
        order, values = mmr((1 - self.prior) * query, vectors, self.balance, self.keep, prior)
        # a value may rise where cosines are negative; the score must not, because hits are ordered by it
        scores = np.minimum.accumulate(values).tolist()
        chosen = [judged[place] for place in order]
        return self.settings.ranked(hits if self.keep is None else chosen, chosen, scores)


def mmr(
    query: Vectors,
    passages: Vectors,
    balance: float = 0.7,
    keep: int | None = None,
    prior: NDArray[np.float64] | None = None,
) -> tuple[list[int], list[float]]:
    """The greedy choice of the passage with the largest ``b * cos(query, p) - (1 - b) * max cos(chosen, p)``.

    Args:
        query: float32 ``[dimension]``, L2-normalised.
        passages: float32 ``[passages, dimension]``, L2-normalised.
        balance: ``b``, the paper's lambda.
        keep: How many to choose; None for all.
        prior: float64 ``[passages]``: added to the cosines with the query.

    Returns:
        Places in ``passages`` in the order of the choice, and the value of each when it was chosen. Ties go to the
        earlier passage.

    Raises:
        NonFiniteVectorError: A vector holds NaN or infinity.
    """
    check_finite(passages, "a passage's vector holds")
    check_finite(query, "the query's vector holds")
    relevance = (passages @ query).astype(np.float64)
    relevance = balance * (relevance if prior is None else relevance + prior)
    alike = np.full(len(passages), -1.0)
    open_ = np.ones(len(passages), dtype=bool)
    order: list[int] = []
    values: list[float] = []
    for _ in range(len(passages) if keep is None else min(keep, len(passages))):
        value = np.where(open_, relevance - (1 - balance) * (alike if order else 0.0), -np.inf)
        best = int(np.argmax(value))
        order.append(best)
        values.append(float(value[best]))
        open_[best] = False
        alike = np.maximum(alike, passages @ passages[best])
    return order, values
