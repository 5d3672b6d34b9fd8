"""Rerankers as node postprocessors: cross-encoder, late interaction, a language model, any other of situate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

from llama_index.core.bridge.pydantic import Field, PrivateAttr, field_serializer, field_validator
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from situate.errors import InputError
from situate.integrations._shared.component import Configured, Handle, Meaning, PicklesAsConfig
from situate.integrations._shared.settings import CrossEncoderOptions, StepOptions
from situate.integrations.llama_index.embedding import SituateEmbedding, default_embedding
from situate.integrations.llama_index.generator import as_generator
from situate.integrations.llama_index.nodes import RetrievedNode, to_hit
from situate.retrievers.pipeline.steps import Trace
from situate.retrievers.types import Hit, Reranker
from situate.types import AnswerScorer

dispatcher = get_dispatcher(__name__)


class BaseRerank(Configured, StepOptions, PicklesAsConfig, BaseNodePostprocessor):
    """A situate `Reranker` as a node postprocessor.

    It returns new objects with scores as floats; the given nodes, their scores and their metadata are not changed. Each
    run is announced as LlamaIndex does it: a ``RERANKING`` callback event, ``ReRankStartEvent`` and ``ReRankEndEvent``.
    Where the model fails, the nodes keep their order, a warning is logged, and each node's ``degraded`` gives the
    reason.

    Attributes:
        top_n: How many nodes to keep, at most; None: all.
        metadata_mode: The part of a node that the reranker reads: "embed" includes the metadata that embedding models
            see (titles, context), "none" the bare text.
        keep_retrieval_score: Note the score that a node came with in its metadata, as ``retrieval_score``.
        timeout: Seconds for the step, loading the model and retries included; None for no limit.
        retries: Further attempts after a temporary failure.
        on_error: "degrade" keeps the order of the nodes; "raise" raises a `StepError`.
    """

    known_otherwise: ClassVar[Mapping[str, str]] = {"top_k": "it is top_n here"}

    top_n: int | None = Field(default=None, gt=0, description="How many nodes to keep.")
    metadata_mode: MetadataMode = Field(default=MetadataMode.EMBED, description="The part of a node that is read.")
    keep_retrieval_score: bool = Field(default=False, description="Note the earlier score in the metadata.")
    timeout: float | None = Field(default=None, gt=0, description="Seconds for the step, retries included.")

    _handle: Handle[Any] = PrivateAttr(default_factory=Handle)
    _steps: Handle[Any] = PrivateAttr(default_factory=Handle)

    @abstractmethod
    def _made(self) -> Reranker:
        """The reranker, made of the fields."""

    @property
    def reranker(self) -> Reranker:
        """The reranker underneath."""
        reranker: Reranker = self._handle.get(self._settings(), self._made)
        return reranker

    @abstractmethod
    def _settings(self) -> Any:
        """The fields that the reranker is made of."""

    @property
    @abstractmethod
    def _model(self) -> str:
        """The model's name in events."""

    def _trace(self) -> Trace:
        trace: Trace = self._steps.get(self._policy(), self._runner).trace()
        return trace

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        with self._announced(nodes, query_bundle) as run:
            trace, hits = self._trace(), self._hits(nodes)
            work = partial(self.reranker.rerank, run.query, hits)
            run.result = self._nodes(nodes, trace.run(f"rerank:{self.reranker.name}", work, hits), trace)
        return run.result

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        with self._announced(nodes, query_bundle) as run:
            trace, hits = self._trace(), self._hits(nodes)
            work = partial(self.reranker.arerank, run.query, hits)
            run.result = self._nodes(nodes, await trace.arun(f"rerank:{self.reranker.name}", work, hits), trace)
        return run.result

    def _hits(self, nodes: Sequence[NodeWithScore]) -> list[Hit]:
        # The place among the nodes travels as the chunk's index: ids need not be unique here.
        return [to_hit(found, place, mode=self.metadata_mode) for place, found in enumerate(nodes)]

    def _nodes(self, nodes: Sequence[NodeWithScore], hits: Sequence[Hit], trace: Trace) -> list[NodeWithScore]:
        degraded = {step.name: step.error for step in trace.steps if step.error is not None}
        ranked: list[NodeWithScore] = []
        for hit in hits[: self.top_n]:
            found = nodes[hit.chunk.index]
            node = found.node
            if self.keep_retrieval_score:
                node = node.model_copy(update={"metadata": {**node.metadata, "retrieval_score": found.score}})
            before = found.degraded if isinstance(found, RetrievedNode) else {}
            ranked.append(RetrievedNode(node=node, score=float(hit.score), degraded={**before, **degraded}))
        return ranked

    @contextmanager
    def _announced(self, nodes: list[NodeWithScore], bundle: QueryBundle | None) -> Iterator[_Run]:
        if bundle is None:
            raise InputError("a reranker needs the query: pass query_bundle= or query_str=")
        run = _Run(bundle.query_str)
        top_n = self.top_n if self.top_n is not None else len(nodes)
        dispatcher.event(ReRankStartEvent(query=bundle, nodes=nodes, top_n=top_n, model_name=self._model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self._model,
            EventPayload.QUERY_STR: bundle.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield run
            event.on_end(payload={EventPayload.NODES: run.result})
        dispatcher.event(ReRankEndEvent(nodes=run.result))


class _Run:
    def __init__(self, query: str) -> None:
        self.query = query
        self.result: list[NodeWithScore] = []


class SituateRerank(BaseRerank):
    """Any situate `Reranker`: stages, a language model, one with settings of its own.

    Attributes:
        using: The reranker.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {"reranker": "using"}

    shared_on_copy: ClassVar[tuple[str, ...]] = ("using",)

    using: Any = Field(description="The reranker.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateRerank"

    @field_validator("using")
    @classmethod
    def _check(cls, value: Any) -> Any:
        if not isinstance(value, Reranker):
            raise InputError(f"using={value!r} is not a reranker: it needs name, rerank(query, hits) and arerank(...)")
        return value

    @field_serializer("using")
    def _write(self, value: Any) -> str:
        return repr(value)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Refused: no dictionary holds the reranker.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"SituateRerank cannot be written as a dictionary: its {type(self.using).__name__} is an object of the "
            "caller's. CrossEncoderRerank and LateInteractionRerank can"
        )

    def _settings(self) -> Any:
        return id(self.using)

    def _made(self) -> Reranker:
        reranker: Reranker = self.using
        return reranker

    @property
    def _model(self) -> str:
        return self.reranker.name


class SituateLLMRerank(BaseRerank):
    """A language model that judges passages.

    "pointwise" grades each passage alone, which no passage can disturb for another; "pairwise" compares the first few
    with each other; "listwise" ranks windows of many (RankGPT). Answers that cannot be read never become scores, and
    passages are shown as data.

    Attributes:
        llm: Any LlamaIndex model, situate `TextGenerator` or `AnswerScorer`; None: ``Settings.llm``.
        method: The form of its judgements.
        soft: Whether the probabilities of grades and choices are asked for in place of texts, from an `AnswerScorer`;
            None: where the model gives nothing else.
        top: Only the first so many nodes are judged, the others follow; None: the method's own number.
        prior: Share of the scores that the nodes came with, from 0 to 1. Both are stretched to [0, 1] first.
    """

    shared_on_copy: ClassVar[tuple[str, ...]] = ("llm",)

    llm: Any = Field(default=None, description="The language model.")
    method: Literal["pointwise", "pairwise", "listwise"] = Field(
        default="pointwise", description="The form of its judgements."
    )
    soft: bool | None = Field(default=None, description="Whether probabilities are asked for.")
    top: int | None = Field(default=None, gt=0, description="How many nodes are judged.")
    prior: float = Field(default=0.0, ge=0, le=1, description="Share of the scores that the nodes came with.")
    timeout: float | None = Field(default=30.0, gt=0, description="Seconds for the step, retries included.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateLLMRerank"

    @field_validator("llm")
    @classmethod
    def _check_llm(cls, value: Any) -> Any:
        if not isinstance(value, AnswerScorer):
            as_generator(value)
        return value

    @field_serializer("llm")
    def _write_llm(self, value: Any) -> str | None:
        return None if value is None else self._model

    @property
    def _model(self) -> str:
        model: str = self.llm.metadata.model_name if isinstance(self.llm, LLM) else type(self.llm).__name__
        return "Settings.llm" if self.llm is None else model

    def _settings(self) -> Any:
        return id(self.llm), self.method, self.soft, self.top, self.prior

    def _made(self) -> Reranker:
        from situate.retrievers.rerank import ListwiseReranker, PairwiseReranker, PointwiseReranker

        llm: Any = self.llm if isinstance(self.llm, AnswerScorer) else as_generator(self.llm)
        top: dict[str, Any] = {} if self.top is None else {"top": self.top}
        rerankers = {"pointwise": PointwiseReranker, "pairwise": PairwiseReranker, "listwise": ListwiseReranker}
        reranker: Reranker = rerankers[self.method](llm, soft=self.soft, prior=self.prior, **top)
        return reranker


class CrossEncoderRerank(CrossEncoderOptions, BaseRerank):
    """A cross-encoder, which reads query and passage together (Nogueira and Cho 2019).

    Any model of sentence-transformers' `CrossEncoder`, in batches by token count. Long passages are read in windows,
    not cut. Cheap to construct; loaded for the first query; pickled as its configuration. The settings of the model
    are those of `CrossEncoderOptions`.

    Attributes:
        prior: Share of the scores that the nodes came with, from 0 to 1. Both are stretched to [0, 1] first.
        sentences: Judge a node's sentences one by one, and take the mean of its best so many; None: the whole node.
    """

    prior: float = Field(default=0.0, ge=0, le=1, description="Share of the scores that the nodes came with.")
    sentences: int | None = Field(default=None, ge=1, description="Best sentences that make a node's score.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "CrossEncoderRerank"

    @property
    def _model(self) -> str:
        return self.model

    def _settings(self) -> Any:
        return self._cross_encoder_settings(), self.prior, self.sentences

    def _made(self) -> Reranker:
        from situate.retrievers.rerank.cross_encoder import CrossEncoderReranker

        return CrossEncoderReranker(self._made_cross_encoder(), prior=self.prior, sentences=self.sentences)


class LateInteractionRerank(BaseRerank):
    """MaxSim over the token vectors of an embedding model (Khattab and Zaharia 2020): no further weights.

    The score is the mean over the query's tokens of each one's best cosine in the passage. With ``prior`` the nodes'
    earlier scores count as well.

    Attributes:
        embed_model: Gives the token vectors; best the one that the index uses, which is loaded already. Without it,
            ``Settings.embed_model`` where that is a `SituateEmbedding`.
        prior: Share of the scores that the nodes came with, from 0 to 1. Both are stretched to [0, 1] first.
    """

    embed_model: SituateEmbedding = Field(default_factory=default_embedding, description="Gives the token vectors.")
    prior: float = Field(default=0.0, ge=0, le=1, description="Share of the scores that the nodes came with.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "LateInteractionRerank"

    @property
    def _model(self) -> str:
        return self.embed_model.model_name

    def _settings(self) -> Any:
        return id(self.embed_model.embedder), self.prior

    def _made(self) -> Reranker:
        from situate.retrievers.rerank.late_interaction import LateInteractionReranker

        return LateInteractionReranker(self.embed_model.embedder, prior=self.prior)
