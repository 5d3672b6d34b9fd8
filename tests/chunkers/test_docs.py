"""The snippets of the chunkers' pages and docstrings run as they are written."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import situate.chunkers

DOCS = Path(__file__).parents[2] / "docs"
MODULES = sorted(path.stem for path in Path(situate.chunkers.__file__).parent.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("page", ["chunkers.md", "situated-context.md"])
def test_a_pages_snippets_are_one_program(page: str) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    exec(compile("\n".join(snippets), page, "exec"), {"__name__": page})


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_show_what_happens(module: str) -> None:
    assert doctest.testmod(importlib.import_module(f"situate.chunkers.{module}")).failed == 0


def test_every_public_name_is_there() -> None:
    assert sorted(situate.chunkers.__all__) == dir(situate.chunkers)
    for name in situate.chunkers.__all__:
        assert getattr(situate.chunkers, name).__doc__


def test_importing_loads_neither_a_model_library_nor_a_parser() -> None:
    import subprocess
    import sys

    code = (
        "import sys, situate.chunkers\n"
        "from situate.chunkers import AutoChunker, Document, LLMSituator, read_documents\n"
        "AutoChunker().split(Document('a.txt', 'One. Two.'))\n"
        "heavy = ('torch', 'transformers', 'qdrant_client', 'bs4', 'pypdfium2', 'numpy')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
