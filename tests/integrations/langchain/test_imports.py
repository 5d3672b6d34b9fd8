"""Importing the LangChain room costs no model library."""

from __future__ import annotations

import subprocess
import sys

import pytest

import situate.integrations.langchain as langchain

_HEAVY = {"torch", "transformers", "sentence_transformers", "qdrant_client", "qdrant_edge", "llama_index"}

_PROGRAM = """
import sys
import situate.integrations.langchain as langchain
after_import = set(sys.modules)
for name in langchain.__all__:
    getattr(langchain, name)
print(*{module.partition(".")[0] for module in sys.modules})
print(*{module.partition(".")[0] for module in after_import})
"""


def test_every_class_is_there_without_models_or_storage() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    with_classes, package_alone = (set(line.split()) for line in done.stdout.splitlines())
    assert not _HEAVY & with_classes
    assert not (_HEAVY | {"langchain_core"}) & package_alone


def test_all_names_are_exported() -> None:
    assert sorted(langchain.__all__) == langchain.__all__ == dir(langchain)
    for name in langchain.__all__:
        assert getattr(langchain, name).__doc__


@pytest.mark.parametrize("package", ["langchain-core", "langchain-text-splitters"])
def test_a_missing_extra_is_named(package: str) -> None:
    module = package.replace("-", "_")
    program = (
        f"import sys; sys.modules[{module!r}] = None; from situate.integrations.langchain import SituateVectorStore"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"MissingExtraError: situate.integrations.langchain.SituateVectorStore needs the package '{package}'" in (
        done.stderr
    )
    assert "pip install 'situate[langchain]'" in done.stderr
