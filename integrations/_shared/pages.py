"""The pages and elements of a file, as the frameworks' loaders return them, as one document.

PDF loaders return a document per page, Unstructured's and Docling's one per element (a title, a paragraph, a chunk).
What a page means depends on the pages around it, so they are read together, while each chunk still tells its page.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from situate.chunkers.headings import atx_heading
from situate.chunkers.sentences import sentence_spans
from situate.integrations._shared.origin import ORIGIN_KEY
from situate.integrations._shared.splitting import under_headings
from situate.types import PAGE, PAGE_METADATA, PAGE_SPAN, PAGE_STARTS, PAGES, Chunk, Chunker, Document

#: Between two pages; where a sentence runs over, where a table goes on.
_BREAK, _ROW = "\n\n", "\n"
#: Characters of a page, at most, that count to the page before because they end its last sentence.
_REST = 1_000
#: Pages that may be missing for each page that is there; larger numbers are taken for something else.
_BLANK = 1_000
#: Metadata keys under which loaders name the file, the better name first.
_FILE = ("file_path", "source", "file_name", "filename", "url")
#: What Unstructured names running heads and feet.
_RUNNING = frozenset({"Header", "Footer", "PageNumber", "PageBreak"})


@dataclass(frozen=True)
class _Piece:
    """The place of a loader's document in its file.

    Attributes:
        file: The file's path or name.
        number: The page as the loader counts it; None where it has no number.
        counted: Whether the number counts pages, and is not their label, which may begin anew.
        from_zero: Whether the first page has the number 0.
        element: Whether it is an element of a page.
    """

    file: str
    number: int | None
    counted: bool
    from_zero: bool
    element: bool


def file_parts(documents: Sequence[Document | None]) -> list[Document | None]:
    """The documents that are pages or elements of a file, and None for each other one.

    They are where their metadata name a file and a page (``page_label``, ``page``, ``page_number``; Docling's
    ``dl_meta``); an element needs no page. Where two documents of a file with different texts have the same page,
    another splitter has cut its pages, and its documents are passages of their own; so are pages that do not ascend.

    Args:
        documents: As they were loaded; None for one that is never joined.
    """
    pieces = [None if document is None else _piece(document.metadata) for document in documents]
    texts: dict[tuple[str, int], str] = {}
    numbers: dict[str, int] = {}
    before: dict[str, tuple[str, str]] = {}
    cut: set[str] = set()
    for document, piece in zip(documents, pieces, strict=True):
        if document is None or piece is None or piece.element:
            continue
        label = str(document.metadata.get("page_label"))
        if piece.counted and piece.number is not None:
            last = numbers.setdefault(piece.file, piece.number)
            descends = piece.number < last and (piece.file, piece.number) not in texts
            numbers[piece.file] = piece.number
            other = "" if descends else texts.setdefault((piece.file, piece.number), document.text)
        else:  # a label may come again, but not at once
            known, text = before.get(piece.file, ("", ""))
            descends, other = False, text if known == label else document.text
            before[piece.file] = label, document.text
        if descends or other != document.text:
            cut.add(piece.file)
    return [None if piece is None or piece.file in cut else one for one, piece in zip(documents, pieces, strict=True)]


def file_groups(parts: Sequence[Document | None]) -> list[list[int]]:
    """The places of the documents, those together that are pages or elements of one file, in ascending order.

    Args:
        parts: `file_parts` of the documents.
    """
    groups: list[list[int]] = []
    open_groups: dict[str, tuple[list[int], _Piece]] = {}
    for place, document in enumerate(parts):
        piece = None if document is None else _piece(document.metadata)
        if document is None or piece is None:
            groups.append([place])
            continue
        group, before = open_groups.get(piece.file, ([], piece))
        first = parts[group[0]] if group else None
        if not group or (first is not None and _begins_again(first, document, piece)) or not _follows(before, piece):
            group = []
            groups.append(group)
        group.append(place)
        # An element without a page stands on the page of the one before.
        number = before.number if piece.number is None and group[0] != place else piece.number
        open_groups[piece.file] = group, replace(piece, number=number)
    return groups


def is_page(document: Document) -> bool:
    """Whether the metadata say that a document is a page or an element of a file."""
    return _piece(document.metadata) is not None


def is_element(document: Document) -> bool:
    """Whether it is an element of a page: a title, a paragraph, a chunk."""
    piece = _piece(document.metadata)
    return piece is not None and piece.element


def file_of(document: Document) -> str:
    """The path or name of the file that a page or an element comes from; the id of any other document."""
    piece = _piece(document.metadata)
    return document.id if piece is None else piece.file


def joined(pages: Sequence[Document], numbers: list[int] | None = None) -> Document:
    """Pages or elements of one file as one document, whose id is the file's path or name.

    Pages are separated by a blank line, or by a space where a sentence runs over the page's end: it ends without a mark
    and the next page goes on in lower case. Unstructured's titles and the headings that Docling writes into each chunk
    become Markdown headings; running heads and feet that Unstructured names as such are left out.

    The metadata are those that all pages have in common, with ``page_starts`` and, per page, the rest
    (``page_metadata``).

    Args:
        pages: In ascending order.
        numbers: Their numbers; None: as their metadata tell.
    """
    pieces = [_piece(page.metadata) for page in pages]
    elements = any(piece is not None and piece.element for piece in pieces)
    common = {key: value for key, value in pages[0].metadata.items() if _same(key, value, pages)}
    numbers = _numbers(pieces) if numbers is None else numbers
    parts: list[str] = []
    starts, known, length = [0], [dict[str, Any]()], 0
    above: tuple[str, ...] = ()
    for place, page in enumerate(pages):
        words, above = _element(page, above) if elements else (page.text, above)
        if elements and not words:
            continue
        if parts:
            separator = _BREAK if elements else _separator(parts[-1], words)
            if separator != _BREAK:
                length -= len(parts[-1]) - len(parts[-1].rstrip())
                parts[-1] = parts[-1].rstrip()
            parts.append(separator)
            length += len(separator)
        if numbers is not None:
            blank = numbers[place] - len(starts)
            starts += [length] * blank
            known += [dict[str, Any]() for _ in range(blank)]
            if not elements:
                known[-1] = {key: value for key, value in page.metadata.items() if key not in common}
        parts.append(words)
        length += len(words)
    if numbers is not None:
        common |= {PAGE_STARTS: starts, PAGE_METADATA: known}
    if elements:
        common = {key: value for key, value in common.items() if key not in _ELEMENT_KEYS} | {"format": "markdown"}
    return Document(file_of(pages[0]), "".join(parts), common)


def _same(key: str, value: Any, pages: Sequence[Document]) -> bool:
    try:
        return all(key in page.metadata and page.metadata[key] == value for page in pages)
    except ValueError:
        # An array is no metadata that can be stored; who stores it says so, by its name.
        return False


def cut_document(document: Document, chunker: Chunker) -> list[Chunk]:
    """The chunks of a document; those of joined pages lie within a page.

    To a page belongs the rest of the sentence that runs over its end, and the heading at the end of the page before.
    Headings go on from page to page.
    """
    if PAGE_METADATA not in document.metadata:
        return chunker.split(document)
    own = {key: value for key, value in document.metadata.items() if key not in (PAGE_STARTS, PAGE_METADATA)}
    chunks: list[Chunk] = []
    for bounds in page_bounds(document):
        for chunk in chunker.split(Document(document.id, document.text[bounds.start : bounds.end], own)):
            place = bounds.start + chunk.start
            moved = Chunk.of(document, len(chunks), place, place + len(chunk.text), chunk.context)
            chunks.append(replace(moved, metadata={**chunk.metadata, **moved.metadata}))
    return under_headings(document, chunks, anew=True)


@dataclass(frozen=True)
class PageBounds:
    """Where a page stands in the text of its file.

    Attributes:
        page: Where it begins.
        start: Where the text begins that is cut with it: behind the sentence of the page before, or at its heading.
        end: One past the last character that is cut with it.
    """

    page: int
    start: int
    end: int


def page_bounds(document: Document) -> list[PageBounds]:
    """The bounds of each page that has any text, in order."""
    text = document.text
    pages = sorted({*document.page_starts, 0})
    bounds = [0]
    for start, end in pairwise([*pages[1:], len(text)]):
        bounds.append(max(bounds[-1], _boundary(text, bounds[-1], start, end)))
    bounds.append(len(text))
    return [PageBounds(page, start, end) for page, (start, end) in zip(pages, pairwise(bounds), strict=True)]


def completed(document: Document, stored: Sequence[Chunk], text: str | None = None) -> Document:
    """A file's given pages with those that a store holds besides, unless the given ones are the whole file.

    They are where ``total_pages`` says so; without it, where they are several, from the first stored one on.

    Args:
        document: The given pages, joined.
        stored: The file's chunks in the store.
        text: The stored file's text; None: what its chunks hold, with line ends between them.
    """
    if not stored or PAGE_METADATA not in document.metadata:
        return document
    given = _pages(document)
    kept = {number: page for number, page in _stored_pages(document.id, stored, text).items() if number not in given}
    total, count = document.metadata.get("total_pages"), sum(map(bool, document.metadata[PAGE_METADATA]))
    first = min((number for chunk in stored if type(number := chunk.metadata.get(PAGE)) is int), default=0)
    whole = max(count, len(given)) >= total if type(total) is int else len(given) > 1 and min(given) <= first
    if not given or not kept or whole:
        return document
    pages = {**kept, **given}
    numbers = sorted(pages)
    return joined([pages[number] for number in numbers], numbers)


def _pages(document: Document) -> dict[int, Document]:
    """The pages of a joined document that have text, by number."""
    own = {key: value for key, value in document.metadata.items() if key not in (PAGE_STARTS, PAGE_METADATA)}
    starts, known = document.page_starts, document.metadata[PAGE_METADATA]
    pages: dict[int, Document] = {}
    for number, (start, end) in enumerate(pairwise([*starts, len(document.text)]), 1):
        if text := document.text[start:end].rstrip():
            pages[number] = Document(document.id, text, {**own, **known[number - 1]})
    return pages


def _stored_pages(file: str, chunks: Sequence[Chunk], text: str | None) -> dict[int, Document]:
    if text is None:
        letters = ["\n"] * max((chunk.end for chunk in chunks), default=0)
        for chunk in chunks:
            letters[chunk.start : chunk.end] = chunk.text
        text = "".join(letters)
    starts: dict[int, int] = {}
    known: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        number, span = chunk.metadata.get(PAGE), chunk.metadata.get(PAGE_SPAN)
        if type(number) is int and isinstance(span, list):
            starts[number] = chunk.start - span[0]
            known[number] = {key: value for key, value in chunk.metadata.items() if key not in _OF_A_CHUNK}
    numbers = sorted(starts)
    ends = [*(starts[number] for number in numbers[1:]), len(text)]
    return {
        number: Document(file, text[starts[number] : end].rstrip(), known[number])
        for number, end in zip(numbers, ends, strict=True)
    }


#: Metadata of a chunk that its page has not.
_OF_A_CHUNK = (PAGE, PAGES, PAGE_SPAN, ORIGIN_KEY, "start_index")


# -- where a loader's document stands -------------------------------------------------------------------------------


def _piece(metadata: Mapping[str, Any]) -> _Piece | None:
    file = next((str(metadata[key]) for key in _FILE if metadata.get(key)), None)
    if file is None or PAGE_STARTS in metadata:
        return None
    docling, label = metadata.get("dl_meta"), metadata.get("page_label")
    element = isinstance(docling, Mapping) or ("category" in metadata and "element_id" in metadata)
    values = [metadata.get("page"), metadata.get("page_number"), _docling_page(docling)]
    if "total_pages" in metadata and "file_path" in metadata and label is None:
        values.append(metadata.get("source"))  # LlamaIndex's PyMuPDFReader
    counted = next((number for value in values if (number := _number(value)) is not None), None)
    number = counted if counted is not None else _number(label)
    if number is None and label is None and not element:
        return None
    # LangChain's PDF loaders count from 0 and know the total; no loader that counts from 1 does.
    from_zero = type(metadata.get("page")) is int and (number == 0 or "total_pages" in metadata)
    return _Piece(file, number, counted is not None, from_zero, element)


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 8:
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def _docling_page(known: Any) -> Any:
    try:
        return known["doc_items"][0]["prov"][0]["page_no"]
    except (KeyError, IndexError, TypeError):
        return None


def _follows(before: _Piece, piece: _Piece) -> bool:
    """Whether a piece of the same file can stand behind another one."""
    if before.element != piece.element:
        return False
    if before.number is None or piece.number is None or not piece.counted:
        return True
    return piece.number >= before.number if piece.element else piece.number > before.number


def _begins_again(first: Document, page: Document, piece: _Piece) -> bool:
    """Whether a page is the file's first one once more, where its number does not tell: many a page is empty."""
    same = first.text == page.text and first.metadata.get("page_label") == page.metadata.get("page_label")
    return same and not piece.element and not piece.counted and bool(page.text.strip())


