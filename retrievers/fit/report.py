"""What fitting found: settings, an adapter of queries, and whether they are better."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from situate.chunkers.auto import CHARACTERS
from situate.embedders.models.query_map import QueryMap
from situate.retrievers.config import PipelineConfig
from situate.retrievers.evaluation.comparison import Comparison, Interval
from situate.retrievers.fit.rebuilding import Build
from situate.retrievers.fit.settings import changes
from situate.retrievers.fit.thresholds import Threshold

#: The row of the settings that were given.
DEFAULT = "as it was"
#: The row of the settings that need a new index.
BUILT = "indexed again"
#: The file of a map of queries.
MAP_FILE = "query_map.safetensors"


@dataclass(frozen=True)
class Verdict:
    """Something that was fitted, measured on the questions that were held back.

    Attributes:
        name: What it is.
        judged: How much more is found of the questions that judge, in [-1, 1].
        guarded: The same of the questions that only guard; None where there are none.
        milliseconds: The median time of a search, without embedding the query.
        used: Whether it is better beyond chance on the first, by more than the others lose.
    """

    name: str
    judged: Interval
    guarded: Interval | None
    milliseconds: float
    used: bool

    @classmethod
    def of(cls, name: str, judged: NDArray[np.float64], guarded: NDArray[np.float64], milliseconds: float) -> Verdict:
        """The verdict on differences, float64 ``[questions]``."""
        judge = Interval.of(judged) if len(judged) else Interval(0.0, 0.0, 0.0)
        guard = Interval.of(guarded) if len(guarded) else None
        lost = 0.0 if guard is None else max(0.0, -guard.mean)
        worse = guard is not None and guard.high < 0
        return cls(name, judge, guard, milliseconds, judge.low > lost and not worse)

    def written(self) -> str:
        """The verdict with its numbers, in one line."""
        guarded = "" if self.guarded is None else f", words that stay {_points(self.guarded)}"
        return f"{_points(self.judged)}{guarded}: {self.words}"

    @property
    def words(self) -> str:
        """The verdict in words."""
        if self.used:
            return "better: used"
        if self.judged.low > 0:
            return "worse where words stay: not used"
        return "worse: not used" if self.judged.high < 0 else "no gain: not used"


@dataclass(frozen=True)
class Fit:
    """Settings for an index, and how they were found.

    Attributes:
        config: The settings to search with: those that were fitted where they are better, else those of before.
        query_map: The map of queries, where it is better.
        default: The settings of before.
        verdicts: What was fitted, and whether it is used.
        comparison: What each finds of the questions that were held back.
        asked: By kind, how many questions there were in all.
        tried: How many settings were tried.
        seconds: How long it took.
        milliseconds: The median time of a search with the settings of before.
        rebuilt: How the index would be built anew, where that is better: ``Index(embedder, chunker=rebuilt.chunker,
            config=rebuilt.config)`` (``chunker`` None: as before).
        threshold: The relevance below which hits are left out, ``Retriever(threshold=threshold.value)``; None where .5
            does as well.
        encoded: How many texts were embedded to try other builds.
    """

    config: PipelineConfig
    query_map: QueryMap | None
    default: PipelineConfig
    verdicts: tuple[Verdict, ...]
    comparison: Comparison
    asked: Mapping[str, int]
    tried: int
    seconds: float
    milliseconds: float
    rebuilt: Build | None = None
    threshold: Threshold | None = None
    encoded: int = 0

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the configuration that changed; none where nothing was better."""
        return changes(self.config, self.default)

    def table(self) -> str:
        """The report, as Markdown."""
        held = len(next(iter(self.comparison.scores.values()))["found"])
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.asked.items())
        rows = [
            "| | found of what was asked | words that stay | ms a search | |",
            "| --- | --- | --- | --- | --- |",
            f"| {DEFAULT} | {self.comparison.mean(DEFAULT, 'found'):.3f} | | {self.milliseconds:.2f} | |",
        ]
        for verdict in self.verdicts:
            guarded = "" if verdict.guarded is None else _points(verdict.guarded)
            rows.append(
                f"| {verdict.name} | {_points(verdict.judged)} | {guarded} | {verdict.milliseconds:.2f} "
                f"| {verdict.words} |"
            )
        moved = "; query_adapter: the map that save() writes" if self.query_map is not None else ""
        said = json.dumps(self.written(), ensure_ascii=False) if self.changes else "as before"
        lines = [
            *rows,
            "",
            f"{sum(self.asked.values())} questions ({kinds}); {held} that were held back judge. {self.tried} settings "
            f"tried in {self.seconds:.0f} s, {self.encoded} texts embedded for those of a new index. Points with 95 % "
            "intervals of a paired bootstrap.",
            f"Configuration: {said}{moved}.",
        ]
        if self.rebuilt is not None:
            lines.append(f"Of a new index: {json.dumps(self.written_build(), ensure_ascii=False)}.")
        if (found := self.threshold) is not None:
            lines.append(
                f"Threshold: {found.value:.2f} keeps {100 * found.kept:.0f} % of best hits that answer, and leaves out "
                f"{100 * found.refused:.0f} % of those that do not; than .5 {_points(found.gained)} points."
            )
        return "\n".join(lines)

    def written_build(self) -> dict[str, Any]:
        """`rebuilt` as values of `situate.yaml`: ``chunker`` and ``config``; none where there is none."""
        if self.rebuilt is None:
            return {}
        config = {name: _plain(value) for name, value in changes(self.rebuilt.config, self.default).items()}
        cut = {"chunker": _written_chunker(self.rebuilt.chunker)} if self.rebuilt.chunker is not None else {}
        return {**cut, "config": config}

    def written(self) -> dict[str, Any]:
        """The changes as values of `situate.yaml`'s ``config``."""
        return {name: _plain(value) for name, value in self.changes.items()}

    def save(self, folder: str | Path) -> None:
        """Write the report (``report.md``), the changes (``config.json``), those of a new index (``rebuilt.json``) and
        the map of queries (``query_map.safetensors``), where there are any."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(self.table() + "\n", encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(self.written(), indent=1) + "\n", encoding="utf-8")
        if self.rebuilt is not None:
            (folder / "rebuilt.json").write_text(json.dumps(self.written_build(), indent=1) + "\n", encoding="utf-8")
        if self.query_map is not None:
            self.query_map.save(folder / MAP_FILE)

    def plot(self, path: str | Path) -> None:
        """Write a picture of the differences with their intervals, those of a new index left out.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        self.comparison.plot(path, "found", DEFAULT)


def _points(interval: Interval) -> str:
    return f"{100 * interval.mean:+.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _written_chunker(chunker: Any) -> dict[str, Any]:
    """A sized chunker as `situate.yaml` has it, which counts tokens: four characters each where there are none."""
    words = re.findall("[A-Z][a-z]+", type(chunker).__name__)
    kind = "_".join(words).lower().removesuffix("_chunker").removesuffix("_token")
    unit = 1 if chunker.tokenizer is not None else CHARACTERS
    return {"kind": kind, "size": chunker.size // unit, "overlap": chunker.overlap // unit}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [each.to_json() if hasattr(each, "to_json") else _plain(each) for each in value]
    return value
