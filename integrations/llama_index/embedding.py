"""`SituateEmbedding`: the encoder as a LlamaIndex embedding."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode

from situate.integrations.llama_index._pickling import PicklesAsConfig
from situate.integrations.llama_index._stamp import Stamp, model_key, remove_stamp

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

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
        dimensions: Keep this many leading dimensions (Matryoshka models), renormalised.
        device: "auto", "cpu", "cuda", "mps".
        dtype: "auto", "float32", "bfloat16", "float16".
        on_overflow: What happens to a text that is longer than the model reads: "warn", "raise" or "window".
        revision: The commit of the hub's repository.
        trust_remote_code: Whether the model's own Python code may run.
        embed_batch_size: Texts handed over at once. The encoder makes its own batches by token count, so this only
            sets how often a progress bar moves.
    """

    model_name: str = Field(default=DEFAULT_MODEL, description="Hub id or folder of the model.")
    embed_batch_size: int = Field(default=2048, gt=0, le=2048, description="Texts handed to the encoder at once.")
    query_instruction: str | None = Field(default=None, description="Written in front of a query.")
    document_instruction: str | None = Field(default=None, description="Written in front of a document.")
    dimensions: int | None = Field(default=None, gt=0, description="Leading dimensions to keep.")
    device: str = Field(default="auto", description="Where the model runs.")
    dtype: str = Field(default="auto", description="What the model computes in.")
    on_overflow: Literal["warn", "raise", "window"] = Field(default="warn", description="Texts that are too long.")
    revision: str | None = Field(default=None, description="Commit of the hub's repository.")
    trust_remote_code: bool = Field(default=False, description="Whether the model's own code may run.")

    _embedder: Any = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateEmbedding"

    @classmethod
    def from_embedder(cls, embedder: Embedder, **settings: Any) -> Self:
        """Around an `Embedder` that exists already, so that its model is loaded once.

        Args:
            embedder: The embedder.
            settings: Further fields of this class (``embed_batch_size``, ``callback_manager``, ...).
        """
        raise NotImplementedError

    @property
    def embedder(self) -> Embedder:
        """The embedder underneath."""
        if self._embedder is None:
            with self._lock:
                if self._embedder is None:
                    self._embedder = self._load()
        embedder: Embedder = self._embedder
        return embedder

    def _load(self) -> Embedder:
        from situate.embedders import Embedder

        return Embedder(
            self.model_name,
            query_instruction=self.query_instruction,
            document_instruction=self.document_instruction,
            dimensions=self.dimensions,
            device=self.device,
            dtype=self.dtype,
            on_overflow=self.on_overflow,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )

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
        if todo := self._unfinished(nodes):
            await super().acall(todo, **kwargs)
        return nodes

    def _unfinished(self, nodes: Sequence[BaseNode]) -> list[BaseNode]:
        todo: list[BaseNode] = []
        for node in nodes:
            stamp = Stamp.read(node)
            if stamp is not None and stamp.model and node.embedding is not None:
                if stamp.holds_for(node, model_key(self.embedder)):
                    continue
                remove_stamp(node)  # it would claim that the vector made now is a late one
            todo.append(node)
        return todo


def _rows(vectors: Any) -> list[list[float]]:
    rows: list[list[float]] = vectors.tolist()
    return rows
