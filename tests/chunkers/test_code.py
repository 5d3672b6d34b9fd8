"""The classes and functions around a chunk of code, against Python's own parser, and in a second language."""

from __future__ import annotations

import ast
import pickle
import sys
from pathlib import Path

import pytest

from situate.chunkers import CodeChunker, Document
from situate.errors import MissingExtraError

PYTHON = '''"""Umlauts äöü and 😀 before everything, so that bytes are no characters."""
import os

class Shop:
    """Sells ö."""

    @property
    def total(self):
        return sum(self.items)

    def order(self, first, second):
        def inner(value):
            return value + 1

        return inner(first) + inner(second)


@decorated
async def main():
    print(await Shop().order(1, 2))
'''

JAVASCRIPT = """export class Shop {
  total(items) {
    return items.reduce((sum, item) => sum + item.price * item.count, 0);
  }
}

const doubled = (value) => {
  return value * 2;
};

function top() {
  return doubled(2);
}
"""


def paths_by_ast(text: str, spans: list[tuple[int, int]]) -> list[tuple[str, ...]]:
    """What Python's own parser says."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def place(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    known = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node, *node.decorator_list], key=lambda n: n.lineno)
            start = place(first.lineno, first.col_offset) - (1 if node.decorator_list else 0)
            known.append((start, place(node.end_lineno, node.end_col_offset), node.name))  # type: ignore[arg-type]
    known.sort(key=lambda one: (one[0], -one[1]))
    return [tuple(name for a, b, name in known if a <= start and end <= b) for start, end in spans]


@pytest.mark.parametrize("size", [40, 90, 200])
@pytest.mark.parametrize("text", [PYTHON, Path(__file__).read_text(encoding="utf-8")], ids=["sample", "this file"])
def test_the_path_is_that_of_pythons_own_parser(text: str, size: int) -> None:
    chunks = CodeChunker(size).split(Document("code", text, {"title": "shop.py", "path": "src/shop.py"}))
    expected = paths_by_ast(text, [(chunk.start, chunk.end) for chunk in chunks])
    assert [chunk.context.headings for chunk in chunks] == expected
    assert any(expected)
    assert {(chunk.context.title, chunk.context.path) for chunk in chunks} == {("shop.py", "src/shop.py")}


def test_another_grammar() -> None:
    chunks = CodeChunker(90, language="javascript").split(Document("code", JAVASCRIPT))
    paths = {piece: chunk.context.headings for chunk in chunks for piece in chunk.text.splitlines()}
    inside = next(path for piece, path in paths.items() if "items.reduce" in piece)
    assert inside[0] == "Shop"
    assert next(path for piece, path in paths.items() if "value * 2" in piece) == ("doubled",)
    assert next(path for piece, path in paths.items() if "doubled(2)" in piece) == ("top",)


@pytest.mark.parametrize(
    "text",
    ["def broken(:\n  return\n" * 20, "class A:\n    x = '\ud800'\n    def f(self):\n        return 1\n" * 9, ")" * 99],
)
def test_what_does_not_parse_is_cut_all_the_same(text: str) -> None:
    chunks = CodeChunker(60).split(Document("code", text))
    assert chunks
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)


def test_after_a_lone_surrogate_places_are_still_right() -> None:
    text = "x = '\ud800😀'\nclass After:\n    def method(self):\n        return 1\n"
    chunks = CodeChunker(30).split(Document("code", text))
    assert [chunk.context.headings for chunk in chunks if "return 1" in chunk.text] == [("After", "method")]


def test_deep_nesting_is_no_problem() -> None:
    text = "\n".join(f"{' ' * depth}def f{depth}():" for depth in range(300)) + "\n" + " " * 300 + "return 1\n"
    chunks = CodeChunker(400).split(Document("code", text))
    assert max(len(chunk.context.headings) for chunk in chunks) > 100


def test_a_grammar_without_a_query_for_definitions_gives_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    import tree_sitter_python

    monkeypatch.setattr(tree_sitter_python, "TAGS_QUERY", None, raising=False)
    assert {chunk.context.headings for chunk in CodeChunker(60).split(Document("code", PYTHON))} == {()}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    with pytest.raises(MissingExtraError, match=r"'tree-sitter': pip install 'situate\[code\]'"):
        CodeChunker(60).split(Document("code", PYTHON))


def test_it_pickles_as_its_configuration() -> None:
    chunker = CodeChunker(60)
    document = Document("code", PYTHON)
    before = chunker.split(document)
    assert pickle.loads(pickle.dumps(chunker)).split(document) == before
