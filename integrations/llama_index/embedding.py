"""`SituateEmbedding`: the encoder as a LlamaIndex embedding."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr, model_validator
from llama_index.core.schema import BaseNode

from situate.embedders.types import OnOverflow, Pooling
from situate.errors import InputError
from situate.integrations.llama_index.origin import Stamp, model_key, remove_stamp
from situate.integrations.llama_index.pickling import PicklesAsConfig

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

DType: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class SituateEmbedding(PicklesAsConfig, BaseEmbedding):
    """Embeds queries and documents, each with the instruction that the model was trained with.

    Cheap to construct, and pickled as its configuration: the model is loaded when the first text is embedded, once
    per object. In an ingestion pipeline it leaves alone the nodes whose vector `LateChunkingNodeParser` made with the
    same model; handed to `VectorStoreIndex` as ``embed_model`` it embeds queries (and nodes without a vector) in the
    same space.

    Attributes:
        model_name: Hub id or folder. The default needs no network with the ``offline`` extra.
        query_instruction: Written in front of a query; None: what the model's own card says.
        document_instruction: Written in front of a document; None: what the model's own card says.
        task: The task that the query instruction names, for models that take one.
        dimensions: Keep this many leading dimensions (Matryoshka models), renormalised.
        pooling: How token vectors become one; None: what the model says.
        max_tokens: Tokens that a text is cut to; None: what the model says.
        layers: Run only the model's first so many layers (2D Matryoshka models).
        extension: How a model with rotary positions reads ``max_tokens``, more than it was trained for.
        adapters: Names of LoRA adapters and their folders or hub ids.
        adapter: The one that texts are embedded with.
        device: "auto", or a torch device; a list gives each device a process of its own.
        dtype: "auto", "float32", "bfloat16" or "float16".
        on_overflow: What happens to a text that is longer than the model reads: "warn", "raise" or "window".
        revision: Branch, tag or commit of the hub's repository.
        trust_remote_code: Whether the model's own Python code may run.
        allow_pickle: Whether pickled weights, which can run any code, may be read.
        fingerprint: Set by `from_embedder`, so that configurations of different embedders never look alike.
        embed_batch_size: Texts handed over at once. The encoder makes its own batches by token count, so this only
            sets how often a progress bar moves.
    """

    model_name: str = Field(default=DEFAULT_MODEL, description="Hub id or folder of the model.")
    embed_batch_size: int = Field(default=2048, gt=0, le=2048, description="Texts handed to the encoder at once.")
    query_instruction: str | None = Field(default=None, description="Written in front of a query.")
    document_instruction: str | None = Field(default=None, description="Written in front of a document.")
    task: str | None = Field(default=None, description="The task that the query instruction names.")
    dimensions: int | None = Field(default=None, gt=0, description="Leading dimensions to keep.")
    pooling: Pooling | None = Field(default=None, description="How token vectors become one.")
    max_tokens: int | None = Field(default=None, gt=0, description="Tokens that a text is cut to.")
    layers: int | None = Field(default=None, gt=0, description="First layers to run.")
    extension: Literal["linear", "ntk", "yarn", "self"] | None = Field(
        default=None, description="How longer texts than trained are read."
    )
    adapters: dict[str, str] = Field(default_factory=dict, description="Names of adapters and where they are.")
    adapter: str | None = Field(default=None, description="The adapter to embed with.")
    device: str | list[str] = Field(default="auto", description="Where the model runs.")
    dtype: DType = Field(default="auto", description="Format of the weights.")
    on_overflow: OnOverflow = Field(default="warn", description="What happens to texts that are too long.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of the hub's repository.")
    trust_remote_code: bool = Field(default=False, description="Whether the model's own code may run.")
    allow_pickle: bool = Field(default=False, description="Whether pickled weights may be read.")
    fingerprint: dict[str, Any] | None = Field(default=None, description="Of the embedder that was handed in.")

    _embedder: Any = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateEmbedding"

    @classmethod
    def from_embedder(cls, embedder: Embedder, **settings: Any) -> Self:
        """Around an `Embedder` of any making (over a server, with a family of one's own, ...).

        Args:
            embedder: The embedder. It is pickled along, as its configuration.
            settings: Fields of LlamaIndex's own (``embed_batch_size``, ``callback_manager``, ...).
        """
        made = cls(model_name=embedder.model, fingerprint=embedder.query_fingerprint, **settings)
        made._embedder = embedder
        return made

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        if self.embeddings_cache is not None:
            known = self.embedder.query_fingerprint
            read = [
                (known[f"{role}_instruction"] or "", known[f"{role}_suffix"] or "") for role in ("query", "document")
            ]
            if read[0] != read[1] or "query_adapter" in known:
                raise InputError(
                    f"{self.model_name!r} embeds queries and documents differently, but embeddings_cache keeps both "
                    "under the bare text, so that a query would get a document's vector: leave embeddings_cache out"
                )
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        # An embedder that was handed in cannot be made again from the fields; it pickles as its own configuration.
        return {**state, "embedder": self._embedder if self.fingerprint is not None else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._embedder = state["embedder"]

    @property
    def embedder(self) -> Embedder:
        """The embedder underneath."""
        if self._embedder is None:
            with self._lock:
                if self._embedder is None:
                    self._embedder = self._made()
        embedder: Embedder = self._embedder
        return embedder

    def _made(self) -> Embedder:
        from situate.embedders import Embedder

        embedder = Embedder(
            self.model_name,
            query_instruction=self.query_instruction,
            document_instruction=self.document_instruction,
            task=self.task,
            dimensions=self.dimensions,
            pooling=self.pooling,
            max_tokens=self.max_tokens,
            layers=self.layers,
            extension=self.extension,
            adapters=self.adapters,
            adapter=self.adapter,
            device=self.device,
            dtype=self.dtype,
            on_overflow=self.on_overflow,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )
        if self.fingerprint is not None and self.fingerprint != embedder.query_fingerprint:
            raise InputError(
                f"this SituateEmbedding was made from an Embedder on {self.model_name!r} that its fields do not "
                "describe: make it again with SituateEmbedding.from_embedder(...)"
            )
        return embedder

    # -- BaseEmbedding ------------------------------------------------------------------------------------------

    def _get_query_embedding(self, query: str) -> list[float]:
        return _rows(self.embedder.embed_queries([query]))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return _rows(await self.embedder.aembed_queries([query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _rows(self.embedder.embed_documents(texts))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _rows(await self.embedder.aembed_documents(texts))

    # -- as a step of an IngestionPipeline ----------------------------------------------------------------------

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed the nodes that do not carry a late vector of this model already."""
        if todo := self._unfinished(nodes):
            super().__call__(todo, **kwargs)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """`__call__` without blocking the event loop."""
        if todo := await asyncio.to_thread(self._unfinished, nodes):
            await super().acall(todo, **kwargs)
        return nodes

    def _unfinished(self, nodes: Sequence[BaseNode]) -> list[BaseNode]:
        todo: list[BaseNode] = []
        model: str | None = None
        for node in nodes:
            stamp = Stamp.read(node)
            if stamp is not None and stamp.model:
                model = model if model is not None else model_key(self.embedder)
                if stamp.holds_for(node, model):
                    continue
                remove_stamp(node)  # it would claim that the vector made now is a late one
            todo.append(node)
        return todo


def _rows(vectors: Any) -> list[list[float]]:
    rows: list[list[float]] = vectors.tolist()
    return rows
