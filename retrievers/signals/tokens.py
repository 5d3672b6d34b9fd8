"""Token vectors for MaxSim (ColBERT, Khattab and Zaharia 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.retrievers.index.payload import TOKENS
from situate.retrievers.signals.base import Batch, Signal, Values

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.gateway import Gateway, Scores
    from situate.retrievers.search.query_vectors import QueryVectors

TokenStorage: TypeAlias = Literal["float32", "float16"]


@dataclass(frozen=True)
class Tokens(Signal):
    """One vector per token; the best candidates of the other signals are scored by MaxSim.

    Attributes:
        datatype: How numbers are stored.
        depth: Candidates that are scored.

    Raises:
        InputError: ``datatype`` is none of these, or ``depth`` less than 1.
    """

    kind = "tokens"
    stage = "rescore"
    datatype: TokenStorage = "float16"
    depth: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.datatype not in ("float32", "float16"):
            raise InputError(
                f"token_vectors={self.datatype!r}: Qdrant's uint8 cuts the numbers of unit vectors to 0, so every "
                'score would be 0; take "float16", or "float32"'
            )
        if self.depth < 1:
            raise InputError(f"the depth of {self.name!r} is {self.depth}: it must be at least 1")

    @property
    def step(self) -> str:
        """ "maxsim", or the name of a signal that is not the first of its kind."""
        return "maxsim" if self.name == TOKENS else self.name

    @property
    def needs_tokens(self) -> bool:
        """Always."""
        return True

    def stored(self) -> Mapping[str, Any]:
        """The format of the numbers."""
        return {"datatype": self.datatype}

    def params(self, dimension: int, distance: models.Distance) -> models.VectorParams:
        """A multivector without a graph, which would cost most of the index for nothing: it only scores candidates."""
        from qdrant_client import models

        return models.VectorParams(
            size=dimension,
            distance=models.Distance.COSINE,
            datatype=models.Datatype(self.datatype),
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),
        )

    def encode(self, batch: Batch) -> Values:
        """Per chunk float32 ``[tokens, dimension]``."""
        assert batch.tokens is not None
        return batch.tokens

    def query(self, vectors: QueryVectors) -> Vectors | None:
        """The query's token vectors."""
        return vectors.tokens

    def scores(self, gateway: Gateway, query: Vectors, candidates: Sequence[int]) -> Scores:
        """Each candidate's MaxSim score."""
        return gateway.maxsim(query, self.name, candidates)
