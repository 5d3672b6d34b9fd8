"""The best hits of each page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.steps import note
from situate.retrievers.rerank.ranking import distinct
from situate.retrievers.types import Hit
from situate.types import PAGE


@checked_parameters
class ByPage:
    """Keeps the best hits of each page, so that five hits show five pages; order and scores stay as they are.

    A hit stands on the page that it begins on; hits of documents without pages are all kept.

    Args:
        per_page: How many hits of a page are kept.

    Raises:
        InputError: ``per_page`` is less than 1.
    """

    name = "page"

    def __init__(self, per_page: int = 1) -> None:
        if per_page < 1:
            raise InputError(f"per_page={per_page} must be 1 or more")
        self.per_page = per_page

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits, without those that follow ``per_page`` others of their page."""
        counts: Counter[tuple[str, int]] = Counter()
        kept: list[Hit] = []
        for hit in sorted(distinct(hits), key=lambda hit: -hit.score):
            page = hit.chunk.metadata.get(PAGE)
            if isinstance(page, int):
                counts[hit.chunk.document_id, page] += 1
                if counts[hit.chunk.document_id, page] > self.per_page:
                    continue
            kept.append(hit)
        note(pages=len(counts))
        return kept

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank`, which does not block."""
        return self.rerank(query, hits)
