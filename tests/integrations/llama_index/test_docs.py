"""The snippets of docs/llama-index.md run as they are written, one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "llama-index.md"


def test_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Settings, "_llm", None)  # as in a fresh process; the page sets its own
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 9
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "Travel > Costs | " in printed
    assert names["response"].source_nodes[0].node.ref_doc_id == "travel"
