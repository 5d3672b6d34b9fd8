"""Dense vectors that are searched in a compressed form: small codes in RAM, the full vectors on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from situate.errors import InputError

if TYPE_CHECKING:
    from qdrant_client import models

#: "int8": a byte a number; "binary": its sign alone; "product": a byte for four numbers, by learned centroids.
CompressionKind: TypeAlias = Literal["int8", "binary", "product"]
#: Candidates by the codes for each hit that is wanted: as few as keep recall@10 (`benchmarks.compression`).
OVERSAMPLING: Mapping[CompressionKind, float] = {"int8": 2.0, "binary": 16.0, "product": 4.0}
#: The share of numbers that int8 covers; the few beyond are clipped, so that the rest have finer steps.
_QUANTILE = 0.99


@dataclass(frozen=True)
class Compression:
    """How dense vectors are compressed, by Qdrant's quantization, and searched.

    Codes of ``d`` numbers take ``d`` bytes as "int8", ``d / 8`` as "binary" and ``d / 4`` as "product", in place of
    ``4 d``. The vectors themselves are on disk, unchanged.

    Attributes:
        kind: The form of the codes.
        rescore: Whether the best candidates by codes are scored again with the vectors on disk.
        oversampling: So many times the candidates that are wanted are found by codes; None: 2 for "int8", 16 for
            "binary", 4 for "product".

    Raises:
        InputError: ``kind`` is none of these, ``oversampling`` is less than 1 or set without rescoring, or "binary" is
            not rescored.
    """

    kind: CompressionKind
    rescore: bool = True
    oversampling: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(CompressionKind):
            kinds = ", ".join(map(repr, get_args(CompressionKind)))
            raise InputError(f"compression={self.kind!r} is not one of {kinds}; None stores vectors as they are")
        if self.kind == "binary" and not self.rescore:
            raise InputError(
                "rescore=False with compression='binary': its codes count equal signs, which cannot be compared with "
                "the cosines of points that have no codes yet; take rescore=True, or another compression"
            )
        if self.oversampling is not None and not (self.rescore and 1 <= self.oversampling < float("inf")):
            raise InputError(
                f"oversampling={self.oversampling} with rescore={self.rescore}: the number of candidates that are "
                "scored again for each hit, at least 1, and rescore=True"
            )

    def params(self) -> dict[str, Any]:
        """The fields of Qdrant's vector parameters."""
        from qdrant_client import models

        codes: dict[CompressionKind, models.QuantizationConfig] = {
            "int8": models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=_QUANTILE, always_ram=True)
            ),
            "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
            "product": models.ProductQuantization(
                product=models.ProductQuantizationConfig(compression=models.CompressionRatio.X16, always_ram=True)
            ),
        }
        return {"on_disk": True, "quantization_config": codes[self.kind]}

    def search(self) -> models.SearchParams:
        """The parameters of a search."""
        from qdrant_client import models

        oversampling = (self.oversampling or OVERSAMPLING[self.kind]) if self.rescore else None
        return models.SearchParams(
            quantization=models.QuantizationSearchParams(rescore=self.rescore, oversampling=oversampling)
        )


def kind_of(params: models.VectorParams) -> CompressionKind | None:
    """How a stored vector is compressed; None where it is not, or in a form that `Compression` does not make."""
    from qdrant_client import models

    by_type: dict[type, CompressionKind] = {
        models.ScalarQuantization: "int8",
        models.BinaryQuantization: "binary",
        models.ProductQuantization: "product",
    }
    return by_type.get(type(params.quantization_config))
