"""The settings of models, stores, retrievers and HyDE as pydantic fields, written once for both frameworks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    SkipValidation,
    field_serializer,
    model_validator,
)

from situate.embedders.types import DType, Overflow, Pooling
from situate.errors import InputError
from situate.integrations._shared.component import Configured, Meaning
from situate.retrievers.config import PipelineConfig
from situate.retrievers.pipeline.steps import OnError, StepPolicy, StepRunner
from situate.retrievers.retriever import TextFusion
from situate.retrievers.search.geometry import Hubness, Whitening
from situate.retrievers.signals.base import Signal, signal_from_json
from situate.retrievers.storage.connect import MEMORY, connect
from situate.retrievers.types import QueryExpander, Reranker, check_parts
from situate.types import Context

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from situate.embedders.embedder import Embedder
    from situate.embedders.pairs.cross_encoder import CrossEncoderModel
    from situate.retrievers.highlight import Highlighter

#: What an `Index` takes as ``client``.
ClientOrOpener: TypeAlias = "QdrantClient | Callable[[], QdrantClient] | None"
#: A signal, its kind, or its fields as JSON.
SignalLike: TypeAlias = Signal | str | Mapping[str, Any]
#: Values of `PipelineConfig`, or their fields as JSON.
HubnessLike: TypeAlias = Hubness | Mapping[str, Any]
WhiteningLike: TypeAlias = Whitening | Mapping[str, Any]

#: Arguments of a client that may hold keys.
_SECRET_OPTION = re.compile("key|auth|token|headers|metadata|cookies|password|secret|cert")

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_CROSS_ENCODER = "cross-encoder/ms-marco-MiniLM-L6-v2"


def _number(given: Any) -> Any:
    """What is given, which pydantic would read as 1 where it is True."""
    if isinstance(given, bool):
        raise ValueError(f"{given} is no number: give a whole number of 1 or more, or None")
    return given


def _comparable(given: float) -> float:
    if math.isnan(given):
        raise ValueError("nan leaves out everything: give a score, or None")
    return given


def _fields(given: tuple[str, ...]) -> tuple[str, ...]:
    Context().render(given)
    return given


#: A score below which passages are left out.
Threshold: TypeAlias = Annotated[float, AfterValidator(_comparable)]
#: Names of fields of a `Context`.
ContextFields: TypeAlias = Annotated[tuple[str, ...], AfterValidator(_fields)]
#: A number of tokens, layers or dimensions.
Count: TypeAlias = Annotated[int, Field(gt=0), BeforeValidator(_number)]


def with_signals(config: PipelineConfig | None, signals: Sequence[SignalLike], **changes: Any) -> PipelineConfig | None:
    """The configuration, `PipelineConfig.fast` by default, with these signals behind its own, and other fields changed.

    Args:
        config: The configuration.
        signals: Further signals.
        changes: Values of other fields; None for those that stay.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    if not signals and not changes:
        return config
    config = config if config is not None else PipelineConfig.fast()
    return replace(config, signals=(*config.signals, *map(signal_from_json, signals)), **changes)


def only(name: str, value: Any, reason: str) -> Callable[[Any], Mapping[str, Any]]:
    """The meaning of a parameter that may only have the value of the fixed behaviour."""

    def meaning(given: Any) -> Mapping[str, Any]:
        if given is not None and given != value:
            raise InputError(f"{name}={given!r}: {reason}")
        return {}

    return meaning


def unpacked(name: str, known: Mapping[str, Meaning]) -> Callable[[Any], Mapping[str, Any]]:
    """The meaning of a parameter that holds parameters of another library by name.

    Args:
        name: The parameter.
        known: Its possible keys, and their meaning here.
    """

    def meaning(given: Any) -> Mapping[str, Any]:
        settings: dict[str, Any] = {}
        for key, value in (given or {}).items():
            if key not in known:
                raise InputError(
                    f"{name}[{key!r}] is not passed on to a model: of {name} only {', '.join(sorted(known))} are read"
                )
            ours = known[key]
            settings.update({ours: value} if isinstance(ours, str) else ours(value))
        return settings

    return meaning


