"""benchmarks/gpu.py: whatever goes wrong on the GPU machine, all else is measured and written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks._gpu_run import PEAK, Row, Run, Settings, Stage
from benchmarks.gpu import STAGES, main, tokenizer_folder
from tests.conftest import FULL


def right(settings: Settings) -> Iterator[Row]:
    yield {"what": PEAK, "value": 2.0}


def told(settings: Settings) -> Iterator[Row]:
    yield {"peak": settings.peak, "limited": settings.deadline < time.time() + 60}


def wrong(settings: Settings) -> Iterator[Row]:
    yield {"verdict": "right"}
    yield {"verdict": "wrong"}


def failing(settings: Settings) -> Iterator[Row]:
    yield {"done": 1}
    raise ValueError("no such kernel | here")


def hanging(settings: Settings) -> Iterator[Row]:
    yield {"done": 1}
    time.sleep(600)


def dying(settings: Settings) -> Iterator[Row]:
    os._exit(7)
    yield {}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(Settings("cpu", False, tmp_path, tmp_path, tmp_path), 300)
    yield made
    made.close()


def written(run: Run) -> tuple[dict[str, dict[str, object]], str]:
    folder = run.settings.out
    return json.loads((folder / "gpu.json").read_text()), (folder / "gpu.md").read_text()


def test_files_are_there_after_each_stage(run: Run) -> None:
    run.stage(Stage("first", right, 1, 50))
    numbers, table = written(run)
    assert numbers["first"]["rows"] == [{"what": PEAK, "value": 2.0}]
    assert "## first" in table
    run.stage(Stage("second", told, 1, 50))
    numbers, table = written(run)
    assert list(numbers) == ["first", "second"]
    assert numbers["second"]["rows"] == [{"peak": 2.0, "limited": True}]
    assert "| peak | limited |" in table
    assert not list(run.settings.out.glob("*.part"))


@pytest.mark.parametrize(
    ("stage", "error", "rows"),
    [
        (failing, "ValueError: no such kernel | here", [{"done": 1}]),
        (dying, "its process ended with exit code 7", []),
        (hanging, "stopped after its 2 s", [{"done": 1}]),
    ],
)
def test_a_stage_that_fails_is_named_and_the_next_one_runs(run: Run, stage, error: str, rows: list[Row]) -> None:  # type: ignore[no-untyped-def]
    run.stage(Stage("first", right, 1, 50))
    run.stage(Stage("middle", stage, 1, 2))
    numbers, table = written(run)
    assert numbers["middle"]["error"] == error
    assert numbers["middle"]["rows"] == rows
    assert error in table
    assert run.stage(Stage("last", right, 1, 50)).rows


def test_the_run_ends_in_time(run: Run) -> None:
    run.stage(Stage("first", right, 1, 50))
    run.ends = time.time() + 2
    start = time.monotonic()
    assert run.stage(Stage("too long", hanging, 1, 50)).error == "stopped after its 2 s"
    assert time.monotonic() - start < 20
    assert run.stage(Stage("too late", right, 5, 50)).error == "skipped: 0 s were left, and it takes 5 s or more"
    assert list(written(run)[0]) == ["first", "too long", "too late"]


def test_a_wrong_result_is_seen(run: Run) -> None:
    assert run.stage(Stage("wrong", wrong, 1, 50)).wrong == [{"verdict": "wrong"}]


def test_all_stages_run_on_a_cpu(tmp_path: Path, minilm_path: str) -> None:
    # The long form also runs the suite's CUDA tests, all skipped here, and what loads libraries of its own.
    longer = ("pytest -m cuda", "overlap", "rerankers")
    stages = [stage.name for stage in STAGES if FULL or stage.name not in longer]
    assert main(["--smoke", "--tokenizer", minilm_path, "--out", str(tmp_path), "--stages", *stages]) == 0
    numbers = json.loads((tmp_path / "gpu-smoke.json").read_text())
    assert list(numbers) == stages
    assert all(result["rows"] and result["error"] is None for result in numbers.values())
    bulk = numbers["bulk"]["rows"]
    assert all(row["packed"] and row["ratio"] > 0 and row["cosine to it"] > 0.99 for row in bulk)
    assert all(row["windows"] == 1 and row["cosine to it"] > 0.99 for row in numbers["late chunking"]["rows"])
    if FULL:
        rerankers = numbers["rerankers"]["rows"]
        assert {row["reranker"] for row in rerankers} == {"monoT5-base", "SPLADE (BERT-base)"}


def test_the_stages_fit_into_eight_minutes() -> None:
    assert sum(stage.least for stage in STAGES) <= 240


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"tokenizer\.json"):
        tokenizer_folder(tmp_path)
