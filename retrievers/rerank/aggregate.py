"""Documents ranked by their chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.steps import note
from situate.retrievers.rerank.ranking import distinct, reranked
from situate.retrievers.types import Hit

DocumentScore: TypeAlias = Literal["max", "first", "mean", "sum"]


@checked_parameters
class ByDocument:
    """Orders hits by the scores of their documents as a whole (Dai and Callan 2019), and keeps a few of each.

    Args:
        score: A document's score out of its chunks': "max"; "first", its earliest chunk's; "mean" of the best ``top``;
            "sum" of the best ``top``, which favours documents with many good chunks (scores must not be negative).
        top: How many chunks "mean" and "sum" use.
        per_document: How many chunks of a document are kept, its best; None keeps all.
        name: The step's name, under which the document's score is noted. A document's chunks stay in their order.

    Raises:
        InputError: ``score`` is not one of the four, or ``top`` or ``per_document`` is less than 1.
    """

    def __init__(
        self,
        score: DocumentScore = "max",
        *,
        top: int = 3,
        per_document: int | None = None,
        name: str = "document",
    ) -> None:
        if score not in ("max", "first", "mean", "sum"):
            raise InputError(f"score={score!r} is not one of 'max', 'first', 'mean', 'sum'")
        if top < 1 or (per_document is not None and per_document < 1):
            raise InputError(f"top={top} and per_document={per_document} must be 1 or more")
        self.score = score
        self.top = top
        self.per_document = per_document
        self.name = name

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits: the best document's chunks, the second's, ..."""
        documents: dict[str, list[Hit]] = {}
        for hit in sorted(distinct(hits), key=lambda hit: -hit.score):
            documents.setdefault(hit.chunk.document_id, []).append(hit)
        note(documents=len(documents))
        ranked = sorted(((self._score(chunks), chunks) for chunks in documents.values()), key=lambda pair: -pair[0])
        kept = [(score, hit) for score, chunks in ranked for hit in chunks[: self.per_document]]
        return reranked(self.name, [hit for _, hit in kept], [score for score, _ in kept])

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank`, which does not block."""
        return self.rerank(query, hits)

    def _score(self, chunks: Sequence[Hit]) -> float:
        if self.score == "first":
            return min(chunks, key=lambda hit: hit.chunk.index).score
        best = [hit.score for hit in chunks[: self.top]]
        if self.score == "max":
            return best[0]
        if self.score == "sum":
            if best[-1] < 0:
                raise InputError(
                    'score="sum" adds up scores, and some are negative, so that more chunks would count for less: '
                    'choose "max" or "mean", or rerank to probabilities first'
                )
            return sum(best)
        return sum(best) / len(best)
