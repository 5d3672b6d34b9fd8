"""A query's texts -> the vectors that it is searched with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from situate.embedders.types import SparseVector as Weights, Vectors
from situate.errors import InputError
from situate.retrievers.index.lexical import LexicalEncoder, SparseVector
from situate.retrievers.pipeline.concurrency import in_this_process
from situate.retrievers.signals.base import Signal, Value
from situate.retrievers.signals.chunk import ChunkTerms
from situate.retrievers.types import QueryText
from situate.vectors import check_finite, mean_direction, one_vector, unit

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder


@dataclass(frozen=True)
class QueryVectors:
    """A query as vectors.

    Attributes:
        dense: float32 ``[dimension]``, L2-normalised.
        lexical: BM25 terms; None leaves BM25 out.
        tokens: float32 ``[tokens, dimension]`` for the MaxSim stage; None leaves it out.
        terms: Weights of words by the embedder's own head; None leaves them out.
        further: By a signal's name, the value of its own model; a signal that needs one and has none is left out.

    Raises:
        NonFiniteVectorError: A vector holds NaN or infinity.
    """

    dense: Vectors
    lexical: SparseVector | None = None
    tokens: Vectors | None = None
    further: Mapping[str, Value] = field(default_factory=dict)
    terms: SparseVector | None = None

    def __post_init__(self) -> None:
        own = {"dense": self.dense, "tokens": self.tokens, "sparse": self.terms}
        for name, vector in {**own, **self.further}.items():
            if vector is not None:
                values = vector.values if isinstance(vector, SparseVector) else vector
                check_finite(values, f"the query's {name} vector holds")


@dataclass(frozen=True, slots=True)
class WrittenQuery:
    """A query before it is vectors.

    Attributes:
        query: The question.
        texts: The texts to search with.
        dense: float32 ``[dimension]``, in place of the texts' mean.
        signals: What it is compared with; None for what the encoder's queries are.
        instruction: The task that its texts are embedded for; None for the embedder's own.

    Raises:
        InputError: A role is unknown, or no text with a vector has a weight.
    """

    query: str
    texts: Sequence[QueryText]
    dense: Vectors | None = None
    signals: Sequence[Signal] | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        check_texts(self.texts)
        if self.dense is not None:
            object.__setattr__(self, "dense", one_vector(self.dense, "the query's dense vector"))

    @property
    def question(self) -> str:
        """The question for BM25 and MaxSim."""
        return question_of(self.query, self.texts)

    def of_role(self, role: Literal["query", "document"]) -> list[str]:
        """The texts that are embedded in a role."""
        return [] if self.dense is not None else [text.text for text in self.texts if text.role == role]


#: Instructions whose embedders are kept.
_INSTRUCTIONS = 64


class QueryEncoder:
    """Embeds the texts of queries, each in its role, and weighs their terms.

    The dense vector is the weighted mean of the texts in the roles "query" and "document"; BM25 takes the terms of
    those in the roles "query" and "lexical", by their weights; MaxSim takes the first "query" text. Signals with
    a model of their own are asked last.

    Args:
        embedder: Makes the vectors.
        signals: What they are compared with; says whether BM25's terms and token vectors are made.

    Attributes:
        languages: The readings of the collection's documents, for BM25: see `LexicalEncoder.encode_query`.
    """

    def __init__(self, embedder: Embedder, signals: Sequence[Signal] = ()) -> None:
        self.embedder = embedder
        self.languages: frozenset[str] = frozenset()
        self._instructed: dict[str, Embedder] = {}
        self.signals = tuple(signals)
        self.lexical: LexicalEncoder | None = next((s.encoder for s in signals if type(s) is ChunkTerms), None)

    def compared(self, several: Sequence[WrittenQuery]) -> list[Signal]:
        """What any of the queries is compared with."""
        own = {signal.name: signal for w in several for signal in (self.signals if w.signals is None else w.signals)}
        return list(own.values())

    @cached_property
    def local(self) -> bool:
        """Whether this process, and no server, computes the vectors."""
        return in_this_process(self.embedder.querier)

    def encode(self, written: WrittenQuery) -> QueryVectors:
        """The vectors of a query."""
        return self.encode_many([written])[0]

    def encode_many(self, several: Sequence[WrittenQuery]) -> list[QueryVectors]:
        """The vectors of queries, made together; those of one instruction in one batch."""
        groups: dict[str | None, list[int]] = {}
        for place, written in enumerate(several):
            groups.setdefault(written.instruction, []).append(place)
        found: dict[int, QueryVectors] = {}
        for instruction, places in groups.items():
            found |= zip(places, self._encode(self._told(instruction), [several[i] for i in places]), strict=True)
        return [found[place] for place in range(len(several))]

    def _told(self, instruction: str | None) -> Embedder:
        """The embedder with an instruction; the last few are kept, because each looks up its conventions once."""
        if instruction is None:
            return self.embedder
        made = self._instructed.get(instruction)
        if made is None:
            if len(self._instructed) >= _INSTRUCTIONS:
                self._instructed = {}
            made = self._instructed[instruction] = self.embedder.instructed(instruction)
        return made

    def _encode(self, embedder: Embedder, several: Sequence[WrittenQuery]) -> list[QueryVectors]:
        queries = [text for w in several for text in w.of_role("query")]
        documents = [text for w in several for text in w.of_role("document")]
        rows: dict[str, Vectors | tuple[()]] = {}
        tokens: Sequence[Vectors] | None
        terms: Sequence[Weights] | None = None
        signals = self.compared(several)
        with_tokens = any(signal.needs_tokens for signal in signals)
        if with_tokens and embedder.token_heads:
            questions = [w.question for w in several]
            rows["query"], tokens, terms = embedder.embed_queries_with_heads(queries, questions)
        elif with_tokens and self.local:
            rows["query"], tokens = embedder.embed_queries_with_tokens(queries, [w.question for w in several])
        else:
            tokens = embedder.embed_query_tokens([w.question for w in several]) if with_tokens else None
            rows["query"] = embedder.embed_queries(queries) if queries else ()
        rows["document"] = embedder.embed_documents(documents) if documents else ()
        return _with_further(signals, several, list(self._joined(several, rows, tokens, terms)), self.embedder)

    async def aencode(self, written: WrittenQuery) -> QueryVectors:
        """`encode` for an embedder on a server, without blocking the event loop."""
        embedder = self.embedder
        if written.instruction is not None:
            embedder = await asyncio.to_thread(self._told, written.instruction)
        signals = self.compared([written])
        with_tokens = any(signal.needs_tokens for signal in signals)
        tokens = await embedder.aembed_query_tokens([written.question]) if with_tokens else None
        queries, documents = written.of_role("query"), written.of_role("document")
        rows = {
            "query": await embedder.aembed_queries(queries) if queries else (),
            "document": await embedder.aembed_documents(documents) if documents else (),
        }
        joined = list(self._joined([written], rows, tokens))
        own = [signal for signal in signals if type(signal).ask is not Signal.ask]
        return (await asyncio.to_thread(_with_further, own, [written], joined, self.embedder))[0] if own else joined[0]

    def _joined(
        self,
        several: Sequence[WrittenQuery],
        rows: Mapping[str, Vectors | tuple[()]],
        tokens: Sequence[Vectors] | None,
        terms: Sequence[Weights] | None = None,
    ) -> Iterator[QueryVectors]:
        by_role = {role: iter(vectors) for role, vectors in rows.items()}
        for i, written in enumerate(several):
            dense = written.dense
            if dense is None:
                embedded = [text for text in written.texts if text.role != "lexical"]
                vectors = [next(by_role[text.role]) for text in embedded]
                weights = [text.weight for text in embedded]
                # The direction of one alone does not depend on its weight.
                dense = vectors[0] if len(vectors) == 1 else mean_direction(np.array(vectors), weights)
            weights_of_words = None if terms is None else SparseVector(terms[i].indices, terms[i].values)
            own = None if tokens is None else tokens[i]
            yield QueryVectors(unit(dense), self._terms(written), own, terms=weights_of_words)

    def _terms(self, written: WrittenQuery) -> SparseVector | None:
        if self.lexical is None:
            return None
        first = written.question
        more = [(t.weight, t.text) for t in written.texts if t.role != "document" and t.weight and t.text != first]
        return self.lexical.encode_query(first, more, self.languages)


def _with_further(
    signals: Sequence[Signal], several: Sequence[WrittenQuery], joined: list[QueryVectors], embedder: Embedder
) -> list[QueryVectors]:
    """The vectors, with those of the signals' own models."""
    made = {signal.name: asked for signal in signals if (asked := signal.ask(several, joined, embedder)) is not None}
    if not made:
        return joined
    return [
        replace(vectors, further={name: asked[i] for name, asked in made.items()}) for i, vectors in enumerate(joined)
    ]


def question_of(query: str, texts: Sequence[QueryText]) -> str:
    """The question for BM25, MaxSim and rerankers: the first text in the role of a query."""
    return next((text.text for text in texts if text.role == "query"), query)


def check_texts(texts: Sequence[QueryText]) -> None:
    """Raises an `InputError` where there is nothing to search with."""
    if unknown := {text.role for text in texts} - {"query", "document", "lexical"}:
        raise InputError(
            f"unknown roles {sorted(unknown)}: a text is searched with as 'query', as 'document' or as 'lexical'"
        )
    if not any(text.weight > 0 for text in texts if text.role != "lexical"):
        raise InputError("the texts to search with need one query or document with a weight of more than 0")
