"""situate's encoder and pipeline as models of MTEB (Muennighoff et al. 2023), so that any of its tasks can be run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import MissingExtraError, StorageError
from situate.parameters import checked_parameters
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.index import Index
from situate.retrievers.retriever import Retriever
from situate.retrievers.types import Reranker
from situate.types import Chunker, Document

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder


@checked_parameters
class MtebEncoder:
    """An `Embedder` as MTEB's ``EncoderProtocol``: queries as queries, everything else as documents.

    Args:
        embedder: The embedder.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    @property
    def mteb_model_meta(self) -> Any:
        """MTEB's ``ModelMeta``.

        Raises:
            MissingExtraError: mteb is not installed.
        """
        return _meta(self.embedder, self.embedder.model)

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **_: Any) -> Vectors:
        """float32 ``[texts, dimension]`` of MTEB's batches; its further arguments only describe the task."""
        texts = [text for batch in inputs for text in batch["text"]]
        as_query = getattr(prompt_type, "value", prompt_type) == "query"
        return self.embedder.embed_queries(texts) if as_query else self.embedder.embed_documents(texts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """float32 ``[first, second]``: dot products."""
        products: Vectors = np.atleast_2d(np.asarray(embeddings1)) @ np.atleast_2d(np.asarray(embeddings2)).T
        return products

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """float32 ``[pairs]``: dot products."""
        product: Vectors = np.sum(np.asarray(embeddings1) * np.asarray(embeddings2), axis=-1)
        return product


@checked_parameters
class MtebSearch:
    """An `Index` and `Retriever` as MTEB's ``SearchProtocol``: the whole pipeline is measured.

    A document scores as its best chunk.

    Args:
        embedder: Makes the vectors.
        config: The pipeline; `PipelineConfig.fast` by default.
        chunker: As of `Index`.
        rerankers: As of `Retriever`.
    """

    def __init__(
        self,
        embedder: Embedder,
        config: PipelineConfig | None = None,
        *,
        chunker: Chunker | None = None,
        rerankers: Sequence[Reranker] = (),
    ) -> None:
        self.embedder = embedder
        self.config = config
        self.chunker = chunker
        self.rerankers = tuple(rerankers)
        self._index: Index | None = None

    @property
    def mteb_model_meta(self) -> Any:
        """MTEB's ``ModelMeta``; the model's name ends in "-situate", since not the model alone scores.

        Raises:
            MissingExtraError: mteb is not installed.
        """
        return _meta(self.embedder, f"{self.embedder.model}-situate")

    def index(self, corpus: Iterable[Mapping[str, Any]], **_: Any) -> None:
        """Index a corpus in memory, in place of the one before. MTEB's further arguments only describe the task."""
        if self._index is not None:
            self._index.close()
        self._index = Index(self.embedder, config=self.config, chunker=self.chunker)
        self._index.add(_document(row) for row in corpus)

    def search(
        self, queries: Iterable[Mapping[str, Any]], *, top_k: int, top_ranked: Mapping[str, Any] | None = None, **_: Any
    ) -> dict[str, dict[str, float]]:
        """Query id -> document id -> score, of the best ``top_k`` documents (of ``top_ranked``, in reranking tasks).

        Raises:
            StorageError: Nothing was indexed.
        """
        if self._index is None:
            raise StorageError("nothing is indexed yet: MTEB calls index() before search()")
        retriever = Retriever(self._index, rerankers=self.rerankers, candidates=top_k)
        found: dict[str, dict[str, float]] = {}
        for row in queries:
            scores: dict[str, float] = {}
            # Several chunks of one document count once, so the search returns more chunks than documents.
            for hit in retriever.retrieve(row["text"], k=2 * top_k, filter=_only(top_ranked, row["id"])):
                scores.setdefault(hit.chunk.document_id, hit.score)
            found[row["id"]] = dict(list(scores.items())[:top_k])
        return found


def _document(row: Mapping[str, Any]) -> Document:
    title = row.get("title") or ""
    text = row.get("text") or row.get("body") or ""
    return Document(row["id"], f"{title} {text}".strip(), {"title": title} if title else {})


def _only(top_ranked: Mapping[str, Any] | None, query_id: str) -> Any:
    if top_ranked is None:
        return None
    from situate.retrievers.index.collection import in_documents

    return in_documents(list(top_ranked[query_id]))


def _meta(embedder: Embedder, name: str) -> Any:
    try:
        from mteb.models import ModelMeta
    except ImportError as error:
        raise MissingExtraError.of("mteb", "mteb", "running MTEB's tasks") from error
    about = {
        "name": name if "/" in name else f"situate/{name}",
        "revision": str(embedder.fingerprint["revision"] or "unknown"),
        "embed_dim": embedder.dimension,
        "max_tokens": embedder.max_tokens,
        "similarity_fn_name": embedder.similarity,
    }
    return ModelMeta.create_empty(about)
