"""The contents of the wheel, and the supported Python versions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import situate

ROOT = Path(__file__).parents[1]
ROOMS = ("chunkers", "embedders", "retrievers", "integrations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy of its sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "situate", source / "situate", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", str(out), str(source)], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_one_wheel_serves_every_python_from_the_lowest_on(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        compiled = [name for name in archive.namelist() if name.endswith((".so", ".pyd"))]
    assert all(".abi3." in name or name.endswith("_native.pyd") for name in compiled)
    assert f"-{situate.__version__}-cp311-abi3-" in wheel.name


def test_every_module_and_data_file_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    modules = {path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    data = {path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.toml")}
    data |= {path.relative_to(ROOT / "situate") for path in (ROOT / "situate/app/web/static").iterdir()}
    front = {
        path.relative_to(ROOT / "situate")
        for folder, pattern in (("", "*.py"), ("app", "**/*.py"), ("configuration", "**/*.py"))
        for path in (ROOT / "situate" / folder).glob(pattern)
    }
    assert {f"situate/{path}" for path in modules | data | front} | {"situate/py.typed"} <= held


@pytest.mark.full  # an environment, and a process that loads the model
def test_a_wheel_alone_in_a_new_environment_passes_the_doctor(wheel: Path, tmp_path: Path) -> None:
    # The package comes from the wheel; its dependencies, some gigabytes, from this environment.
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = subprocess.run(
        [python, "-c", "import situate; print(situate.__file__)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert str(packages) in where.stdout
    examined = subprocess.run(
        [environment / "bin" / "situate", "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    checks = {check["name"]: check["colour"] for check in json.loads(examined.stdout)}
    assert examined.returncode == 0, examined.stdout + examined.stderr
    assert checks["model"] == checks["compiled pass"] == checks["store"] == "green"
