"""MUVERA: late interaction as one dense vector (fixed dimensional encodings, Dhulipala et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from situate.embedders.centre import SAMPLE, centre_of
from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.signals.base import Batch, Values
from situate.retrievers.signals.tokens import TokenSignal
from situate.vectors import unit

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.embedders.embedder import Embedder
    from situate.embedders.library.multivector import MultiVectorEmbedder
    from situate.retrievers.search.query_vectors import QueryVectors, WrittenQuery

#: Numbers of a dense vector that Qdrant holds.
_LARGEST = 65535
#: The means of models' token vectors over these texts.
_CENTRES: WeakKeyDictionary[MultiVectorEmbedder | Embedder, Vectors] = WeakKeyDictionary()


@checked_parameters
@dataclass(frozen=True)
class Muvera(TokenSignal):
    """Fixed dimensional encodings: their dot product approximates MaxSim, so that it finds candidates.

    Space is cut into ``2 ** bits`` regions by random hyperplanes, ``repetitions`` times. A query's encoding holds per
    region the sum of its token vectors there, a document's their mean; a region that is empty in a document takes
    the vector whose region differs in the fewest hyperplanes. Vectors are projected to ``projection`` numbers by
    random signs. `Tokens` of the same model then scores the candidates by MaxSim itself.

    Token vectors of many models lie around one direction, E5's at a mean cosine of 0.8: hyperplanes through the origin
    hardly part them. So the mean of a fixed sample of texts is taken off first, and what remains has the length 1.

    Attributes:
        repetitions: Independent cuts of space; more are more exact. At one length, 40 cuts into 2^4 regions find more
            than the paper's 20 into 2^5 (docs/signals.md).
        bits: Hyperplanes of a cut.
        projection: Numbers that stand for a token vector; None for all of its own.
        seed: Of the random hyperplanes and signs.
        centred: Whether the model's mean token vector is taken off; False gives the paper's encodings.

    Raises:
        InputError: A number is less than 1, or an encoding is longer than a vector may be.
    """

    kind = "muvera"
    compressible = ("int8",)
    repetitions: int = 40
    bits: int = 4
    projection: int | None = 16
    seed: int = 42
    centred: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repetitions < 1 or self.bits < 1 or (self.projection is not None and self.projection < 1):
            raise InputError(
                f"repetitions={self.repetitions}, bits={self.bits} and projection={self.projection} of {self.name!r} "
                "must be at least 1"
            )
        if not isinstance(self.centred, bool):
            raise InputError(f"centred={self.centred!r} of {self.name!r} is True or False")
        if self.projection is not None:
            self._size(self.projection)

    def stored(self) -> Mapping[str, Any]:
        """The model and the encoding's parameters."""
        numbers = {name: getattr(self, name) for name in ("repetitions", "bits", "projection", "seed")}
        return {**super().stored(), **numbers, **({"centred": True} if self.centred else {})}

    def agreeing_with(self, stored: Mapping[str, Any]) -> Self:
        """Encodings of before were not centred."""
        own = super().agreeing_with(stored)
        return own if "centred" in stored else replace(own, centred=False)

    def params(self, dimension: int, distance: models.Distance) -> models.VectorParams:
        """A long dense vector, half a float a number."""
        from qdrant_client import models

        own = dimension if self.embedder is None else self.embedder.dimension
        return models.VectorParams(
            size=self._size(self.projection or own), distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16
        )

    def encode(self, batch: Batch) -> Values:
        """An encoding per chunk; a chunk without token vectors has none."""
        rows = self.around(batch.embedder, self.tokens_of(batch))
        return batch.of_documents([self.of_document(own) if len(own) else None for own in rows])

    def ask(
        self, queries: Sequence[WrittenQuery], vectors: Sequence[QueryVectors], embedder: Embedder
    ) -> Sequence[Vectors]:
        """An encoding per query."""
        return [self.of_query(rows) for rows in self.around(embedder, self.asked(queries, vectors))]

    def around(self, embedder: Embedder, rows: Sequence[Vectors]) -> Sequence[Vectors]:
        """Token vectors as they are encoded: less the model's mean and L2-normalised, where the signal is centred.

        Args:
            embedder: The index's; its mean counts where the signal has no model of its own.
            rows: float32 ``[tokens, dimension]`` each.
        """
        if not self.centred or not rows:
            return rows
        model = self.embedder or embedder
        if (centre := _CENTRES.get(model)) is None:
            centre = _CENTRES[model] = centre_of(np.concatenate(model.embed_document_tokens(SAMPLE)))
        return [unit(own - centre) if len(own) else own for own in rows]

    def of_query(self, rows: Vectors) -> Vectors:
        """The encoding of a query: sums of projected vectors.

        Args:
            rows: float32 ``[tokens, dimension]``, as `around` returns them.

        Returns:
            float32 ``[repetitions * 2 ** bits * projection]``.
        """
        sums, _, _ = self._sums(rows)
        return sums.reshape(-1)

    def of_document(self, rows: Vectors) -> Vectors:
        """The encoding of a document: means of projected vectors, empty regions filled. Shapes as in `of_query`."""
        sums, regions, projected = self._sums(rows)
        counts = np.zeros(sums.shape[:2], dtype=np.int64)
        repetition = np.arange(self.repetitions)
        np.add.at(counts, (repetition, regions), 1)
        means = sums / np.maximum(counts, 1)[:, :, None]
        empty = counts == 0
        # Per repetition, region and token, in how many hyperplanes they differ; the first of equally near ones counts.
        differing = _ONES[regions.T[:, None, :] ^ np.arange(2**self.bits)[None, :, None]]
        nearest = differing.argmin(axis=2)
        filled = np.take_along_axis(projected.transpose(1, 0, 2), nearest[:, :, None], axis=1)
        return np.where(empty[:, :, None], filled, means).astype(np.float32).reshape(-1)

    def _sums(self, rows: Vectors) -> tuple[Vectors, NDArray[np.int64], Vectors]:
        """Sums by repetition and region, each token's region by repetition, and its projections by repetition."""
        planes, signs = self._random(rows.shape[1])
        above = (rows @ planes > 0).reshape(len(rows), self.repetitions, self.bits)
        regions = above @ (1 << np.arange(self.bits))
        if signs is None:
            projected = np.repeat(rows[:, None, :], self.repetitions, axis=1)
        else:
            projected = (rows @ signs).reshape(len(rows), self.repetitions, -1)
        sums = np.zeros((self.repetitions, 2**self.bits, projected.shape[2]), dtype=np.float32)
        np.add.at(sums, (np.arange(self.repetitions), regions), projected)
        return sums, regions, projected

    def _random(self, dimension: int) -> tuple[Vectors, Vectors | None]:
        if dimension not in self._drawn:
            random = np.random.default_rng(self.seed)
            planes = random.normal(size=(dimension, self.repetitions * self.bits)).astype(np.float32)
            signs = None
            if self.projection is not None:
                drawn = random.choice([-1.0, 1.0], size=(dimension, self.repetitions * self.projection))
                signs = (drawn / np.sqrt(self.projection)).astype(np.float32)
            self._drawn[dimension] = planes, signs
        return self._drawn[dimension]

    @cached_property
    def _drawn(self) -> dict[int, tuple[Vectors, Vectors | None]]:
        return {}

    def _size(self, projection: int) -> int:
        size: int = self.repetitions * (1 << self.bits) * projection
        if size > _LARGEST:
            raise InputError(
                f"an encoding of {self.repetitions} repetitions * 2 ** {self.bits} regions * {projection} numbers has "
                f"{size}, and Qdrant holds {_LARGEST}: lower bits, repetitions or projection"
            )
        return size


#: How many bits of a region's number are set.
_ONES = np.array([value.bit_count() for value in range(2**16)], dtype=np.int8)
