"""Token vectors for MaxSim (ColBERT, Khattab and Zaharia 2020): of any model, pooled, pruned, in one byte a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np

from situate.embedders.embedder import Embedder
from situate.embedders.library.multivector import MultiVectorEmbedder
from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.index.payload import TOKENS
from situate.retrievers.signals.base import Batch, Signal, Values, model_of, situated
from situate.vectors import unit

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.gateway import Gateway, Scores
    from situate.retrievers.search.query_vectors import QueryVectors, WrittenQuery

TokenStorage: TypeAlias = Literal["float32", "float16", "int8"]
#: A number x of a unit vector is stored as the byte 127 x + 128, from 1 to 255.
_SCALE, _OFFSET = 127.0, 128.0


@dataclass(frozen=True)
class TokenSignal(Signal):
    """A signal that is made of token vectors.

    Attributes:
        model: A `MultiVectorEmbedder` (trained for late interaction), an `Embedder`, or the name of a model of the
            first kind; None for the index's own embedder, whose tokens are those of the scheme (late ones, where it is
            late).
        context: `Context` fields in front of a chunk's text, for a model of its own.
        options: Further arguments of `MultiVectorEmbedder`, where ``model`` is a name.
    """

    model: MultiVectorEmbedder | Embedder | str | None = None
    context: tuple[str, ...] = ("title", "headings")
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.embedder

    @cached_property
    def embedder(self) -> MultiVectorEmbedder | Embedder | None:
        """The model; loaded by the first text. None for the index's own."""
        if self.model is None:
            return None
        return model_of(MultiVectorEmbedder, self.model, self.options, (MultiVectorEmbedder, Embedder))

    @property
    def needs_tokens(self) -> bool:
        """Whether the index's embedder makes them."""
        return self.embedder is None

    def stored(self) -> Mapping[str, Any]:
        """The model and its text."""
        if self.embedder is None:
            return {"encoder": None}
        return {"encoder": self.embedder.fingerprint, "context": list(self.context)}

    def agreeing_with(self, stored: Mapping[str, Any]) -> Self:
        """The model reads long texts as the collection's did."""
        if isinstance(self.embedder, Embedder) and stored.get("encoder"):
            embedder = self.embedder.agreeing_with(stored["encoder"])
            return self if embedder is self.embedder else replace(self, model=embedder, options={})
        return self

    def tokens_of(self, batch: Batch) -> list[Vectors]:
        """Per chunk of the batch float32 ``[tokens, dimension]``."""
        embedder = self.embedder
        if embedder is None:
            assert batch.tokens is not None
            return [rows for chunks in batch.tokens for rows in chunks]
        texts = [situated(chunk, self.context) for chunk in batch.chunks]
        # Several signals of one model share its pass.
        return batch.once((id(embedder), self.context), lambda: embedder.embed_document_tokens(texts))

    def asked(self, queries: Sequence[WrittenQuery], vectors: Sequence[QueryVectors]) -> list[Vectors]:
        """Per query float32 ``[tokens, dimension]``."""
        if self.embedder is not None:
            return self.embedder.embed_query_tokens([query.question for query in queries])
        return [each.tokens for each in vectors if each.tokens is not None]


