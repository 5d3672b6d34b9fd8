"""Rerankers as LangChain document compressors."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document as LangChainDocument
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import ConfigDict, Field, SkipValidation

from situate.embedders.pairs.cross_encoder import DEFAULT_CROSS_ENCODER
from situate.integrations.langchain.cross_encoder import SituateCrossEncoder
from situate.integrations.langchain.documents import RELEVANCE_SCORE, Stamp, chunk_context, document_id
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.retrievers import rerank
from situate.retrievers.rerank.late_interaction import TokenSource
from situate.retrievers.types import Hit, Reranker
from situate.types import Chunk


class RerankerCompressor(BaseDocumentCompressor):
    """Any situate reranker as a document compressor.

    Returns copies, best first, with ``relevance_score`` in their metadata; the documents handed in stay as they were.

    Attributes:
        top_n: How many to keep; None keeps all.
        threshold: Leave out what scores lower.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    top_n: int | None = Field(default=None, ge=1)
    threshold: float | None = None

    @abstractmethod
    def _ranks(self) -> Reranker:
        """What orders the hits."""

    def __getstate__(self) -> dict[Any, Any]:
        # What was made for the first call (models, token vectors) is made again.
        state = super().__getstate__()
        return {**state, "__dict__": {k: v for k, v in state["__dict__"].items() if k != "_ranker"}}

    def compress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[LangChainDocument]:
        """The documents that answer the query best.

        Args:
            documents: Passages.
            query: What they are judged by.
            callbacks: Not used: no model of LangChain's runs here.
        """
        if not documents:
            return []
        hits, originals = _hits(documents)
        return self._kept(self._ranks().rerank(query, hits), originals)

    async def acompress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[LangChainDocument]:
        """`compress_documents` without blocking the event loop."""
        if not documents:
            return []
        hits, originals = _hits(documents)
        return self._kept(await self._ranks().arerank(query, hits), originals)

    def _kept(self, hits: Sequence[Hit], originals: dict[str, LangChainDocument]) -> list[LangChainDocument]:
        above = [hit for hit in hits if self.threshold is None or hit.score >= self.threshold]
        return [_scored(originals[hit.chunk.id], float(hit.score)) for hit in above[: self.top_n]]


class SituateReranker(RerankerCompressor):
    """Around a reranker that exists already (an LLM's, say, or stages of several).

    Attributes:
        reranker: Orders hits.
    """

    reranker: SkipValidation[Reranker]

    def _ranks(self) -> Reranker:
        return self.reranker


class CrossEncoderReranker(RerankerCompressor):
    """Orders documents by a model that reads query and passage together (Nogueira and Cho 2019).

    Attributes:
        model: Hub id or folder, or a `SituateCrossEncoder` with settings of one's own. ``relevance_score`` is in
            [0, 1] unless such a one says otherwise.
        context: `Context` fields that are read in front of the passage ("title", "headings", ...).
    """

    model: str | SituateCrossEncoder = DEFAULT_CROSS_ENCODER
    context: tuple[str, ...] = ()

    @cached_property
    def _ranker(self) -> Reranker:
        cross_encoder = SituateCrossEncoder(model=self.model) if isinstance(self.model, str) else self.model
        return rerank.CrossEncoderReranker(cross_encoder.scorer, context=self.context)

    def _ranks(self) -> Reranker:
        return self._ranker


class LateInteractionReranker(RerankerCompressor):
    """Orders documents by MaxSim over token vectors (Khattab and Zaharia 2020); needs no weights but the embeddings'.

    Attributes:
        embeddings: Give the token vectors. ``relevance_score`` is the mean of their best cosines, in [-1, 1].
        stored: Where token vectors may be stored already: `situate.retrievers.rerank.StoredTokens` over the collection
            of a store that was made with ``PipelineConfig.quality()``.
        prior: Share of the ``relevance_score`` that the documents came with, in [0, 1].
        context: `Context` fields that are read in front of the passage ("title", "headings", ...).
    """

    embeddings: SituateEmbeddings
    stored: SkipValidation[TokenSource | None] = None
    prior: float = Field(default=0.0, ge=0.0, le=1.0)
    context: tuple[str, ...] = ()

    @cached_property
    def _ranker(self) -> Reranker:
        return rerank.LateInteractionReranker(
            self.embeddings.embedder, stored=self.stored, prior=self.prior, context=self.context
        )

    def _ranks(self) -> Reranker:
        return self._ranker


def _hits(documents: Sequence[LangChainDocument]) -> tuple[list[Hit], dict[str, LangChainDocument]]:
    """The documents as hits, each under an id of its own, and the documents by these ids."""
    hits: list[Hit] = []
    originals: dict[str, LangChainDocument] = {}
    for place, document in enumerate(documents):
        id = document_id(document)
        if id in originals:  # the same passage twice: both are kept and told apart
            id = f"{id}#{place}"
        originals[id] = document
        hits.append(Hit(_chunk(document, id), _score(document)))
    return hits, originals


def _chunk(document: LangChainDocument, id: str) -> Chunk:
    text = document.page_content
    stamp = Stamp.of(document.metadata)
    return Chunk(
        id=id,
        document_id=stamp.document_id if stamp is not None else id,
        index=stamp.index if stamp is not None else 0,
        text=text,
        start=stamp.start if stamp is not None else 0,
        end=stamp.end if stamp is not None else len(text),
        context=chunk_context(document),
        metadata=document.metadata,
    )


def _score(document: LangChainDocument) -> float:
    score = document.metadata.get(RELEVANCE_SCORE)
    return float(score) if isinstance(score, int | float) else 0.0


def _scored(document: LangChainDocument, score: float) -> LangChainDocument:
    metadata = {**copy.deepcopy(document.metadata), RELEVANCE_SCORE: score}
    return LangChainDocument(id=document.id, page_content=document.page_content, metadata=metadata)