def _numbers(pieces: Sequence[_Piece | None]) -> list[int] | None:
    """The page of each piece, from 1; None where no piece has one. Labels that do not ascend count as places."""
    base = any(piece is not None and piece.from_zero for piece in pieces)
    numbers = [None if piece is None or piece.number is None else piece.number + base for piece in pieces]
    if any(piece is not None and piece.element for piece in pieces):
        if all(number is None for number in numbers):
            return None
        known: list[int] = []
        for number in numbers:
            known.append(max(1, number if number is not None else known[-1] if known else 1))
        return known if known[-1] <= _BLANK + len(known) else None
    whole = [number for number in numbers if number is not None]
    ascending = len(whole) == len(numbers) and all(a < b for a, b in pairwise([0, *whole]))
    return whole if ascending and whole[-1] <= _BLANK * len(whole) else [*range(1, len(numbers) + 1)]


# -- how pages are joined -------------------------------------------------------------------------------------------


def _separator(before: str, after: str) -> str:
    """What stands between two pages."""
    last, first = before.rstrip()[-2:], after.lstrip()[:1]
    if not last or not first or after[: len(after) - len(after.lstrip())].count("\n") > 1:
        return _BREAK
    if last[-1] == "|" and first == "|":
        return _ROW
    if unicodedata.east_asian_width(last[-1]) == unicodedata.east_asian_width(first) == "W":
        return "" if last[-1].isalpha() and first.isalpha() else _BREAK
    if not first.islower():
        return _BREAK
    if last[-1] in "-\u2010\u00ad" and last[:1].isalpha():
        return ""
    return " " if last[-1].isalnum() or last[-1] in ",;" else _BREAK


