"""Late interaction: every token of the query is matched with the most similar one of the passage (MaxSim).

Khattab and Zaharia 2020, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction".
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from cachetools import LRUCache

from situate.embedders.types import Vectors
from situate.errors import InputError, ModelError
from situate.parameters import checked_parameters
from situate.retrievers.index.payload import STATE, TOKENS
from situate.retrievers.pipeline.concurrency import model_limit
from situate.retrievers.pipeline.steps import note
from situate.retrievers.rerank.ranking import ModelReranker, RerankSettings, passage
from situate.retrievers.signals.tokens import read_tokens
from situate.retrievers.types import Hit
from situate.threads import renew_after_fork
from situate.vectors import check_finite

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


class TokenEmbedder(Protocol):
    """The part of an `Embedder` that gives a vector per token; a `MultiVectorEmbedder` has it too."""

    def embed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """Per text float32 ``[tokens, dimension]``, rows L2-normalised."""
        ...

    async def aembed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_query_tokens` without blocking the event loop."""
        ...

    def embed_document_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """Per text float32 ``[tokens, dimension]``, rows L2-normalised."""
        ...

    async def aembed_document_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_document_tokens` without blocking the event loop."""
        ...


class TokenSource(Protocol):
    """A source of stored token vectors."""

    def __call__(self, hits: Sequence[Hit]) -> Mapping[str, Vectors]:
        """By chunk id, float32 ``[tokens, dimension]``, of those hits that have any."""
        ...


@checked_parameters
class StoredTokens:
    """Token vectors out of a collection that was indexed with them (``PipelineConfig.token_vectors``, or `Tokens`).

    Args:
        client: Any Qdrant client.
        collection: The collection's name.
    """

    def __init__(self, client: QdrantClient, collection: str = "situate") -> None:
        self.client = client
        self.collection = collection

    def __call__(self, hits: Sequence[Hit]) -> Mapping[str, Vectors]:
        """By chunk id, float32 ``[tokens, dimension]``."""
        from qdrant_client import models

        ids = [hit.chunk.id for hit in hits]
        chosen = models.Filter(must=[models.FieldCondition(key="chunk_id", match=models.MatchAny(any=ids))])
        found: dict[str, Vectors] = {}
        offset: Any = None
        while True:
            records, offset = self.client.scroll(
                self.collection,
                scroll_filter=chosen,
                limit=max(1, 2 * len(ids)),
                offset=offset,
                with_payload=["chunk_id", STATE],
                with_vectors=[TOKENS],
            )
            for record in records:
                payload = record.payload or {}
                if payload.get(STATE) is None and isinstance(record.vector, dict) and TOKENS in record.vector:
                    rows = np.asarray(record.vector[TOKENS], dtype=np.float32)
                    found[payload["chunk_id"]] = read_tokens(rows)
            if offset is None:
                return found


@checked_parameters
class LateInteractionReranker(ModelReranker):
    """Orders hits by MaxSim over token vectors. Needs no weights beside the embedder's.

    The score is the mean over the query's tokens of each one's best cosine in the passage, in [-1, 1]; ColBERT's sum
    divided by the number of tokens, so that long and short queries can share a threshold. Token vectors of passages
    come from ``stored`` where it has them, else from memory, else from the embedder.

    Args:
        embedder: Gives token vectors: an `Embedder`, or a trained late-interaction model.
        stored: Where token vectors may be stored already.
        prior: Share of the score that the hits came with, in [0, 1]. Both are stretched to [0, 1] over the hits of
            the query first; 0 ranks by MaxSim alone.
        context: `Context` fields that are read in front of the passage.
        top: Only the first so many hits are judged; None for all.
        memory: Bytes of passages' token vectors (float16) to keep for the next query; 0 for none.
        name: The step's name, under which the score is noted.

    Raises:
        InputError: ``prior`` is not in [0, 1], ``top`` is less than 1, or ``memory`` is negative.
    """

    def __init__(
        self,
        embedder: TokenEmbedder,
        *,
        stored: TokenSource | None = None,
        prior: float = 0.0,
        context: Sequence[str] = (),
        top: int | None = None,
        memory: int = 64 * 2**20,
        name: str = "maxsim",
    ) -> None:
        if memory < 0:
            raise InputError(f"memory={memory} bytes must be 0 or more")
        self.settings = RerankSettings(name, tuple(context), prior, top)
        self.embedder = embedder
        self.stored = stored
        self.memory = memory
        self.name = name
        self._kept = _Kept(memory)
        self._limit = model_limit(self.embedder, 1)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._kept = _Kept(self.memory)

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits, best first. An empty query orders nothing.

        Raises:
            ConventionError: The embedder's model has no token vectors.
            NonFiniteVectorError: A vector holds NaN or infinity.
        """
        found, judged = self.settings.judged(query, hits)
        if not judged:
            return found
        known, missing = self._known(judged)
        new = self.embedder.embed_document_tokens(missing) if missing else []
        return self._ranked(found, judged, self.embedder.embed_query_tokens([query])[0], known, missing, new)

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank` without blocking the event loop."""
        found, judged = self.settings.judged(query, hits)
        if not judged:
            return found
        async with self._limit.slot():
            if self._limit.at_once == 1:
                # one after the other, because the next one reuses the token vectors that this one has made
                return await self._limit.in_thread(lambda: self.rerank(query, found))
            known, missing = await self._limit.in_thread(lambda: self._known(judged))
            new = await self.embedder.aembed_document_tokens(missing) if missing else []
            tokens = (await self.embedder.aembed_query_tokens([query]))[0]
            return await self._limit.in_thread(lambda: self._ranked(found, judged, tokens, known, missing, new))

    def _known(self, hits: Sequence[Hit]) -> tuple[dict[str, Vectors], list[str]]:
        """Token vectors by passage, and the passages that have none yet."""
        stored = self.stored(hits) if self.stored else {}
        known: dict[str, Vectors] = {}
        missing: dict[str, None] = {}
        for hit in hits:
            text = passage(hit, self.settings.context)
            vectors = stored.get(hit.chunk.id)
            if vectors is None:
                vectors = self._kept.get(text)
            if vectors is None:
                missing[text] = None
            else:
                known[text] = vectors
        return known, list(missing)

    def _ranked(
        self,
        hits: list[Hit],
        judged: list[Hit],
        query: Vectors,
        known: dict[str, Vectors],
        missing: list[str],
        new: list[Vectors],
    ) -> list[Hit]:
        if len(new) != len(missing):
            raise ModelError(f"{len(missing)} passages were embedded and {len(new)} results returned")
        for text, vectors in zip(missing, new, strict=True):
            known[text] = vectors
            self._kept.put(text, vectors)
        matrices = [known[passage(hit, self.settings.context)] for hit in judged]
        note(query_tokens=len(query), tokens=sum(map(len, matrices)), encoded=len(missing))
        scores = maxsim(query, matrices) / max(1, len(query))
        if not len(query):
            return hits
        found = [score if len(matrix) else None for score, matrix in zip(scores.tolist(), matrices, strict=True)]
        return self.settings.ranked(hits, judged, found)


def maxsim(query: Vectors, passages: Sequence[Vectors]) -> Vectors:
    """Per passage, the sum over the query's tokens of the largest dot product with one of the passage's tokens.

    Args:
        query: float32 ``[tokens, dimension]``.
        passages: float32 ``[tokens, dimension]`` each; one without tokens scores 0.

    Returns:
        float32 ``[passages]``.

    Raises:
        InputError: Dimensions differ.
        NonFiniteVectorError: A vector holds NaN or infinity.
    """
    out: Vectors = np.zeros(len(passages), dtype=np.float32)
    filled = [i for i, p in enumerate(passages) if len(p)]
    if not filled or not len(query):
        return out
    if any(passages[i].shape[1] != query.shape[1] for i in filled):
        raise InputError(
            f"the query's token vectors have {query.shape[1]} numbers, a passage's "
            f"{sorted({passages[i].shape[1] for i in filled})}: they come from different models"
        )
    joined = np.concatenate([passages[i] for i in filled]).astype(np.float32, copy=False)
    starts = np.cumsum([0, *(len(passages[i]) for i in filled[:-1])])
    products = np.maximum.reduceat(joined @ query.T.astype(np.float32, copy=False), starts, axis=0)
    check_finite(products, "a product of token vectors is")
    out[filled] = products.sum(1)
    return out


class _Kept:
    """Token vectors of the passages used last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._vectors: LRUCache[str, Any] = LRUCache(limit, getsizeof=lambda vectors: vectors.nbytes)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """A new lock: in a forked child no thread would release the old one."""
        self._lock = threading.Lock()

    def get(self, text: str) -> Any:
        """float16 ``[tokens, dimension]`` or None."""
        with self._lock:
            return self._vectors.get(text)

    def put(self, text: str, vectors: Vectors) -> None:
        small = vectors.astype(np.float16)
        with self._lock:
            if small.nbytes <= self._vectors.maxsize:
                self._vectors[text] = small
