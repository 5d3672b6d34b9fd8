"""The results of a search, and the seams of the query pipeline."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from situate.errors import InputError
from situate.retrievers.marks import Highlight
from situate.retrievers.where import Where
from situate.types import Chunk, Proposition

T = TypeVar("T")


@dataclass(frozen=True)
class Hit:
    """A chunk that was found.

    Attributes:
        chunk: The chunk.
        score: Its score after the last step, by which it is ranked; higher is better.
        scores: The parts of the score: step name -> that step's score ("dense", "bm25", "fused", "maxsim",
            "cross_encoder", ...).
        relevance: The passage's relevance to the query, in [0, 1] and on one scale for all queries of a collection:
            measured by the search (`situate.retrievers.search.relevance`), or the probability or grade of a reranker
            that has one. None where no step gives one. It does not order hits.
        highlight: The spans of the passage that match the query best; None where nothing has looked for them
            (`situate.retrievers.highlight.Highlighter`, ``Retriever(highlight=True)``).
        matched: Of a signal with several vectors a chunk ("questions", "propositions"), by its kind, which of them is
            nearest to the query.
    """

    chunk: Chunk
    score: float
    scores: Mapping[str, float] = field(default_factory=dict)
    relevance: float | None = None
    highlight: Highlight | None = None
    matched: Mapping[str, int] = field(default_factory=dict)

    @property
    def question(self) -> str | None:
        """The question of ``chunk.context.questions`` that is nearest to the query, where they are a signal."""
        return self._of(self.chunk.context.questions, "questions")

    @property
    def answer(self) -> str | None:
        """The answer to `question`, where answers were written."""
        return self._of(self.chunk.context.answers, "questions") or None

    @property
    def level(self) -> str | None:
        """What `question` is about: a sentence, the passage, or the document's topic, where levels were asked for."""
        return self._of(self.chunk.context.levels, "questions") or None

    @property
    def proposition(self) -> Proposition | None:
        """The statement of ``chunk.context.propositions`` that is nearest to the query, where they are a signal."""
        return self._of(self.chunk.context.propositions, "propositions")

    def _of(self, values: Sequence[T], kind: str) -> T | None:
        place = self.matched.get(kind)
        return values[place] if place is not None and place < len(values) else None

    @property
    def where(self) -> Where:
        """Where the passage stands: document, title, headings, pages, character span."""
        return Where.of(self.chunk)

    def rescored(self, step: str, score: float) -> Hit:
        """A copy ranked by ``score``, which is also noted under ``step``."""
        return replace(self, score=score, scores={**self.scores, step: score})


@dataclass(frozen=True)
class Step:
    """The record of one step of a query.

    Attributes:
        name: The step ("hyde", "embed", "search", "rerank:cross_encoder", ...).
        seconds: Wall time.
        details: Counts, tokens, drafts: values that explain the step.
        error: Why it was skipped, where it degraded.
    """

    name: str
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The step as plain values, for events."""
        return {"name": self.name, "seconds": self.seconds, "details": dict(self.details), "error": self.error}


@dataclass(frozen=True)
class SearchResult:
    """The hits of a query, best first, and the steps that produced them. Iterates over its hits.

    Attributes:
        query: The query.
        hits: The hits, best first.
        steps: The record of each step, in order; one that degraded is among them with its error.
    """

    query: str
    hits: tuple[Hit, ...]
    steps: tuple[Step, ...] = ()

    @property
    def degraded(self) -> tuple[str, ...]:
        """Names of the optional steps that failed and were skipped."""
        return tuple(step.name for step in self.steps if step.error is not None)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, place: int) -> Hit:
        return self.hits[place]


@dataclass(frozen=True)
class QueryText:
    """A text to search with.

    Attributes:
        text: The text.
        role: "query" (query instruction), "document" (a hypothetical document, document instruction), or "lexical"
            (its terms are added to the BM25 query; it has no vector).
        weight: Its share in the mean vector; of a lexical text, the weight of its terms.
    """

    text: str
    role: str = "query"
    weight: float = 1.0


@runtime_checkable
class QueryExpander(Protocol):
    """Writes further texts to search with (HyDE, multi-query, step-back)."""

    @property
    def name(self) -> str:
        """The step's name."""
        ...

    def expand(self, query: str) -> list[QueryText]:
        """The texts to search with, the query itself among them where it takes part."""
        ...

    async def aexpand(self, query: str) -> list[QueryText]:
        """`expand` without blocking the event loop."""
        ...


@runtime_checkable
class IterativeExpander(QueryExpander, Protocol):
    """An expander that asks again with what its texts have found."""

    @property
    def hops(self) -> int:
        """How often it may write texts, the first time included."""
        ...

    @property
    def passages(self) -> int:
        """Hits of each text that it is shown."""
        ...

    def further(self, query: str, texts: Sequence[QueryText], hits: Sequence[Hit]) -> list[QueryText]:
        """``texts``, and the further ones to search with after ``hits``; ``texts`` alone ends it."""
        ...

    async def afurther(self, query: str, texts: Sequence[QueryText], hits: Sequence[Hit]) -> list[QueryText]:
        """`further` without blocking the event loop."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """Orders hits anew."""

    @property
    def name(self) -> str:
        """The step's name."""
        ...

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits, best first; ties keep their order. The given hits are not changed."""
        ...

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank` without blocking the event loop."""
        ...


@runtime_checkable
class InstructedReranker(Reranker, Protocol):
    """A reranker that takes a task."""

    def instructed(self, instruction: str) -> Reranker:
        """The same reranker for a query with this task; it shares the model."""
        ...


def check_k(k: int, name: str = "k") -> None:
    """Refuses what is no number of hits.

    Raises:
        InputError: It is no whole number, less than 1, or more than `sys.maxsize`.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(
            f"{name}={k!r}: a search returns at least one hit, so {name} must be a whole number, 1 or more"
        )
    if k > sys.maxsize:
        raise InputError(f"{name} has more than 63 bits: sys.maxsize is the largest, and finds all there is")


def check_query(query: str) -> None:
    """Refuses what is no text.

    Raises:
        InputError: It is not.
    """
    if not isinstance(query, str):
        raise InputError(f"the query is a {type(query).__name__} ({query!r:.40}): a search takes one text")


def check_parts(expander: object, rerankers: object) -> None:
    """Refuses what is no expander and what are no rerankers, such as a framework's own.

    Raises:
        InputError: The expander has no ``expand``, or a reranker no ``rerank``; the message names it.
    """
    if expander is not None and not callable(getattr(expander, "expand", None)):
        raise InputError(
            f"expander is a {type(expander).__name__}, which has no expand(query): give one of "
            "situate.retrievers.expand, such as Hyde(generator)"
        )
    if isinstance(rerankers, str) or not isinstance(rerankers, Sequence):
        raise InputError(f"rerankers is a {type(rerankers).__name__}: give a list of rerankers")
    for place, reranker in enumerate(rerankers):
        if not callable(getattr(reranker, "rerank", None)):
            raise InputError(
                f"rerankers[{place}] is a {type(reranker).__name__}, which has no rerank(query, hits): give one of "
                "situate.retrievers.rerank. A framework's own works behind the retriever: in LangChain's "
                "ContextualCompressionRetriever, or among LlamaIndex's node_postprocessors"
            )