def _boundary(text: str, low: int, start: int, end: int) -> int:
    """Where the text of the page that begins at ``start`` begins for the chunker.

    Args:
        text: The text of all pages.
        low: Where the page before begins.
        start: Where the page begins.
        end: Where the next one begins.
    """
    if text[start - 1 : start] != "\n":
        spans = sentence_spans(text, start, min(end, start + _REST))
        rest = spans[0][1] if spans else start
        return rest if rest < start + _REST else start
    lines = text[low:start].rstrip().splitlines(keepends=True)
    at = low + sum(map(len, lines))
    for line in reversed(lines):
        if not _HEADING.match(line):
            break
        at -= len(line)
    else:
        return low if lines else start  # a page of headings alone, or an empty one
    return at if _HEADING.match(lines[-1]) else start


_HEADING = re.compile(r" {0,3}#{1,6} +\S")


def _element(page: Document, above: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """An element as Markdown, and the headings that Docling puts above it.

    Args:
        page: The element.
        above: The headings above the one before.
    """
    metadata, text = page.metadata, page.text.strip()
    docling, category = metadata.get("dl_meta"), metadata.get("category")
    if isinstance(docling, Mapping):
        listed = docling.get("headings")
        given = [name for name in listed if isinstance(name, str) and name.strip()] if isinstance(listed, list) else []
        headings = tuple(" ".join(name.split()) for name in given)
        # Docling writes the headings in front of each of its chunks.
        for name in given:
            text = text.removeprefix(name).lstrip("\n")
        same = next((n for n, (a, b) in enumerate(zip(above, headings, strict=False)) if a != b), len(above))
        lines = [atx_heading(n + 1, name) for n, name in enumerate(headings) if n >= min(same, len(above))]
        return _BREAK.join([*lines, text]).strip(), headings
    if isinstance(category, str) and category in _RUNNING:
        return "", above
    if category == "Title" and text:
        depth = metadata.get("category_depth")
        level = min(depth, 5) + 1 if type(depth) is int and depth >= 0 else 1
        return atx_heading(level, " ".join(text.split())), above
    return text, above


#: Metadata of an element alone, which say nothing of its file where a file has one element.
_ELEMENT_KEYS = ("dl_meta", "category", "category_depth", "element_id", "parent_id", "coordinates", "page_number")
