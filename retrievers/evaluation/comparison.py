"""Configurations side by side, with paired bootstrap intervals of their differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from situate.errors import InputError, MissingExtraError
from situate.retrievers.evaluation.judgements import EvaluationSet
from situate.retrievers.evaluation.measures import evaluate
from situate.retrievers.evaluation.perturbations import Perturbation, perturbed
from situate.retrievers.types import Hit
from situate.types import TextGenerator


@dataclass(frozen=True)
class Interval:
    """A mean difference and its 95 % paired bootstrap interval, in the measure's own unit (from -1 to 1 for nDCG).

    Attributes:
        mean: The mean over the queries.
        low: The interval's lower end: the 2.5th percentile of the resampled means.
        high: Its upper end: the 97.5th percentile.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, differences: NDArray[np.float64], seed: int = 0) -> Interval:
        """The interval of one difference per query, float64 ``[queries]`` (10,000 resamples)."""
        generator = np.random.default_rng(seed)
        resampled = np.concatenate(
            [
                # In slices: 10,000 x thousands of queries at once would be hundreds of megabytes.
                differences[generator.integers(0, len(differences), (500, len(differences)))].mean(axis=1)
                for _ in range(20)
            ]
        )
        low, high = np.percentile(resampled, [2.5, 97.5])
        return cls(float(differences.mean()), float(low), float(high))

    @property
    def clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass
