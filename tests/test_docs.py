"""The snippets of the docs run as they are written.

A page takes part where ``<!-- runnable -->`` stands on the line before a python block: these blocks run one after the
other, sharing their names. ``<!-- setup`` ... ``-->`` holds Python that runs in its place and is not shown, in place of
something that a reader has (a downloaded model, say).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_RUNNABLE = re.compile(
    r"^<!-- runnable -->\n+```python\n(?P<shown>.*?)^```|^<!-- setup\n(?P<setup>.*?)^-->", re.MULTILINE | re.DOTALL
)
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "<!-- runnable -->" in page.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)  # files of a snippet are gone afterwards
    names: dict[str, object] = {"__name__": "__main__"}
    for block in _RUNNABLE.finditer(text):
        code = block["shown"] or block["setup"]
        # as many empty lines as stand before it, so that a traceback names the page's own line
        start = text.count("\n", 0, block.start("shown" if block["shown"] else "setup"))
        exec(compile("\n" * start + code, str(page), "exec"), names)


def test_the_pages_that_promise_it_take_part() -> None:
    techniques = {
        "chunkers",
        "late-chunking",
        "situated-context",
        "document-scores",
        "hyde",
        "fusion",
        "reranking",
        "highlights",
    }
    techniques |= {"boosts", "thresholds", "semantic-cache", "steps", "encoder", "models", "storage"}
    assert {"README", "quality"} | techniques <= {page.stem for page in PAGES}
