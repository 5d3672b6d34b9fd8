"""MultiVectorEmbedder: late-interaction models of the ColBERT kind, one vector per token."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from situate.embedders.library.model import RoleEmbedder
from situate.embedders.models.resolve import LoadOptions
from situate.embedders.types import DType, Role, Vectors
from situate.parameters import checked_parameters
from situate.vectors import check_finite


@checked_parameters
class MultiVectorEmbedder(RoleEmbedder[Vectors]):
    """Token vectors of a model that was trained for late interaction (ColBERT, Khattab and Zaharia 2020).

    sentence-transformers' `MultiVectorEncoder` runs it, with the conventions of its folder: query and document
    markers, the projection, query expansion by mask tokens, punctuation left out of documents. ColBERT checkpoints of
    Stanford and of PyLate load too.

    `Embedder.embed_query_tokens` gives token vectors of an ordinary model; the two have the same methods, so that a
    MaxSim stage takes either.

    Args:
        model: A model folder or a hub id.
        device: "auto", or a torch device.
        dtype: Format of the weights. "auto" is the fastest that the hardware computes in; "float32" is exact.
        batch_size: Texts that are run together.
        revision: A branch, tag or commit of the hub's repository.
        trust_remote_code: Run the Python files of the model's repository.
        allow_pickle: Read pickled weights, which can run any code.
    """

    kind = "MultiVectorEncoder"
    arguments: Mapping[str, Any] = MappingProxyType({"convert_to_numpy": True, "normalize_embeddings": True})

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: DType = "auto",
        batch_size: int = 32,
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        options = LoadOptions(revision, trust_remote_code, allow_pickle)
        super().__init__(model, device=device, dtype=dtype, batch_size=batch_size, options=options)

    def embed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """Per query, float32 ``[tokens, dimension]``, rows L2-normalised, expansion tokens included.

        Raises:
            InputError: ``texts`` is one string, or holds something that is none.
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: The model cannot be used.
        """
        return self._embed(texts, "query")

    async def aembed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_query_tokens` without blocking the event loop."""
        return await self._aembed(texts, "query")

    def embed_document_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """Per document, float32 ``[tokens, dimension]``, rows L2-normalised. Errors as in `embed_query_tokens`."""
        return self._embed(texts, "document")

    async def aembed_document_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_document_tokens` without blocking the event loop."""
        return await self._aembed(texts, "document")

    def _limit(self, model: Any, role: Role) -> int | None:
        expansion = getattr(model[0], "query_expansion", None)
        if role == "query" and expansion and expansion["strategy"] == "fixed":
            length: int | None = expansion["length"]
        else:
            length = getattr(model[0], f"{role}_length", None) or model.max_seq_length
        return length

    def _value(self, row: Any, subject: str) -> Vectors:
        matrix = np.asarray(row, dtype=np.float32)
        check_finite(matrix, subject)
        return matrix