class Comparison:
    """Scores of several configurations on the same queries.

    Attributes:
        name: The evaluation set's name.
        scores: Configuration -> measure -> float64 ``[queries]``.
        perturbed: Perturbation -> configuration -> measure -> float64 ``[queries]``: the same queries in other forms.
    """

    name: str
    scores: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    perturbed: dict[str, dict[str, dict[str, NDArray[np.float64]]]] = field(default_factory=dict)

    def mean(self, configuration: str, measure: str) -> float:
        """The mean over the queries."""
        return float(self.scores[configuration][measure].mean())

    def difference(self, configuration: str, baseline: str, measure: str, seed: int = 0) -> Interval:
        """How much better ``configuration`` is than ``baseline``, query by query (10,000 resamples)."""
        return Interval.of(self.scores[configuration][measure] - self.scores[baseline][measure], seed)

    def robustness(self, measure: str) -> str:
        """A Markdown table of what perturbed queries lose.

        Per configuration the mean of the queries as they are; per perturbation the difference of its mean, x100, with
        its paired bootstrap interval; then over all forms of a query, averaged over the queries: mean, spread (the
        standard deviation) and worst case.

        Raises:
            InputError: No queries were perturbed.
        """
        if not self.perturbed:
            raise InputError("there are no perturbed queries: give compare(..., perturb=(...))")
        columns = ["as asked", *self.perturbed, "mean", "spread", "worst"]
        rows = [f"| {self.name}, {measure} | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
        for configuration, scores in self.scores.items():
            asked = scores[measure]
            others = [forms[configuration][measure] for forms in self.perturbed.values()]
            every = np.array([asked, *others])
            losses = [Interval.of(other - asked) for other in others]
            cells = [
                f"{asked.mean():.3f}",
                *(f"{100 * i.mean:+.1f} [{100 * i.low:.1f}, {100 * i.high:.1f}]" for i in losses),
                f"{every.mean():.3f}",
                f"{every.std(axis=0).mean():.3f}",
                f"{every.min(axis=0).mean():.3f}",
            ]
            rows.append(f"| {configuration} | " + " | ".join(cells) + " |")
        return "\n".join(rows)

    def table(self, baseline: str | None = None) -> str:
        """A Markdown table: a row per configuration; differences x100 to the baseline with their intervals."""
        measures = list(next(iter(self.scores.values()), {}))
        rows = [f"| {self.name} | " + " | ".join(measures) + " |", "| --- |" + " --- |" * len(measures)]
        for configuration in self.scores:
            cells = []
            for measure in measures:
                cell = f"{self.mean(configuration, measure):.3f}"
                if baseline is not None and configuration != baseline:
                    d = self.difference(configuration, baseline, measure)
                    cell += f" ({100 * d.mean:+.1f} [{100 * d.low:.1f}, {100 * d.high:.1f}])"
                cells.append(cell)
            rows.append(f"| {configuration} | " + " | ".join(cells) + " |")
        return "\n".join(rows)

    def to_json(self, baseline: str | None = None) -> str:
        """Means and, where a baseline is given, intervals of the differences to it."""
        rows: dict[str, dict[str, object]] = {}
        for configuration, measures in self.scores.items():
            rows[configuration] = {}
            for measure in measures:
                row: dict[str, object] = {"mean": self.mean(configuration, measure)}
                if baseline is not None and configuration != baseline:
                    d = self.difference(configuration, baseline, measure)
                    row["difference"] = {"mean": d.mean, "low": d.low, "high": d.high}
                for kind, forms in self.perturbed.items():
                    row[kind] = float(forms[configuration][measure].mean())
                rows[configuration][measure] = row
        return json.dumps({"set": self.name, "baseline": baseline, "configurations": rows}, indent=1)

    def chart(self, measure: str, baseline: str, width: int = 60) -> str:
        """The differences to ``baseline`` in points, with their intervals, drawn with characters.

        Args:
            measure: The measure.
            baseline: The configuration that lies at 0.
            width: Characters of the axis.
        """
        found = {n: self.difference(n, baseline, measure) for n in self.scores if n != baseline}
        low, high = min([0.0, *(i.low for i in found.values())]), max([0.0, *(i.high for i in found.values())])
        step = (high - low) / (width - 1) or 1.0
        at = {
            edge: round((edge - low) / step) for edge in (0.0, *(e for i in found.values() for e in vars(i).values()))
        }
        title = f"{measure}, points over {baseline}"
        names = max(map(len, (title, *found)))
        rows = [f"{title:<{names}}  {100 * low:<+{width - 8}.1f}{100 * high:>+8.1f}"]
        for name, interval in found.items():
            line = [" "] * width
            line[at[interval.low] : at[interval.high] + 1] = "─" * (at[interval.high] - at[interval.low] + 1)
            line[at[0.0]] = "│"
            line[at[interval.mean]] = "●"
            rows.append(f"{name:<{names}}  {''.join(line).rstrip()}")
        return "\n".join(rows)

    def plot(self, path: str | Path, measure: str, baseline: str) -> None:
        """Write a picture of the differences to ``baseline`` with their intervals.

        Args:
            path: The file; its ending names the kind of picture (``.png``, ``.svg``, ``.pdf``).
            measure: The measure.
            baseline: The configuration that lies at 0.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtraError.of("matplotlib", "evaluation", "drawing a comparison") from error
        names = [name for name in self.scores if name != baseline]
        intervals = [self.difference(name, baseline, measure) for name in names]
        figure = Figure(figsize=(8, 0.4 * len(names) + 1.6), layout="constrained")
        axes = figure.subplots()
        means = np.array([100 * i.mean for i in intervals])
        errors = np.array([[100 * (i.mean - i.low), 100 * (i.high - i.mean)] for i in intervals]).T
        axes.errorbar(means, range(len(names)), xerr=errors, fmt="o", capsize=3)
        axes.axvline(0, color="grey", linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(f"{measure}, points over {baseline} (95 % paired bootstrap)")
        axes.set_title(self.name)
        figure.savefig(path, dpi=120)


def compare(
    data: EvaluationSet,
    searches: Mapping[str, Callable[[str], Iterable[Hit]]],
    measures: Sequence[str],
    *,
    binary: bool = True,
    count_tokens: Callable[[str], int] | None = None,
    perturb: Sequence[Perturbation] = (),
    generator: TextGenerator | None = None,
    seed: int = 0,
) -> Comparison:
    """Evaluate several configurations on one set, in the order given.

    Args:
        data: The set.
        searches: Name -> what answers a query.
        measures: As in `evaluate`, like ``binary`` and ``count_tokens``.
        binary: Count any grade above 0 as 1.
        count_tokens: Tokens of a text.
        perturb: Also ask every query in these forms (`perturbed`), all searches the same; `Comparison.robustness`
            shows what they lose.
        generator: The language model that writes paraphrases.
        seed: Of the perturbations.

    Raises:
        InputError: There is nothing to compare, or there is no such perturbation.
        GenerationError: The language model failed.
    """
    if not searches or not measures:
        raise InputError("compare needs at least one search and one measure")
    # Before anything is searched: a kind that is unknown, or a language model that fails, costs no comparison.
    forms = {kind: _in_other_form(data, kind, generator, seed) for kind in perturb}
    comparison = Comparison(data.name)
    for name, search in searches.items():
        comparison.scores[name] = evaluate(data, search, measures, binary=binary, count_tokens=count_tokens)
    for kind, form in forms.items():
        comparison.perturbed[kind] = {
            name: evaluate(form, search, measures, binary=binary, count_tokens=count_tokens)
            for name, search in searches.items()
        }
    return comparison


def _in_other_form(
    data: EvaluationSet, kind: Perturbation, generator: TextGenerator | None, seed: int
) -> EvaluationSet:
    new = perturbed(list(data.queries.values()), kind, generator=generator, seed=seed)
    return replace(data, queries=dict(zip(data.queries, new, strict=True)))
