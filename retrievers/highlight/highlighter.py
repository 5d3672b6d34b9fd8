"""Marks the spans of passages that match a query, or support an answer, by the token vectors of an embedder.

The matching is late interaction's (MaxSim, Khattab and Zaharia 2020) and BERTScore's recall (Zhang et al. 2020,
"BERTScore: Evaluating Text Generation with BERT"): a token is matched with the most similar one of a span, and a span
scores the mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from situate.chunkers.statements import statement_spans
from situate.embedders.types import Span, Vectors
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.highlight.attribution import Attribution, Claim, Evidence
from situate.retrievers.highlight.covering import best_matches, covering
from situate.retrievers.marks import Highlight, Mark
from situate.retrievers.pipeline.concurrency import model_limit
from situate.retrievers.pipeline.steps import note
from situate.retrievers.types import Hit

#: Sentences that have nothing to do with each other: their scores are the zero of a model's scale.
_UNRELATED = (
    "The committee meets on the first Monday of each month.",
    "Water boils at a lower temperature in the mountains.",
    "She painted the kitchen door green last summer.",
    "Rice is grown in flooded fields in many countries.",
    "The function returns an empty list when the file is missing.",
    "The goalkeeper saved two penalties in the final.",
    "Invoices are paid within thirty days.",
    "Whales communicate over long distances with low sounds.",
)


class SpanTokenEmbedder(Protocol):
    """The part of an `Embedder` that gives the token vectors of queries and of spans of documents."""

    def embed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """Per text float32 ``[tokens, dimension]``, rows L2-normalised."""
        ...

    async def aembed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_query_tokens` without blocking the event loop."""
        ...

    def embed_span_tokens(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[Vectors]]:
        """Per text and span float32 ``[tokens, dimension]``, rows L2-normalised."""
        ...

    async def aembed_span_tokens(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[Vectors]]:
        """`embed_span_tokens` without blocking the event loop."""
        ...


@dataclass(frozen=True)
class _Read:
    """The different passages among hits, and the spans of each that may be marked."""

    texts: list[str]
    spans: list[list[Span]]

    @classmethod
    def of(cls, hits: Sequence[Hit]) -> _Read:
        texts = list(dict.fromkeys(hit.chunk.text for hit in hits))
        return cls(texts, [statement_spans(text) for text in texts])

    def behind(self, text: str, spans: list[Span]) -> _Read:
        """The same passages behind another text."""
        return _Read([text, *self.texts], [spans, *self.spans])


