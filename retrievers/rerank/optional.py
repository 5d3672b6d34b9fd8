"""A reranker that is used alone, as the optional step that it is within a `Retriever`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.steps import OnError, StepPolicy, StepRunner
from situate.retrievers.rerank.ranking import warm_up
from situate.retrievers.types import Hit, Reranker, SearchResult


@checked_parameters
class OptionalReranker:
    """A reranker that is bounded in time, tried again, and skipped where it still fails.

    A `Retriever` does this for each of its rerankers; this class does it for a reranker that is used alone. A skipped
    reranker leaves the hits as they were; the log names the cause once per kind, and `rank` returns the mark:
    ``result.degraded`` holds the step's name, ``result.steps`` the cause.

    Args:
        reranker: Any reranker.
        on_error: "degrade" keeps the hits as they were; "raise" raises.
        policy: Timeout, retries and ``on_error``, in place of ``on_error`` alone.

    Raises:
        InputError: ``reranker`` is not a reranker.
    """

    def __init__(self, reranker: Reranker, *, on_error: OnError = "degrade", policy: StepPolicy | None = None) -> None:
        if not isinstance(reranker, Reranker):
            raise InputError(
                f"reranker={type(reranker).__name__} is no reranker: it needs name, rerank(query, hits) and "
                "arerank(query, hits)"
            )
        self.reranker = reranker
        self.name = reranker.name
        self._runner = StepRunner(policy if policy is not None else StepPolicy(on_error=on_error))

    def rank(self, query: str, hits: Sequence[Hit]) -> SearchResult:
        """The hits in their new order, or as they were, and the record of the step.

        Raises:
            StepError: The reranker failed and ``on_error="raise"``.
        """
        trace = self._runner.trace()
        found = trace.run(f"rerank:{self.name}", partial(self.reranker.rerank, query, hits), list(hits))
        return SearchResult(query, tuple(found), trace.steps)

    async def arank(self, query: str, hits: Sequence[Hit]) -> SearchResult:
        """`rank` without blocking the event loop; cancelling it cancels the reranker."""
        trace = self._runner.trace()
        found = await trace.arun(f"rerank:{self.name}", partial(self.reranker.arerank, query, hits), list(hits))
        return SearchResult(query, tuple(found), trace.steps)

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits of `rank`."""
        return list(self.rank(query, hits).hits)

    def warm_up(self) -> None:
        """Load the reranker's model; its errors pass."""
        warm_up(self.reranker)

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits of `arank`."""
        return list((await self.arank(query, hits)).hits)
