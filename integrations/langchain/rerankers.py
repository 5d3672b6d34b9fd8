"""A cross-encoder as LangChain's, and rerankers as LangChain document compressors."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document as LangChainDocument
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation, field_validator

from situate.embedders.pairs.cross_encoder import CrossEncoderModel
from situate.errors import InputError
from situate.integrations._shared.component import Configured, Handle, Meaning, PicklesAsConfig
from situate.integrations._shared.origin import DEGRADED_KEY
from situate.integrations._shared.settings import (
    DEFAULT_CROSS_ENCODER,
    ContextFields,
    CrossEncoderOptions,
    StepOptions,
    Threshold,
)
from situate.integrations.langchain.documents import RELEVANCE_SCORE, chunk_context, document_id, read_origin
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.retrievers import rerank
from situate.retrievers.pipeline.steps import Trace
from situate.retrievers.rerank.late_interaction import TokenSource
from situate.retrievers.types import Hit, Reranker, check_query
from situate.types import Chunk

if TYPE_CHECKING or find_spec("langchain_core.cross_encoders"):
    from langchain_core.cross_encoders import BaseCrossEncoder
else:
    BaseCrossEncoder = ABC  # langchain-core before 1.0 has none


class SituateCrossEncoder(CrossEncoderOptions, PicklesAsConfig, BaseCrossEncoder):
    """Scores pairs of query and passage, read together (Nogueira and Cho 2019).

    Pairs are run packed, in batches of a number of tokens; long passages are read in overlapping windows instead of
    being cut off. Cheap to construct and pickled as its configuration: the model is loaded for the first pairs. The
    settings are those of `CrossEncoderOptions`.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    _handle: Handle[Any] = PrivateAttr(default_factory=Handle)

    @property
    def scorer(self) -> CrossEncoderModel:
        """The model underneath."""
        scorer: CrossEncoderModel = self._handle.get(self._cross_encoder_settings(), self._made_cross_encoder)
        return scorer

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """One score per (query, passage), in order; higher is better."""
        return [float(score) for score in self.scorer.score(text_pairs).scores]

    async def ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """`score` without blocking the event loop."""
        return [float(score) for score in (await self.scorer.ascore(text_pairs)).scores]


