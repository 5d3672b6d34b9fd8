"""The settings of a search that need no new index, and the search for the best of them by successive halving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from situate.errors import InputError
from situate.retrievers.config import Feedback, PipelineConfig

#: What is tried of each.
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_FEEDBACK = (None, Feedback(3, 0.15), Feedback(3, 0.3), Feedback(3, 0.6), Feedback(5, 0.3), Feedback(5, 0.6))
_PREFETCH = (100, 200)
_MAXSIM = (0.1, 0.2, 0.3, 0.5, 0.7)
#: The largest number of candidates that is tried.
MOST = max(_PREFETCH)
#: Of the settings so many remain in a round, which asks so many times the questions; the first asks so many.
_KEPT, _MORE, _FIRST = 3, 2, 50
#: Standard errors within which settings count as equally good.
_CHANCE = 2.0

#: Settings, and the numbers of the questions -> float64 ``[questions]``: what each of them finds.
Measure = Callable[[PipelineConfig, Sequence[int]], NDArray[np.float64]]


def candidates(config: PipelineConfig, *, same_cost: bool = False) -> list[PipelineConfig]:
    """The settings to try, the given ones first. What is stored is the same for all of them.

    Args:
        config: The settings so far.
        same_cost: Leave out those that ask the store for more than ``config`` does.
    """
    shares = _SHARES if config.lexical is not None else (config.lexical_share,)
    feedback = [each for each in _FEEDBACK if not same_cost or (each is None) == (config.feedback is None)]
    prefetch = [each for each in _PREFETCH if not same_cost or each <= config.prefetch]
    maxsim = _MAXSIM if config.token_vectors is not None else (config.maxsim_weight,)
    found: list[PipelineConfig] = []
    for share, fed, most, weight in product(
        dict.fromkeys((config.lexical_share, *shares)),
        dict.fromkeys((config.feedback, *feedback)),
        dict.fromkeys((config.prefetch, *prefetch)),
        dict.fromkeys((config.maxsim_weight, *maxsim)),
    ):
        # "rrf" and "dbsf" have no shares; with shares the fusion is min-max.
        found.append(
            replace(config, fusion="minmax", lexical_share=share, feedback=fed, prefetch=most, maxsim_weight=weight)
        )
    # Compared, not hashed: signals hold mappings.
    return [config, *(each for each in found if each != config)]


def nearby(config: PipelineConfig) -> list[PipelineConfig]:
    """The settings whose further signals weigh more or less, each by itself."""
    return list(_weighed(config))


def _weighed(config: PipelineConfig) -> Iterator[PipelineConfig]:
    for signal in config.signals:
        for factor in (0.5, 1.5, 2) if signal.weight else ():
            try:
                yield config.weighted({signal.name: signal.weight * factor})
            except InputError:  # the shares come to more than the configuration allows
                continue


def best_of(
    tried: Sequence[PipelineConfig], measure: Measure, judging: Sequence[int], guarding: Sequence[int], seed: int = 0
) -> PipelineConfig:
    """The best settings by successive halving (Jamieson and Talwalkar 2016), against the first of them.

    Each round keeps the best third, and asks twice as many questions as the one before.

    Args:
        tried: The settings; the first are those to beat.
        measure: What settings find.
        judging: The numbers of the questions by which settings are judged.
        guarding: Of those by which they must not be worse: what they lose is taken off.
        seed: Of the order in which questions are asked.
    """
    draw = np.random.default_rng(seed)
    judges, guards = draw.permutation(np.array(judging, dtype=int)), draw.permutation(np.array(guarding, dtype=int))
    default, left, asked = tried[0], list(tried[1:]), _FIRST
    while True:
        some, others = judges[:asked].tolist(), guards[:asked].tolist()
        base = measure(default, some), measure(default, others)
        scores = [score(measure(each, some) - base[0], measure(each, others) - base[1]) for each in left]
        order = sorted(range(len(left)), key=lambda place: -scores[place])
        if len(left) <= _KEPT and asked >= max(len(judges), len(guards)):
            break
        left = [left[place] for place in order[: max(_KEPT, len(left) // _KEPT)]]
        asked = asked * _MORE if len(left) > _KEPT else max(len(judges), len(guards))
    return left[order[0]] if left and scores[order[0]] > 0 else default


def nearer_share(
    best: PipelineConfig, default: PipelineConfig, measure: Measure, judging: Sequence[int], guarding: Sequence[int]
) -> PipelineConfig:
    """``best`` with BM25's share as near to the default's as finds about as much.

    The best share depends on how questions are asked, and people ask otherwise than documents do: of the shares on the
    way to the best one the first is taken that is not worse by more than twice the standard error. Whether it is better
    than the default's is for the questions that are held back.

    Args:
        best: Settings that were found.
        default: Those of before.
        measure: What settings find.
        judging: As in `best_of`.
        guarding: As in `best_of`.
    """
    low, high = sorted((best.lexical_share, default.lexical_share))
    between = [share for share in _SHARES if low < share < high]
    if not between or not len(judging):
        return best
    base = measure(default, judging), measure(default, guarding)

    def over_default(config: PipelineConfig) -> float:
        return score(measure(config, judging) - base[0], measure(config, guarding) - base[1])

    chosen, found = best, measure(best, judging)
    for share in sorted(between, key=lambda share: abs(share - best.lexical_share)):
        tried = replace(best, lexical_share=share)
        error = (measure(tried, judging) - found).std() / len(found) ** 0.5
        if over_default(tried) < over_default(best) - _CHANCE * error:
            break
        chosen = tried
    return chosen


def score(judged: NDArray[np.float64], guarded: NDArray[np.float64]) -> float:
    """What is gained by the differences of questions that judge, less what is lost by those that guard."""
    return float(judged.mean() if len(judged) else 0.0) + min(0.0, float(guarded.mean()) if len(guarded) else 0.0)


def changes(config: PipelineConfig, default: PipelineConfig) -> dict[str, Any]:
    """The fields of a configuration that differ from those of another one."""
    mine = {each.name: getattr(config, each.name) for each in fields(PipelineConfig)}
    return {name: value for name, value in mine.items() if value != getattr(default, name)}
