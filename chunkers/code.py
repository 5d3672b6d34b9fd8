"""Source code, cut along its syntax tree."""

from __future__ import annotations

import importlib
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.chunkers.base import MAX_CHARACTERS_PER_TOKEN, SizedChunker, Splitter
from situate.chunkers.spans import base_context, chunks_from_spans, trimmed
from situate.errors import InputError, MissingExtraError
from situate.parameters import checked_parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tree_sitter

    from situate.types import Chunk, Document

#: Languages whose grammar is not the function ``language`` of ``tree_sitter_<language>``.
_GRAMMARS = {
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "php": ("tree_sitter_php", "language_php"),
    "ocaml": ("tree_sitter_ocaml", "language_ocaml"),
    "xml": ("tree_sitter_xml", "language_xml"),
    "csharp": ("tree_sitter_c_sharp", "language"),
}

#: Kinds of a grammar's tags query for definitions that contain others; constants and macros situate nothing. Rust's
#: query names the block that holds a type's methods "implementation".
_KINDS = ("class", "function", "method", "interface", "module", "type", "enum", "struct", "object", "implementation")
#: Levels of a syntax tree in which definitions are searched: the time grows with the depth of each node.
_DEPTH = 1_000
#: Nodes that belong to the definition inside of them: decorators, ``export``, ``const name = ...;``.
_WRAPPERS = ("decorated_definition", "export_statement", "lexical_declaration", "variable_declaration")


