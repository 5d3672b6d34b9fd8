"""SparseEmbedder: learned sparse vectors of the SPLADE kind, one weight per word of the vocabulary."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from situate.embedders.library.model import LibraryModel, warn_of_loss
from situate.embedders.models.resolve import LoadOptions
from situate.embedders.types import DType, Role, checked_texts
from situate.parameters import checked_parameters
from situate.vectors import check_finite


@dataclass(frozen=True, slots=True)
class SparseVector:
    """A vector of which few numbers are not zero.

    Attributes:
        indices: int64 ``[nonzero]``, ascending: vocabulary ids.
        values: float32 ``[nonzero]``: their weights.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.float32]


@checked_parameters
class SparseEmbedder:
    """Sparse vectors of a model that was trained for them (SPLADE, Formal et al. 2021), compared by dot product.

    sentence-transformers' `SparseEncoder` runs it with the conventions of its folder, including those models whose
    queries are weighed by a table instead of a network (inference-free SPLADE).

    Args:
        model: A model folder or a hub id.
        max_active: Most numbers of a vector that are kept, the largest; None for all.
        device: "auto", or a torch device.
        dtype: Format of the weights. "auto" is the fastest that the hardware computes in; "float32" is exact.
        batch_size: Texts that are run together; a vector is as long as the vocabulary while it is computed.
        revision: A branch, tag or commit of the hub's repository.
        trust_remote_code: Run the Python files of the model's repository.
        allow_pickle: Read pickled weights, which can run any code.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_active: int | None = None,
        device: str = "auto",
        dtype: DType = "auto",
        batch_size: int = 16,
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        self._max_active = max_active
        self._library = LibraryModel(
            "SparseEncoder",
            os.fspath(model),
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            options=LoadOptions(revision, trust_remote_code, allow_pickle),
        )

    def __repr__(self) -> str:
        return f"SparseEmbedder({self._library.model!r})"

    @property
    def dimension(self) -> int:
        """Size of the vocabulary. Loads the model."""
        return int(self._library.run(lambda model: model.get_embedding_dimension()))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a vector, as JSON values."""
        return {**self._library.fingerprint(), "max_active": self._max_active}

    def embed_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector per query.

        Raises:
            InputError: ``texts`` is one string, or holds something that is none.
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: The model cannot be used.
        """
        wanted = checked_texts(texts)
        found: list[SparseVector] = self._library.run(lambda model: self._encode(model, wanted, "query"))
        return found

    async def aembed_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """`embed_queries` without blocking the event loop."""
        wanted = checked_texts(texts)
        found: list[SparseVector] = await self._library.arun(lambda model: self._encode(model, wanted, "query"))
        return found

    def embed_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector per document. Errors as in `embed_queries`."""
        wanted = checked_texts(texts)
        found: list[SparseVector] = self._library.run(lambda model: self._encode(model, wanted, "document"))
        return found

    async def aembed_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """`embed_documents` without blocking the event loop."""
        wanted = checked_texts(texts)
        found: list[SparseVector] = await self._library.arun(lambda model: self._encode(model, wanted, "document"))
        return found

    def _encode(self, model: Any, texts: list[str], role: Role) -> list[SparseVector]:
        if not texts:
            return []
        warn_of_loss(model, texts, model.prompts.get(role) or "", model.max_seq_length)
        encode = model.encode_query if role == "query" else model.encode_document
        rows = encode(
            texts,
            batch_size=self._library.batch_size,
            show_progress_bar=False,
            convert_to_tensor=False,
            convert_to_sparse_tensor=True,
            save_to_cpu=True,
            max_active_dims=self._max_active,
        )
        return [self._vector(row.coalesce(), number) for number, row in enumerate(rows)]

    def _vector(self, row: Any, number: int) -> SparseVector:
        indices: NDArray[np.int64] = row.indices()[0].numpy()
        values: NDArray[np.float32] = row.values().float().numpy()
        check_finite(values, f"model {self._library.model!r} computed for text {number}")
        return SparseVector(indices, values)
