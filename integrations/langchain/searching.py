"""The searches of `SituateVectorStore`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from langchain_core.documents import Document as LangChainDocument
from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.integrations._shared.component import refuse_unknown
from situate.integrations.langchain.documents import Content, from_found
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.retrievers.index.chunk_access import nearest_with_vectors
from situate.retrievers.index.index import Index
from situate.retrievers.search.filters import FilterLike
from situate.retrievers.search.hybrid import HybridSearch
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.types import Hit, check_k, check_query
from situate.vectors import one_vector

if TYPE_CHECKING:
    from qdrant_client import models

Mode: TypeAlias = Literal["hybrid", "dense"]
_Scored: TypeAlias = tuple[LangChainDocument, float]
_ARGUMENTS = ("k", "filter", "mode", "score_threshold")


_COMPARATORS = {
    Comparator.EQ: "$eq",
    Comparator.NE: "$ne",
    Comparator.GT: "$gt",
    Comparator.GTE: "$gte",
    Comparator.LT: "$lt",
    Comparator.LTE: "$lte",
    Comparator.IN: "$in",
    Comparator.NIN: "$nin",
    Comparator.LIKE: "$like",
    Comparator.CONTAIN: "$eq",  # of a list, any element
}


class SearchingStore(VectorStore):
    """A vector store that searches an `Index`.

    Attributes:
        index: The index to search.
    """

    index: Index
    _embedding: SituateEmbeddings
    _mode: Mode
    _content: Content

    def similarity_search(
        self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """The ``k`` chunks that fit a query best.

        Args:
            query: The text to search for.
            k: How many, at most.
            filter: Conditions over the metadata, as `situate.retrievers.search.filters.to_filter` reads them
                (``{"year": {"$gte": 2024}}``), or a `qdrant_client.models.Filter`.
            kwargs: ``mode`` and ``score_threshold``, as in `similarity_search_with_score`.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """`similarity_search` without blocking the event loop."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, filter, **kwargs)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: FilterLike | None = None,
        *,
        mode: Mode | None = None,
        score_threshold: float | None = None,
        **others: Any,
    ) -> list[_Scored]:
        """`similarity_search` with scores; higher is better.

        Args:
            query: The text to search for.
            k: How many, at most.
            filter: As in `similarity_search`.
            mode: "dense": scores are cosines. "hybrid": they are fused, and relative to the query's candidates.
            score_threshold: Leave out chunks of less relevance, on the scale of
                `similarity_search_with_relevance_scores`: a fused score is not comparable across queries.
            others: None.
        """
        refuse_unknown("similarity_search", others, _ARGUMENTS)
        return self._scored(self._hits(query, k, filter, mode, score_threshold is not None), score_threshold)

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: FilterLike | None = None,
        *,
        mode: Mode | None = None,
        score_threshold: float | None = None,
        **others: Any,
    ) -> list[_Scored]:
        """`similarity_search_with_score` without blocking the event loop."""
        refuse_unknown("asimilarity_search", others, _ARGUMENTS)
        return self._scored(await self._ahits(query, k, filter, mode, score_threshold is not None), score_threshold)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """The ``k`` chunks whose dense vectors are nearest to ``embedding``."""
        refuse_unknown("similarity_search_by_vector", kwargs)
        hits = self._dense(one_vector(embedding, "embedding"), k, filter)
        return [from_found(hit, self._content) for hit in hits]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """`similarity_search_by_vector` without blocking the event loop."""
        return await asyncio.to_thread(self.similarity_search_by_vector, embedding, k, filter, **kwargs)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """``k`` chunks that fit a query and differ from each other (Carbonell and Goldstein 1998).

        Args:
            query: The text to search for.
            k: How many, at most.
            fetch_k: Candidates, by their dense vectors.
            lambda_mult: 1 orders by relevance alone, 0 by diversity alone.
            filter: As in `similarity_search`.
            kwargs: None.
        """
        check_query(query)
        if not query.strip():
            return []
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter, **kwargs)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """`max_marginal_relevance_search` without blocking the event loop."""
        check_query(query)
        if not query.strip():
            return []
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """`max_marginal_relevance_search` around a vector."""
        refuse_unknown("max_marginal_relevance_search", kwargs, ("k", "fetch_k", "lambda_mult", "filter"))
        check_k(k)
        if not 0 <= lambda_mult <= 1:
            raise InputError(f"lambda_mult={lambda_mult}: from 0 (diversity alone) to 1 (relevance alone)")
        check_k(max(k, fetch_k), "fetch_k")
        vector = one_vector(embedding, "embedding")
        found = nearest_with_vectors(self.index, vector, max(k, fetch_k), filter)
        vectors: list[list[float]] = [vector.tolist() for _, vector in found]
        chosen = maximal_marginal_relevance(vector, vectors, lambda_mult, k)
        return [from_found(Hit(found[place][0], 0.0), self._content) for place in chosen]

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """`max_marginal_relevance_search_by_vector` without blocking the event loop."""
        return await asyncio.to_thread(
            self.max_marginal_relevance_search_by_vector, embedding, k, fetch_k, lambda_mult, filter, **kwargs
        )

    def _dense(self, vector: Vectors, k: int, filter: FilterLike | None) -> list[Hit]:
        check_k(k)
        search = HybridSearch(self.index.gateway, self.index.config.dense_alone())
        return search.search(QueryVectors(vector), k, filter)

    def _checked(self, mode: Mode | None) -> Mode:
        """The mode of one search: dense where the collection holds only dense vectors."""
        mode = mode if mode is not None else self._mode
        if mode not in ("hybrid", "dense"):
            raise InputError(f'mode={mode!r}: "hybrid" (all parts of the config) or "dense" (dense vectors alone)')
        config = self.index.config
        return mode if config.lexical or config.token_vectors or config.feedback or config.signals else "dense"

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, filter: FilterLike | None = None, *, mode: Mode | None = None, **others: Any
    ) -> list[_Scored]:
        refuse_unknown("similarity_search_with_relevance_scores", others, _ARGUMENTS)
        return self._relevant(self._hits(query, k, filter, mode, judged=True))

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, filter: FilterLike | None = None, *, mode: Mode | None = None, **others: Any
    ) -> list[_Scored]:
        refuse_unknown("asimilarity_search_with_relevance_scores", others, _ARGUMENTS)
        return self._relevant(await self._ahits(query, k, filter, mode, judged=True))

    def _hits(self, query: str, k: int, filter: FilterLike | None, mode: Mode | None, judged: bool) -> Sequence[Hit]:
        """What is found; ``judged``: with relevance, for which a dense search asks of its hits once more."""
        check_query(query)
        if self._checked(mode) == "hybrid" or not query.strip():
            return self.index.search(query, k, filter).hits
        hits = self._dense(self.index.embedder.embed_queries([query])[0], k, filter)
        if judged and hits:
            return _judged(hits, self.index.search(query, len(hits), _only(hits)).hits)
        return hits

    async def _ahits(
        self, query: str, k: int, filter: FilterLike | None, mode: Mode | None, judged: bool
    ) -> Sequence[Hit]:
        check_query(query)
        if self._checked(mode) == "hybrid" or not query.strip():
            return (await self.index.asearch(query, k, filter)).hits
        vector = (await self.index.embedder.aembed_queries([query]))[0]
        hits = await asyncio.to_thread(self._dense, vector, k, filter)
        if judged and hits:
            return _judged(hits, (await self.index.asearch(query, len(hits), _only(hits))).hits)
        return hits

    def _relevant(self, hits: Sequence[Hit]) -> list[_Scored]:
        """The hits by relevance. A fused score is relative to the query's candidates."""
        scored = [(from_found(hit, self._content), _relevance(hit)) for hit in hits]
        return sorted(scored, key=lambda pair: -pair[1])

    def _scored(self, hits: Sequence[Hit], threshold: float | None) -> list[_Scored]:
        _check_threshold(threshold)
        return [
            (from_found(hit, self._content), hit.score)
            for hit in hits
            if threshold is None or _relevance(hit) >= threshold
        ]