def _format(given: Any) -> Mapping[str, Any]:
    # torch.float16 prints as "torch.float16"; the module itself is not to be imported for that.
    return {"dtype": str(given).removeprefix("torch.")}


_NORMALISED = "vectors have norm 1, except those of models that were trained for the dot product"
_BATCHES = "batches are made by token count"
_LOADING: dict[str, Meaning] = {
    "device": "device",
    "revision": "revision",
    "trust_remote_code": "trust_remote_code",
    "dtype": _format,
    "torch_dtype": _format,
}


class EmbedderOptions(Configured):
    """How texts become vectors: the settings of `situate.embedders.Embedder`, without the model's name.

    Attributes:
        query_instruction: Written in front of a query; None: the model card's own.
        document_instruction: Written in front of a document; None: the model card's own.
        task: The task that the query instruction names, for models that take one.
        dimensions: Keep this many leading dimensions (Matryoshka models), renormalised.
        pooling: How token vectors become one; None: the model's own.
        max_tokens: Tokens that a text is cut to; None: the model's own.
        prompts: How a language model is asked for a vector: a name ("eol", "metaeol", "promptbert", "echo", ...), or
            the JSON values of a `situate.embedders.PromptFamily`.
        layers: Run only the model's first so many layers (2D Matryoshka models).
        mean_layers: Take the mean of the token vectors behind these layers, [1, -1] for the first and the last.
        extension: How a model reads ``max_tokens``, more than it was trained for.
        bidirectional: Whether a decoder's tokens see those behind them.
        routing_weight: Of a mixture of experts, the weight of its routing behind the hidden state; 0 for none.
        weights: "int8" or "int4": the weights of linear layers in so many bits; needs the extra ``quantized``.
        token_heads: Whether the model's own heads make token vectors and the weights of words (BGE-M3), in the dense
            vector's pass.
        adapters: Names of LoRA adapters and their folders or hub ids.
        adapter: The one that texts are embedded with.
        query_adapter: The one for queries, where a pair was trained for both sides; or the file of a linear map of
            their vectors, which `situate.retrievers.fit` writes.
        query_model: Hub id or folder of another model for queries, where a pair shares a space (DPR, LEAF).
        bridge: The file of a `situate.embedders.Bridge` from ``query_model`` to the model, of an index that is not
            embedded anew yet.
        device: "auto", or a torch device; a list gives each device a process of its own.
        dtype: "auto", "float32", "bfloat16", "float16", or "int8" on CPU.
        on_overflow: How a text that is longer than the model reads is treated: "auto", "warn", "raise" or "window"; see
            `Embedder`.
        revision: Branch, tag or commit of the hub's repository.
        trust_remote_code: Whether the model's own Python code may run.
        allow_pickle: Whether pickled weights, which can run any code, may be read.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {
        "text_instruction": "document_instruction",
        "max_length": "max_tokens",
        "max_seq_length": "max_tokens",
        "truncate_dim": "dimensions",
        "target_devices": "device",
        "normalize": only("normalize", True, _NORMALISED),
        "model_kwargs": unpacked("model_kwargs", _LOADING),
        "encode_kwargs": unpacked(
            "encode_kwargs",
            {
                "normalize_embeddings": only("encode_kwargs['normalize_embeddings']", True, _NORMALISED),
                "prompt": "document_instruction",
                "batch_size": lambda value: {},  # batches are made by token count
                "show_progress_bar": only("encode_kwargs['show_progress_bar']", False, "there is no progress bar"),
            },
        ),
        "query_encode_kwargs": unpacked(
            "query_encode_kwargs",
            {
                "normalize_embeddings": only("query_encode_kwargs['normalize_embeddings']", True, _NORMALISED),
                "prompt": "query_instruction",
                "batch_size": lambda value: {},
            },
        ),
    }
    known_otherwise: ClassVar[Mapping[str, str]] = {
        "normalize_embeddings": f"{_NORMALISED}; leave it out",
        "cache_folder": "models are found where huggingface_hub keeps them; set HF_HOME, or give a folder as the model",
        "batch_size": f"{_BATCHES}; leave it out",
        "query_prefix": "it is query_instruction here",
        "document_prefix": "it is document_instruction here",
        "prompts": "they are query_instruction and document_instruction here",
        "backend": "the model runs in this process; for a server's model use from_embedder",
        "parallel_process": "give device a list of devices: each gets a process of its own",
        "multi_process": "give device a list of devices: each gets a process of its own",
    }

    query_instruction: str | None = Field(default=None, description="Written in front of a query.")
    document_instruction: str | None = Field(default=None, description="Written in front of a document.")
    task: str | None = Field(default=None, description="The task that the query instruction names.")
    dimensions: Count | None = Field(default=None, description="Leading dimensions to keep.")
    pooling: Pooling | None = Field(default=None, description="How token vectors become one.")
    max_tokens: Count | None = Field(default=None, description="Tokens that a text is cut to.")
    prompts: str | dict[str, Any] | None = Field(default=None, description="How a language model is asked.")
    layers: Count | None = Field(default=None, description="First layers to run.")
    mean_layers: tuple[int, ...] | None = Field(default=None, description="Layers whose mean is pooled.")
    extension: Literal["linear", "ntk", "yarn", "self", "grouped", "recurrent", "interpolated"] | None = Field(
        default=None, description="How longer texts than trained are read."
    )
    bidirectional: bool = Field(default=False, description="Whether a decoder's tokens see those behind them.")
    routing_weight: float = Field(default=0.0, ge=0, description="Weight of a mixture's routing.")
    weights: Literal["int8", "int4"] | None = Field(default=None, description="Bits of the weights of linear layers.")
    token_heads: bool = Field(default=False, description="Whether the model's own heads are used.")
    adapters: dict[str, str] = Field(default_factory=dict, description="Names of adapters and where they are.")
    adapter: str | None = Field(default=None, description="The adapter to embed with.")
    query_adapter: str | None = Field(default=None, description="The adapter to embed queries with.")
    query_model: str | None = Field(default=None, description="Another model for queries.")
    bridge: str | None = Field(default=None, description="File of a bridge from the query model.")
    device: str | list[str] = Field(default="auto", description="Where the model runs.")
    dtype: DType = Field(default="auto", description="Format of the weights.")
    on_overflow: Overflow = Field(default="auto", description="What happens to texts that are too long.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of the hub's repository.")
    trust_remote_code: bool = Field(default=False, description="Whether the model's own code may run.")
    allow_pickle: bool = Field(default=False, description="Whether pickled weights may be read.")

    def _embedder_settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in EmbedderOptions.model_fields}

    def _made_embedder(self, model: str) -> Embedder:
        from situate.embedders import Embedder

        return Embedder(model, **self._embedder_settings())


class CrossEncoderOptions(Configured):
    """A cross-encoder's settings.

    Attributes:
        model: Hub id or folder of a model that sentence-transformers' `CrossEncoder` loads.
        output: "probability" in [0, 1], "logit", or "model" for what ``CrossEncoder.predict`` returns.
        aggregation: How the windows of a long passage become one score: "max", "first", "sum" or "parade".
        max_tokens: Tokens of a window, query included; None: the model's own.
        instruction: The task, for models that take one.
        device: "auto", or a torch device.
        dtype: "auto", "float32", "bfloat16", "float16", or "int8" on CPU.
        revision: Branch, tag or commit of the hub's repository.
        trust_remote_code: Whether the model's own Python code may run.
        allow_pickle: Whether pickled weights, which can run any code, may be read.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {
        "model_name": "model",
        "max_length": "max_tokens",
        "model_kwargs": unpacked("model_kwargs", {**_LOADING, "max_length": "max_tokens"}),
        "cross_encoder_kwargs": unpacked(
            "cross_encoder_kwargs", {**_LOADING, "max_length": "max_tokens", "prompts": "instruction"}
        ),
    }
    known_otherwise: ClassVar[Mapping[str, str]] = {
        "top_k": "it is top_n here",
        "batch_size": f"{_BATCHES}; leave it out",
        "cache_folder": "models are found where huggingface_hub keeps them; set HF_HOME, or give a folder as the model",
    }

    model: str = Field(default=DEFAULT_CROSS_ENCODER, description="Hub id or folder of the model.")
    output: Literal["model", "logit", "probability"] = Field(default="probability", description="What a score is.")
    aggregation: Literal["max", "first", "sum", "parade"] = Field(
        default="max", description="How windows become one score."
    )
    max_tokens: int | None = Field(default=None, gt=0, description="Tokens of a window.")
    instruction: str | None = Field(default=None, description="The task.")
    device: str = Field(default="auto", description="Where the model runs.")
    dtype: DType = Field(default="auto", description="What the model computes in.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of the hub's repository.")
    trust_remote_code: bool = Field(default=False, description="Whether the model's own code may run.")
    allow_pickle: bool = Field(default=False, description="Whether pickled weights may be read.")

    def _cross_encoder_settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in CrossEncoderOptions.model_fields}

    def _made_cross_encoder(self) -> CrossEncoderModel:
        from situate.embedders.pairs.cross_encoder import CrossEncoderModel

        return CrossEncoderModel(**self._cross_encoder_settings())


