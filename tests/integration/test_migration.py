"""The applications in examples/migration/ find the same documents before and after, and the page shows what changes."""

from __future__ import annotations

import re
from difflib import unified_diff
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from examples.migration import langchain_after, llama_index_after

ROOT = Path(__file__).parents[2]
QUESTION = "Who approves my expense claim?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handbook")
    for name in ("expenses.md", "leave.md"):
        text = (ROOT / "examples" / "documents" / name).read_text(encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def before(framework: str) -> Any:
    needs = {"llama_index": "llama_index.embeddings.huggingface", "langchain": "langchain_huggingface"}[framework]
    pytest.importorskip(needs, reason=f"the version before needs the official classes in {needs}")
    return import_module(f"examples.migration.{framework}_before")


# The official store says that its payload indexes do nothing in local mode.
@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_the_llama_index_application_finds_the_answer_once_it_has_moved(folder: Path) -> None:
    found = llama_index_after.application(folder).retrieve(QUESTION)
    assert len(found) == 5
    assert found[0].node.get_content().startswith("### Approval")
    then = before("llama_index").application(folder).retrieve(QUESTION)
    assert (len(then), then[0].node.ref_doc_id) == (5, found[0].node.ref_doc_id)


def test_the_langchain_application_finds_the_answer_once_it_has_moved(folder: Path) -> None:
    found = langchain_after.application(folder).invoke(QUESTION)
    assert len(found) == 5
    assert found[0].page_content.startswith("### Approval")
    then = before("langchain").application(folder).invoke(QUESTION)
    assert (len(then), then[0].metadata["source"]) == (5, found[0].metadata["source"])


@pytest.mark.parametrize("framework", ["llama_index", "langchain"])
def test_the_page_shows_every_line_that_changes(framework: str) -> None:
    files = [ROOT / "examples" / "migration" / f"{framework}_{name}.py" for name in ("before", "after")]
    old, new = (file.read_text(encoding="utf-8").replace(f"{framework}_after", f"{framework}_before") for file in files)
    changed = [line.rstrip() for line in unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")][2:]
    changed = [line for line in changed if not line.startswith("@@") and line not in ("+", "-")]
    page = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    shown = [block.splitlines() for block in re.findall(r"^```diff\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    assert changed in [[line for line in block if line[:1] in "+-" and line] for block in shown]
