"""Checks and measurements of the encoder on a GPU, in one call on a bare machine.

    python -m benchmarks.gpu                       every stage, in at most eight minutes
    python -m benchmarks.gpu --stages bulk latency     some stages
    python -m benchmarks.gpu --smoke               tiny models on CPU, to try the script itself

Weights are random, of real geometry, so only a tokenizer's files are needed. Stages run from the most to the least
important, in a process of their own: one that fails, hangs or ends the device's context is named with its error, and
the next runs in a new process. Table and numbers are written after every row.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _gpu_checks as checks, _gpu_speed as speed, _gpu_ways as ways
from benchmarks._gpu_run import Run, Settings, Stage

RESULTS = Path(__file__).resolve().parent / "results"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
#: From the most to the least important. The first seconds of the first are the start of the libraries.
STAGES = (
    Stage("environment", checks.environment, 10, 120),
    Stage("kernel", checks.kernel, 10, 60),
    Stage("families", checks.families, 20, 90),
    Stage("forward", speed.forward, 25, 90),
    Stage("bulk", speed.bulk, 30, 130),
    Stage("cross-encoder", speed.pairs, 20, 50),
    Stage("latency", speed.latency, 20, 50),
    Stage("ways", ways.ways, 20, 90),
    Stage("overlap", ways.overlap, 15, 40),
    Stage("pytest -m cuda", checks.suite, 30, 120),
    Stage("late chunking", speed.late_chunking, 15, 40),
    Stage("rerankers", ways.rerankers, 10, 90),
    Stage("several cards", ways.several_cards, 5, 60),
    Stage("memory", checks.memory, 10, 40),
)


def tokenizer_folder(given: Path | None) -> Path:
    """Where the tokenizer's files are: in the folder given, or in the model's, if it is on this machine.

    Raises:
        SystemExit: There are none.
    """
    if given is None:
        from situate.embedders.models.resolve import resolve_model
        from situate.errors import ModelNotFoundError

        try:
            given = resolve_model(MODEL).path
        except ModelNotFoundError as error:
            raise SystemExit(
                f"{MODEL} is not on this machine: copy its tokenizer.json, tokenizer_config.json and vocab.txt into a "
                "folder, and name that with --tokenizer"
            ) from error
    if not (given / "tokenizer.json").is_file():
        raise SystemExit(f"{str(given)!r} holds no tokenizer.json")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; 1 if one failed or found something wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="The encoder on a GPU.")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT") or RESULTS), help="folder of the results"
    )
    parser.add_argument("--tokenizer", type=Path, help=f"folder with the tokenizer's files of {MODEL}")
    parser.add_argument("--seconds", type=float, default=450, help="for all stages together")
    parser.add_argument("--stages", nargs="+", choices=[stage.name for stage in STAGES])
    parser.add_argument("--smoke", action="store_true", help="tiny models, few texts, on CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    chosen = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library reads it
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(
            device=chosen.device or ("cpu" if chosen.smoke else "cuda"),
            smoke=chosen.smoke,
            tokenizer=tokenizer_folder(chosen.tokenizer),
            scratch=Path(scratch),
            out=chosen.out.resolve(),
        )
        run = Run(settings, chosen.seconds)
        try:
            for stage in STAGES:
                if chosen.stages is None or stage.name in chosen.stages:
                    run.stage(stage)
        finally:
            run.close()
    print(run.markdown())
    bad = [name for name, result in run.results.items() if result.error or result.wrong]
    if bad:
        print(f"\nfailed, skipped or wrong: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
