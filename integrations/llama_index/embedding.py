"""`SituateEmbedding`: the encoder as a LlamaIndex embedding."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr, model_validator
from llama_index.core.schema import BaseNode
from llama_index.core.settings import Settings

from situate.embedders.fingerprints import differences
from situate.errors import InputError
from situate.integrations._shared.component import Handle, Meaning, PicklesAsConfig
from situate.integrations._shared.settings import DEFAULT_MODEL, EmbedderOptions
from situate.integrations.llama_index.nodes import forget_vector, holds_for, model_key, read_origin

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder


class SituateEmbedding(EmbedderOptions, PicklesAsConfig, BaseEmbedding):
    """Embeds queries and documents, each with the instruction that the model was trained with.

    Cheap to construct, and pickled as its configuration: the model is loaded when the first text is embedded, once
    per object and its copies. In an ingestion pipeline it skips the nodes whose vector `LateChunkingNodeParser` made
    with the same model; as ``embed_model`` of a `VectorStoreIndex` it embeds queries (and nodes without a vector) in
    the same space.

    Args:
        model_name: As below; may be given by position.
        settings: The other attributes.

    Attributes:
        model_name: Hub id or folder. The default needs no network with the ``offline`` extra. The other settings of
            the model are those of `EmbedderOptions`.
        fingerprint: Set by `from_embedder`, so that configurations of different embedders never look alike.
        embed_batch_size: Texts per call. The encoder makes its own batches by token count, so this only
            sets how often a progress bar moves.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {**EmbedderOptions.also_known_as, "model": "model_name"}

    model_name: str = Field(default=DEFAULT_MODEL, description="Hub id or folder of the model.")
    embed_batch_size: int = Field(default=2048, gt=0, le=2048, description="Texts per call of the encoder.")
    fingerprint: dict[str, Any] | None = Field(default=None, description="Of the given embedder.")

    _handle: Handle[Any] = PrivateAttr(default_factory=Handle)

    def __init__(self, model_name: str | None = None, **settings: Any) -> None:
        given: dict[str, Any] = {} if model_name is None else {"model_name": model_name}
        super().__init__(**given, **settings)

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateEmbedding"

    @classmethod
    def from_embedder(cls, embedder: Embedder, **settings: Any) -> Self:
        """Around any `Embedder` (over a server, with a family of one's own, ...).

        Args:
            embedder: The embedder. It is pickled along, as its configuration.
            settings: Fields of LlamaIndex's own (``embed_batch_size``, ``callback_manager``, ...).
        """
        made = cls(model_name=embedder.model, fingerprint=embedder.query_fingerprint, **settings)
        made._handle = Handle(embedder)
        return made

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        if self.embeddings_cache is not None:
            known = self.embedder.query_fingerprint
            read = [
                (known[f"{role}_instruction"] or "", known[f"{role}_suffix"] or "") for role in ("query", "document")
            ]
            if read[0] != read[1] or known.keys() & {"query_adapter", "query_model"}:
                raise InputError(
                    f"{self.model_name!r} embeds queries and documents differently, but embeddings_cache keeps both "
                    "under the bare text, so that a query would get a document's vector: leave embeddings_cache out"
                )
        return self

    @property
    def embedder(self) -> Embedder:
        """The embedder underneath."""
        embedder: Embedder = self._handle.get((self.model_name, self._embedder_settings()), self._made)
        return embedder

    def _made(self) -> Embedder:
        embedder = self._made_embedder(self.model_name)
        if self.fingerprint is not None and self.fingerprint != embedder.query_fingerprint:
            raise InputError(
                f"this SituateEmbedding was made from an Embedder on {self.model_name!r} that its fields do not "
                f"describe, with {differences(self.fingerprint, embedder.query_fingerprint)}: make it again with "
                "SituateEmbedding.from_embedder(...)"
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
            origin = read_origin(node)
            if origin is not None and origin.model:
                model = model if model is not None else model_key(self.embedder)
                if holds_for(origin, node, model):
                    continue
                forget_vector(node)  # it would mark the new vector as a late one
            todo.append(node)
        return todo


def default_embedding() -> SituateEmbedding:
    """``Settings.embed_model``, for a component without an embedding model of its own.

    Raises:
        InputError: It is an embedding of another class, which cannot embed chunks inside their document.
    """
    chosen = Settings._embed_model
    if chosen is None:
        return SituateEmbedding()
    if isinstance(chosen, SituateEmbedding):
        return chosen
    raise InputError(
        f"Settings.embed_model is a {type(chosen).__name__}, which gives one vector per text: pass "
        "embed_model=SituateEmbedding(...) here, and give the index that answers queries the same one"
    )


def _rows(vectors: Any) -> list[list[float]]:
    rows: list[list[float]] = vectors.tolist()
    return rows
