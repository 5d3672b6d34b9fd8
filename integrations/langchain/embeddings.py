"""`SituateEmbeddings`: the encoder as LangChain embeddings."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder
    from situate.embedders.types import Vectors

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class SituateEmbeddings(BaseModel, Embeddings):
    """Embeds queries and documents, each with the instruction that the model was trained with.

    Cheap to construct and pickled as its configuration: the model is loaded when the first text is embedded, once per
    object. Calls from many threads and tasks share the model's batches. The texts of `embed_documents` are independent
    of each other: for late chunking hand whole documents to `SituateVectorStore` or `SituateDocumentIndex`, which know
    what belongs together.

    Attributes:
        model: Hub id or folder. The default needs no network with the ``offline`` extra.
        query_instruction: Written in front of a query; None: what the model's own card says.
        document_instruction: Written in front of a document; None: what the model's own card says.
        dimensions: Keep this many leading dimensions (Matryoshka models), renormalised.
        layers: Run only the model's first so many layers (2D Matryoshka models).
        max_tokens: Tokens that a text is cut to; None: what the model says.
        extension: How a model with rotary positions reads ``max_tokens``, more than it was trained for.
        adapters: Names of LoRA adapters and their folders or hub ids.
        adapter: The one that texts are embedded with.
        device: "auto", "cpu", "cuda", "mps"; a list gives each device a process of its own.
        dtype: "auto", "float32", "bfloat16", "float16".
        on_overflow: What happens to a text that is longer than the model reads: "warn", "raise" or "window".
        revision: The commit of the hub's repository.
        trust_remote_code: Whether the model's own Python code may run.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = DEFAULT_MODEL
    query_instruction: str | None = None
    document_instruction: str | None = None
    dimensions: int | None = Field(default=None, gt=0)
    layers: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)
    extension: Literal["linear", "ntk", "yarn", "self"] | None = None
    adapters: dict[str, str] = Field(default_factory=dict)
    adapter: str | None = None
    device: str | list[str] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    on_overflow: Literal["warn", "raise", "window"] = "warn"
    revision: str | None = None
    trust_remote_code: bool = False

    _embedder: Any = PrivateAttr(default=None)
    _given: bool = PrivateAttr(default=False)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    def from_embedder(cls, embedder: Embedder) -> Self:
        """Around an `Embedder` that exists already, so that its model is loaded once."""
        embeddings = cls(model=str(embedder.fingerprint.get("model", DEFAULT_MODEL)))
        embeddings._embedder = embedder
        embeddings._given = True
        return embeddings

    @property
    def embedder(self) -> Embedder:
        """The embedder underneath."""
        with self._lock:
            if self._embedder is None:
                from situate.embedders import Embedder

                self._embedder = Embedder(
                    self.model,
                    query_instruction=self.query_instruction,
                    document_instruction=self.document_instruction,
                    dimensions=self.dimensions,
                    layers=self.layers,
                    max_tokens=self.max_tokens,
                    extension=self.extension,
                    adapters=self.adapters,
                    adapter=self.adapter,
                    device=self.device,
                    dtype=self.dtype,
                    on_overflow=self.on_overflow,
                    revision=self.revision,
                    trust_remote_code=self.trust_remote_code,
                )
            embedder: Embedder = self._embedder
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
        # A million floats take a while to become Python's.
        return await asyncio.to_thread(_floats, vectors) if len(texts) > 64 else _floats(vectors)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        return _floats(await self.embedder.aembed_queries([text]))[0]

    def __getstate__(self) -> dict[Any, Any]:
        # A lock cannot be pickled, and a loaded model should not be: only an embedder that was handed in travels,
        # which pickles as its own configuration.
        state = super().__getstate__()
        kept = {"_embedder": self._embedder if self._given else None, "_given": self._given}
        return {**state, "__pydantic_private__": kept}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._lock = threading.Lock()


def _floats(vectors: Vectors) -> list[list[float]]:
    # Row by row, so that other threads get their turn in between.
    return [row.tolist() for row in vectors]
