"""HTML as Markdown: what a reader sees, with its headings, lists and tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from situate.chunkers.headings import atx_heading, literal_line
from situate.chunkers.readers.decoding import decoded
from situate.chunkers.readers.markup import HEADINGS, Tag, Text, parts

#: Elements that hold nothing a reader of the text would look for.
DROPPED = frozenset(
    ["script", "style", "noscript", "template", "svg", "iframe", "object", "button", "title", "noembed", "noframes"]
)
#: The same, unless the whole page lies in one (a form around everything).
ASIDE = frozenset(["nav", "form"])
#: Elements whose content is for browsers that do not know them.
FALLBACK = frozenset(["audio", "canvas", "video"])
#: Elements whose end tag people forget: without it, what follows them on the page is not theirs.
_CLOSED = ASIDE | FALLBACK
#: Elements with a blank line before and after them.
_BLOCKS = frozenset(
    [
        *(
            "address",
            "article",
            "aside",
            "blockquote",
            "body",
            "caption",
            "dd",
            "details",
            "div",
            "dl",
            "dt",
            "fieldset",
        ),
        *(
            "figcaption",
            "figure",
            "footer",
            "header",
            "hr",
            "html",
            "main",
            "ol",
            "p",
            "section",
            "summary",
            "table",
            "ul",
        ),
        *("center", "dialog", "form", "hgroup", "legend", "menu", "nav", "search", "textarea"),
    ]
)
#: Elements on a line of their own.
_LINES = frozenset(["li", "select", "datalist", "option", "optgroup", "tr", "td", "th"])
#: Characters of a name that is written for each of its columns.
_NAME = 100
#: Elements that are the page: a page hides itself only until its scripts or styles have shown it.
_WHOLE = frozenset(["html", "body"])
#: Elements that mark a layout table: in a table of data, cells hold words.
_LAYOUT = frozenset([*HEADINGS, "pre", "table", "blockquote", "section", "article", "hr"])
#: So do these, and several paragraphs, unless the table names its columns or rows (``<th>``).
_LISTS = frozenset(["ul", "ol", "dl"])
#: The encoding that a page declares, in its first bytes.
_DECLARED = re.compile(rb"(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z][\w.:-]*)", re.IGNORECASE)


def html_to_markdown(page: str | bytes, *, xml: bool = False) -> tuple[str, str | None]:
    """The page's text as Markdown, and its title.

    Headings, list items, rows of data tables and preformatted text keep their form; tables that lay out a page are read
    as the blocks in their cells. Scripts, styles, navigation, forms and hidden elements are left out. Text that looks
    like Markdown is escaped, so that the Markdown's headings are those of the page. Bytes are in the encoding that the
    page declares; see `decoded`. ``xml``: the page is XHTML, in which ``<script/>`` has an end.
    """
    source = page if isinstance(page, str) else decoded_page(page)
    found = parts(source, xml=xml)
    dropped = DROPPED | FALLBACK
    text = _Writer(source, found, dropped | ASIDE).written() or _Writer(source, found, dropped).written()
    return text, _title(source, found)


def decoded_page(data: bytes, name: str = "the page") -> str:
    """The source of a page, in the encoding that it declares; see `decoded`."""
    declared = _DECLARED.search(data[:2048])
    return decoded(data, name, declared[1].decode() if declared else None)


def heading_words(text: str) -> str:
    """A heading's words on one line, without the sign by which Sphinx and MkDocs link to it.

    >>> heading_words("Sick\\n leave ¶")
    'Sick leave'
    """
    return " ".join(text.split()).removesuffix("¶").rstrip()


def left_out(tag: Tag, kinds: Collection[str]) -> bool:
    """Whether an element is hidden, navigation, or of one of ``kinds``; one that never ends is not left out."""
    if tag.closing or tag.last is None or tag.name in _WHOLE or "shadowrootmode" in tag.attributes:
        return False
    if tag.name in kinds:
        return tag.closed or tag.name not in _CLOSED
    return tag.hidden or ("nav" in kinds and tag.attributes.get("role") == "navigation")


def _title(source: str, page: list[Text | Tag]) -> str | None:
    for name in ("title", "h1"):
        for number, part in enumerate(page):
            if isinstance(part, Tag) and part.name == name and not part.closing:
                inner = page[number + 1 : part.last or number + 1]
                text = " ".join(one.words(source) for one in inner if isinstance(one, Text))
                if words := heading_words(text):
                    return words
                break
    return None


class _Writer:
    """Writes a page's parts as lines of Markdown.

    Args:
        source: HTML source.
        page: Its parts.
        dropped: Elements that are left out.
    """

    def __init__(self, source: str, page: list[Text | Tag], dropped: frozenset[str]) -> None:
        self._source = source
        self._page = page
        self._dropped = dropped
        self._layout = _layout_tables(page)
        self._written: list[str] = []
        self._breaks = 0
        self._line: list[str] = []
        self._lead = ""

    def written(self) -> str:
        """The page as Markdown; "" where it shows nothing."""
        at = 0
        while at < len(self._page):
            at = self._write(at)
        self._end_line(0)
        return "".join(self._written)

    def _write(self, at: int) -> int:
        """Writes the part ``at`` and returns the number of the next one to write."""
        part = self._page[at]
        if isinstance(part, Text):
            self._line.append(part.words(self._source))
            return at + 1
        if left_out(part, self._dropped):
            return part.last or at + 1
        name, last = part.name, None if part.closing else part.last
        if name in HEADINGS:
            self._end_line(2)
            if last is not None:
                words = (
                    heading_words(self._words(at + 1, last))
                    # A heading that opens what stands below it is a button, or an image.
                    or heading_words(self._words(at + 1, last, self._dropped - {"button"}))
                    or heading_words(self._alternatives(at + 1, last))
                )
                self._add(atx_heading(int(name[1]), words) if words else "", 2)
                return last
        elif name == "pre" and last is not None:
            self._end_line(2)
            self._preformatted(at + 1, last)
            return last
        elif name == "table" and last is not None and at not in self._layout:
            self._end_line(2)
            self._table(at + 1, last)
            return last
        elif name == "br":
            self._end_line(1)
        elif name in _BLOCKS or name == "pre":
            self._end_line(2)
        elif name in _LINES:
            self._end_line(1)
            self._lead = "- " if name == "li" and not part.closing else ""
        return at + 1

    def _end_line(self, breaks: int) -> None:
        """Ends the open line; at least ``breaks`` line ends follow before the next."""
        words = " ".join("".join(self._line).split()).replace("\ufeff", "")
        self._line.clear()
        if words:
            self._add(self._lead + literal_line(words), 0)
            self._lead = ""
        elif breaks == 2:
            self._lead = ""
        self._breaks = min(2, self._breaks + breaks)

    def _add(self, line: str, breaks: int) -> None:
        if line:
            if self._written:
                self._written.append("\n" * self._breaks)
            self._written.append(line)
            self._breaks = 0
        self._breaks = min(2, self._breaks + breaks)

    def _shown(self, first: int, last: int, dropped: Collection[str] | None = None) -> Iterator[tuple[int, Text | Tag]]:
        """The parts ``[first, last)`` without those of elements that are left out."""
        at = first
        while at < last:
            part = self._page[at]
            if isinstance(part, Tag) and left_out(part, self._dropped if dropped is None else dropped):
                at = part.last or at + 1
            else:
                yield at, part
                at += 1

    def _words(self, first: int, last: int, dropped: Collection[str] | None = None) -> str:
        return "".join(
            part.words(self._source)
            if isinstance(part, Text)
            else " "
            if part.name == "br" or part.name in _BLOCKS or part.name in _LINES
            else ""
            for _, part in self._shown(first, last, dropped)
        )

    def _alternatives(self, first: int, last: int) -> str:
        """The alternative texts of the images."""
        shown = (part for _, part in self._shown(first, last))
        return " ".join(
            part.attributes.get("alt", "") for part in shown if isinstance(part, Tag) and part.name == "img"
        )

    def _preformatted(self, first: int, last: int) -> None:
        pieces = [
            part.words(self._source) if isinstance(part, Text) else "\n" * (part.name == "br")
            for _, part in self._shown(first, last)
        ]
        code = "".join(pieces).strip("\n")
        if not code.strip():
            return
        # The fence is longer than any in the text.
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", code))])
        self._add(f"{fence}\n{code}\n{fence}", 2)

    def _table(self, first: int, last: int) -> None:
        cells: list[str] = []
        rows: list[int] = []
        data = False
        at = first
        # Column -> rows into which a cell above it reaches, and how many cells may be added for cells of several.
        above: dict[int, int] = {}
        room = 2 * (last - first)

        def fill(words: str, count: int) -> None:
            nonlocal room
            cells.extend([words] * min(count, room))
            room -= min(count, room)

        def reach() -> None:
            while above.get(len(cells), 0) and room:
                above[len(cells)] -= 1
                fill("", 1)

        def end_row() -> None:
            if cells:
                reach()
                rule = "" if data else "\n|" + " --- |" * len(cells)
                self._breaks = 1 if rows else self._breaks
                self._add(f"| {' | '.join(cells)} |{rule}", 1)
                rows.append(len(cells))
                cells.clear()

        while at < last:
            part = self._page[at]
            if isinstance(part, Tag) and not part.closing and part.name in ("td", "th", "caption", "tr"):
                self._end_line(1)
                if part.name == "tr":
                    end_row()
                    data = False
                if left_out(part, self._dropped):
                    at = part.last or at + 1
                    continue
                if part.name != "tr":
                    words = " ".join(self._words(at + 1, part.last or last).split())
                    if part.name == "caption":
                        self._line.append(words)
                        self._end_line(2)
                    else:
                        data = data or part.name == "td"
                        words = words.replace("|", "\\|")
                        reach()
                        column, columns = len(cells), _span(part, "colspan")
                        cells.append(words)
                        # The name of several columns is that of each.
                        fill(words if part.name == "th" and len(words) < _NAME else "", columns - 1)
                        if (reaches := _span(part, "rowspan")) > 1:
                            above.update(dict.fromkeys(range(column, len(cells)), reaches - 1))
                    at = part.last or last
                    continue
            at = at + 1 if isinstance(part, Tag) and part.name in ("tr", "table") else self._write(at)
        end_row()
        self._end_line(2)


def _span(cell: Tag, name: str) -> int:
    """Over how many columns or rows a cell reaches."""
    given = cell.attributes.get(name, "")
    return max(1, int(given)) if given.isdecimal() and len(given) < 5 else 1


def _layout_tables(page: list[Text | Tag]) -> set[int]:
    """Numbers of the tables that lay out a page: a cell holds a heading, a table, or, without names, several blocks."""
    layout: set[int] = set()
    tables: list[tuple[int, int]] = []
    titled: set[int] = set()
    named: set[int] = set()
    blocks = 0
    for number, part in enumerate(page):
        while tables and number >= tables[-1][1]:
            tables.pop()
        if not isinstance(part, Tag) or part.closing:
            continue
        if part.name in ("td", "th"):
            blocks = 0
            kind = titled if part.name == "th" else named
            kind.update(table for table, _ in tables[-1:] if kind is titled or table in titled)
        elif part.name in ("p", "div"):
            blocks += 1
        if tables and (part.name in _LAYOUT or ((blocks > 1 or part.name in _LISTS) and tables[-1][0] not in named)):
            layout.add(tables[-1][0])
        if part.name == "table" and part.last is not None:
            tables.append((number, part.last))
            blocks = 0
            if part.attributes.get("role") in ("presentation", "none"):
                layout.add(number)
    return layout
