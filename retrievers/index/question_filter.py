"""Generated questions that their chunk does not answer, left out."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.chunkers.situators.generating import FAILED, OnError, SituatingWarning
from situate.embedders.types import Vectors
from situate.errors import InputError, ModelError, StepError
from situate.parameters import checked_parameters
from situate.vectors import unit

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder
    from situate.embedders.pairs.cross_encoder import PairScorer
    from situate.types import Chunk, Context, Document


@checked_parameters
class QuestionFilter:
    """Keeps the generated questions that their chunk answers (Doc2Query--, Gospodinov et al. 2023).

    Language models invent questions that the passage does not answer, and small ones ask the same of every passage
    ("What is it about?"), which matches all of them equally. It follows the situator that writes the questions:
    ``situators=[QuestionSituator(...), QuestionFilter(embedder, at_least=0.5)]``.

    Args:
        scorer: Scores how well a passage answers a question: an `Embedder`, by the cosine of the question as a
            query and the passage as a document; or a `PairScorer` such as `CrossEncoderModel`, by its own scores.
        at_least: The lowest score that is kept, on the scorer's scale.
        on_error: "degrade": where the scorer fails, a document keeps all of its questions, with a warning and a mark
            on its chunks (metadata ``situating_failed``), so that it is tried again when it is added again; "raise".

    Raises:
        InputError: ``at_least`` is no finite number, or ``on_error`` neither of the two.
        StepError: On use, with ``on_error="raise"``: the scorer failed.
    """

    def __init__(self, scorer: Embedder | PairScorer, *, at_least: float, on_error: OnError = "degrade") -> None:
        if not np.isfinite(at_least):
            raise InputError(f"at_least={at_least} is a score: give a finite number")
        if on_error not in ("degrade", "raise"):
            raise InputError(f'on_error={on_error!r}: "degrade" or "raise"')
        self.scorer = scorer
        self.at_least = float(at_least)
        self.on_error: OnError = on_error

    def fingerprint(self) -> dict[str, Any]:
        """The settings that decide which questions are kept, as JSON values."""
        scorer = self.scorer
        # A scorer may be the user's own, without a fingerprint.
        decides = getattr(scorer, "fingerprint", None) or getattr(scorer, "model", None)
        return {
            "situator": type(self).__name__,
            "scorer": [type(scorer).__name__, decides if isinstance(decides, str | dict) else None],
            "at_least": self.at_least,
        }

    def situate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The same chunks, each with those of its questions that score at least ``at_least`` with its own text."""
        pairs = [(question, chunk.text) for chunk in chunks for question in chunk.context.questions]
        if not pairs:
            return list(chunks)
        try:
            scores = self._scores(pairs)
        except Exception as error:  # noqa: BLE001 - a scorer may be the user's own; its error is reported or raised
            return self._unfiltered(document, chunks, error)
        found = iter(scores.tolist())
        return [replace(chunk, context=self._kept(chunk.context, found)) for chunk in chunks]

    def _kept(self, context: Context, scores: Iterator[float]) -> Context:
        kept = [place for place in range(len(context.questions)) if next(scores) >= self.at_least]
        answers = tuple(context.answers[place] for place in kept) if context.answers else ()
        return replace(context, questions=tuple(context.questions[place] for place in kept), answers=answers)

    async def asituate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """`situate` without blocking the event loop."""
        return await asyncio.to_thread(self.situate, document, chunks)

    def _scores(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        """float32 ``[pairs]``."""
        from situate.embedders.embedder import Embedder

        if isinstance(self.scorer, Embedder):
            questions, passages = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
            vectors = dict(zip(questions, unit(self.scorer.embed_queries(questions)), strict=True))
            read = dict(zip(passages, unit(self.scorer.embed_documents(passages)), strict=True))
            return np.asarray([vectors[question] @ read[passage] for question, passage in pairs], dtype=np.float32)
        scores = np.asarray(self.scorer.score(pairs).scores, dtype=np.float32)
        if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
            raise ModelError(f"{type(self.scorer).__name__} gave scores of shape {scores.shape} for {len(pairs)} pairs")
        return scores

    def _unfiltered(self, document: Document, chunks: Sequence[Chunk], error: Exception) -> list[Chunk]:
        # Not the error's own text: a client's may quote a request with all of its headers.
        message = f"the questions of document {document.id!r} could not be filtered: {type(error).__name__}"
        if self.on_error == "raise":
            raise StepError(f"{message}; on_error='degrade' keeps all of them") from error
        warnings.warn(f"{message}; all of them are kept", SituatingWarning, stacklevel=3)
        return [
            replace(chunk, metadata={**chunk.metadata, FAILED: type(error).__name__})
            if chunk.context.questions
            else chunk
            for chunk in chunks
        ]
