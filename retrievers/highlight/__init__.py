"""The spans of passages that match a query, or support the sentences of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.highlight.attribution import (
        Attribution as Attribution,
        Claim as Claim,
        Evidence as Evidence,
    )
    from situate.retrievers.highlight.highlighter import Highlighter as Highlighter
    from situate.retrievers.marks import Highlight as Highlight, Mark as Mark

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.retrievers.highlight.attribution": ("Attribution", "Claim", "Evidence"),
        "situate.retrievers.highlight.highlighter": ("Highlighter",),
        "situate.retrievers.marks": ("Highlight", "Mark"),
    },
)