@checked_parameters
@dataclass(frozen=True)
class CodeChunker(SizedChunker):
    """Code cut at definitions, statements and expressions, the outermost that fit (tree-sitter).

    A piece of less than a quarter of the size joins a neighbour where both fit.

    Each language is a package of its own, ``tree-sitter-<language>``; the extra ``code`` brings the usual ones. Text
    of which less than half parses is cut as text. The classes and functions that hold a whole chunk are its
    ``context.headings``, outermost first, where the grammar brings a query for definitions (most do). The identifiers'
    words are searched by default: see `LexicalScheme.split_identifiers`.

    Attributes:
        size: The most that a chunk holds, in the model's tokens without special tokens; characters without a
            ``tokenizer``.
        overlap: The most that two neighbouring chunks share, in the same unit.
        tokenizer: The embedding model's tokenizer.
        language: "python", "javascript", "rust", ...: the last part of the grammar package's name.

    Raises:
        MissingExtraError: On use, where the language's grammar is not installed.
    """

    language: str = "python"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.language.replace("_", "").isidentifier():
            raise InputError(f"language={self.language!r} is not the name of a language, such as 'python'")

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        text = document.text
        if not text.strip():
            return []
        tree = parsed(text, self._grammar)
        if not is_code(tree):
            # Splitting at the nodes that the grammar guessed takes quadratic time and yields no meaningful spans.
            return chunks_from_spans(document, self._text_spans(text, 0, len(text)))
        spans = self._spans("code", text, 0, len(text))
        known = definitions(text, tree, self._tags) if self._tags is not None else []
        spans = self._joined(text, self._opened(text, spans, known), known)
        base = base_context(document)
        path_of = dict(zip(spans, paths(known, spans), strict=True))
        return chunks_from_spans(document, spans, lambda *span: replace(base, headings=path_of[span]))

    def _opened(
        self, text: str, spans: Sequence[tuple[int, int]], known: Sequence[Definition]
    ) -> list[tuple[int, int]]:
        """The spans with the small ones that begin a definition joined to what follows.

        A definition that is too large is cut into its parts, so that its first line (``def f():``) comes without what
        it opens: a chunk that is found by a name and says nothing. Where both are too much for one chunk, they are cut
        anew in their middle, unless a definition begins there.
        """
        spans = list(spans)
        starts = [one.start for one in known]
        begun = frozenset(starts)
        for at in reversed(range(len(spans) - 1)):
            (start, end), (after, last) = spans[at : at + 2]
            opened = known[bisect_left(starts, start) : bisect_left(starts, end)]
            if any(one.end >= last for one in opened) and self._fits(text, (start, end), self.size // 4):
                if self._fits(text, (start, last), self.size):
                    spans[at : at + 2] = [(start, last)]
                elif after not in begun and not self.overlap:
                    halves = _halves(text, start, last)
                    if all(self._fits(text, half, self.size) for half in halves):
                        spans[at : at + 2] = halves
        return spans

    def _joined(
        self, text: str, spans: Sequence[tuple[int, int]], known: Sequence[Definition]
    ) -> list[tuple[int, int]]:
        """The spans with small ones joined to a neighbour where both fit; one of the same definition first."""
        spans = list(spans)
        # Between each two neighbours: how many definitions hold both.
        depths = [len(path) for path in paths(known, [(start, end) for (start, _), (_, end) in pairwise(spans)])]
        at = 0
        while at < len(spans):
            sides = [side for side in (at, at - 1) if 0 <= side < len(depths)]
            small = self._fits(text, spans[at], self.size // 4)
            sides = [side for side in sides if small and self._fits(text, _both(spans, side), self.size)]
            if not sides:
                at += 1
                continue
            at = max(sides, key=depths.__getitem__)
            spans[at : at + 2] = [_both(spans, at)]
            del depths[at]
        return spans

    def _fits(self, text: str, span: tuple[int, int], size: int) -> bool:
        start, end = span
        return end - start <= size * MAX_CHARACTERS_PER_TOKEN and self.count(text[start:end]) <= size

    def _splitter(self, kind: str, size: int) -> Splitter:
        if kind != "code":
            return super()._splitter(kind, size)
        known = self._splitters.get((kind, size))
        if known is None:
            from semantic_text_splitter import CodeSplitter

            if self._tokenizer is None:
                known = CodeSplitter(self._grammar, size, overlap=self.overlap)
            else:
                known = CodeSplitter.from_callback(self._grammar, self._count_up_to(size), size, overlap=self.overlap)
            self._splitters[kind, size] = known
        return known

    @cached_property
    def _grammar(self) -> Any:
        return getattr(self._package, self._names[1])()

    @cached_property
    def _tags(self) -> str | None:
        """The grammar's own query for definitions."""
        return getattr(self._package, "TAGS_QUERY", None) or None

    @property
    def _names(self) -> tuple[str, str]:
        """Module and function of the grammar."""
        return _GRAMMARS.get(self.language, (f"tree_sitter_{self.language}", "language"))

    @cached_property
    def _package(self) -> ModuleType:
        module, _ = self._names
        try:
            return importlib.import_module(module)
        except ImportError as error:
            package = module.replace("_", "-")
            raise MissingExtraError.of(package, "code", f"cutting {self.language} code") from error


def _both(spans: Sequence[tuple[int, int]], at: int) -> tuple[int, int]:
    return spans[at][0], spans[at + 1][1]


def _halves(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The span cut at the end of the line that is nearest to its middle; whole where it is one line."""
    middle = (start + end) // 2
    ends = [place for place in (text.rfind("\n", start, middle), text.find("\n", middle, end)) if place != -1]
    if not ends:
        return [(start, end)]
    cut = min(ends, key=lambda place: abs(place - middle))
    halves = [trimmed(text, start, cut), trimmed(text, cut, end)]
    return halves if all(first < last for first, last in halves) else [(start, end)]


@dataclass(frozen=True, slots=True, order=True)
class Definition:
    """``text[start:end]`` defines ``name``."""

    start: int
    end: int
    name: str


def parsed(text: str, grammar: Any) -> tree_sitter.Tree:
    """The syntax tree of a text.

    Raises:
        MissingExtraError: tree-sitter is not installed.
    """
    try:
        import tree_sitter
    except ImportError as error:
        raise MissingExtraError.of("tree-sitter", "code", "finding the definitions around code") from error
    # A lone surrogate has no UTF-8; a question mark in its place keeps everything else where it is.
    return tree_sitter.Parser(tree_sitter.Language(grammar)).parse(text.encode(errors="replace"))


def is_code(tree: tree_sitter.Tree) -> bool:
    """Whether at least half of a text parses."""
    root = tree.root_node
    errors = sum(child.end_byte - child.start_byte for child in root.children if child.is_error)
    return not root.is_error and 2 * errors <= root.end_byte - root.start_byte


def definitions(text: str, tree: tree_sitter.Tree, tags: str) -> list[Definition]:
    """The named definitions in a text, outer ones first; of a text that does not parse, those that were recognised.

    Args:
        text: Source code.
        tree: Its syntax tree.
        tags: The query by which the grammar's authors find definitions (``TAGS_QUERY``).
    """
    import tree_sitter

    source = text.encode(errors="replace")
    places = _characters(text)
    cursor = tree_sitter.QueryCursor(tree_sitter.Query(tree.language, tags))
    cursor.set_max_start_depth(_DEPTH)
    found: dict[tuple[int, int], Definition] = {}
    for _, captures in cursor.matches(tree.root_node):
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