class RerankerCompressor(Configured, StepOptions, PicklesAsConfig, BaseDocumentCompressor):
    """Any situate reranker as a document compressor.

    Returns copies, best first, with ``relevance_score`` in their metadata; the given documents are not changed.
    Where the model fails, the documents keep their order and scores, nothing is left out by ``threshold``, a warning is
    logged, and ``situate_degraded`` in the metadata gives the reason.

    Attributes:
        top_n: How many to keep; None keeps all.
        threshold: Leave out documents that score lower.
        timeout: Seconds for the step, loading the model and retries included; None for no limit.
        retries: Further attempts after a temporary failure.
        on_error: "degrade" keeps the order of the documents; "raise" raises a `StepError`.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    known_otherwise: ClassVar[Mapping[str, str]] = {"top_k": "it is top_n here"}

    top_n: int | None = Field(default=None, ge=1)
    threshold: Threshold | None = None
    timeout: float | None = Field(default=None, gt=0)

    _handle: Handle[Any] = PrivateAttr(default_factory=Handle)
    _steps: Handle[Any] = PrivateAttr(default_factory=Handle)

    @abstractmethod
    def _ranks(self) -> Reranker:
        """The reranker that orders the hits."""

    def _trace(self) -> Trace:
        trace: Trace = self._steps.get(self._policy(), self._runner).trace()
        return trace

    def compress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[LangChainDocument]:
        """The documents that answer the query best.

        Args:
            documents: Passages.
            query: The query that they are judged by.
            callbacks: Not used: no LangChain model runs here.

        Raises:
            StepError: The model failed and ``on_error="raise"``.
        """
        check_query(query)
        if not documents:
            return []
        hits, originals = document_hits(documents)
        reranker, trace = self._ranks(), self._trace()
        work = partial(reranker.rerank, query, hits)
        return self._kept(trace.run(f"rerank:{reranker.name}", work, hits), originals, trace)

    async def acompress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[LangChainDocument]:
        """`compress_documents` without blocking the event loop."""
        check_query(query)
        if not documents:
            return []
        hits, originals = document_hits(documents)
        reranker, trace = self._ranks(), self._trace()
        work = partial(reranker.arerank, query, hits)
        return self._kept(await trace.arun(f"rerank:{reranker.name}", work, hits), originals, trace)

    def _kept(
        self, hits: Sequence[Hit], originals: dict[str, LangChainDocument], trace: Trace
    ) -> list[LangChainDocument]:
        degraded = {step.name: step.error for step in trace.steps if step.error is not None}
        if degraded:
            return [_degraded(originals[hit.chunk.id], degraded) for hit in hits[: self.top_n]]
        above = [hit for hit in hits if self.threshold is None or hit.score >= self.threshold]
        return [_scored(originals[hit.chunk.id], float(hit.score)) for hit in above[: self.top_n]]


class SituateReranker(RerankerCompressor):
    """Around an existing reranker (an LLM's, say, or stages of several).

    Attributes:
        reranker: Orders hits.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {"using": "reranker"}

    reranker: SkipValidation[Reranker]

    @field_validator("reranker", mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        if not isinstance(value, Reranker):
            raise InputError(
                f"reranker={value!r} is not a reranker: it needs name, rerank(query, hits) and arerank(...)"
            )
        return value

    def _ranks(self) -> Reranker:
        return self.reranker


class CrossEncoderReranker(RerankerCompressor):
    """Orders documents by a model that reads query and passage together (Nogueira and Cho 2019).

    Attributes:
        model: Hub id or folder, or a `SituateCrossEncoder` with settings of one's own. ``relevance_score`` is in [0, 1]
            unless that one is set otherwise.
        context: `Context` fields that are read in front of the passage ("title", "headings", ...).
        prior: Share of the ``relevance_score`` that the documents came with, in [0, 1].
        sentences: Judge a document's sentences one by one, and take the mean of its best so many; None: the whole.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {"model_name": "model"}

    model: str | SituateCrossEncoder = DEFAULT_CROSS_ENCODER
    context: ContextFields = ()
    prior: float = Field(default=0.0, ge=0.0, le=1.0)
    sentences: int | None = Field(default=None, ge=1)

    def _ranks(self) -> Reranker:
        cross_encoder = SituateCrossEncoder(model=self.model) if isinstance(self.model, str) else self.model
        options: dict[str, Any] = {"context": self.context, "prior": self.prior, "sentences": self.sentences}
        reranker: Reranker = self._handle.get(
            (cross_encoder.model_dump(), options),
            lambda: rerank.CrossEncoderReranker(cross_encoder.scorer, **options),
        )
        return reranker


class LateInteractionReranker(RerankerCompressor):
    """Orders documents by MaxSim over token vectors (Khattab and Zaharia 2020); needs no weights but the embeddings'.

    Attributes:
        embeddings: Give the token vectors. ``relevance_score`` is the mean of their best cosines, in [-1, 1].
        stored: Where token vectors may be stored already: `situate.retrievers.rerank.StoredTokens` over the collection
            of a store that was made with ``PipelineConfig.quality()``.
        prior: Share of the ``relevance_score`` that the documents came with, in [0, 1].
        context: `Context` fields that are read in front of the passage ("title", "headings", ...).
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {"embedding": "embeddings", "embed_model": "embeddings"}
    shared_on_copy: ClassVar[tuple[str, ...]] = ("stored",)

    embeddings: SituateEmbeddings
    stored: SkipValidation[TokenSource | None] = None
    prior: float = Field(default=0.0, ge=0.0, le=1.0)
    context: ContextFields = ()

    def _ranks(self) -> Reranker:
        embedder = self.embeddings.embedder
        reranker: Reranker = self._handle.get(
            (id(embedder), id(self.stored), self.prior, self.context),
            lambda: rerank.LateInteractionReranker(
                embedder, stored=self.stored, prior=self.prior, context=self.context
            ),
        )
        return reranker


def document_hits(documents: Sequence[LangChainDocument]) -> tuple[list[Hit], dict[str, LangChainDocument]]:
    """The documents as hits, each under an id of its own, and the documents by these ids."""
    hits: list[Hit] = []
    originals: dict[str, LangChainDocument] = {}
    for place, document in enumerate(documents):
        id = document_id(document)
        if id in originals:  # the same passage twice: both are kept, under different ids
            id = f"{id}#{place}"
        originals[id] = document
        hits.append(Hit(_chunk(document, id), _score(document)))
    return hits, originals


def _chunk(document: LangChainDocument, id: str) -> Chunk:
    text = document.page_content
    origin = read_origin(document.metadata)
    return Chunk(
        id=id,
        document_id=origin.document_id if origin is not None else id,
        index=origin.index if origin is not None else 0,
        text=text,
        start=origin.start if origin is not None else 0,
        end=origin.end if origin is not None else len(text),
        context=chunk_context(document),
        metadata=document.metadata,
    )


def _score(document: LangChainDocument) -> float:
    score = document.metadata.get(RELEVANCE_SCORE)
    return float(score) if isinstance(score, int | float) else 0.0


def _scored(document: LangChainDocument, score: float) -> LangChainDocument:
    metadata = {**copy.deepcopy(document.metadata), RELEVANCE_SCORE: score}
    return LangChainDocument(id=document.id, page_content=document.page_content, metadata=metadata)


def _degraded(document: LangChainDocument, reasons: Mapping[str, str]) -> LangChainDocument:
    before = document.metadata.get(DEGRADED_KEY, {})
    metadata = {**copy.deepcopy(document.metadata), DEGRADED_KEY: {**before, **reasons}}
    return LangChainDocument(id=document.id, page_content=document.page_content, metadata=metadata)
