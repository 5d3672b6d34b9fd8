"""Scores out of the payload: how recent a document is, how often it is read, how far its author is trusted.

Qdrant computes them (a formula query), on a server and in the embedded store, so only scores are fetched.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.storage.ids import point_id, point_key

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.search.gateway import Gateway, Scores


@checked_parameters
@dataclass(frozen=True)
class Recency:
    """``weight * decay(age)``: the newest documents get ``weight`` more, old ones nothing.

    With "exp" the decay is ``midpoint ** (age / scale)``, with "gauss" ``midpoint ** (age / scale) ** 2``, with
    "linear" it falls in a straight line through ``midpoint`` at ``scale`` down to 0. Dates that lie after ``at`` count
    by their distance, like those before. A document without a date, or with text that is not a date, gets nothing.

    Attributes:
        key: The metadata key that holds the date, as RFC 3339 text ("2024-05-01" or "2024-05-01T12:00:00Z").
        scale: Days after which the decay is ``midpoint``.
        weight: The bonus of a document from today.
        midpoint: See ``scale``; more than 0 and less than 1.
        decay: The decay's form.
        at: The reference date; None for the moment of the query.

    Raises:
        InputError: ``key`` is empty, ``weight`` is not finite, ``scale`` is not finite and above 0, ``midpoint`` is not
            between 0 and 1, ``decay`` is not one of the three, or ``at`` has no time zone.
    """

    key: str
    scale: float = 30.0
    weight: float = 0.2
    midpoint: float = 0.5
    decay: Literal["exp", "gauss", "linear"] = "exp"
    at: dt.datetime | None = None

    def __post_init__(self) -> None:
        _check_weight(self.key, self.weight)
        if not (0 < self.scale < math.inf and 0 < self.midpoint < 1):
            raise InputError(
                f"scale={self.scale} days must be more than 0, and midpoint={self.midpoint} between 0 and 1"
            )
        if self.decay not in ("exp", "gauss", "linear"):
            raise InputError(f"decay={self.decay!r} is not one of 'exp', 'gauss', 'linear'")
        if self.at is not None and self.at.tzinfo is None:
            raise InputError(f"at={self.at} has no time zone: give datetime(..., tzinfo=UTC)")

    def expression(self) -> Any:
        """The Qdrant expression."""
        from qdrant_client import models

        params = models.DecayParamsExpression(
            x=models.DatetimeKeyExpression(datetime_key=f"metadata.{self.key}"),
            target=models.DatetimeExpression(datetime=(self.at or dt.datetime.now(dt.UTC)).isoformat()),
            scale=self.scale * 86_400,
            midpoint=self.midpoint,
        )
        form: Any = models.ExpDecayExpression(exp_decay=params)
        if self.decay == "gauss":
            form = models.GaussDecayExpression(gauss_decay=params)
        elif self.decay == "linear":
            form = models.LinDecayExpression(lin_decay=params)
        return models.MultExpression(mult=[self.weight, form])

    @property
    def missing(self) -> float:
        """The value of a document without a date."""
        return 0.0

    def readable(self) -> models.FieldCondition:
        """Holds for points whose value is a date: the formula fails on any other."""
        from qdrant_client import models

        return models.FieldCondition(
            key=f"metadata.{self.key}", range=models.DatetimeRange(lte=dt.datetime.max.replace(tzinfo=dt.UTC))
        )


@checked_parameters
@dataclass(frozen=True)
class PayloadScore:
    """``weight * value`` of a number in the metadata; bring it to about [0, 1] before it is indexed.

    Attributes:
        key: The metadata key that holds the number.
        weight: Its weight; less than 0 for a penalty.
        missing: The value for a document without the key, or with a value that is not a number.

    Raises:
        InputError: ``key`` is empty, or ``weight`` or ``missing`` is not finite.
    """

    key: str
    weight: float = 0.2
    missing: float = 0.0

    def __post_init__(self) -> None:
        _check_weight(self.key, self.weight)
        if not math.isfinite(self.missing):
            raise InputError(f"missing={self.missing} is not a finite number")

    def expression(self) -> Any:
        """The Qdrant expression."""
        from qdrant_client import models

        return models.MultExpression(mult=[self.weight, f"metadata.{self.key}"])

    def readable(self) -> models.FieldCondition:
        """Holds for points whose value is a number."""
        from qdrant_client import models

        return models.FieldCondition(key=f"metadata.{self.key}", range=models.Range(gte=-1e308, lte=1e308))


Boost: TypeAlias = Recency | PayloadScore


def boost_scores(gateway: Gateway, boosts: Sequence[Boost], points: Sequence[int]) -> Scores:
    """Each point's sum of its boosts, in one request with a formula query for each.

    Args:
        gateway: The collection.
        boosts: The boosts to add up.
        points: The points, as numbers; each has a score in the result.
    """
    from qdrant_client import models

    total = dict.fromkeys(points, math.fsum(boost.weight * boost.missing for boost in boosts))
    if not points or not boosts:
        return total
    ids = [point_id(point) for point in points]
    requests = [
        models.QueryRequest(
            prefetch=models.Prefetch(
                filter=models.Filter(must=[models.HasIdCondition(has_id=list(ids)), boost.readable()]),
                limit=len(points),
            ),
            query=models.FormulaQuery(formula=boost.expression()),
            limit=len(points),
            with_payload=False,
        )
        for boost in boosts
    ]
    for boost, found in zip(boosts, gateway.batch(requests), strict=True):
        for point in found:
            total[point_key(point.id)] += float(point.score) - boost.weight * boost.missing
    return total


def _check_weight(key: str, weight: float) -> None:
    if not key:
        raise InputError("a boost needs the metadata key that it reads")
    if not math.isfinite(weight):
        raise InputError(f"the weight of the boost by {key!r} is {weight}: give a finite number")
