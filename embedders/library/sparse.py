"""SparseEmbedder: learned sparse vectors of the SPLADE kind, one weight per word of the vocabulary."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from situate.embedders.library.model import RoleEmbedder
from situate.embedders.models.resolve import LoadOptions
from situate.embedders.types import DType, SparseVector, checked_texts
from situate.parameters import checked_parameters
from situate.vectors import check_finite


@checked_parameters
class SparseEmbedder(RoleEmbedder[SparseVector]):
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

    kind = "SparseEncoder"

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
        options = LoadOptions(revision, trust_remote_code, allow_pickle)
        super().__init__(model, device=device, dtype=dtype, batch_size=batch_size, options=options)
        self._max_active = max_active
        self.arguments = {
            "convert_to_tensor": False,
            "convert_to_sparse_tensor": True,
            "save_to_cpu": True,
            "max_active_dims": max_active,
        }

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a vector, as JSON values."""
        return {**super().fingerprint, "max_active": self._max_active}

    def embed_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector per query.

        Raises:
            InputError: ``texts`` is one string, or holds something that is none.
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: The model cannot be used.
        """
        return self._embed(texts, "query")

    async def aembed_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """`embed_queries` without blocking the event loop."""
        return await self._aembed(texts, "query")

    def embed_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector per document. Errors as in `embed_queries`."""
        return self._embed(texts, "document")

    async def aembed_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """`embed_documents` without blocking the event loop."""
        return await self._aembed(texts, "document")

    def count_tokens(self, texts: Sequence[str]) -> list[SparseVector]:
        """Per text its own tokens, each weighed by how often it occurs, special tokens left out: no network runs.

        The query of models that weigh documents alone (uniCOIL, DeepImpact, TILDEv2). Errors as in `embed_queries`.
        """
        wanted = checked_texts(texts)
        counted: list[list[int]] = self._library.run(
            lambda model: (
                model.tokenizer(wanted, add_special_tokens=False, verbose=False)["input_ids"] if wanted else []
            )
        )
        made = []
        for ids in counted:
            indices, counts = np.unique(np.asarray(ids, dtype=np.int64), return_counts=True)
            made.append(SparseVector(indices, counts.astype(np.float32)))
        return made

    def _value(self, row: Any, subject: str) -> SparseVector:
        row = row.coalesce()
        values: NDArray[np.float32] = row.values().float().numpy()
        check_finite(values, subject)
        indices: NDArray[np.int64] = row.indices()[0].numpy()
        return SparseVector(indices, values)
