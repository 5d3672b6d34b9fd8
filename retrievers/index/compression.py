"""Dense vectors that are searched in a compressed form: small codes in RAM, the full vectors on disk."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from situate.errors import InputError, SituateWarning
from situate.retrievers.index.payload import CODES, DENSE

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.embedders.types import Vectors
    from situate.retrievers.index.projection import Coder

#: Qdrant's quantization. "int8": a byte a number; "signs": its sign alone; "product": a byte for four numbers, by
#: learned centroids.
CompressionKind: TypeAlias = Literal["int8", "signs", "product"]
#: Signs of vectors less the collection's mean.
BINARY = "binary"
#: In front of a number of numbers: vectors projected to so few.
PCA = "pca:"
#: Candidates by the codes for each hit that is wanted: as few as keep recall@10 (`benchmarks.compression`).
OVERSAMPLING: Mapping[str, float] = {"int8": 2.0, "signs": 16.0, "product": 4.0, BINARY: 8.0, PCA: 8.0}
#: The share of numbers that int8 covers; the few beyond are clipped, so that the rest have finer steps.
_QUANTILE = 0.99
#: The length of the mean of some vectors from which on their signs hardly differ, as all lie around one direction. It
#: is .91 for Cranfield by multilingual-e5-small, .54 by all-MiniLM-L6-v2.
_CROWDED, _SOME = 0.75, 50
#: Of "binary", how many of the best by what the signs are taken of are scored by the vectors: for each that is wanted,
#: and at least.
_BEST = 2, 100
#: Of "binary", candidates by signs at least, where no ``oversampling`` is given: few hits need as many as a hundred do.
_LEAST = 800


@dataclass(frozen=True)
class Compression:
    """How dense vectors are compressed and searched: by Qdrant's quantization, or by codes beside them.

    Codes of ``d`` numbers take ``d`` bytes as "int8", ``d / 8`` as "binary" and "signs", ``d / 4`` as "product" and
    ``4 n`` as "pca:n", in place of ``4 d``. The vectors themselves are on disk, unchanged.

    "int8", "product" and "signs" are Qdrant's quantization of the vectors as they are, which any collection can take
    on. "binary" are the signs of the vectors less their mean, and "pca:n" projections: both are fitted on the
    collection's own vectors, kept in it, and decided when it is made. Where vectors lie around one direction, as E5's
    do, their signs as they are hardly differ.

    Attributes:
        kind: The form of the codes: "int8", "binary", "signs", "product", or "pca:128" for 128 numbers.
        rescore: Whether the best candidates by codes are scored again with the vectors on disk.
        oversampling: So many times the candidates that are wanted are found by codes; None: 2 for "int8", 4 for
            "product", 8 for "binary" (and 800 candidates at least) and "pca:n", 16 for "signs".

    Raises:
        InputError: ``kind`` is none of these, ``oversampling`` is less than 1 or set without rescoring, or "binary" or
            "signs" are not rescored.
    """

    kind: str
    rescore: bool = True
    oversampling: float | None = None

    def __post_init__(self) -> None:
        kinds = (BINARY, *get_args(CompressionKind))
        if self.kind not in kinds and self.size is None:
            names = ", ".join(map(repr, kinds))
            raise InputError(
                f"compression={self.kind!r:.40} is not one of {names}, 'pca:128' (1 to 65535 numbers); None stores "
                "vectors as they are"
            )
        if self.kind in (BINARY, "signs") and not self.rescore:
            raise InputError(
                f"rescore=False with compression={self.kind!r}: its codes add up signs, which are no cosines, and "
                "cannot be compared with those of points without codes; take rescore=True, or another compression"
            )
        if self.oversampling is not None and not (self.rescore and 1 <= self.oversampling < float("inf")):
            raise InputError(
                f"oversampling={self.oversampling} with rescore={self.rescore}: the number of candidates that are "
                "scored again for each hit, at least 1, and rescore=True"
            )

    @cached_property
    def size(self) -> int | None:
        """How many numbers a projection leaves; None for Qdrant's quantization."""
        number = self.kind.removeprefix(PCA) if isinstance(self.kind, str) and self.kind.startswith(PCA) else ""
        return int(number) if re.fullmatch("[1-9][0-9]{0,4}", number) and int(number) < 65536 else None

    @property
    def has_codes(self) -> bool:
        """Whether codes are vectors of their own, beside those that they are made of."""
        return self.size is not None or self.kind == BINARY

    @property
    def times(self) -> float:
        """Candidates by codes for each that is wanted."""
        return (self.oversampling or OVERSAMPLING[PCA if self.size else self.kind]) if self.rescore else 1.0

    def check_vectors(self, vectors: Vectors) -> None:
        """Warns where signs cannot tell these vectors apart.

        Args:
            vectors: float32 ``[chunks, dimension]``, L2-normalised.
        """
        if self.kind == "signs" and len(vectors) >= _SOME and np.linalg.norm(vectors.mean(0)) > _CROWDED:
            warnings.warn(
                "this model's vectors lie around one direction, so that their signs hardly differ: "
                "compression='signs' (and 'binary' of a collection that was made without it) loses near neighbours; "
                "take 'int8' or 'product', or 'binary' for a new collection",
                SituateWarning,
                stacklevel=2,
            )

    def params(self) -> dict[str, Any]:
        """The fields of Qdrant's vector parameters."""
        from qdrant_client import models

        if self.has_codes:  # without a graph, which the codes have
            return {"on_disk": True, "hnsw_config": models.HnswConfigDiff(m=0)}
        codes: dict[str, models.QuantizationConfig] = {
            "int8": models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=_QUANTILE, always_ram=True)
            ),
            "signs": _signs(),
            "product": models.ProductQuantization(
                product=models.ProductQuantizationConfig(compression=models.CompressionRatio.X16, always_ram=True)
            ),
        }
        return {"on_disk": True, "quantization_config": codes[self.kind]}

    def codes(self, dimension: int, distance: models.Distance) -> models.VectorParams:
        """The vector of codes for vectors of ``dimension`` numbers.

        Raises:
            InputError: A projection leaves no fewer numbers.
        """
        from qdrant_client import models

        if self.size is None:  # what the signs are taken of stays on disk, and is read of the best alone
            return models.VectorParams(
                size=dimension,
                distance=distance,
                datatype=models.Datatype.FLOAT16,
                on_disk=True,
                quantization_config=_signs(),
            )
        if self.size >= dimension:
            raise InputError(f"compression={self.kind!r}, but vectors have {dimension} numbers: project to fewer")
        return models.VectorParams(size=self.size, distance=distance)

    def search(self) -> models.SearchParams | None:
        """The parameters of a search by Qdrant's quantization."""
        from qdrant_client import models

        if self.has_codes:
            return None
        oversampling = self.times if self.rescore else None
        return models.SearchParams(
            quantization=models.QuantizationSearchParams(rescore=self.rescore, oversampling=oversampling)
        )


