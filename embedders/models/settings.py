"""The settings of an `Embedder`, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, get_args

from situate.embedders.models.adapters import check_name
from situate.embedders.models.extension import Extension
from situate.embedders.models.families import Family
from situate.embedders.models.prompts import PromptFamily
from situate.embedders.models.quantized import Weights
from situate.embedders.models.query_map import SUFFIX
from situate.embedders.models.resolve import DEFAULT_MODEL, LoadOptions, check_flags
from situate.embedders.types import ChunkScheme, DType, Overflow, Pooling, Role, SpanEncoder
from situate.errors import InputError
from situate.parameters import checked_parameters


def check_routing_weight(weight: float) -> float:
    """The weight of a mixture's routing.

    Raises:
        InputError: It is negative, or no number.
    """
    given: Any = weight  # numpy's numbers are Real, and no float
    if isinstance(given, bool) or not isinstance(given, Real):
        raise InputError(f"routing_weight is {weight!r}: it is a number, 0 for none")
    if not 0 <= weight < float("inf"):
        raise InputError(f"routing_weight is {weight}: it is 0 for none, or more (1 weighs both parts alike)")
    return float(weight)


def check_mean_layers(given: Any) -> tuple[int, ...] | None:
    """The layers whose mean is taken.

    Raises:
        InputError: It is no list of different layers.
    """
    if given is None:
        return None
    layers = tuple(given) if isinstance(given, list | tuple) else ()
    numbers = all(isinstance(layer, int) and not isinstance(layer, bool) and layer for layer in layers)
    if not layers or not numbers or len(set(layers)) < len(layers):
        raise InputError(f"mean_layers is {given!r}: give different layers, counted from 1, or from -1 back: (1, -1)")
    return layers


@checked_parameters
@dataclass(frozen=True)
class EmbedderSettings:
    """All that makes an `Embedder`, as one value: ``Embedder.from_settings(settings)`` and ``Embedder.settings``.

    The fields are `Embedder`'s arguments, documented there, with four in one form only: several devices
    are a tuple, adapters are a tuple of names and folders, an extension is an `Extension`, and an embedder for queries
    is its settings.

    Raises:
        InputError: A value is outside its range or none of its choices, an adapter is not among ``adapters``, or a
            setting of the model's own encoder is given together with ``encoder``.
    """

    model: str = DEFAULT_MODEL
    query_instruction: str | None = None
    document_instruction: str | None = None
    task: str | None = None
    scheme: ChunkScheme = field(default_factory=ChunkScheme)
    dimensions: int | None = None
    pooling: Pooling | None = None
    family: Family | None = None
    prompts: PromptFamily | None = None
    layers: int | None = None
    mean_layers: tuple[int, ...] | None = None
    device: str | tuple[str, ...] = "auto"
    dtype: DType = "auto"
    adapters: tuple[tuple[str, str], ...] = ()
    adapter: str | None = None
    query_adapter: str | None = None
    query_model: str | EmbedderSettings | None = None
    bridge: str | None = None
    extension: Extension | None = None
    bidirectional: bool = False
    routing_weight: float = 0.0
    weights: Weights | None = None
    token_heads: bool = False
    max_tokens: int | None = None
    on_overflow: Overflow = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    encoder: SpanEncoder | None = None

    def __post_init__(self) -> None:
        for name in ("dimensions", "layers", "max_tokens"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name} is {number}: ask for 1 or more, or None for all")
        check_flags(self, ("bidirectional", "token_heads", "trust_remote_code", "allow_pickle"))
        choices: tuple[tuple[str, Any], ...] = (
            ("pooling", Pooling),
            ("dtype", DType),
            ("on_overflow", Overflow),
            ("weights", Weights),
        )
        for name, choice in choices:
            value = getattr(self, name)
            if value not in get_args(choice) and not (name in ("pooling", "weights") and value is None):
                raise InputError(f"{name} {value!r} is not one of {', '.join(map(repr, get_args(choice)))}")
        if self.dtype == "int8" and self.weights is not None:
            raise InputError(
                f"dtype='int8' rounds the weights itself, and weights={self.weights!r} stores them otherwise: leave "
                "one of them out"
            )
        object.__setattr__(self, "mean_layers", check_mean_layers(self.mean_layers))
        check_routing_weight(self.routing_weight)
        if self.routing_weight and self.dimensions is not None:
            raise InputError(
                f"dimensions is {self.dimensions}, but with routing_weight a vector is two parts, of which a cut would "
                "take the second first: leave one of them out"
            )
        if self.token_heads and (self.dimensions is not None or self.routing_weight or self.query_model is not None):
            raise InputError(
                "token_heads reads whole states of one model: leave dimensions, routing_weight and query_model out"
            )
        if not self.device:
            raise InputError("device is an empty list: name at least one device, or 'auto'")
        for adapter in (self.adapter, None if self.query_map else self.query_adapter):
            check_name(adapter, dict(self.adapters))
        self._check_query_model()
        if self.encoder is not None and self.changes:
            raise InputError(
                f"{', '.join(self.changes)} belong to the model's own Encoder, but encoder={self.encoder!r} takes "
                "its place: pass them to that encoder"
            )

    def _check_query_model(self) -> None:
        if self.query_model is None:
            if self.bridge is not None:
                raise InputError(f"bridge {self.bridge!r} takes the vectors of query_model: give that one, too")
            return
        if self.query_adapter is not None:
            raise InputError(
                f"query_adapter {self.query_adapter!r} is an adapter of {self.model!r}, but queries are embedded with "
                "query_model: give that one as an Embedder with an adapter of its own"
            )
        if isinstance(self.query_model, EmbedderSettings):
            if self.query_model.query_model is not None:
                raise InputError("query_model has a query_model of its own: give the last one")
            if self.query_instruction is not None:
                raise InputError(
                    f"query_instruction {self.query_instruction!r} is given beside an Embedder as query_model: give "
                    "it to that embedder"
                )

    @property
    def querier(self) -> EmbedderSettings | None:
        """The settings of the embedder for queries, where they have a model of their own."""
        if self.query_model is None or isinstance(self.query_model, EmbedderSettings):
            return self.query_model
        return EmbedderSettings(
            self.query_model,
            query_instruction=self.query_instruction,
            task=self.task,
            dimensions=self.dimensions,
            device=self.device,
            dtype=self.dtype,
            on_overflow=self.on_overflow,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )

    @property
    def documents(self) -> EmbedderSettings:
        """The settings of the model for documents alone."""
        if self.query_model is None:
            return self
        told = not isinstance(self.query_model, EmbedderSettings)  # of the query, if its model is named alone
        return replace(self, query_model=None, bridge=None, query_instruction=None, task=None if told else self.task)

    @property
    def changes(self) -> list[str]:
        """The settings that change the vectors by how the model runs."""
        changed = ["dtype"] if self.dtype == "int8" else []
        return changed + [
            name
            for name in (
                "prompts",
                "layers",
                "mean_layers",
                "adapters",
                "extension",
                "bidirectional",
                "routing_weight",
                "weights",
                "token_heads",
            )
            if getattr(self, name)
        ]

    @property
    def load_options(self) -> LoadOptions:
        """How the model's files are read."""
        return LoadOptions(self.revision, self.trust_remote_code, self.allow_pickle)

    @property
    def query_map(self) -> str | None:
        """The file of the linear map that ``query_adapter`` names; None where it names a LoRA, or nothing."""
        name = self.query_adapter
        return name if name is not None and name.endswith(SUFFIX) and name not in dict(self.adapters) else None

    def adapter_for(self, role: Role) -> str | None:
        """The adapter that texts of ``role`` are embedded with: the documents' where queries have none of their own."""
        own = None if self.query_map else self.query_adapter
        return self.adapter if role == "document" or own is None else own
