"""Keyword arguments that LangChain's signatures admit and nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def refuse_unknown(where: str, arguments: Mapping[str, Any]) -> None:
    """LangChain's base classes take ``**kwargs``; a misspelt one must not be swallowed.

    Raises:
        TypeError: There are any.
    """
    if arguments:
        raise TypeError(f"{where}() got unexpected keyword arguments: {', '.join(sorted(arguments))}")
