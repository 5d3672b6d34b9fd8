"""A linear map of query vectors, fitted to a corpus: a few numbers that bring queries nearer to what answers them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from situate.embedders.fingerprints import differences
from situate.embedders.models.map_file import check_numbers, read_map, write_map
from situate.embedders.types import Vectors
from situate.errors import ConventionError, InputError, ModelNotFoundError

#: How the file of a map ends.
SUFFIX = ".safetensors"
_ABOUT = "situate_query_map"
#: What of an embedder's fingerprint decides nothing of a query's vector, or names what the weights' digest tells.
_OTHERS = frozenset(
    {"scheme", "max_tokens", "on_overflow", "document_instruction", "document_suffix", "model", "revision"}
)


@dataclass(frozen=True, eq=False)
class QueryMap:
    """Query vectors moved by ``q + (q @ down) @ up``, their length kept.

    Documents keep their vectors, so that a collection need not be built again, and leaving the map out undoes it.

    Attributes:
        down: float32 ``[dimension, rank]``.
        up: float32 ``[rank, dimension]``.
        fitted_for: What decides the vectors of the embedder that it was fitted for.

    Raises:
        InputError: The numbers are not float32, the shapes do not fit, or a number is not finite.
    """

    down: Vectors
    up: Vectors
    fitted_for: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(down=self.down, up=self.up)
        if self.up.shape != self.down.shape[::-1]:
            raise InputError(f"down has the shape {self.down.shape} and up {self.up.shape}: they are [dimension, rank]")

    def __call__(self, vectors: Vectors) -> Vectors:
        """The moved vectors, float32 ``[queries, dimension]``."""
        moved = vectors + (vectors @ self.down) @ self.up
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        now = np.linalg.norm(moved, axis=-1, keepdims=True)
        scaled: Vectors = (moved * np.divide(length, now, out=np.ones_like(now), where=now > 0)).astype(np.float32)
        return scaled

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the numbers."""
        return hashlib.sha256(self.down.tobytes() + self.up.tobytes()).hexdigest()

    @staticmethod
    def basis(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
        """What of an embedder's fingerprint decides whether its queries can be mapped."""
        basis = {name: value for name, value in fingerprint.items() if name not in _OTHERS and value is not None}
        # A served model has no weights here.
        return basis if "weights" in basis else {**basis, "model": fingerprint.get("model")}

    def check_fits(self, fingerprint: Mapping[str, Any]) -> None:
        """Refuse an embedder that the map was not fitted for.

        Raises:
            ConventionError: Its vectors are others.
        """
        basis = self.basis(fingerprint)
        if dict(self.fitted_for) != basis:
            raise ConventionError(
                f"the map of queries was fitted for other vectors: {differences(self.fitted_for, basis)}; fit one for "
                "this model, or leave query_adapter out"
            )

    def save(self, path: str | Path) -> Path:
        """Write the map; the file's name ends in ``.safetensors``.

        Raises:
            InputError: It ends otherwise.
        """
        path = Path(path)
        if path.suffix != SUFFIX:
            raise InputError(f"{str(path)!r}: the file of a map of queries ends in {SUFFIX}")
        write_map(path, {"down": self.down, "up": self.up}, _ABOUT, self.fitted_for)
        return path

    @classmethod
    def load(cls, path: str | Path) -> QueryMap:
        """Read a map.

        Raises:
            ModelNotFoundError: There is no such file.
            ConventionError: It holds something else.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise ModelNotFoundError(f"query_adapter={str(path)!r} is no file: give one that fit wrote")
        try:
            arrays, fitted_for = read_map(path, ("down", "up"), _ABOUT)
            return cls(arrays["down"], arrays["up"], fitted_for)
        except InputError as error:
            raise ConventionError(
                f"{str(path)!r} is no map of queries ({error}): give a file that fit wrote"
            ) from error
