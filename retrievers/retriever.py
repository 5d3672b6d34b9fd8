"""The query pipeline: expand, search, rerank, cut off, highlight; an optional step that fails is skipped and marked."""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, TypeVar

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.lifecycle import Openable
from situate.parameters import checked_parameters
from situate.retrievers.highlight.highlighter import Highlighter
from situate.retrievers.pipeline.concurrency import StartLimit
from situate.retrievers.pipeline.steps import OnError, StepPolicy, StepRunner
from situate.retrievers.rerank.ranking import told, warm_up
from situate.retrievers.search.filters import FilterLike
from situate.retrievers.search.fusion import dbsf, minmax, rrf
from situate.retrievers.search.query_vectors import question_of
from situate.retrievers.types import (
    Hit,
    IterativeExpander,
    QueryExpander,
    QueryText,
    Reranker,
    SearchResult,
    Step,
    check_k,
    check_parts,
    check_query,
)

if TYPE_CHECKING:
    from situate.retrievers.index.index import Index
    from situate.retrievers.pipeline.steps import Trace

T = TypeVar("T")
Search: TypeAlias = Callable[..., SearchResult]
AsyncSearch: TypeAlias = Callable[..., Awaitable[SearchResult]]
TextFusion: TypeAlias = Literal["rrf", "minmax", "dbsf"]

_FUSIONS: Mapping[str, Callable[..., list[Hit]]] = {"rrf": rrf, "minmax": minmax, "dbsf": dbsf}

#: Calls that begin in one iteration of the event loop: each computes for 0.05 ms before it first waits.
_START_LIMIT = StartLimit(16)


@checked_parameters
@dataclass(frozen=True)
class RetrieverSettings:
    """How a `Retriever` searches: everything but the index, the expander and the rerankers.

    Attributes:
        k: How many hits to return, at most.
        candidates: How many hits are searched for where there is a reranker.
        fuse_texts: None: the texts that an expander wrote become one weighted mean vector and one search. "rrf",
            "minmax" or "dbsf" (`situate.retrievers.search.fusion`): each text is searched for by itself, and
            the rankings are fused, weighted as the texts are. As many searches as texts, at once in asynchronous calls.
        threshold: Hits of less relevance are left out, so that a result may be empty where nothing is relevant. A hit
            whose `Hit.relevance` is None is compared by its final score. Where a reranker failed, its scores are
            missing and nothing is left out. See `situate.retrievers.calibration` for how to choose it.
        on_error: "degrade": a step that fails is skipped, logged once and marked on the result; "raise" raises.
        policy: Timeouts, retries and ``on_error`` of the optional steps, in place of ``on_error`` alone.
        policies: The same for single steps, by name ("hyde") or kind ("rerank").
        highlight: Mark the spans of each hit that match the query best (``Hit.highlight``), by the token vectors of the
            index's embedder; see `situate.retrievers.highlight.Highlighter`.
        weights: Of further signals by name, in place of those in the index's configuration.
        instruction: The task of every query, as in `Embedder.instructed`; passed on to rerankers that take one. None:
            the embedder's own.

    Raises:
        InputError: ``k`` or ``candidates`` is less than 1, or there is no such fusion.
    """

    k: int = 10
    candidates: int = 50
    fuse_texts: TextFusion | None = None
    threshold: float | None = None
    on_error: OnError = "degrade"
    policy: StepPolicy | None = None
    policies: Mapping[str, StepPolicy] | None = None
    highlight: bool = False
    weights: Mapping[str, float] | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        check_k(self.k)
        check_k(self.candidates, "candidates")
        if self.threshold is not None and math.isnan(self.threshold):
            raise InputError("threshold=nan leaves out every hit: give a relevance from 0 to 1, or None")
        if self.fuse_texts is not None and self.fuse_texts not in _FUSIONS:
            raise InputError(f"fuse_texts={self.fuse_texts!r} is none of {', '.join(map(repr, _FUSIONS))}, None")

    def runner(self) -> StepRunner:
        """Runs the optional steps by these policies."""
        policy = self.policy if self.policy is not None else StepPolicy(on_error=self.on_error)
        return StepRunner(policy, self.policies)


