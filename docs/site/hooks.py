"""What MkDocs shows beside the pages of docs/: files of the repository that pages link to, and the API reference.

Pages are written to be read in the repository, so links out of docs/ (``../benchmarks/results/...``) are rewritten for
the site, and ``docs/`` is taken out of the links of the repository's own pages (CONTRIBUTING.md).
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files, InclusionLevel

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# The reference describes this checkout, whatever is installed.
sys.path.insert(0, str(ROOT))
#: Pages of the repository that the site shows.
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "examples/README.md")
#: Packages of the reference: name, title.
PACKAGES = {
    "situate": "The front door",
    "situate.chunkers": "Chunkers and readers",
    "situate.embedders": "Embedders",
    "situate.retrievers": "Index and retriever",
    "situate.retrievers.signals": "Signals",
    "situate.retrievers.rerank": "Rerankers",
    "situate.retrievers.evaluation": "Evaluation",
    "situate.integrations.llama_index": "LlamaIndex",
    "situate.integrations.langchain": "LangChain",
    "situate.errors": "Errors",
}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_OUTSIDE = re.compile(r"\.\./(?P<path>[\w./-]+)")
_COMMENT = re.compile(r"^<!-- setup\n.*?^-->\n+|^<!-- runnable -->\n+", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's pages, the files that pages link to, and the reference."""
    for page in PAGES:
        if (ROOT / page).exists():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    linked = {
        match["path"]
        for page in (ROOT / "docs").glob("*.md")
        for link in _LINK.finditer(page.read_text(encoding="utf-8"))
        if (match := _OUTSIDE.fullmatch(link["target"]))
    }
    for path in sorted(linked):
        if (ROOT / path).is_file() and path not in PAGES:
            level = InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path), inclusion=level))
    for number, (name, title) in enumerate(PACKAGES.items(), 1):
        files.append(File.generated(config, f"api/{number:02}-{name}.md", content=reference(name, title)))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the reference's pages in the navigation."""
    pages = [{title: f"api/{number:02}-{name}.md"} for number, (name, title) in enumerate(PACKAGES.items(), 1)]
    for section in config.nav or ():
        if isinstance(section, dict) and section.get("Reference") == "api/":
            section["Reference"] = pages
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links out of docs/, and leave out what only the tests read."""
    in_root = page.file.src_uri in PAGES

    def rewritten(link: re.Match[str]) -> str:
        target = link["target"]
        path, _, anchor = target.partition("#")
        if in_root:
            path = _in_site((ROOT / page.file.src_uri).parent / path) if path and "://" not in path else path
        elif match := _OUTSIDE.fullmatch(path):
            path = _in_site(ROOT / match["path"])
        else:
            return link[0]
        if path is None:
            return link["text"]
        if path and "://" not in path:
            up = "../" * page.file.src_uri.count("/")
            path = up + path
        return f"{link['image']}[{link['text']}]({path}{'#' + anchor if anchor else ''})"

    return _LINK.sub(rewritten, _COMMENT.sub("", markdown))


def _in_site(path: Path) -> str | None:
    """The source path in the site of a file of the repository; None where the site does not show it."""
    path = path.resolve()
    if path.is_dir():
        path = path / "README.md"
    within = path.relative_to(ROOT).as_posix()
    if within.startswith("docs/"):
        return within.removeprefix("docs/") if path.exists() else None
    shown = within in PAGES or within.startswith("benchmarks/results/")
    return within if shown and path.is_file() else None


def reference(package: str, title: str) -> str:
    """The page of a package: its public names, each documented from its own module."""
    module = importlib.import_module(package)
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == package
    ]
    lines = [f"# {title}: `{package}`", ""]
    for name in names:
        home = getattr(getattr(module, name), "__module__", None)
        if isinstance(home, str) and home.startswith("situate"):
            # A name is documented once; elsewhere the page names it.
            shown = (
                package == "situate" or package.count(".") > 1 or name not in importlib.import_module("situate").__all__
            )
            lines += [f"::: {home}.{name}", ""] if shown else [f"- `{name}`: see [the front door](01-situate.md)", ""]
    return "\n".join(lines)
