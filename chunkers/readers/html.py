"""HTML as Markdown: what a reader sees, with its headings, lists and tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from situate.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bs4 import BeautifulSoup
    from bs4.element import Tag

#: Elements that hold nothing a reader of the text would look for.
_DROPPED = ("script", "style", "noscript", "template", "svg", "iframe", "object", "button", "title")
#: The same, unless the whole page stands in one (a form around everything, an end tag that is missing).
_ASIDE = 'nav, form, [role="navigation"]'
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|header|hr|html|main|"
    "ol|p|section|summary|table|ul"
)
_HEADING = re.compile(r"h([1-6])\Z")
_BLANK_LINES = re.compile(r"\n{3,}")


def html_to_markdown(data: bytes | str) -> tuple[str, str | None]:
    """The page's text as Markdown, and its title.

    Headings, list items, table rows and preformatted text keep their form; scripts, styles, navigation and forms are
    left out. Bytes are decoded as the page declares.

    Raises:
        MissingExtraError: beautifulsoup4 is not installed.
    """
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        raise MissingExtraError.of("beautifulsoup4", "documents", "reading HTML files") from error
    soup = BeautifulSoup(data, "html.parser")
    title = _title(soup)
    text = _text(soup, [*soup.select(_ASIDE), *soup.find_all(_DROPPED)])
    if not text:
        soup = BeautifulSoup(data, "html.parser")
        text = _text(soup, soup.find_all(_DROPPED))
    return text, title


def heading_words(text: str) -> str:
    """A heading's words on one line, without the sign by which Sphinx and MkDocs link to it.

    >>> heading_words("Sick\\n leave ¶")
    'Sick leave'
    """
    return " ".join(text.split()).removesuffix("¶").rstrip()


def _text(soup: BeautifulSoup, left_out: Iterable[Tag]) -> str:
    for tag in left_out:
        tag.decompose()
    lines = "".join(_written(soup))
    return _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in lines.split("\n"))).strip()


def _title(soup: BeautifulSoup) -> str | None:
    for tag in (soup.title, soup.h1):
        if tag is not None and (words := heading_words(tag.get_text(" "))):
            return words
    return None


def _written(root: Tag) -> list[str]:
    """The pieces of text below ``root``. A loop, not recursion: pages nest deeper than Python's stack."""
    from bs4.element import NavigableString, PreformattedString, Tag

    pieces: list[str] = []
    # Work to do, last first: a node to write, or text to add behind a node that is written.
    work: list[object] = [*reversed(root.contents)]
    while work:
        node = work.pop()
        if isinstance(node, PreformattedString):  # comments, doctypes
            continue
        if isinstance(node, NavigableString):
            words = re.sub(r"\s+", " ", str(node))
            if pieces and pieces[-1].endswith(("\n", " ")):
                words = words.lstrip(" ")
            pieces.append(words)
        elif isinstance(node, str):
            pieces.append(node)
        elif isinstance(node, Tag):
            opening, closing, inner = _form(node)
            pieces.append(opening)
            work.append(_Raw(closing))
            if inner is not None:
                pieces.append(inner)
            else:
                work.extend(reversed(node.contents))
    return pieces


class _Raw(str):
    """Text that is written as it stands."""

    __slots__ = ()


def _form(tag: Tag) -> tuple[str, str, str | None]:
    """What stands before and after a tag's content, and the content where it is not its children's."""
    name = tag.name.lower()
    if match := _HEADING.match(name):
        return f"\n\n{'#' * int(match.group(1))} ", "\n\n", heading_words(tag.get_text(" "))
    if name == "pre":
        return "\n\n```\n", "\n```\n\n", tag.get_text().strip("\n")
    if name == "tr":
        cells = [_cell(cell) for cell in tag.find_all(["td", "th"])]
        rule = "\n|" + " --- |" * len(cells) if cells and tag.find("td") is None else ""
        return "\n", "", f"| {' | '.join(cells)} |{rule}" if cells else ""
    if name == "li":
        return "\n- ", "\n", None
    if name == "br":
        return "\n", "", None
    return ("\n\n", "\n\n", None) if _BLOCK.fullmatch(name) else ("", "", None)


def _cell(cell: Tag) -> str:
    """A table cell's words without those of cells that an unclosed tag put inside it."""
    strings = (string for string in cell.find_all(string=True) if string.find_parent(["td", "th"]) is cell)
    return " ".join(" ".join(strings).split()).replace("|", "\\|")