@checked_parameters
class Retriever(Openable):
    """Finds the passages that answer a query.

    Args:
        index: Where to search.
        expander: Writes further texts to search with (`Hyde`, `MultiQuery`, ...).
        rerankers: Order the hits anew, one after the other, cheap ones first.
        k: As in `RetrieverSettings`, like all that follow.
        candidates: How many hits are searched for where there is a reranker.
        fuse_texts: How the searches for an expander's texts are fused; None: they make one search.
        threshold: Leave out hits of less relevance after the last step.
        on_error: How an optional step fails: "degrade" or "raise".
        policy: Timeouts and retries of the optional steps, in place of ``on_error``.
        policies: The same for single steps, by name or kind.
        highlight: Mark the spans of each hit that match the query best.
        weights: Of further signals by name, in place of those in the index's configuration.
        instruction: The task of every query, for the embedder and for rerankers that take one.

    Attributes:
        settings: These settings as one value.

    Raises:
        InputError: ``k`` or ``candidates`` is less than 1, there is no such fusion, or ``expander`` or one of
            ``rerankers`` is none.
    """

    def __init__(
        self,
        index: Index,
        *,
        expander: QueryExpander | None = None,
        rerankers: Sequence[Reranker] = (),
        k: int = 10,
        candidates: int = 50,
        fuse_texts: TextFusion | None = None,
        threshold: float | None = None,
        on_error: OnError = "degrade",
        policy: StepPolicy | None = None,
        policies: Mapping[str, StepPolicy] | None = None,
        highlight: bool = False,
        weights: Mapping[str, float] | None = None,
        instruction: str | None = None,
    ) -> None:
        self.settings = RetrieverSettings(
            k, candidates, fuse_texts, threshold, on_error, policy, policies, highlight, weights, instruction
        )
        check_parts(expander, rerankers)
        self.index = index
        self.expander = expander
        self.rerankers = tuple(rerankers)
        self._runner = self.settings.runner()
        self._highlighter = Highlighter(index.embedder) if highlight else None

    @classmethod
    def from_settings(
        cls,
        index: Index,
        settings: RetrieverSettings,
        *,
        expander: QueryExpander | None = None,
        rerankers: Sequence[Reranker] = (),
    ) -> Self:
        """A retriever with these settings."""
        return cls(index, expander=expander, rerankers=rerankers, **vars(settings))

    def with_expander(self, expander: QueryExpander | None) -> Self:
        """The same retriever with another expander (of one conversation, say); causes that were logged stay logged."""
        again = copy.copy(self)
        again.expander = expander
        return again

    def with_instruction(self, instruction: str | None) -> Self:
        """The same retriever for another task; causes that were logged stay logged."""
        again = copy.copy(self)
        again.settings = replace(self.settings, instruction=instruction)
        return again

    def open(self) -> Self:
        """Open the store and check its collection and the embedding model now instead of at the first query.

        A service that calls this at its start fails then.

        Raises:
            ModelError: The embedding model cannot be used.
            StoreLockedError: Another process has the embedded store open.
            ServerError: No server answered.
            IncompatibleIndexError: The collection was built with another encoder or configuration.
        """
        self.index.open()
        return self

    def warm_up(self) -> Self:
        """`open`, and load the models by a short query. Language models are not called.

        Raises:
            ModelError: A model cannot be used; further errors are those of `open`.
        """
        self.open()
        self.index.search("warm up", 1)
        for reranker in self.rerankers:
            warm_up(reranker)
        return self

    def close(self) -> None:
        """Close the store that the index opened itself. A client given by the caller stays open."""
        self.index.close()

    def retrieve(
        self,
        query: str,
        k: int | None = None,
        filter: FilterLike | None = None,
        dense: Vectors | None = None,
        instruction: str | None = None,
    ) -> SearchResult:
        """The passages for a query, best first.

        Args:
            query: The text to search for. A query without any text finds nothing.
            k: How many hits, at most; None for the retriever's own number.
            filter: As in `Index.search`.
            dense: float32 ``[dimension]``: a dense vector that the caller made. Nothing is expanded then.
            instruction: The task of this query, in place of the retriever's.

        Raises:
            InputError: ``k`` is less than 1, or the filter cannot be read.
            StepError: An optional step failed and ``on_error="raise"``.
        """
        k = self._checked(k)
        check_query(query)
        if not query.strip():
            return SearchResult(query, ())
        instruction = self.settings.instruction if instruction is None else instruction
        trace = self._runner.trace()
        texts = [QueryText(query)]
        search = self._given(self.index.search_texts, query, filter, instruction)
        if (expander := self.expander) is not None and dense is None:
            texts = trace.run(expander.name, lambda: expander.expand(query), texts)
            if isinstance(expander, IterativeExpander):
                texts = self._hops(expander, query, texts, search, trace)
        expanded = len(trace.steps)
        search = partial(search, k=self._depth(k), dense=dense)
        several = self._searches(texts, dense)
        found = self._fused(query, several, [search(group) for group in several], k)
        hits = list(found.hits)
        for reranker in self.rerankers if hits else ():
            work = partial(told(reranker, instruction).rerank, question_of(query, texts), hits)
            hits = trace.run(f"rerank:{reranker.name}", work, hits)
        hits = self._cut(hits, k, trace, expanded)
        if (marker := self._highlighter) is not None and hits:
            hits = trace.run(marker.name, partial(marker.highlight, question_of(query, texts), hits), hits)
        return self._result(query, hits, found, trace, expanded)

    async def aretrieve(
        self,
        query: str,
        k: int | None = None,
        filter: FilterLike | None = None,
        dense: Vectors | None = None,
        instruction: str | None = None,
    ) -> SearchResult:
        """`retrieve` without blocking the event loop; cancelling it cancels the step that is running.

        Arguments and errors are those of `retrieve`: ``dense`` is float32 ``[dimension]``.
        """
        k = self._checked(k)
        check_query(query)
        if not query.strip():
            return SearchResult(query, ())
        await _START_LIMIT.begin()
        instruction = self.settings.instruction if instruction is None else instruction
        trace = self._runner.trace()
        texts = [QueryText(query)]
        search = self._given(self.index.asearch_texts, query, filter, instruction)
        if (expander := self.expander) is not None and dense is None:
            texts = await trace.arun(expander.name, lambda: expander.aexpand(query), texts)
            if isinstance(expander, IterativeExpander):
                texts = await self._ahops(expander, query, texts, search, trace)
        expanded = len(trace.steps)
        search = partial(search, k=self._depth(k), dense=dense)
        several = self._searches(texts, dense)
        found = self._fused(query, several, await _all(search, several), k)
        hits = list(found.hits)
        for reranker in self.rerankers if hits else ():
            work = partial(told(reranker, instruction).arerank, question_of(query, texts), hits)
            hits = await trace.arun(f"rerank:{reranker.name}", work, hits)
        hits = self._cut(hits, k, trace, expanded)
        if (marker := self._highlighter) is not None and hits:
            hits = await trace.arun(marker.name, partial(marker.ahighlight, question_of(query, texts), hits), hits)
        return self._result(query, hits, found, trace, expanded)

    def _given(
        self, search: Callable[..., T], query: str, filter: FilterLike | None, instruction: str | None
    ) -> Callable[..., T]:
        """A search with all that every search of a call has in common."""
        return partial(search, query, filter=filter, weights=self.settings.weights, instruction=instruction)

    def _hops(
        self, expander: IterativeExpander, query: str, texts: list[QueryText], search: Search, trace: Trace
    ) -> list[QueryText]:
        """The texts after further hops; one that fails, as the first may have, is the last."""
        search = partial(search, k=expander.passages)
        new = texts
        for hop in range(2, expander.hops + 1):
            if trace.steps[-1].error is not None or not new:
                break
            hits = _best_of_each([search([text]) for text in new if text.role == "query"])
            work = partial(expander.further, query, texts, hits)
            known, texts = len(texts), trace.run(f"{expander.name}:{hop}", work, texts)
            new = texts[known:]
        return texts

    async def _ahops(
        self, expander: IterativeExpander, query: str, texts: list[QueryText], search: AsyncSearch, trace: Trace
    ) -> list[QueryText]:
        search = partial(search, k=expander.passages)
        new = texts
        for hop in range(2, expander.hops + 1):
            if trace.steps[-1].error is not None or not new:
                break
            hits = _best_of_each(await _all(search, [[text] for text in new if text.role == "query"]))
            work = partial(expander.afurther, query, texts, hits)
            known, texts = len(texts), await trace.arun(f"{expander.name}:{hop}", work, texts)
            new = texts[known:]
        return texts

    def _searches(self, texts: Sequence[QueryText], dense: Vectors | None) -> list[list[QueryText]]:
        """The texts of each search. Texts without a vector join the first that has one."""
        embedded = [text for text in texts if text.role != "lexical" and text.weight > 0]
        if self.settings.fuse_texts is None or dense is not None or len(embedded) < 2:
            return [list(texts)]
        lexical = [text for text in texts if text.role == "lexical"]
        return [[embedded[0], *lexical], *([text] for text in embedded[1:])]

    def _fused(
        self, query: str, searches: Sequence[Sequence[QueryText]], found: Sequence[SearchResult], k: int
    ) -> SearchResult:
        if len(found) == 1 or self.settings.fuse_texts is None:
            return found[0]
        started = time.perf_counter()
        weights = [texts[0].weight for texts in searches]
        hits = _FUSIONS[self.settings.fuse_texts]([each.hits for each in found], weights=weights)[: self._depth(k)]
        fused = Step("fuse", time.perf_counter() - started, {"searches": len(found), "hits": len(hits)})
        return SearchResult(query, tuple(hits), (*(step for each in found for step in each.steps), fused))

    def _checked(self, k: int | None) -> int:
        k = self.settings.k if k is None else k
        check_k(k)
        return k

    def _depth(self, k: int) -> int:
        return max(k, self.settings.candidates) if self.rerankers else k

    def _cut(self, hits: Sequence[Hit], k: int, trace: Trace, expanded: int) -> list[Hit]:
        """The best ``k`` hits above the threshold, which holds only where no reranker failed."""
        threshold = self.settings.threshold
        if threshold is not None and not any(step.error for step in trace.steps[expanded:]):
            hits = [hit for hit in hits if (hit.score if hit.relevance is None else hit.relevance) >= threshold]
        return list(hits[:k])

    def _result(
        self, query: str, hits: Sequence[Hit], found: SearchResult, trace: Trace, expanded: int
    ) -> SearchResult:
        steps = (*trace.steps[:expanded], *found.steps, *trace.steps[expanded:])
        return SearchResult(query, tuple(hits), steps)


def _best_of_each(found: Sequence[SearchResult]) -> list[Hit]:
    """The hits of several searches, each chunk once."""
    return list({hit.chunk.id: hit for result in found for hit in result.hits}.values())


async def _all(
    search: Callable[[Sequence[QueryText]], Awaitable[SearchResult]], several: Sequence[Sequence[QueryText]]
) -> list[SearchResult]:
    """The searches' results. If one fails, or the caller is cancelled, the others are cancelled."""
    tasks = [asyncio.ensure_future(search(texts)) for texts in several]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
