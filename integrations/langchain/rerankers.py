"""Rerankers as LangChain document compressors."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document as LangChainDocument
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import ConfigDict, Field, SkipValidation

from situate.chunkers.types import Chunk
from situate.integrations.langchain.documents import RELEVANCE_SCORE, Stamp, chunk_context, document_id
from situate.retrievers.types import Hit, Reranker


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

    def _ranks(self) -> Reranker:
        """What orders the hits."""
        raise NotImplementedError

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
    """Around a reranker that exists already (an LLM's, say, or a pipeline of several).

    Attributes:
        reranker: Orders hits.
    """

    reranker: SkipValidation[Reranker]

    def _ranks(self) -> Reranker:
        return self.reranker


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
