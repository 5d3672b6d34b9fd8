"""The classes and functions that a piece of code stands in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.errors import MissingExtraError

if TYPE_CHECKING:
    import tree_sitter

#: What a grammar's tags query calls a definition that others stand in; constants and macros situate nothing. Rust says
#: "implementation" of the block that holds a type's methods.
_KINDS = ("class", "function", "method", "interface", "module", "type", "enum", "struct", "object", "implementation")
#: Nodes that belong to the definition inside of them: decorators, ``export``, ``const name = ...;``.
_WRAPPERS = ("decorated_definition", "export_statement", "lexical_declaration", "variable_declaration")


@dataclass(frozen=True, slots=True, order=True)
class Definition:
    """``text[start:end]`` defines ``name``."""

    start: int
    end: int
    name: str


def definitions(text: str, grammar: Any, tags: str) -> list[Definition]:
    """The named definitions in a text, outer ones first; what does not parse has those that were made out.

    Args:
        text: Source code.
        grammar: The language, as its grammar package hands it out.
        tags: The query by which the grammar's authors find definitions (``TAGS_QUERY``).

    Raises:
        MissingExtraError: tree-sitter is not installed.
    """
    try:
        import tree_sitter
    except ImportError as error:
        raise MissingExtraError.of("tree-sitter", "code", "finding the definitions that code stands in") from error
    language = tree_sitter.Language(grammar)
    # A lone surrogate has no UTF-8; a question mark in its place keeps everything else where it is.
    source = text.encode(errors="replace")
    tree = tree_sitter.Parser(language).parse(source)
    places = _characters(text)
    found: dict[tuple[int, int], Definition] = {}
    for _, captures in tree_sitter.QueryCursor(tree_sitter.Query(language, tags)).matches(tree.root_node):
        names = captures.get("name", [])
        for kind, nodes in captures.items():
            if kind.partition(".")[2] not in _KINDS or not names:
                continue
            name = source[names[0].start_byte : names[0].end_byte].decode(errors="replace")
            start, end = (int(places[at]) for at in _span(nodes[-1]))
            found.setdefault((start, -end), Definition(start, end, name))
    return [found[key] for key in sorted(found)]


def paths(known: Sequence[Definition], spans: Sequence[tuple[int, int]]) -> list[tuple[str, ...]]:
    """For each span the names of the definitions that hold all of it, outermost first.

    Args:
        known: Definitions, outer ones first.
        spans: In the order of the text.
    """
    open_ones: list[Definition] = []
    made: list[tuple[str, ...]] = []
    at = 0
    for start, end in spans:
        while at < len(known) and known[at].start <= start:
            open_ones.append(known[at])
            at += 1
        open_ones = [one for one in open_ones if one.end > start]
        made.append(tuple(one.name for one in open_ones if one.end >= end))
    return made


def _span(node: tree_sitter.Node) -> tuple[int, int]:
    while node.parent is not None and node.parent.type in _WRAPPERS:
        node = node.parent
    return node.start_byte, node.end_byte


def _characters(text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The place in ``text`` of every byte of its UTF-8, and of its end."""
    points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
    surrogate = (points >= 0xD800) & (points < 0xE000)
    widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    widths[surrogate] = 1
    return np.repeat(np.arange(len(points) + 1, dtype=np.int64), np.append(widths, 1))
