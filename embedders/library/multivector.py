"""MultiVectorEmbedder: late-interaction models of the ColBERT kind, one vector per token."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from situate.embedders.library.model import LibraryModel, warn_of_loss
from situate.embedders.models.resolve import LoadOptions
from situate.embedders.types import DType, Role, Vectors, checked_texts
from situate.parameters import checked_parameters
from situate.vectors import check_finite


@checked_parameters
class MultiVectorEmbedder:
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
        self._library = LibraryModel(
            "MultiVectorEncoder",
            os.fspath(model),
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            options=LoadOptions(revision, trust_remote_code, allow_pickle),
        )

    def __repr__(self) -> str:
        return f"MultiVectorEmbedder({self._library.model!r})"

    @property
    def dimension(self) -> int:
        """Length of a token's vector. Loads the model."""
        return int(self._library.run(lambda model: model.get_embedding_dimension()))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a vector, as JSON values."""
        return self._library.fingerprint()

    def embed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """Per query, float32 ``[tokens, dimension]``, rows L2-normalised, expansion tokens included.

        Raises:
            InputError: ``texts`` is one string, or holds something that is none.
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: The model cannot be used.
        """
        wanted = checked_texts(texts)
        return self._finished(self._library.run(lambda model: self._encode(model, wanted, "query")))

    async def aembed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_query_tokens` without blocking the event loop."""
        wanted = checked_texts(texts)
        return self._finished(await self._library.arun(lambda model: self._encode(model, wanted, "query")))

    def embed_document_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """Per document, float32 ``[tokens, dimension]``, rows L2-normalised. Errors as in `embed_query_tokens`."""
        wanted = checked_texts(texts)
        return self._finished(self._library.run(lambda model: self._encode(model, wanted, "document")))

    async def aembed_document_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_document_tokens` without blocking the event loop."""
        wanted = checked_texts(texts)
        return self._finished(await self._library.arun(lambda model: self._encode(model, wanted, "document")))

    def _encode(self, model: Any, texts: list[str], role: Role) -> list[Any]:
        if not texts:
            return []
        warn_of_loss(model, texts, model.prompts.get(role) or "", _limit(model, role))
        encode = model.encode_query if role == "query" else model.encode_document
        found: list[Any] = encode(
            texts,
            batch_size=self._library.batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return found

    def _finished(self, found: Sequence[Any]) -> list[Vectors]:
        matrices = [np.asarray(matrix, dtype=np.float32) for matrix in found]
        for number, matrix in enumerate(matrices):
            check_finite(matrix, f"model {self._library.model!r} computed for text {number}")
        return matrices


def _limit(model: Any, role: Role) -> int | None:
    """Tokens that the model reads of a text in this role."""
    expansion = getattr(model[0], "query_expansion", None)
    if role == "query" and expansion and expansion["strategy"] == "fixed":
        length: int | None = expansion["length"]
    else:
        length = getattr(model[0], f"{role}_length", None) or model.max_seq_length
    return length