@checked_parameters
class Highlighter:
    """Marks sentences of passages by late token vectors. Needs no weights beside the embedder's.

    A sentence (or item of a list, row of a table) scores the mean over the query's tokens of each one's best cosine in
    it. The best one of a passage is marked, and a further one where it adds ``gain`` to the mean of the best matches so
    far. Each passage is read as a whole, so that the vectors of "it" or "this rate" know what they stand for.

    Scores are rescaled as BERTScore's are: 0 is the model's mean for sentences that have nothing to do with each other
    (eight of them are read once, with the first passages), 1 the same words. So one ``support`` serves different
    models.

    Args:
        embedder: Gives token vectors; best the index's own, which is loaded already.
        at_most: Marks of a passage for a query, and spans of evidence for a sentence, at most.
        gain: What a further span must add.
        support: A sentence of an answer is supported by spans that together score this, at least.
        name: The step's name.

    Raises:
        InputError: ``at_most`` is less than 1, or ``gain`` is negative.
    """

    def __init__(
        self,
        embedder: SpanTokenEmbedder,
        *,
        at_most: int = 2,
        gain: float = 0.08,
        support: float = 0.33,
        name: str = "highlight",
    ) -> None:
        if at_most < 1:
            raise InputError(f"at_most={at_most} must be 1 or more")
        if not gain >= 0:
            raise InputError(f"gain={gain} must be 0 or more")
        self.embedder = embedder
        self.at_most = at_most
        self.gain = gain
        self.support = support
        self.name = name
        self._limit = model_limit(embedder, 1)
        self._baseline: float | None = None

    def highlight(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits, in their order, with ``highlight`` set; without marks where the query is empty.

        Raises:
            ConventionError: The embedder's model has no token vectors.
            NonFiniteVectorError: A vector holds NaN or infinity.
        """
        read = _Read.of(hits if query.strip() else ())
        if not any(read.spans):
            return _unmarked(hits)
        targets = self.embedder.embed_query_tokens([query])[0]
        return self._marked(hits, read, targets, self.embedder.embed_span_tokens(*self._inputs(read)))

    async def ahighlight(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`highlight` without blocking the event loop."""
        read = await asyncio.to_thread(_Read.of, hits if query.strip() else ())
        if not any(read.spans):
            return _unmarked(hits)
        async with self._limit.slot():
            targets = (await self.embedder.aembed_query_tokens([query]))[0]
            tokens = await self.embedder.aembed_span_tokens(*self._inputs(read))
            return await asyncio.to_thread(self._marked, hits, read, targets, tokens)

    def attribute(self, answer: str, hits: Sequence[Hit]) -> Attribution:
        """For each sentence of an answer the spans of passages that support it, for citations.

        It measures likeness of meaning, not entailment: a sentence that denies what a passage says, or gives another
        number, is close to it as well.

        Raises:
            ConventionError: The embedder's model has no token vectors.
            NonFiniteVectorError: A vector holds NaN or infinity.
        """
        sentences, read = statement_spans(answer), _Read.of(hits)
        if not sentences:
            return Attribution(answer)
        tokens = self.embedder.embed_span_tokens(*self._inputs(read.behind(answer, sentences)))
        return self._attributed(answer, sentences, hits, read, tokens)

    async def aattribute(self, answer: str, hits: Sequence[Hit]) -> Attribution:
        """`attribute` without blocking the event loop."""
        sentences, read = await asyncio.to_thread(lambda: (statement_spans(answer), _Read.of(hits)))
        if not sentences:
            return Attribution(answer)
        async with self._limit.slot():
            tokens = await self.embedder.aembed_span_tokens(*self._inputs(read.behind(answer, sentences)))
            return await asyncio.to_thread(self._attributed, answer, sentences, hits, read, tokens)

    def _inputs(self, read: _Read) -> tuple[list[str], list[list[Span]]]:
        """The texts and spans to embed: those read, and unrelated sentences while the model's baseline is unknown."""
        extra = _UNRELATED if self._baseline is None else ()
        return [*read.texts, *extra], [*read.spans, *([(0, len(text))] for text in extra)]

    def _matched(self, targets: Vectors, spans: Sequence[Vectors], others: Sequence[Sequence[Vectors]]) -> Vectors:
        """`best_matches`, rescaled by the baseline, which is computed of ``others`` where there are any."""
        if others and self._baseline is None:
            sentences = [tokens for each in others for tokens in each]
            scores = [best_matches(one, sentences).mean(axis=1) for one in sentences]
            self._baseline = float(np.mean([s for i, row in enumerate(scores) for j, s in enumerate(row) if i != j]))
        baseline = min(self._baseline or 0.0, 0.99)
        rescaled: Vectors = (best_matches(targets, spans) - np.float32(baseline)) / np.float32(1 - baseline)
        return rescaled

    def _marked(
        self, hits: Sequence[Hit], read: _Read, targets: Vectors, tokens: Sequence[Sequence[Vectors]]
    ) -> list[Hit]:
        found: dict[str, Highlight] = {}
        others = tokens[len(read.texts) :]
        for text, spans, vectors in zip(read.texts, read.spans, tokens, strict=False):
            matches = self._matched(targets, vectors, others)
            marks = [
                Mark(*spans[row], float(matches[row].mean())) for row in covering(matches, self.at_most, self.gain)
            ]
            found[text] = Highlight(text, tuple(sorted(marks, key=lambda mark: mark.start)))
        note(passages=len(read.texts), marks=sum(len(each.marks) for each in found.values()))
        return [replace(hit, highlight=found[hit.chunk.text]) for hit in hits]

    def _attributed(
        self,
        answer: str,
        sentences: Sequence[Span],
        hits: Sequence[Hit],
        read: _Read,
        tokens: Sequence[Sequence[Vectors]],
    ) -> Attribution:
        by_text: dict[str, Hit] = {}
        for hit in hits:
            by_text.setdefault(hit.chunk.text, hit)
        places = [(by_text[text], span) for text, spans in zip(read.texts, read.spans, strict=True) for span in spans]
        own, passages, others = tokens[0], tokens[1 : 1 + len(read.texts)], tokens[1 + len(read.texts) :]
        vectors = [matrix for each in passages for matrix in each]
        claims: list[Claim] = []
        for sentence, targets in zip(sentences, own, strict=True):
            matches = self._matched(targets, vectors, others)
            rows = covering(matches, self.at_most, self.gain)
            score = float(matches[rows].max(axis=0).mean()) if rows else 0.0
            evidence = [Evidence(places[row][0], Mark(*places[row][1], float(matches[row].mean()))) for row in rows]
            claims.append(Claim(*sentence, score, tuple(evidence) if score >= self.support else ()))
        return Attribution(answer, tuple(claims))


def _unmarked(hits: Sequence[Hit]) -> list[Hit]:
    return [replace(hit, highlight=Highlight(hit.chunk.text)) for hit in hits]
