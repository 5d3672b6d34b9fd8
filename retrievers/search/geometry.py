"""Similarities in the geometry of a collection: whitened, and without what makes a chunk near to every query.

Stored vectors stay as they are. What is fitted on a sample of them changes the query that finds candidates, and the
candidates' similarities are computed of their vectors, so it can be switched on for any collection, and off again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import FallbackWarning, InputError
from situate.parameters import checked_parameters
from situate.retrievers.index.payload import DENSE
from situate.retrievers.storage.ids import point_key
from situate.vectors import direction, unit

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder
    from situate.retrievers.search.gateway import Gateway, Scores

#: Chunks that a collection's geometry is fitted on, those with the least point ids: ids are hashes, an even draw.
SAMPLE, PAGE = 5000, 500
#: Chunks whose first words stand for queries, where none are given.
EXCERPTS = 256


@checked_parameters
@dataclass(frozen=True)
class Hubness:
    """Cross-domain similarity local scaling (CSLS, Conneau et al. 2018): what hubs are near to anyway is subtracted.

    A few chunks are among the nearest of many queries that they do not answer (Radovanovic et al. 2010). The mean
    similarity of a chunk to its nearest of a sample of queries says how much of a hub it is.

    Attributes:
        weight: The share of that mean that is subtracted from a chunk's similarity; .5 in CSLS, where the query's own
            is subtracted, too, which changes no order.
        neighbours: How many of the sample's queries are a chunk's nearest.
        queries: The sample: questions as they are asked, some hundreds. Without any, the first words of chunks stand
            for queries.

    Raises:
        InputError: ``weight`` is not in [0, 1], ``neighbours`` is less than 1, or there are fewer queries than that.
    """

    weight: float = 0.25
    neighbours: int = 10
    queries: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        given: Any = self.queries
        if not isinstance(given, tuple | list) or not all(isinstance(query, str) for query in given):
            raise InputError(f"queries={given!r} of hubness is no list of questions")
        object.__setattr__(self, "queries", tuple(dict.fromkeys(q for q in self.queries if q.strip())))
        if not 0 <= self.weight <= 1:
            raise InputError(f"the weight of hubness is {self.weight}, a share: it must lie between 0 and 1")
        if self.neighbours < 1:
            raise InputError(f"neighbours={self.neighbours} of hubness: a mean needs one at least")
        if 0 < len(self.queries) < self.neighbours:
            raise InputError(
                f"hubness has {len(self.queries)} different queries for the mean of neighbours={self.neighbours}: give "
                "some hundreds, or none"
            )


@checked_parameters
@dataclass(frozen=True)
class Whitening:
    """Vectors less their mean, their directions evened out, compared by cosine (Su et al. 2021, Huang et al. 2021).

    Attributes:
        remove: None scales every direction to the same variance; a number leaves that many of the widest directions out
            and the others as they are ("all but the top", Mu and Viswanath 2018), 0 only takes the mean off.
        ridge: With ``remove=None``, a share of the mean variance that is added to that of each direction: 0 whitens in
            full, which blows up the noise of the narrow ones.

    Raises:
        InputError: ``remove`` or ``ridge`` is negative.
    """

    remove: int | None = None
    ridge: float = 1.0

    def __post_init__(self) -> None:
        if self.remove is not None and (isinstance(self.remove, bool) or self.remove < 0):
            raise InputError(f"remove={self.remove} of whitening is a number of directions: 0 or more, or None for all")
        if not 0 <= self.ridge < float("inf"):
            raise InputError(f"ridge={self.ridge} of whitening is a share of the mean variance: 0 or more")


def hubness_of(value: Hubness | Mapping[str, Any] | None) -> Hubness | None:
    """The value, or that of its fields, as JSON has them."""
    made: Hubness | None = _value(Hubness, "hubness", value)
    return made


def whitening_of(value: Whitening | Mapping[str, Any] | None) -> Whitening | None:
    """The value, or that of its fields, as JSON has them."""
    made: Whitening | None = _value(Whitening, "whitening", value)
    return made


def _value(cls: Any, name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return cls(**{key: tuple(each) if isinstance(each, list) else each for key, each in value.items()})
    if value is None or isinstance(value, cls):
        return value
    raise InputError(f"{name}={value!r} is no {cls.__name__}: give one, or a mapping of its fields")


@dataclass(frozen=True, eq=False)
class Geometry:
    """What was fitted on a collection.

    Attributes:
        mean: float32 ``[dimension]``; None where nothing is whitened.
        basis: float32 ``[dimension, directions]``.
        hubness: None where it is not subtracted.
        queries: float32 ``[queries, directions]``, L2-normalised: the sample that hubness is measured by.
        own: Point -> the row of ``queries`` that is made of this chunk's own text.
    """

    mean: Vectors | None = None
    basis: Vectors | None = None
    hubness: Hubness | None = None
    queries: Vectors | None = None
    own: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, gateway: Gateway, embedder: Embedder, hubness: Hubness | None, whitening: Whitening | None
    ) -> Geometry:
        """Read a sample of a collection; the same collection gives the same.

        Costs a request for every `PAGE` of `SAMPLE` chunks with their vectors where it whitens, and for hubness the
        embedding of the queries. A collection that is too small is left as it is, with a `FallbackWarning`.
        """
        from situate.retrievers.search.relevance import excerpt

        mean = basis = None
        if whitening is not None:
            rows = _sample(gateway)
            needed = max(embedder.dimension, 2)
            if len(rows) < needed:
                _too_small("whitening", gateway, needed)
            else:
                mean, basis = _directions(rows, whitening)
        fitted = cls(mean, basis)
        if hubness is None:
            return fitted
        texts, own = list(hubness.queries), dict[int, int]()
        if not texts:
            records, _ = gateway.client.scroll(
                gateway.collection, limit=EXCERPTS, with_payload=["text"], with_vectors=False
            )
            texts = [excerpt(str((record.payload or {})["text"])) for record in records]
            own = {point_key(record.id): row for row, record in enumerate(records)}
        if len(texts) <= hubness.neighbours and own:
            _too_small("hubness", gateway, hubness.neighbours + 1)
            return fitted
        return cls(mean, basis, hubness, fitted.placed(unit(embedder.embed_queries(texts))), own) if texts else fitted

    def placed(self, vectors: Vectors) -> Vectors:
        """float32 ``[..., directions]``, L2-normalised, of vectors ``[..., dimension]`` of the collection."""
        if self.mean is None or self.basis is None:
            return vectors
        moved: Vectors = np.asarray((vectors - self.mean) @ self.basis, dtype=np.float32)
        return unit(moved)

    def finding(self, query: Vectors) -> Vectors:
        """The query by which stored vectors are searched: their dot product with it orders them as the whitened do,
        lengths aside.

        Args:
            query: float32 ``[dimension]``, as the result.
        """
        if self.mean is None or self.basis is None:
            return query
        return direction(((query - self.mean) @ self.basis @ self.basis.T).astype(np.float64), query)

    def similarities(self, rows: Mapping[int, Vectors], query: Vectors) -> Scores:
        """The similarity of each point to a query, in this geometry, by the vectors of both."""
        matrix = self.placed(np.array(list(rows.values())))
        found = matrix @ self.placed(query)
        if self.hubness is not None and self.queries is not None:
            near = matrix @ self.queries.T
            for row, point in enumerate(rows):
                if point in self.own:
                    near[row, self.own[point]] = -np.inf
            count = self.hubness.neighbours
            found = found - self.hubness.weight * np.partition(near, -count, axis=1)[:, -count:].mean(1)
        return dict(zip(rows, found.tolist(), strict=True))


def _sample(gateway: Gateway) -> Vectors:
    """float32 ``[chunks, dimension]``."""
    found: list[Any] = []
    offset: Any = None
    while len(found) < SAMPLE:
        records, offset = gateway.client.scroll(
            gateway.collection, limit=PAGE, offset=offset, with_payload=False, with_vectors=[DENSE]
        )
        found += [record.vector[DENSE] for record in records if isinstance(record.vector, dict)]
        if offset is None:
            break
    return np.array(found, dtype=np.float32)


def _directions(rows: Vectors, whitening: Whitening) -> tuple[Vectors, Vectors]:
    """The mean, and the directions that are kept, scaled."""
    mean = rows.mean(0, dtype=np.float64)
    variances, axes = np.linalg.eigh(np.cov((rows - mean).T))
    variances, axes = variances[::-1].clip(min=0), axes[:, ::-1]
    if whitening.remove is not None:
        if whitening.remove >= rows.shape[1]:
            raise InputError(f"remove={whitening.remove} of whitening leaves nothing of {rows.shape[1]} directions")
        basis = axes[:, whitening.remove :]
    else:
        # A direction without any variance, as unit vectors may have, stays out.
        scale = variances + whitening.ridge * variances.mean()
        kept = scale > 1e-9 * variances.max()
        basis = axes[:, kept] / np.sqrt(scale[kept])
    return mean.astype(np.float32), basis.astype(np.float32)


def _too_small(what: str, gateway: Gateway, needed: int) -> None:
    warnings.warn(
        f"collection {gateway.collection!r} has fewer than {needed} chunks, by which {what} is fitted: similarities "
        "stay as they are until it has",
        FallbackWarning,
        stacklevel=4,
    )
