"""A Markdown document's headings, and the blocks that its chunks depend on."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

#: Characters of a table's column names that a chunk keeps.
_COLUMNS = 500

# What markdown-it treats as the end of a line, so that its line numbers lead back to the text as it was given.
_LINE_END = re.compile(r"\r\n?|\n")
_FENCE_OPEN = re.compile(r"---[ \t]*\Z")
_FENCE_CLOSE = re.compile(r"(?:---|\.\.\.)[ \t]*\Z")
# A line of YAML's block style: "key:", "key: value", and behind a key its indented lines, comments, blanks, the end
# of a flow style; list items behind a key without a value. A colon in a key is one of a name ("og:title"), no time's.
_YAML_KEY = re.compile(r"[\"']?[\w$](?:[^:#\n]|:(?=[^\W\d_])){0,200}:(?:\s|\Z)")
_YAML_OPEN = re.compile(r"[^\s].{0,200}:[ \t]*(?:[#&!].*)?\Z")
_YAML_REST = re.compile(r"[ \t#\]}]|\Z")
_YAML_ITEM = re.compile(r"-(?:[ \t]|\Z)")
#: A line that Markdown would not read as words: a heading, an underline or rule, a fence, a tag.
_MARKUP = re.compile(r"[ ]{0,3}(?=#{1,6}(?!\S)|[-=_*|: ]+\Z|```|~~~|<(?:[!?]|/?[a-zA-Z][\w-]*(?:[\s/>]|\Z)))\S")
_ESCAPED = r"\\\1"
_MARKDOWN_SIGN = re.compile(r"([\\`*_{}\[\]<>#&!~|])")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading and where its line or lines stand.

    Attributes:
        level: 1 to 6.
        text: The words without markup.
        start: First character of its first line.
        end: One past its last line's end.
    """

    level: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block of code.

    Attributes:
        start: First character of its opening line.
        body: One past the opening line's end.
        closing: First character of its closing line; ``end`` where it has none.
        end: One past its last line's end.
    """

    start: int
    body: int
    closing: int
    end: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table and its column names.

    Attributes:
        start: First character of its header row.
        end: One past its last row's end.
        columns: The cells of the header row.
    """

    start: int
    end: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table, below its header.

    Attributes:
        start: First character.
        end: One past its line's last.
        cells: The column's name and the value, for each cell with a value.
    """

    start: int
    end: int
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Outline:
    """The blocks of a Markdown text that its chunks depend on, each kind in order."""

    headings: list[Heading]
    fences: list[Fence]
    tables: list[Table]


def markdown_headings(text: str) -> list[Heading]:
    """The headings of a Markdown text, in order.

    CommonMark's rules (markdown-it-py): ATX and setext headings count; what looks like one inside a code fence, an
    indented or HTML block, a quote, a list or the front matter does not.
    """
    return outline(text).headings


def outline(text: str) -> Outline:
    """The headings, fences and tables of a Markdown text: CommonMark, and the tables of GitHub's flavour."""
    parser = _parser()
    tokens, place = _parsed(parser, text)
    found = Outline([], [], [])
    for number, token in enumerate(tokens):
        if token.map is None:
            continue
        first, last = token.map
        if token.type == "heading_open" and not token.level:
            if words := _plain(parser, tokens[number + 1].content):
                found.headings.append(Heading(int(token.tag[1:]), words, place(first), place(last)))
        elif token.type == "fence":
            line = text[place(last - 1) : place(last)].strip(" \t\r\n>")
            closed = last - first > 1 and line.startswith(token.markup) and not line.strip(token.markup[0])
            found.fences.append(Fence(place(first), place(first + 1), place(last - 1 if closed else last), place(last)))
        elif token.type == "table_open":
            found.tables.append(Table(place(first), place(last), _columns(tokens, number)))
    return found


def table_rows(text: str) -> list[Row]:
    """The rows of all tables of a Markdown text, in order, without their header rows."""
    tokens, place = _parsed(_parser(), text)
    rows: list[Row] = []
    names: list[str] = []
    for number, token in enumerate(tokens):
        if token.type == "table_open":
            names = []
        elif token.type == "th_open":
            names.append(" ".join(tokens[number + 1].content.split()))
        elif token.type == "tr_open" and token.map is not None and names:
            inner = (cell for cell in _until(tokens, number, "tr_close") if cell.type == "inline")
            values = (" ".join(cell.content.split()) for cell in inner)
            cells = tuple((name, value) for name, value in zip(names, values, strict=False) if value)
            rows.append(Row(place(token.map[0]), place(token.map[1]), cells))
    return rows


