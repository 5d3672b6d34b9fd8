"""Links between the project's own pages lead somewhere, and the site shows every page of docs/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
PAGES = [page for page in PAGES if "documents" not in page.relative_to(ROOT).parts]
_CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a forge and the site make them."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", _CODE_BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in anchors(linked)):
            broken.append(target)
    assert broken == []


def test_the_site_lists_every_page_once() -> None:
    text = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed: list[str] = []

    def collect(value: object) -> None:
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            listed.append(each) if isinstance(each, str) else collect(each)

    collect(yaml.safe_load(text)["nav"])
    pages = {path for path in listed if path.endswith(".md")}
    assert len(pages) == len([path for path in listed if path.endswith(".md")])
    assert pages - {"CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "examples/README.md"} == {
        page.name for page in (ROOT / "docs").glob("*.md")
    }
