"""Rerankers as node postprocessors: cross-encoder, late interaction, and any other situate reranker."""

from __future__ import annotations

import threading
from typing import Any, Literal, TypeAlias

from llama_index.core.bridge.pydantic import Field, PrivateAttr, field_serializer, field_validator
from llama_index.core.llms import LLM

from situate.errors import InputError
from situate.integrations.llama_index.embedding import DType, SituateEmbedding
from situate.integrations.llama_index.generator import LlamaIndexGenerator
from situate.integrations.llama_index.reranking import BaseRerank
from situate.retrievers.types import Reranker

Output: TypeAlias = Literal["model", "logit", "probability"]
Aggregation: TypeAlias = Literal["max", "first", "sum", "parade"]

DEFAULT_CROSS_ENCODER = "cross-encoder/ms-marco-MiniLM-L6-v2"


class SituateRerank(BaseRerank):
    """Any situate `Reranker`: stages, a language model, one with settings of its own.

    Attributes:
        using: The reranker.
    """

    using: Any = Field(description="The reranker.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateRerank"

    @field_validator("using")
    @classmethod
    def _check(cls, value: Any) -> Any:
        if not isinstance(value, Reranker):
            raise InputError(f"using={value!r} is no reranker: it needs name, rerank(query, hits) and arerank(...)")
        return value

    @field_serializer("using")
    def _write(self, value: Any) -> str:
        return repr(value)

    @property
    def reranker(self) -> Reranker:
        """The reranker underneath."""
        reranker: Reranker = self.using
        return reranker

    @property
    def _told_as(self) -> str:
        return self.reranker.name


class _LazyRerank(BaseRerank):
    """Makes its reranker at first use."""

    _reranker: Any = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def _made(self) -> Reranker:
        raise NotImplementedError

    @property
    def reranker(self) -> Reranker:
        """The reranker underneath."""
        if self._reranker is None:
            with self._lock:
                if self._reranker is None:
                    self._reranker = self._made()
        reranker: Reranker = self._reranker
        return reranker


class SituateLLMRerank(_LazyRerank):
    """A language model that judges passages.

    "pointwise" grades each passage alone, which no passage can disturb for another; "pairwise" compares the first few
    with each other; "listwise" ranks windows of many (RankGPT). Answers that cannot be read never become scores, and
    passages are shown as data.

    Attributes:
        llm: Any LlamaIndex model or situate `TextGenerator`; None: ``Settings.llm``.
        method: How it is asked.
        top: Only the first so many nodes are judged, the others follow; None: what suits the method.
    """

    llm: Any = Field(default=None, description="The language model.")
    method: Literal["pointwise", "pairwise", "listwise"] = Field(default="pointwise", description="How it is asked.")
    top: int | None = Field(default=None, gt=0, description="How many nodes are judged.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateLLMRerank"

    @field_serializer("llm")
    def _write_llm(self, value: Any) -> str:
        return self._told_as

    @property
    def _told_as(self) -> str:
        model: str = self.llm.metadata.model_name if isinstance(self.llm, LLM) else type(self.llm).__name__
        return "Settings.llm" if self.llm is None else model

    def _made(self) -> Reranker:
        from situate.retrievers.rerank import ListwiseReranker, PairwiseReranker, PointwiseReranker

        generator = LlamaIndexGenerator(self.llm) if self.llm is None or isinstance(self.llm, LLM) else self.llm
        top: dict[str, Any] = {} if self.top is None else {"top": self.top}
        match self.method:
            case "pointwise":
                return PointwiseReranker(generator, **top)
            case "pairwise":
                return PairwiseReranker(generator, **top)
            case "listwise":
                return ListwiseReranker(generator, **top)


class CrossEncoderRerank(_LazyRerank):
    """A cross-encoder, which reads query and passage together (Nogueira and Cho 2019).

    Any model of sentence-transformers' `CrossEncoder`, in batches by token count. Long passages are read in windows,
    not cut. Cheap to construct; loaded for the first query; pickled as its configuration.

    Attributes:
        model: Hub id or folder.
        output: "probability" in [0, 1], "logit", or "model" for what ``CrossEncoder.predict`` returns.
        aggregation: How the windows of a long passage become one score: "max", "first", "sum" or "parade".
        max_tokens: Tokens of a window, query included; None: what the model says.
        instruction: The task, for models that take one.
        device: "auto", or a torch device.
        dtype: "auto", "float32", "bfloat16" or "float16".
        revision: Branch, tag or commit of the hub's repository.
        trust_remote_code: Whether the model's own Python code may run.
        allow_pickle: Whether pickled weights, which can run any code, may be read.
    """

    model: str = Field(default=DEFAULT_CROSS_ENCODER, description="Hub id or folder of the model.")
    output: Output = Field(default="probability", description="What a score is.")
    aggregation: Aggregation = Field(default="max", description="How windows become one score.")
    max_tokens: int | None = Field(default=None, gt=0, description="Tokens of a window.")
    instruction: str | None = Field(default=None, description="The task.")
    device: str = Field(default="auto", description="Where the model runs.")
    dtype: DType = Field(default="auto", description="What the model computes in.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of the hub's repository.")
    trust_remote_code: bool = Field(default=False, description="Whether the model's own code may run.")
    allow_pickle: bool = Field(default=False, description="Whether pickled weights may be read.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "CrossEncoderRerank"

    @property
    def _told_as(self) -> str:
        return self.model

    def _made(self) -> Reranker:
        from situate.embedders.pairs.cross_encoder import CrossEncoderModel
        from situate.retrievers.rerank.cross_encoder import CrossEncoderReranker

        return CrossEncoderReranker(
            CrossEncoderModel(
                self.model,
                output=self.output,
                aggregation=self.aggregation,
                max_tokens=self.max_tokens,
                instruction=self.instruction,
                device=self.device,
                dtype=self.dtype,
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
                allow_pickle=self.allow_pickle,
            )
        )


class LateInteractionRerank(_LazyRerank):
    """MaxSim over the token vectors of an embedding model (Khattab and Zaharia 2020): no further weights.

    The score is the mean over the query's tokens of each one's best cosine in the passage. With ``prior`` the order
    that the nodes came in counts as well.

    Attributes:
        embed_model: Gives the token vectors; best the one that the index uses, which is loaded already.
        prior: Share of the scores that the nodes came with, from 0 to 1. Both are stretched to [0, 1] first.
    """

    embed_model: SituateEmbedding = Field(default_factory=SituateEmbedding, description="Gives the token vectors.")
    prior: float = Field(default=0.0, ge=0, le=1, description="Share of the scores that the nodes came with.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "LateInteractionRerank"

    @property
    def _told_as(self) -> str:
        return self.embed_model.model_name

    def _made(self) -> Reranker:
        from situate.retrievers.rerank.late_interaction import LateInteractionReranker

        return LateInteractionReranker(self.embed_model.embedder, prior=self.prior)
