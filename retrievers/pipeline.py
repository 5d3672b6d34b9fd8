"""The way of a query: expand, search, rerank, cut off; whatever is optional harms nothing when it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from situate.chunkers.errors import InputError
from situate.embedders.types import Vectors
from situate.retrievers.query_encoder import asked
from situate.retrievers.search import FilterLike
from situate.retrievers.steps import OnError, StepPolicy, StepRunner
from situate.retrievers.types import Hit, QueryExpander, QueryText, Reranker, SearchResult

if TYPE_CHECKING:
    from situate.retrievers.index import Index
    from situate.retrievers.steps import Trace


class Retriever:
    """Finds the passages that answer a query.

    Args:
        index: Where to search.
        expander: Writes further texts to search with (`Hyde`, `MultiQuery`, ...).
        rerankers: Order the hits anew, one after the other, cheap ones first.
        k: How many hits to return, at most.
        candidates: How many hits are searched for where there is something to rerank.
        threshold: Hits whose final score is below are left out, so that a result may be empty: an honest "nothing
            relevant". Where a reranker failed, its scores are missing and nothing is left out. See
            `situate.retrievers.calibration` for how to choose it.
        on_error: "degrade": a step that fails is skipped, logged once and marked on the result; "raise" raises.
        policy: Timeouts and retries of the optional steps.
        policies: The same for single steps, by name ("hyde") or kind ("rerank").

    Raises:
        InputError: ``k`` or ``candidates`` is less than 1.
    """

    def __init__(
        self,
        index: Index,
        *,
        expander: QueryExpander | None = None,
        rerankers: Sequence[Reranker] = (),
        k: int = 10,
        candidates: int = 50,
        threshold: float | None = None,
        on_error: OnError = "degrade",
        policy: StepPolicy | None = None,
        policies: Mapping[str, StepPolicy] | None = None,
    ) -> None:
        if k < 1 or candidates < 1:
            raise InputError(f"k={k} and candidates={candidates} must be 1 or more")
        self.index = index
        self.expander = expander
        self.rerankers = tuple(rerankers)
        self.k = k
        self.candidates = candidates
        self.threshold = threshold
        self.runner = StepRunner(policy if policy is not None else StepPolicy(on_error=on_error), policies)

    def retrieve(
        self, query: str, k: int | None = None, filter: FilterLike | None = None, dense: Vectors | None = None
    ) -> SearchResult:
        """The passages for a query, best first.

        Args:
            query: What is looked for. A query without any text finds nothing.
            k: How many hits, at most, where not the retriever's own number.
            filter: As in `Index.search`.
            dense: float32 ``[dimension]``: a dense vector that the caller made. Nothing is expanded then.

        Raises:
            InputError: ``k`` is less than 1, or the filter cannot be read.
            StepError: An optional step failed and ``on_error="raise"``.
        """
        k = self._checked(k)
        if not query.strip():
            return SearchResult(query, ())
        trace = self.runner.trace()
        texts = [QueryText(query)]
        if (expander := self.expander) is not None and dense is None:
            texts = trace.run(expander.name, lambda: expander.expand(query), texts)
        expanded = len(trace.steps)
        found = self.index.search_texts(query, texts, self._depth(k), filter, dense)
        hits = list(found.hits)
        for reranker in self.rerankers if hits else ():
            work = partial(reranker.rerank, asked(query, texts), hits)
            hits = trace.run(f"rerank:{reranker.name}", work, hits)
        return self._result(query, hits, k, found, trace, expanded)

    async def aretrieve(
        self, query: str, k: int | None = None, filter: FilterLike | None = None, dense: Vectors | None = None
    ) -> SearchResult:
        """`retrieve` without blocking the event loop; cancelling it cancels the step that is running."""
        k = self._checked(k)
        if not query.strip():
            return SearchResult(query, ())
        trace = self.runner.trace()
        texts = [QueryText(query)]
        if (expander := self.expander) is not None and dense is None:
            texts = await trace.arun(expander.name, lambda: expander.aexpand(query), texts)
        expanded = len(trace.steps)
        found = await self.index.asearch_texts(query, texts, self._depth(k), filter, dense)
        hits = list(found.hits)
        for reranker in self.rerankers if hits else ():
            work = partial(reranker.arerank, asked(query, texts), hits)
            hits = await trace.arun(f"rerank:{reranker.name}", work, hits)
        return self._result(query, hits, k, found, trace, expanded)

    def _checked(self, k: int | None) -> int:
        k = self.k if k is None else k
        if k < 1:
            raise InputError(f"k={k}: a search returns at least one hit, so k must be 1 or more")
        return k

    def _depth(self, k: int) -> int:
        return max(k, self.candidates) if self.rerankers else k

    def _result(
        self, query: str, hits: Sequence[Hit], k: int, found: SearchResult, trace: Trace, expanded: int
    ) -> SearchResult:
        steps = (*trace.steps[:expanded], *found.steps, *trace.steps[expanded:])
        reranked = not any(step.error for step in trace.steps[expanded:])
        if self.threshold is not None and reranked:
            hits = [hit for hit in hits if hit.score >= self.threshold]
        return SearchResult(query, tuple(hits[:k]), steps)
