"""Dense vectors as codes: what makes them is fitted on a collection's own vectors and kept in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from situate.batches import in_batches
from situate.embedders.types import Vectors
from situate.errors import StorageError
from situate.retrievers.index.compression import Codes, Compression
from situate.retrievers.index.payload import CODES, DENSE

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.index.collection import Collection

#: Vectors that it is fitted on, at most: more change it little.
MOST = 5000
_BATCH = 256


def least(size: int) -> int:
    """Vectors that it is fitted on, at least: a collection with fewer is searched exactly."""
    return max(1000, 4 * size)


@dataclass(frozen=True, eq=False)
class Projection:
    """The principal directions of a sample of vectors (Pearson 1901), not centred, so that dot products stay.

    Of all linear maps to so few numbers it changes the dot products between the sample's vectors least (Eckart and
    Young 1936). Projections are compared as the model's vectors are: their cosines find more than their dot products.

    Attributes:
        matrix: float32 ``[dimension, size]``, orthonormal columns, in numbers that float16 holds.
    """

    matrix: Vectors

    @classmethod
    def fit(cls, rows: Vectors, size: int) -> Self:
        """The directions of float32 ``[vectors, dimension]``; beyond their rank, some that are orthogonal to them."""
        wide = rows.astype(np.float64)
        _, directions = np.linalg.eigh(wide.T @ wide / max(1, len(rows)))
        chosen = directions[:, ::-1][:, :size]
        # The sign of a direction is free: its largest number is positive, on every machine.
        signs = np.sign(chosen[np.abs(chosen).argmax(0), np.arange(size)])
        return cls((chosen * signs).astype(np.float16).astype(np.float32))

    def __call__(self, vectors: Vectors) -> Vectors:
        """float32 ``[..., dimension]`` -> float32 ``[..., size]``."""
        short: Vectors = vectors @ self.matrix
        return short

    def to_json(self) -> dict[str, Any]:
        """The projection and its digest as JSON values."""
        return _packed("matrix", self.matrix, "<f2")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], shape: tuple[int, ...]) -> Self:
        """The projection that `to_json` wrote.

        Args:
            values: They.
            shape: The matrix's, as the collection's vectors are.

        Raises:
            StorageError: It is damaged.
        """
        return cls(_unpacked("matrix", values, "<f2", shape))


@dataclass(frozen=True, eq=False)
class Centre:
    """The mean of a sample of vectors. Less it, the signs of vectors that lie around one direction differ.

    Attributes:
        mean: float32 ``[dimension]``.
    """

    mean: Vectors

    @classmethod
    def fit(cls, rows: Vectors) -> Self:
        """The mean of float32 ``[vectors, dimension]``."""
        return cls(rows.mean(0, dtype=np.float64).astype(np.float32))

    def __call__(self, vectors: Vectors) -> Vectors:
        """float32 ``[..., dimension]`` -> the same shape."""
        return vectors - self.mean

    def to_json(self) -> dict[str, Any]:
        """The mean and its digest as JSON values."""
        return _packed("mean", self.mean, "<f4")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], shape: tuple[int, ...]) -> Self:
        """The mean that `to_json` wrote. Errors as in `Projection.from_json`."""
        return cls(_unpacked("mean", values, "<f4", shape))


#: What makes codes of vectors, of documents and queries alike.
Coder: TypeAlias = Projection | Centre


def _packed(name: str, array: Vectors, dtype: str) -> dict[str, Any]:
    content = array.astype(dtype).tobytes()
    return {
        "shape": list(array.shape),
        "digest": hashlib.sha256(content).hexdigest(),
        name: base64.b64encode(content).decode(),
    }


def _unpacked(name: str, values: Mapping[str, Any], dtype: str, shape: tuple[int, ...]) -> Vectors:
    try:
        content = base64.b64decode(values[name], validate=True)
        whole = hashlib.sha256(content).hexdigest() == values["digest"]
        array = np.frombuffer(content, dtype=dtype).reshape(values["shape"]).astype(np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"the collection's projection of vectors cannot be read: {error}") from error
    if not whole:
        raise StorageError("the collection's projection of vectors is damaged: its digest is another one")
    if array.shape != shape or not np.isfinite(array).all():
        raise StorageError(
            f"the collection's projection of vectors is damaged: {array.shape} numbers in place of {shape}, or some "
            "that are not finite"
        )
    return array


def codes_of(collection: Collection, compression: Compression, begin: bool) -> Codes | None:
    """The codes by which a collection is searched; every point has its own afterwards.

    What makes them is kept first, then points get their codes: a crash in between, or a writer that did not know of it,
    leaves points without codes to the next opening.

    Args:
        collection: The collection, which has a vector of this size for them.
        compression: The configuration's.
        begin: Whether it is fitted where the collection keeps none, and has enough vectors.

    Returns:
        None where there is none yet.

    Raises:
        StorageError: What makes them is damaged.
    """
    from qdrant_client import models

    size = compression.size or 0
    vectors = collection.client.get_collection(collection.name).config.params.vectors
    if not isinstance(vectors, dict) or CODES not in vectors:
        raise StorageError(
            f"collection {collection.name!r} has lost its vector {CODES!r}, the codes of compression="
            f"{compression.kind!r}: take a snapshot that has it, or index the documents into a new collection"
        )
    shape = (vectors[DENSE].size, size) if size else (vectors[DENSE].size,)
    kept = collection.projection()
    where: models.Filter | None = models.Filter(must_not=[models.HasVectorCondition(has_vector=CODES)])
    if kept is None:
        count = collection.client.count(collection.name, exact=True).count
        if not begin or count < least(size):
            return None
        # Points come in the order of their ids, which are hashes: the first are a random sample.
        sample = _dense(islice(collection.scroll(None, False, [DENSE]), MOST))
        coder: Coder = Projection.fit(sample, size) if size else Centre.fit(sample)
        kept = collection.keep_projection(coder.to_json())
        where = None  # another writer may have fitted one, too, and made codes by it
    while True:
        coder = Projection.from_json(kept, shape) if size else Centre.from_json(kept, shape)
        _make_codes(collection, coder, where)
        now = collection.projection()
        if now is None or now == kept:
            return Codes(coder, compression)
        kept, where = now, None  # another writer's replaced it meanwhile


def _make_codes(collection: Collection, coder: Coder, where: models.Filter | None) -> None:
    from qdrant_client import models

    for some in in_batches([record.id for record in collection.scroll(where, False)], _BATCH):
        found = collection.client.retrieve(collection.name, some, with_payload=False, with_vectors=[DENSE])
        points = [
            models.PointVectors(id=record.id, vector={CODES: row.tolist()})
            for record, row in zip(found, coder(_dense(found)) if found else (), strict=True)
        ]
        if points:  # they may have been deleted meanwhile
            collection.client.update_vectors(collection.name, points, wait=True)


def _dense(records: Iterable[models.Record]) -> Vectors:
    rows = [record.vector[DENSE] for record in records if isinstance(record.vector, dict)]
    return np.array(rows, dtype=np.float32)