@dataclass(frozen=True)
class Codes:
    """How dense vectors are searched by their codes.

    Attributes:
        coder: The collection's.
        compression: The configuration's.
    """

    coder: Coder
    compression: Compression

    def query(self, dense: Vectors, limit: int, where: models.Filter | None = None) -> dict[str, Any]:
        """The arguments of a Qdrant query, or of a prefetch, that can return ``limit`` points.

        Args:
            dense: float32 ``[dimension]``.
            limit: How many points are wanted.
            where: Which points are considered.
        """
        from qdrant_client import models

        short: dict[str, Any] = {"query": self.coder(dense).tolist(), "using": CODES}
        if not self.compression.rescore:
            return short
        candidates = math.ceil(limit * self.compression.times)
        if self.compression.size:
            first = models.Prefetch(**short, filter=where, limit=candidates)
        else:
            # Scored again twice: points of a segment without signs have cosines, which sums of signs cannot be
            # compared with, and of those cosines to the mean the best few are scored by the vectors themselves.
            if self.compression.oversampling is None:
                candidates = max(candidates, _LEAST)
            best = min(candidates, max(_BEST[0] * limit, _BEST[1]))
            signs = models.QuantizationSearchParams(rescore=True, oversampling=candidates / best)
            params = models.SearchParams(quantization=signs)
            first = models.Prefetch(**short, filter=where, limit=best, params=params)
        return {"prefetch": [first], "query": dense.tolist(), "using": DENSE}


def kind_of(params: models.VectorParams) -> CompressionKind | None:
    """How a stored vector is compressed; None where it is not, or in a form that `Compression` does not make."""
    from qdrant_client import models

    by_type: dict[type, CompressionKind] = {
        models.ScalarQuantization: "int8",
        models.BinaryQuantization: "signs",
        models.ProductQuantization: "product",
    }
    return by_type.get(type(params.quantization_config))


def _signs() -> models.BinaryQuantization:
    """Signs of documents' vectors; those of queries have a byte a number, which costs no memory and finds more."""
    from qdrant_client import models

    asked = models.BinaryQuantizationQueryEncoding.SCALAR8BITS
    return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True, query_encoding=asked))
