"""The sections of a configuration: embedding model, store, steps, language model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from situate.configuration.components import EmbedderOptions, ExpanderOptions, RerankerOptions
from situate.configuration.options import Section
from situate.configuration.yaml_file import VARIABLE
from situate.embedders.models.prompts import PromptFamily
from situate.embedders.models.resolve import DEFAULT_MODEL
from situate.embedders.models.settings import EmbedderSettings
from situate.embedders.remote.generator import OpenAIGenerator
from situate.embedders.remote.openai import OPENAI_URL
from situate.errors import InputError
from situate.outside import Secret
from situate.retrievers.retriever import RetrieverSettings
from situate.retrievers.storage.connect import connect, server_urls

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from situate.embedders.embedder import Embedder
    from situate.embedders.types import SpanEncoder

#: Where documents are stored without a configuration.
DEFAULT_STORE = ".situate"
#: Where the chat application keeps files and conversations without a configuration.
DEFAULT_CHAT = ".situate-chat"
#: Keys of a configuration that hold keys of servers.
SECRETS = frozenset({"api_key"})

#: A key is never written into the file: the environment variable that holds it is named, as ``${NAME}``.
EnvironmentKey = Annotated[str, StringConstraints(pattern=f"^{VARIABLE.pattern}$")]

_EmbedderOptions: Any = EmbedderOptions


class ServerSettings(Section):
    """A server that runs the embedding model.

    Attributes:
        kind: Its interface: "openai", "tei" (text-embeddings-inference) or "vllm".
        url: Its address; for "openai" up to and including ``/v1``.
        api_key: ``${NAME}`` of the environment variable that holds the key.
        batch_size: Texts per request; None: the encoder's own number.
        timeout: Seconds for one try of a request.
        retries: Further tries after a temporary failure.
        concurrency: Requests under way at once.
        key_over_http: Send the key to another machine over ``http://`` too.
    """

    kind: Literal["openai", "tei", "vllm"]
    url: str
    api_key: EnvironmentKey | None = None
    batch_size: int | None = Field(default=None, ge=1)
    timeout: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0)
    concurrency: int = Field(default=4, ge=1)
    key_over_http: bool = False

    def encoder(self, model: str) -> SpanEncoder:
        """The encoder that asks the server."""
        from situate.embedders import OpenAIEncoder, TEIEncoder, VLLMEncoder

        http: dict[str, Any] = {
            "api_key_env": _variable(self.api_key),
            "timeout": self.timeout,
            "retries": self.retries,
            "concurrency": self.concurrency,
            "key_over_http": self.key_over_http,
        }
        if self.batch_size is not None:
            http["batch_size"] = self.batch_size
        if self.kind == "tei":
            return TEIEncoder(self.url, **http)
        return (OpenAIEncoder if self.kind == "openai" else VLLMEncoder)(model, self.url, **http)


class ModelSettings(_EmbedderOptions):  # type: ignore[misc]  # made of the parameters of an Embedder
    """The embedding model: the parameters of an `Embedder`.

    Attributes:
        name: A model folder or hub id.
        server: The server that runs it; None: this process.
    """

    short_form: ClassVar[Mapping[str, Any]] = {"type": "string"}

    name: str = DEFAULT_MODEL
    server: ServerSettings | None = None

    @classmethod
    def _written(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _makes_a_value(self) -> Self:
        # Refuses what contradicts itself, with its line.
        made = {"adapters": tuple((self.adapters or {}).items()), "extension": None}
        EmbedderSettings(**{**self.given(), **made, "prompts": PromptFamily.of(self.prompts)})
        return self

    def given(self) -> dict[str, Any]:
        """The parameters of the `Embedder` that are set."""
        return {name: value for name, value in super().given().items() if name not in ("name", "server")}

    def embedder(self) -> Embedder:
        """The embedder."""
        from situate.embedders import Embedder

        encoder = None if self.server is None else self.server.encoder(self.name)
        return Embedder(self.name, encoder=encoder, **self.given())


class StoreSettings(Section):
    """Where documents are stored.

    Attributes:
        path: A folder, or ":memory:"; a relative one lies beside the configuration.
        url: A server's URL, or those of a cluster's nodes, in place of ``path``.
        api_key: ``${NAME}`` of the environment variable that holds the server's key.
        collection: The collection.
        options: Further arguments of the client (``timeout``, ``prefer_grpc``).
    """

    short_form: ClassVar[Mapping[str, Any]] = {"type": "string"}

    path: str = Field(default=DEFAULT_STORE, min_length=1)
    url: str | tuple[str, ...] | None = None
    api_key: EnvironmentKey | None = None
    collection: str = Field(default="situate", pattern=r"^[\w.-]{1,200}$")
    options: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def _written(cls, values: Any) -> Any:
        return {"url" if "://" in values else "path": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.url is not None and "path" in self.model_fields_set:
            raise ValueError("path and url are two places: give one of them")
        if self.url is None and "://" in self.path:
            raise ValueError("path is a folder: write a server's address as url")
        if self.url is None and self.api_key is not None:
            raise ValueError("api_key is a server's: a folder has none")
        if self.url is not None:
            server_urls(self.url if isinstance(self.url, str) else list(self.url))
        return self

    @property
    def folder(self) -> Path | None:
        """The folder of an embedded store; None for a server, or memory."""
        return None if self.url is not None or self.path == ":memory:" else Path(self.path)

    def opener(self) -> partial[QdrantClient]:
        """The function that opens the client; the key is read when it is called."""
        target = self.path if self.url is None else self.url if isinstance(self.url, str) else list(self.url)
        return partial(_opened, target, _variable(self.api_key), dict(self.options))


class LanguageModelSettings(Section):
    """A language model on any server with OpenAI's interface.

    Attributes:
        model: Its name on the server.
        url: The address up to and including ``/v1``.
        api_key: ``${NAME}`` of the environment variable that holds the key.
        temperature: None: the server's own.
        max_tokens: Tokens of an answer, at most; None: the server's own.
        timeout: Seconds for one answer, and for each piece of a stream.
        retries: Further tries after a temporary failure.
        concurrency: Requests of one call under way at once.
        request: Further fields of each request.
        key_over_http: Send the key to another machine over ``http://`` too.
    """

    model: str = Field(min_length=1)
    url: str = OPENAI_URL
    api_key: EnvironmentKey | None = None
    temperature: float | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    timeout: float = Field(default=60.0, gt=0)
    retries: int = Field(default=2, ge=0)
    concurrency: int = Field(default=8, ge=1)
    request: dict[str, Any] = Field(default_factory=dict)
    key_over_http: bool = False

    @model_validator(mode="after")
    def _makes_a_value(self) -> Self:
        self.generator()
        return self

    def generator(self) -> OpenAIGenerator:
        """The language model; no request is made."""
        return OpenAIGenerator(
            self.model,
            self.url,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            request=self.request,
            api_key_env=_variable(self.api_key),
            timeout=self.timeout,
            retries=self.retries,
            concurrency=self.concurrency,
            key_over_http=self.key_over_http,
        )


class StepSettings(Section):
    """How a query is answered: the parameters of a `Retriever`.

    Attributes:
        expander: Writes further texts to search with.
        rerankers: Order the hits anew, one after the other.
        k: How many hits, at most.
        candidates: How many are searched for where there is a reranker.
        fuse_texts: How the searches for an expander's texts are fused.
        threshold: Leave out hits of less relevance.
        on_error: How an optional step fails.
        highlight: Mark the spans of each hit that match the query best.
        instruction: The task of every query, for the model and for rerankers that take one.
    """

    expander: ExpanderOptions | None = None
    rerankers: tuple[RerankerOptions, ...] = ()
    k: int = Field(default=10, ge=1)
    candidates: int = Field(default=50, ge=1)
    fuse_texts: Literal["rrf", "minmax", "dbsf"] | None = None
    threshold: float | None = None
    on_error: Literal["degrade", "raise"] = "degrade"
    highlight: bool = False
    instruction: str | None = None

    def settings(self) -> RetrieverSettings:
        """The settings of the retriever, beside its expander and its rerankers."""
        return RetrieverSettings(**{name: getattr(self, name) for name in _STEP_NAMES})


class TenantSettings(Section):
    """A tenant of the chat application.

    Attributes:
        api_key: ``${NAME}`` of the environment variable that holds the tenant's key.
    """

    api_key: EnvironmentKey

    def key(self) -> Secret:
        """The key.

        Raises:
            InputError: The variable is not set.
        """
        name = _variable(self.api_key) or ""
        if not (key := os.environ.get(name)):
            raise InputError(f"a tenant's key is in the environment variable {name}, which is not set")
        return Secret(key)


class ChatSettings(Section):
    """The chat application.

    Attributes:
        folder: Where uploaded files and conversations are kept; a relative one lies beside the configuration.
        tenants: Who may use it, each with documents and a key of its own; none: anyone on this machine.
        hosts: The names by which a browser may reach an application without tenants.
        relevance: Passages of less relevance are no source.
        passages: Passages that an answer is written from, at most.
        title: The page's title.
        sources: Folders below which PDFs lie that `situate index` read, so that citations show their pages; relative
            ones lie beside the configuration. None: the folder in which the store lies.
    """

    folder: str = Field(default=DEFAULT_CHAT, min_length=1)
    tenants: dict[str, TenantSettings] = Field(default_factory=dict)
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    relevance: float = Field(default=0.5, ge=0, le=1)
    passages: int = Field(default=6, ge=1, le=20)
    title: str = "Situate"
    sources: tuple[str, ...] | None = None


_STEP_NAMES = ("k", "candidates", "fuse_texts", "threshold", "on_error", "highlight", "instruction")


def _opened(target: Any, variable: str | None, options: dict[str, Any]) -> QdrantClient:
    key = {} if variable is None else {"api_key": os.environ.get(variable)}
    if key and not key["api_key"]:
        raise InputError(f"the store's key is in the environment variable {variable}, which is not set")
    return connect(target, **options, **key)


def _variable(reference: str | None) -> str | None:
    """The name in ``${NAME}``."""
    return None if reference is None else reference[2:-1]