def _only(hits: Sequence[Hit]) -> models.Filter:
    from qdrant_client import models

    ids = models.MatchAny(any=[hit.chunk.id for hit in hits])
    return models.Filter(must=[models.FieldCondition(key="chunk_id", match=ids)])


def _judged(hits: Sequence[Hit], others: Sequence[Hit]) -> list[Hit]:
    """The hits with the relevance that another search found for the same chunks."""
    relevance = {hit.chunk.id: hit.relevance for hit in others}
    return [replace(hit, relevance=relevance.get(hit.chunk.id)) for hit in hits]


def _check_threshold(threshold: Any) -> None:
    if threshold is not None and not (isinstance(threshold, Real) and threshold == threshold):
        raise InputError(f"score_threshold={threshold!r}: give a relevance from 0 to 1, or None")


def _relevance(hit: Hit) -> float:
    return 0.0 if hit.relevance is None else hit.relevance


class SituateTranslator(Visitor):
    """Translates the filters of LangChain's ``SelfQueryRetriever`` for `SituateVectorStore`.

    ``SelfQueryRetriever.from_llm(llm, store, ..., structured_query_translator=SituateTranslator())``.
    """

    allowed_comparators = tuple(_COMPARATORS)
    allowed_operators = (Operator.AND, Operator.OR, Operator.NOT)

    def visit_operation(self, operation: Operation) -> dict[str, Any]:
        """``$and``, ``$or`` or ``$not`` over the parts."""
        self._validate_func(operation.operator)
        parts = [part.accept(self) for part in operation.arguments]
        if operation.operator is Operator.NOT:
            return {"$not": {"$and": parts}}
        return {"$and" if operation.operator is Operator.AND else "$or": parts}

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """One condition on a metadata key."""
        self._validate_func(comparison.comparator)
        value = comparison.value
        if isinstance(value, dict):  # {"date": "2024-01-31", "type": "date"}
            value = value.get("date", value.get("datetime"))
        return {comparison.attribute: {_COMPARATORS[comparison.comparator]: value}}

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, dict[str, Any]]:
        """The query, and the keyword arguments of the search."""
        where = structured_query.filter
        return structured_query.query, {} if where is None else {"filter": where.accept(self)}
