"""A linear map from one model's query vectors into another model's space, so that they search its index."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from situate.embedders.models.map_file import check_numbers, read_map, write_map
from situate.embedders.types import Vectors
from situate.errors import ConventionError, InputError
from situate.vectors import unit

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

#: Texts that a bridge is fitted on, at least: a tenth of them measure it.
LEAST_TEXTS = 200
#: The share of what the old model finds that a bridge finds, at least.
LEAST_RECALL = 0.8
#: Strengths of ridge regression that are tried, as shares of the mean variance of a number.
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
_SENTENCE = re.compile(r"(?<=[.!?。！？।])\s*")
_NEIGHBOURS = 10
_ABOUT = "situate_bridge"
_FACTS = ("recall", "overlap", "texts", "models")


@dataclass(frozen=True, eq=False)
class Bridge:
    """Takes the query vectors of a new model into the space of the old one (the embedding-version bridge of BEBR).

    Attributes:
        matrix: float32 ``[new dimension, old dimension]``.
        recall: Of the texts that a sentence of theirs finds among ten by the old model, the share that it finds by the
            new model and the bridge.
        overlap: The share of the old model's ten nearest texts that are among the bridge's.
        texts: The number of texts that it was fitted on.
        models: What decides the spaces of "old" and "new", as `Embedder.space` says.

    Raises:
        InputError: The matrix is none of finite float32 numbers, or ``models`` does not name both.
    """

    matrix: Vectors
    recall: float
    overlap: float
    texts: int
    models: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        check_numbers(matrix=self.matrix)
        if set(self.models) != {"old", "new"} or not all(isinstance(space, Mapping) for space in self.models.values()):
            raise InputError("models does not say which spaces are the old and the new one")

    @classmethod
    def fit(cls, old: Embedder, new: Embedder, texts: Sequence[str], least: float = LEAST_RECALL) -> Bridge:
        """The map that makes of the new model's vectors of texts, and of a sentence of each, the old model's.

        Ridge regression of several strengths and orthogonal Procrustes are fitted on eight tenths of the texts; one
        tenth chooses, by the cosine, and one measures.

        Args:
            old: The embedder of the index.
            new: The embedder of the queries from now on.
            texts: Texts of the index, some thousands if there are as many: `Index.texts` has them.
            least: The recall below which the bridge is refused, in [0, 1].

        Raises:
            InputError: There are fewer than 200 different texts, or ``least`` is outside its range.
            ConventionError: The bridge's recall is below ``least``.
        """
        texts = list(dict.fromkeys(text for text in texts if text.strip()))
        if len(texts) < LEAST_TEXTS:
            raise InputError(f"a bridge is fitted on {len(texts)} different texts: give at least {LEAST_TEXTS}")
        if not 0 <= least <= 1:
            raise InputError(f"least is {least}: a share in [0, 1]")
        sentences = [_sentence(text) for text in texts]
        passages = old.embed_documents(texts)
        asked = new.embed_queries(sentences)
        wanted = old.embed_queries(sentences)
        order = np.random.default_rng(0).permutation(len(texts))
        tenth = len(texts) // 10
        measured, choosing, fitted = order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :]
        rows = np.concatenate([asked[fitted], new.embed_documents([texts[i] for i in fitted])])
        maps = _maps(rows, np.concatenate([wanted[fitted], passages[fitted]]))
        matrix = max(maps, key=lambda one: float((unit(asked[choosing] @ one) * unit(wanted[choosing])).sum()))
        own = _nearest(wanted[measured], passages)
        bridged = _nearest(unit(asked[measured] @ matrix), passages)
        found = [text for text, near in zip(measured, own, strict=True) if text in near]
        kept = sum(text in near for text, near in zip(measured, bridged, strict=True) if text in found)
        recall = kept / max(1, len(found))
        overlap = float(np.mean([len(a & b) / len(a) for a, b in zip(own, bridged, strict=True)]))
        if recall < least:
            raise ConventionError(
                f"through a bridge fitted on {len(texts)} texts, queries of {new.model!r} find {recall:.2f} of what "
                f"those of {old.model!r} find, and {least} is the least: give more texts, or embed the index anew "
                "before it is searched"
            )
        return cls(matrix, recall, overlap, len(texts), {"old": old.space, "new": new.space})

    def __call__(self, vectors: Vectors) -> Vectors:
        """float32 ``[..., old dimension]``, norm 1, of the new model's query vectors ``[..., new dimension]``."""
        return unit(vectors @ self.matrix)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file (safetensors)."""
        facts = {name: getattr(self, name) for name in _FACTS}
        write_map(Path(path), {"matrix": self.matrix}, _ABOUT, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read it from a file, which can run no code.

        Raises:
            InputError: There is no such file, or it is none of `save`.
        """
        try:
            arrays, facts = read_map(Path(path), ("matrix",), _ABOUT)
            if set(facts) != set(_FACTS) or not isinstance(facts["models"], dict):
                raise InputError(f"it does not say {', '.join(_FACTS)}")
            numbers = {name: facts[name] for name in ("recall", "overlap", "texts")}
            if not all(isinstance(number, int | float) for number in numbers.values()):
                raise InputError(f"it says {numbers}, which are no numbers")
            return cls(arrays["matrix"], **facts)
        except InputError as error:
            raise InputError(f"{os.fspath(path)!r} is no bridge, as Bridge.save writes it: {error}") from error

    @property
    def digest(self) -> str:
        """Of its numbers."""
        return hashlib.sha256(self.matrix.tobytes()).hexdigest()[:16]

    def check(self, old: Embedder, new: Embedder) -> None:
        """Whether it was fitted for these models.

        Raises:
            ConventionError: For others.
        """
        if self.matrix.shape != (new.dimension, old.dimension):
            raise ConventionError(
                f"the bridge is {list(self.matrix.shape)}, and queries have {new.dimension} numbers, documents "
                f"{old.dimension}: fit one for them"
            )
        for name, embedder in (("old", old), ("new", new)):
            if self.models[name] != json.loads(json.dumps(embedder.space)):
                raise ConventionError(
                    f"the bridge was fitted for {self.models[name].get('model')!r} as the {name} model, and not for "
                    f"{embedder.model!r} with these settings: fit one for them"
                )


def _sentence(text: str) -> str:
    """The sentence in the middle of a text."""
    parts = [part for part in _SENTENCE.split(text) if len(part) > 20]
    return parts[len(parts) // 2] if parts else text


def _maps(rows: Vectors, wanted: Vectors) -> list[Vectors]:
    """float32 ``[columns, wanted columns]``: ridge regressions of several strengths, and orthogonal Procrustes."""
    x, y = rows.astype(np.float64), wanted.astype(np.float64)
    within, across = x.T @ x, x.T @ y
    left, _, right = np.linalg.svd(across, full_matrices=False)
    unity = np.trace(within) / len(within) * np.eye(len(within))
    ridges = [np.linalg.solve(within + strength * unity, across) for strength in _STRENGTHS]
    return [one.astype(np.float32) for one in (*ridges, left @ right)]


def _nearest(queries: Vectors, passages: Vectors) -> list[set[int]]:
    best = np.argpartition(-(queries @ passages.T), _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
    return [set(row.tolist()) for row in best]