class StepOptions(BaseModel):
    """How an optional step may fail.

    Attributes:
        timeout: Seconds for the step, retries included; None for no limit.
        retries: Further attempts after a temporary failure.
        on_error: "degrade" goes on without the step, logs a warning and marks the result; "raise" raises a
            `StepError`.
    """

    timeout: float | None = Field(default=30.0, gt=0, description="Seconds for the step, retries included.")
    retries: int = Field(default=1, ge=0, description="Further attempts.")
    on_error: OnError = Field(default="degrade", description="What a failure does.")

    def _policy(self) -> StepPolicy:
        return StepPolicy(timeout=self.timeout, retries=self.retries, on_error=self.on_error)

    def _runner(self) -> StepRunner:
        return StepRunner(self._policy())


class HighlightOptions(Configured, StepOptions):
    """How passages are marked; see `situate.retrievers.highlight.Highlighter`.

    Attributes:
        at_most: Marks of a passage for a query, and spans of evidence for a sentence of an answer, at most.
        gain: What a further span must add to the score of those before.
        support: A sentence of an answer is supported by spans that together score this, at least.
        timeout: Seconds for the step, loading the model and retries included; None for no limit.
        retries: Further attempts after a temporary failure.
        on_error: "degrade" leaves the passages unmarked, logs a warning and notes the reason; "raise" raises.
    """

    at_most: int = Field(default=2, ge=1, description="Marks of a passage.")
    gain: float = Field(default=0.08, ge=0, description="What a further span must add.")
    support: float = Field(default=0.33, description="Score from which a sentence is supported.")
    timeout: float | None = Field(default=None, gt=0, description="Seconds for the step, retries included.")

    def _made_highlighter(self, embedder: Embedder) -> Highlighter:
        from situate.retrievers.highlight import Highlighter

        return Highlighter(embedder, at_most=self.at_most, gain=self.gain, support=self.support)


