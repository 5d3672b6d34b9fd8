"""`SituateEmbeddings`: the encoder as LangChain embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict, PrivateAttr

from situate.integrations._shared.component import Handle, Meaning, PicklesAsConfig
from situate.integrations._shared.settings import DEFAULT_MODEL, EmbedderOptions, only

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder
    from situate.embedders.types import Vectors


class SituateEmbeddings(EmbedderOptions, PicklesAsConfig, Embeddings):
    """Embeds queries and documents, each with the instruction that the model was trained with.

    Cheap to construct and pickled as its configuration: the model is loaded when the first text is embedded, once per
    object and its copies. Calls from many threads and tasks share the model's batches. The texts of `embed_documents`
    are independent of each other: for late chunking pass whole documents to `SituateVectorStore` or
    `SituateDocumentIndex`, which embed a document's chunks together.

    Args:
        model: As below; may be given by position.
        settings: The other attributes.

    Attributes:
        model: Hub id or folder. The default needs no network with the ``offline`` extra. The other settings of the
            model are those of `EmbedderOptions`.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    also_known_as: ClassVar[Mapping[str, Meaning]] = {
        **EmbedderOptions.also_known_as,
        "model_name": "model",
        "show_progress": only("show_progress", False, "no progress is shown while texts are embedded"),
    }

    model: str = DEFAULT_MODEL

    _handle: Handle[Any] = PrivateAttr(default_factory=Handle)

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        given: dict[str, Any] = {} if model is None else {"model": model}
        super().__init__(**given, **settings)

    @classmethod
    def from_embedder(cls, embedder: Embedder) -> Self:
        """Around an existing `Embedder`, so that its model is loaded once."""
        embeddings = cls(str(embedder.fingerprint.get("model", DEFAULT_MODEL)))
        embeddings._handle = Handle(embedder)
        return embeddings

    @property
    def embedder(self) -> Embedder:
        """The embedder underneath."""
        settings = (self.model, self._embedder_settings())
        embedder: Embedder = self._handle.get(settings, lambda: self._made_embedder(self.model))
        return embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, each read as a document of its own. Python floats, L2-normalised."""
        return _floats(self.embedder.embed_documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query. Python floats, L2-normalised."""
        return _floats(self.embedder.embed_queries([text]))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        vectors = await self.embedder.aembed_documents(texts)
        # Making Python objects of a million floats takes a while.
        return await asyncio.to_thread(_floats, vectors) if len(texts) > 64 else _floats(vectors)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        return _floats(await self.embedder.aembed_queries([text]))[0]


def _floats(vectors: Vectors) -> list[list[float]]:
    # Row by row, so that other threads can run in between.
    return [row.tolist() for row in vectors]
