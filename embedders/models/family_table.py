"""The families as docs/models.md lists them: ``python -m situate.embedders.models.family_table PAGE`` writes them."""

from __future__ import annotations

import sys
from pathlib import Path

from situate.embedders.models.families import Family
from situate.embedders.models.registry import families

BEGIN, END = "<!-- families: written by situate.embedders.models.family_table -->\n", "<!-- /families -->\n"
DOUBTS = "<!-- unconfirmed: written by situate.embedders.models.family_table -->\n", "<!-- /unconfirmed -->\n"
_HEAD = "| family | query | document | pooling | tokens | compared by | late | cut to | runs |\n" + "| --- " * 9 + "|\n"
_TEXT = "⟨text⟩"


def table() -> str:
    """Markdown: a row per family, in the registry's order."""
    return _HEAD + "".join(_row(family) for family in families())


def with_table(page: str) -> str:
    """The page with today's lists between their marks."""
    for begin, end, written in ((BEGIN, END, table()), (*DOUBTS, doubts())):
        before, rest = page.split(begin)
        _, after = rest.split(end)
        page = f"{before}{begin}{written}{end}{after}"
    return page


def doubts() -> str:
    """Markdown: a line per family whose record is partly unconfirmed."""
    return "".join(f"- **{family.name}**: {family.unconfirmed}.\n" for family in families() if family.unconfirmed)


def _row(family: Family) -> str:
    tokens = "" if family.max_tokens is None else str(family.max_tokens)
    if family.trained_tokens not in (None, family.max_tokens):
        tokens += f" (trained {family.trained_tokens})"
    pooling = family.pooling.replace("_", " ") + ("" if family.pool_instruction else ", text only")
    cells = (
        f"[{family.name}]({family.source})",
        _written(family.query, family.query_suffix),
        _written(family.document, family.document_suffix),
        pooling,
        tokens,
        family.similarity,
        "no" if family.late or family.library or family.of_one_token else "yes",
        family.cuts,
        _runs(family),
    )
    return "| " + " | ".join(cells) + " |\n"


def _written(prefix: str, suffix: str) -> str:
    if not prefix and not suffix:
        return ""
    shown = f"{prefix}{_TEXT}{suffix}".replace("\n", "⏎").replace("|", "\\|")
    return f"`{shown}`"


def _runs(family: Family) -> str:
    if family.corpus:
        return "library, own code, corpus sample"
    if family.library:
        return "library, own code" if family.remote_code else "library"
    return "own code" if family.remote_code else ""


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
