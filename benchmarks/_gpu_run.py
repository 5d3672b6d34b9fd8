"""The stages of a run, one after another in a process of their own, each within its time."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Row = dict[str, Any]
#: The row with the device's measured peak, which later stages relate their own rates to.
PEAK = "bfloat16 product, FLOP/s"


@dataclass(frozen=True)
class Settings:
    """What a stage runs on.

    Attributes:
        device: "cuda", or "cpu" to try the script itself.
        smoke: Tiny models and few texts.
        tokenizer: A folder with the tokenizer's files of a BERT vocabulary.
        scratch: Folder of the models, which stages share.
        out: Folder of the results.
        deadline: `time.time` at which the stage is stopped.
        peak: Measured FLOP/s of a bfloat16 product; None where that was not measured.
    """

    device: str
    smoke: bool
    tokenizer: Path
    scratch: Path
    out: Path
    deadline: float = math.inf
    peak: float | None = None


@dataclass(frozen=True)
class Stage:
    """One part of the run.

    Attributes:
        name: In the table.
        run: Yields its rows; a row whose "verdict" begins with "wrong" fails the run. A function of a module.
        least: Seconds without which it is not begun.
        most: Seconds after which it is stopped.
    """

    name: str
    run: Callable[[Settings], Iterator[Row]]
    least: float
    most: float


@dataclass
class Result:
    """A stage's result.

    Attributes:
        rows: Its rows, up to the error if there was one.
        seconds: How long it took.
        error: Why it ended early, or None.
        traceback: The error's, or None.
    """

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    traceback: str | None = None

    @property
    def wrong(self) -> list[Row]:
        """Rows with a wrong result."""
        return [row for row in self.rows if str(row.get("verdict", "")).startswith("wrong")]


class _Worker:
    """The process that runs stages."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.pipe, there = context.Pipe()
        # Not a daemon, which may have no processes of its own, and a stage has one for each card.
        self.process = context.Process(target=_serve, args=(there,))
        self.process.start()
        there.close()

    def end(self) -> None:
        """Let it end by itself, or stop it."""
        self.pipe.close()
        self.process.join(3)
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection) -> None:
    """Run the stages received from the pipe, and send their rows back."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    warnings.simplefilter("ignore")
    while True:
        try:
            run, settings = pipe.recv()
        except EOFError:
            return
        try:
            for row in run(settings):
                pipe.send(("row", row))
            pipe.send(("done", None))
        except Exception as error:  # noqa: BLE001  an error of any kind is a result of the stage
            pipe.send(("error", (f"{type(error).__name__}: {error}"[:500], traceback.format_exc()[-4000:])))


class Run:
    """Runs stages one after another and writes their results.

    Args:
        settings: What each stage runs on.
        seconds: For all stages together.
    """

    def __init__(self, settings: Settings, seconds: float) -> None:
        self.settings, self.ends = settings, time.time() + seconds
        self.results: dict[str, Result] = {}
        self._worker: _Worker | None = None

    def stage(self, stage: Stage) -> Result:
        """Run a stage within its own limit and the run's."""
        result = self.results[stage.name] = Result()
        start = time.time()
        left = max(0.0, self.ends - start)
        if left < stage.least:
            result.error = f"skipped: {left:.0f} s were left, and it takes {stage.least:.0f} s or more"
        else:
            limit = min(stage.most, left)
            self._worker = self._worker or _Worker()
            self._worker.pipe.send((stage.run, replace(self.settings, deadline=start + limit)))
            self._receive(self._worker, result, start, limit)
            if result.error is not None:  # after an error on a GPU nothing works in the same process
                self._worker.process.kill()
                self.close()
        self._save(result, start)
        print(f"{stage.name}: {result.error or 'ok'} ({result.seconds} s)", flush=True)
        return result

    def close(self) -> None:
        """End the process that runs stages; the next stage starts another."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _receive(self, worker: _Worker, result: Result, start: float, limit: float) -> None:
        while True:
            if not worker.pipe.poll(max(0.0, start + limit - time.time())):
                result.error = f"stopped after its {limit:.0f} s"
                return
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join(5)
                result.error = f"its process ended with exit code {worker.process.exitcode}"
                return
            if kind == "done":
                return
            if kind == "error":
                result.error, result.traceback = value
                return
            result.rows.append(value)
            if value.get("what") == PEAK:
                self.settings = replace(self.settings, peak=value["value"])
            print("   ", value, flush=True)
            self._save(result, start)

    def _save(self, result: Result, start: float) -> None:
        result.seconds = round(time.time() - start, 1)
        name = "gpu-smoke" if self.settings.smoke else "gpu"
        numbers = {name: asdict(result) for name, result in self.results.items()}
        for suffix, text in (("json", json.dumps(numbers, indent=1, default=str)), ("md", self.markdown())):
            part = self.settings.out / f"{name}.{suffix}.part"
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(part.with_suffix(""))  # a file is never half written

    def markdown(self) -> str:
        """A table of every stage."""
        lines = [f"# The encoder on {self.settings.device}" + (" (smoke run)" if self.settings.smoke else "")]
        for name, result in self.results.items():
            lines += ["", f"## {name} ({result.seconds} s)", ""]
            if result.error is not None:
                lines += [f"**{result.error}**", ""]
            heads = list(dict.fromkeys(key for row in result.rows for key in row))
            if heads:
                cells = [heads, ["---"] * len(heads), *([_shown(row.get(h, "")) for h in heads] for row in result.rows)]
                lines += ["| " + " | ".join(line) + " |" for line in cells]
        return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3e}" if abs(value) >= 1e6 else f"{value:.6g}"
    return " ".join(str(value).replace("|", "/").split())