class HydeOptions(Configured, StepOptions):
    """How hypothetical documents are generated.

    Attributes:
        drafts: Drafts to generate, in one batch; 8 in the paper.
        query_weight: Weight of the query's own vector in the mean, where a draft has 1; 0 leaves it out.
        language: The language to write in, for prompts that name one.
        concurrency: Requests at the same time.
        timeout: Seconds for writing the drafts, retries included; None for no limit.
        retries: Further attempts after a temporary failure.
        on_error: "degrade" searches with the plain query and logs a warning; "raise" raises a `StepError`.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {
        "n": "drafts",
        "max_concurrency": "concurrency",
        "include_original": lambda value: {} if value else {"query_weight": 0.0},
    }

    drafts: int = Field(default=4, ge=1, le=64, description="Drafts to generate.")
    query_weight: float = Field(default=1.0, ge=0, description="Weight of the query's own vector.")
    language: str | None = Field(default=None, description="The language to write in.")
    concurrency: int = Field(default=8, ge=1, description="Requests at the same time.")


class StoreOptions(Configured):
    """Where vectors are stored.

    Attributes:
        path: Folder of an embedded store, ":memory:", a server's URL, or the URLs of a cluster's nodes.
        api_key: A server's key. No repr and no serialised form but a pickle holds it.
        collection_name: The collection; made when the first documents are added.
        client_options: Further arguments of the client that is opened (``prefer_grpc``, ``timeout``, ...). Those that
            hold keys (``headers``, ``metadata``, ...) are kept as ``api_key`` is.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {
        "url": "path",
        "location": "path",
        "collection": "collection_name",
        "client_kwargs": "client_options",
        "prefer_grpc": lambda value: {"client_options": {"prefer_grpc": value}},
        "timeout": lambda value: {"client_options": {"timeout": value}},
    }
    known_otherwise: ClassVar[Mapping[str, str]] = {
        "host": "write host and port as a URL: path='http://host:6333'",
        "port": "write host and port as a URL: path='http://host:6333'",
        "aclient": "one client serves synchronous and asynchronous calls; leave it out",
    }

    path: str | Path | list[str] = Field(default=MEMORY, description="Folder, URL, or URLs of a cluster.")
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False, description="A server's key.")
    collection_name: str = Field(default="situate", min_length=1, description="The Qdrant collection.")
    client_options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Further arguments of the client."
    )

    @field_serializer("client_options")
    def _without_keys(self, options: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if not _SECRET_OPTION.search(name)}

    def _opens(self) -> Callable[[], QdrantClient]:
        """The function that opens the client."""
        key = {} if self.api_key is None else {"api_key": self.api_key.get_secret_value()}
        return partial(connect, self.path, **self.client_options, **key)

    def _index_client(self, client: ClientOrOpener) -> ClientOrOpener:
        """The ``client`` for an `Index`, beside ``path``."""
        return self._opens() if client is None and (self.api_key or self.client_options) else client