@checked_parameters
@dataclass(frozen=True)
class Tokens(TokenSignal):
    """One vector per token; the best candidates of the other signals are scored by MaxSim.

    Attributes:
        datatype: How numbers are stored: "float32", "float16", or "int8": a byte each, scaled so that Qdrant's bytes
            keep the sign, and compared exactly as what they stand for.
        depth: Candidates that are scored.
        pool: Of a chunk's n token vectors ``n // pool`` means remain: clusters of similar ones by Ward's method
            (Clavié et al. 2024). 1 keeps all.
        prune: Share of a chunk's tokens that is dropped, those that are most frequent in any text: by their rank in the
            model's vocabulary, which is sorted by frequency. For tokens of an `Embedder` alone.

    Raises:
        InputError: ``datatype`` is none of these, ``depth`` or ``pool`` is less than 1, ``prune`` is not in [0, 1), or
            the model is none that gives token vectors.
    """

    kind = "tokens"
    stage = "rescore"
    datatype: TokenStorage = "float16"
    depth: int = 50
    pool: int = 1
    prune: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.datatype not in ("float32", "float16", "int8"):
            raise InputError(f'datatype={self.datatype!r} of {self.name!r}: "float32", "float16" or "int8"')
        if self.depth < 1 or self.pool < 1:
            raise InputError(f"depth={self.depth} and pool={self.pool} of {self.name!r} must be at least 1")
        if not 0 <= self.prune < 1:
            raise InputError(f"prune={self.prune} of {self.name!r} is a share of the tokens: at least 0, less than 1")
        if self.prune and isinstance(self.embedder, MultiVectorEmbedder):
            raise InputError(
                f"prune={self.prune} of {self.name!r}: {type(self.embedder).__name__} leaves tokens out by itself, so "
                "its vectors cannot be told apart; use pool"
            )

    def check(self, embedder: Embedder) -> None:
        """Tokens are dropped by their places, which a model's own head does not keep."""
        if self.prune and self.embedder is None and embedder.token_heads:
            raise InputError(
                f"prune={self.prune} of {self.name!r}: token_heads has vectors of special tokens; use pool instead"
            )

    @property
    def step(self) -> str:
        """ "maxsim", or the name of a signal that is not the first of its kind."""
        return "maxsim" if self.name == TOKENS else self.name

    def stored(self) -> Mapping[str, Any]:
        """The model, the format of the numbers, and what is left out."""
        return {**super().stored(), "datatype": self.datatype, "pool": self.pool, "prune": self.prune}

    def params(self, dimension: int, distance: models.Distance) -> models.VectorParams:
        """A multivector without a graph, which would cost most of the index for nothing: it only scores candidates."""
        from qdrant_client import models

        as_bytes = self.datatype == "int8"
        return models.VectorParams(
            size=dimension if self.embedder is None else self.embedder.dimension,
            # Bytes have no sign, and a shift changes a dot product; it does not change a distance.
            distance=models.Distance.EUCLID if as_bytes else models.Distance.COSINE,
            datatype=models.Datatype.UINT8 if as_bytes else models.Datatype(self.datatype),
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),
        )

    def encode(self, batch: Batch) -> Values:
        """Per chunk float32 ``[tokens, dimension]``."""
        rows = self.tokens_of(batch)
        if self.prune:
            tokenizer = (self.embedder or batch.embedder).tokenizer  # type: ignore[union-attr]  # checked above
            texts = [chunk.text if self.embedder is None else situated(chunk, self.context) for chunk in batch.chunks]
            ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
            rows = [pruned(own, ranks, self.prune) for own, ranks in zip(rows, ids, strict=True)]
        if self.pool > 1:
            rows = [pooled(own, self.pool) for own in rows]
        if self.datatype == "int8":
            rows = [in_bytes(own) for own in rows]
        return batch.of_documents(rows)

    def ask(
        self, queries: Sequence[WrittenQuery], vectors: Sequence[QueryVectors], embedder: Embedder
    ) -> Sequence[Vectors] | None:
        """The token vectors of each question, by a model of its own."""
        return None if self.embedder is None else self.asked(queries, vectors)

    def query(self, vectors: QueryVectors) -> Vectors | None:
        """The query's token vectors."""
        tokens = vectors.tokens if self.embedder is None else vectors.further.get(self.name)
        return tokens if isinstance(tokens, np.ndarray) else None

    def scores(self, gateway: Gateway, query: Vectors, candidates: Sequence[int]) -> Scores:
        """Each candidate's MaxSim score: the sum, over the query's tokens, of the largest cosine to one of its own."""
        if self.datatype != "int8":
            return gateway.maxsim(query, self.name, candidates)
        # The engine returns the root of the sum of least squared distances; of unit vectors |q - d|^2 = 2 - 2 q d.
        # Rounding adds to each number's square the variance of two uniform errors, 1/12 each.
        found = gateway.maxsim(in_bytes(query), self.name, candidates)
        rounding = query.size / 6
        return {point: len(query) - (far**2 - rounding) / _SCALE**2 / 2 for point, far in found.items()}


def pooled(rows: Vectors, factor: int) -> Vectors:
    """Token vectors as the means of clusters of similar ones (Clavié, Chaffin and Adams 2024), by Ward's method.

    Args:
        rows: float32 ``[tokens, dimension]``, L2-normalised.
        factor: How many vectors become one, on average.

    Returns:
        float32 ``[max(1, tokens // factor), dimension]`` (or fewer, where vectors are equal), L2-normalised.
    """
    if factor == 1 or len(rows) < 2:
        return rows
    from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]

    labels = fcluster(linkage(rows, method="ward"), max(1, len(rows) // factor), criterion="maxclust")
    return unit(np.array([rows[labels == label].mean(0) for label in np.unique(labels)], dtype=np.float32))


def pruned(rows: Vectors, ids: Sequence[int], share: float) -> Vectors:
    """Token vectors without those of the most frequent tokens: the smallest ids, in a vocabulary sorted by frequency.

    Args:
        rows: float32 ``[tokens, dimension]``.
        ids: The tokens; more than rows, where the model cut the text.
        share: The share to drop; one token stays at least.

    Raises:
        InputError: There are fewer ids than rows: the vectors hold tokens of the context too.
    """
    if len(ids) < len(rows):
        raise InputError(
            f"a chunk of {len(ids)} tokens has {len(rows)} token vectors, its context's among them: prune needs a "
            "scheme with pool_context=False"
        )
    dropped = min(len(rows) - 1, int(share * len(rows)))
    if dropped < 1:
        return rows
    return rows[np.sort(np.argsort(ids[: len(rows)], kind="stable")[dropped:])]


def read_tokens(rows: Vectors) -> Vectors:
    """Stored token vectors as unit vectors, also those that are stored in bytes: no number of a unit vector is over 1.

    Args:
        rows: float32 ``[tokens, dimension]``, as a store returns them.
    """
    return unit((rows - _OFFSET) / _SCALE) if rows.size and rows.max() > 1.5 else rows


def in_bytes(rows: Vectors) -> Vectors:
    """float32 ``[tokens, dimension]`` of unit vectors as whole numbers from 1 to 255."""
    whole: Vectors = np.rint(np.clip(rows, -1, 1) * _SCALE + _OFFSET).astype(np.float32)
    return whole
