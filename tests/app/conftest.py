"""A store that the command line filled, once for all tests of the programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from situate.app.cli import run

ROOT = Path(__file__).parents[2]
LEAVE = "# Leave\n\n## Parental leave\n\nParents take twelve weeks of leave, paid in full.\n"
TRAVEL = "# Travel\n\nFlights are booked with the travel desk, three weeks ahead.\n"


@pytest.fixture
def situate_command() -> Any:
    """Runs ``situate ...`` in a process of its own."""

    def command(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **options.pop("env", {})}
        return subprocess.run(
            [sys.executable, "-m", "situate.app", *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            timeout=120,
            **options,
        )

    return command


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, loaded_once: Any) -> Path:
    """A folder with two documents, and a store of them."""
    folder = tmp_path_factory.mktemp("filled")
    (folder / "docs").mkdir()
    (folder / "docs" / "leave.md").write_text(LEAVE, encoding="utf-8")
    (folder / "docs" / "travel.md").write_text(TRAVEL, encoding="utf-8")
    assert run(["index", str(folder / "docs"), "--store", str(folder / ".situate"), "--json"]) == 0
    return folder


@pytest.fixture
def ran(filled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in the filled folder; code, standard output, standard error."""
    monkeypatch.chdir(filled)

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def ran_json(ran: Any) -> Any:
    """`ran` with ``--json``; the value, after a command that succeeded or found nothing."""

    def command(*arguments: str) -> Any:
        code, out, _ = ran(*arguments, "--json")
        assert code in (0, 1)
        return json.loads(out)

    return command