class RetrieverOptions(Configured):
    """How a query is answered: the settings of `situate.retrievers.Retriever`.

    Attributes:
        expander: Writes further texts to search with (HyDE, multi-query).
        rerankers: Order the hits anew, one after the other.
        threshold: Leave out passages that score lower after the last step.
        k: How many passages, at most.
        candidates: How many are searched for where there is a reranker.
        fuse_texts: How the searches for an expander's texts are fused; None: they make one search.
        on_error: How an optional step fails: "degrade" goes on without it, "raise" raises.
        policy: Timeouts and retries of the optional steps, in place of ``on_error``.
        policies: The same for single steps, by name ("hyde") or kind ("rerank").
        highlight: Mark the spans of each passage that match the query best.
        instruction: The task of every query, for the model and for rerankers that take one; None: the model's own.
        weights: Of further signals by name, in place of those in the index's configuration.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {"similarity_top_k": "k", "score_threshold": "threshold"}
    known_otherwise: ClassVar[Mapping[str, str]] = {
        "top_k": "it is k here",
        "search_type": "expander, rerankers and threshold decide how a query is answered",
        "search_kwargs": "k, filter and threshold are parameters of their own",
    }

    expander: SkipValidation[QueryExpander | None] = None
    rerankers: SkipValidation[Sequence[Reranker]] = ()
    threshold: Threshold | None = None
    k: Count = 10
    candidates: Count = 50
    fuse_texts: TextFusion | None = None
    on_error: OnError = "degrade"
    policy: SkipValidation[StepPolicy | None] = None
    policies: SkipValidation[Mapping[str, StepPolicy] | None] = None
    highlight: bool = False
    instruction: str | None = None
    weights: dict[str, float] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_parts(self.expander, self.rerankers)
        return self

    def _retriever_settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in RetrieverOptions.model_fields}