def _parsed(parser: MarkdownIt, text: str) -> tuple[list[Token], Callable[[int], int]]:
    """The tokens of a Markdown text, and where each of its lines begins."""
    skipped = front_matter_end(text)
    body = text[skipped:]
    starts = [skipped, *(skipped + match.end() for match in _LINE_END.finditer(body)), len(text) + 1]

    def place(line: int) -> int:
        return min(starts[min(line, len(starts) - 1)], len(text))

    # Byte order marks, which stand inside of a text that was joined out of files, hide no heading; places are of lines.
    return parser.parse(body.replace("\ufeff", "")), place


def _columns(tokens: list[Token], number: int) -> tuple[str, ...]:
    """The names in the header row of the table that token ``number`` opens, up to `_COLUMNS` characters."""
    names: list[str] = []
    room = _COLUMNS
    for token in _until(tokens, number + 1, "thead_close"):
        if token.type == "inline":
            name = " ".join(token.content.split())
            room -= len(name)
            if room < 0:
                break
            names.append(name)
    return tuple(names)


def _until(tokens: list[Token], number: int, kind: str) -> Iterator[Token]:
    while number < len(tokens) and tokens[number].type != kind:
        yield tokens[number]
        number += 1


def front_matter_end(text: str) -> int:
    """Where the text begins after its front matter; 0 where it has none.

    Front matter is a block of YAML keys between a line ``---`` at the very start and the next line ``---`` or ``...``.
    Anything else between two such lines is text, and the lines are rules: a transcript, whose speakers come again as
    no key does, among it.
    """
    at = first = len(text) - len(text.lstrip("\ufeff"))
    keys: set[str] = set()
    listed = False
    while at < len(text):
        match = _LINE_END.search(text, at)
        line, after = (text[at : match.start()], match.end()) if match else (text[at:], len(text))
        if at == first:
            if not match or not _FENCE_OPEN.match(line):
                return 0
        elif keys and _FENCE_CLOSE.match(line):
            return after
        elif _YAML_KEY.match(line):
            key = line.partition(":")[0]
            if key in keys:
                return 0
            keys.add(key)
            listed = _YAML_OPEN.match(line) is not None
        elif _YAML_ITEM.match(line):
            if not listed:
                return 0
        elif not _YAML_REST.match(line) or not (keys or line.startswith("#")):
            return 0
        at = after
    return 0


def atx_heading(level: int, words: str) -> str:
    """The Markdown line that reads as the heading ``words``, escaped where they look like markup.

    >>> atx_heading(2, "The __init__ method"), atx_heading(1, "Sick leave")
    ('## The \\\\_\\\\_init\\\\_\\\\_ method', '# Sick leave')
    """
    plain = f"{'#' * level} {words}"
    if [heading.text for heading in markdown_headings(plain)] == [words]:
        return plain
    return f"{'#' * level} {_MARKDOWN_SIGN.sub(_ESCAPED, words)}"


def literal_line(line: str) -> str:
    """The Markdown line that reads as the words of ``line``: escaped where that is a heading, a rule, a fence or a tag.

    >>> literal_line("# of items: 12"), literal_line("--"), literal_line("See below.")
    ('\\\\# of items: 12', '\\\\--', 'See below.')
    """
    match = _MARKUP.match(line)
    return f"{line[: match.end() - 1]}\\{line[match.end() - 1 :]}" if match else line


class HeadingPath:
    """Which headings stand above a place."""

    def __init__(self, headings: Sequence[Heading]) -> None:
        self._starts = [heading.start for heading in headings]
        self._paths: list[tuple[str, ...]] = []
        above: list[Heading] = []
        for heading in headings:
            while above and above[-1].level >= heading.level:
                above.pop()
            above.append(heading)
            self._paths.append(tuple(h.text for h in above))

    def at(self, place: int) -> tuple[str, ...]:
        """The headings above the character ``place``, outermost first; a heading stands above its own words."""
        found = bisect_right(self._starts, place)
        return self._paths[found - 1] if found else ()


def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Inline markup is parsed for headings alone: most of a document's characters are none.
    return MarkdownIt("commonmark").disable("inline").enable("table")


def _plain(parser: MarkdownIt, content: str) -> str:
    """A heading's words without emphasis, links and code marks."""
    words: list[str] = []
    for token in parser.parseInline(content):
        parser.inline.parse(token.content, parser, {}, token.children if token.children is not None else [])
        words.extend(
            child.content if child.type in {"text", "code_inline", "text_special"} else " "
            for child in token.children or []
            if child.type in {"text", "code_inline", "text_special", "softbreak", "hardbreak"}
        )
    return " ".join("".join(words).split())
