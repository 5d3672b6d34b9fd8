"""Books in EPUB as Markdown."""

from __future__ import annotations

from posixpath import dirname, join, normpath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from situate.chunkers.readers.html import html_to_markdown
from situate.chunkers.readers.packages import opened
from situate.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_CONTAINER = "META-INF/container.xml"


def read_epub(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """A book: its chapters in reading order, with the book's title and language.

    Raises:
        InputError: It is none, its chapters are encrypted or without text, or it is beyond the limits of `packages`.
        MissingExtraError: defusedxml is not installed.
    """
    package = opened(data, "EPUB", declarations=True)
    members = set(package.namelist())
    roots = [_attribute(one, "full-path") for one in _elements(_tree(package.read(_CONTAINER)), "rootfile")]
    where = next((root for root in roots if root in members), None)
    if where is None:
        raise InputError("no EPUB: it names no package document")
    book = _tree(package.read(where))
    items = {_attribute(item, "id"): _attribute(item, "href") for item in _elements(book, "item")}
    chapters: list[str] = []
    references = [
        items.get(_attribute(reference, "idref"), "").partition("#")[0] for reference in _elements(book, "itemref")
    ]
    # Each chapter is read once, however often it is named; paths are looked up in the package alone.
    for path in dict.fromkeys(normpath(join(dirname(where), unquote(reference))) for reference in references):
        if path in members:
            text, _ = html_to_markdown(package.read(path), xml=True)
            chapters += [text] if text.strip() else []
    if not chapters:
        encrypted = "META-INF/encryption.xml" in members
        raise InputError("its chapters are encrypted (DRM)" if encrypted else "no chapter that it names has any text")
    metadata: dict[str, Any] = {"format": "markdown"}
    for key in ("title", "language"):
        if value := next((" ".join((one.text or "").split()) for one in _elements(book, key)), ""):
            metadata[key] = value
    return "\n\n".join(chapters), metadata


def _tree(source: bytes) -> Element:
    try:
        from defusedxml.ElementTree import fromstring
    except ImportError as error:
        raise MissingExtraError.of("defusedxml", "documents", "reading EPUB files") from error
    tree: Element = fromstring(source)
    return tree


def _elements(tree: Element, name: str) -> list[Element]:
    """The elements of that name, whatever its namespace."""
    return [one for one in tree.iter() if isinstance(one.tag, str) and one.tag.rpartition("}")[2] == name]


def _attribute(element: Element, name: str) -> str:
    return element.get(name, "")
