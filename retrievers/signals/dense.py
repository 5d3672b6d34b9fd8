"""A further dense vector of each chunk: a second embedder, or other words of the document (aspects, ensembles)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, get_args

from situate.embedders.embedder import Embedder
from situate.embedders.types import ChunkScheme
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.index.compression import CompressionKind
from situate.retrievers.signals.base import Batch, Signal, Value, Values, model_of

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.query_vectors import QueryVectors, WrittenQuery


@checked_parameters
@dataclass(frozen=True)
class Dense(Signal):
    """The vectors of a second embedder, or those of the index's own by another scheme.

    Two embedders err differently, so their mixed scores are better than either's; a scheme with other context, or an
    embedder with another instruction, makes an aspect of its own (title, headings, the chunk in its document).

    Attributes:
        model: An `Embedder`, or a model's name; None for the index's own, which costs a query nothing.
        scheme: How chunks become vectors; None: as the embedder's own scheme says. JSON gives its fields.
        options: Further arguments of `Embedder`, where ``model`` is a name.

    Raises:
        InputError: ``model`` is no embedder, or neither it nor ``scheme`` is given.
    """

    kind = "dense"
    compressible = get_args(CompressionKind)
    model: Embedder | str | None = None
    scheme: ChunkScheme | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", "dense_2")  # "dense" is the chunks' own
        super().__post_init__()
        object.__setattr__(self, "scheme", _scheme(self.scheme))
        if self.model is None and self.scheme is None:
            raise InputError(f"the signal {self.name!r} is the chunks' own vector again: give a model, or a scheme")
        _ = self.embedder

    @cached_property
    def embedder(self) -> Embedder | None:
        """The model; loaded by the first text. None for the index's own."""
        return None if self.model is None else model_of(Embedder, self.model, self.options, Embedder)

    def stored(self) -> Mapping[str, Any]:
        """The model's fingerprint, and the scheme."""
        scheme = None if self.scheme is None else self.scheme.stored()
        return {"encoder": None if self.embedder is None else self.embedder.fingerprint, "scheme": scheme}

    def agreeing_with(self, stored: Mapping[str, Any]) -> Self:
        """The model reads long documents, and both mix neighbours, as the collection's did."""
        scheme = None if self.scheme is None else self.scheme.agreeing_with(stored.get("scheme") or {})
        embedder = self.embedder and self.embedder.agreeing_with(stored.get("encoder") or {})
        if embedder is not self.embedder:
            return replace(self, scheme=scheme, model=embedder, options={})
        return self if scheme == self.scheme else replace(self, scheme=scheme)

    def params(self, dimension: int, distance: models.Distance) -> models.VectorParams:
        """A dense vector, compared as the model was trained."""
        from qdrant_client import models

        if self.embedder is not None:
            dimension = self.embedder.dimension
            distance = models.Distance.DOT if self.embedder.similarity == "dot" else models.Distance.COSINE
        return models.VectorParams(size=dimension, distance=distance)

    def encode(self, batch: Batch) -> Values:
        """A vector per chunk."""
        embedder = self.embedder or batch.embedder
        return [made.dense for made in embedder.encode_chunks(batch.items, scheme=self.scheme)]

    def ask(
        self, queries: Sequence[WrittenQuery], vectors: Sequence[QueryVectors], embedder: Embedder
    ) -> Sequence[Value] | None:
        """Per query the mean of its texts, each in its role; a vector that the caller made is none of this model."""
        from situate.retrievers.search.query_vectors import QueryEncoder

        if self.embedder is None:
            return None
        encoded = QueryEncoder(self.embedder).encode_many([replace(query, dense=None, signals=()) for query in queries])
        return [each.dense for each in encoded]

    def query(self, vectors: QueryVectors) -> Value | None:
        """The query's vector of the same model."""
        return vectors.dense if self.embedder is None else vectors.further.get(self.name)


def _scheme(given: ChunkScheme | Mapping[str, Any] | None) -> ChunkScheme | None:
    if given is None or isinstance(given, ChunkScheme):
        return given
    if not isinstance(given, Mapping):
        raise InputError(f"scheme={given!r} is no scheme: give a ChunkScheme, or its fields")
    if unknown := given.keys() - asdict(ChunkScheme()).keys():
        raise InputError(f"a scheme has no {', '.join(sorted(unknown))}: it takes {', '.join(asdict(ChunkScheme()))}")
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return ChunkScheme(**fields)
