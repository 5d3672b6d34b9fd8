"""A PDF's bytes -> its text as Markdown, and where its pages begin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from situate.chunkers.readers.pdf.aligned import with_aligned_tables
from situate.chunkers.readers.pdf.furniture import without_running_lines
from situate.chunkers.readers.pdf.glyphs import Word, framed, read_page
from situate.chunkers.readers.pdf.headings import Entry, headings, usual_leading
from situate.chunkers.readers.pdf.legible import is_legible
from situate.chunkers.readers.pdf.lines import Cell, Line, lines_of
from situate.chunkers.readers.pdf.tables import ruled_tables
from situate.chunkers.readers.pdf.writing import markdown
from situate.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

#: Entries of an outline that are read.
_MAX_ENTRIES = 10_000
#: Letters of a page that a font may leave without a character, as it does for ornaments.
_MAX_GUESSED = 10
#: Characters of a whole file's text.
_MAX_CHARACTERS = 100_000_000
_FILE_NAME = re.compile(
    r"\.(?:docx?|pdf|indd|qxd|tex|dvi|xlsx?|pptx?|html?|rtf|odt|fm|wpd)\s*\Z|\Auntitled|\ASUMMARY", re.I
)
_WORD_PREFIX = re.compile(r"\AMicrosoft (?:Word|PowerPoint|Excel) - ", re.IGNORECASE)


@dataclass(frozen=True)
class PdfText:
    """What a PDF says.

    Attributes:
        text: Markdown.
        page_starts: The character at which each page begins.
        title: The title that the file names, or its first and largest heading.
        empty: Pages with images and no text, from 1: scans.
        unmapped: Pages whose fonts do not say which characters they show, from 1; their text is left out.
    """

    text: str
    page_starts: list[int]
    title: str | None = None
    empty: list[int] = field(default_factory=list)
    unmapped: list[int] = field(default_factory=list)


def read_pdf(
    data: bytes,
    password: str | None = None,
    max_pages: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> PdfText:
    """The text of a PDF.

    Pages are read one after the other; of each only its lines are kept.

    Args:
        data: The file.
        password: Opens an encrypted file.
        max_pages: The most pages that a file may have; None for no limit.
        progress: Called with each page's number, from 0.

    Raises:
        InputError: The bytes are no PDF, the password is missing or wrong, there are too many pages, or there is no
            text.
        MissingExtraError: pypdfium2 is not installed.
    """
    try:
        import pypdfium2
    except ImportError as error:
        raise MissingExtraError.of("pypdfium2", "documents", "reading PDF files") from error

    if not data:
        raise InputError("the file is empty")
    if b"%PDF-" not in data[:1024]:
        raise InputError("the file is no PDF: it does not begin with %PDF-")
    try:
        document = pypdfium2.PdfDocument(data, password=password)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error):
            wrong = "the password does not open it" if password else "it is encrypted: pass password="
            raise InputError(wrong) from None
        raise InputError(f"the PDF is broken: {error}") from None
    try:
        return _read(document, max_pages, progress)
    finally:
        document.close()


def _read(document: PdfDocument, max_pages: int | None, progress: Callable[[int], None] | None) -> PdfText:
    import pypdfium2

    count = len(document)
    if not count:
        raise InputError("the PDF has no pages")
    if max_pages is not None and count > max_pages:
        raise InputError(f"the PDF has {count:,} pages and max_pages={max_pages:,}: pass a larger limit, or None")
    document.init_forms()
    pages: list[list[Line]] = []
    empty: list[int] = []
    unmapped: list[int] = []
    broken: list[int] = []
    characters = 0
    for number in range(count):
        if progress is not None:
            progress(number)
        try:
            page = read_page(document, number)
        except pypdfium2.PdfiumError:
            broken.append(number + 1)
            pages.append([])
            continue
        letters = sum(len(word.text) for word in page.words)
        characters += letters
        if characters > _MAX_CHARACTERS:
            raise InputError(f"the PDF has more than {_MAX_CHARACTERS:,} characters: split it")
        guessed = [word.text for word in page.words if word.unmapped]
        if sum(map(len, guessed)) > _MAX_GUESSED and not is_legible(guessed):
            unmapped.append(number + 1)
            page.words = [word for word in page.words if not word.unmapped]
        elif not letters and page.images:
            empty.append(number + 1)
        lines = list(_page_lines(page, number))
        pages.append(lines)
    if len(broken) == count:
        raise InputError("the PDF is broken: none of its pages can be read")
    lines = [line for page in without_running_lines(pages) for line in page]
    if not lines:
        raise InputError(_why_empty(count, empty, unmapped))
    leading = usual_leading(lines)
    found = headings(lines, _outline(document), leading)
    text, starts = markdown(lines, found, leading, count)
    if text.startswith("Please wait...") and count == 1 and "Adobe Reader" in text:
        raise InputError("the form's content is in XFA, which is not read: print it to a PDF")
    return PdfText(text, starts, _title(document, lines, found), empty, unmapped)


def _why_empty(pages: int, empty: Sequence[int], unmapped: Sequence[int]) -> str:
    if unmapped:
        return "its fonts do not say which characters they show (no ToUnicode map): recognise its text (OCR) first"
    if empty:
        return f"it holds images and no text ({len(empty)} of {pages} pages: a scan): recognise its text (OCR) first"
    return "it holds no text"


def _page_lines(page: Any, number: int) -> Iterator[Line]:
    """The lines of a page: its tables and text, then text that is turned otherwise, then its form fields."""
    words = [word for word in page.words if word.turned == page.turned]
    tables, rest = ruled_tables(page, words)
    yield from with_aligned_tables(lines_of(rest, tables, number))
    others: dict[int, list[Word]] = {}
    for word in page.words:
        if word.turned != page.turned:
            others.setdefault(word.turned, []).append(word)
    low, _ = framed(0.0, 0.0, page.turned)
    for turned in sorted(others):
        yield from (replace(line, aside=True) for line in lines_of(others[turned], (), number))
    for at, (name, value) in enumerate(page.fields):
        text = f"{name}: {value}"
        # Behind all else, each a paragraph of its own.
        cell = Cell(low, low, text)
        yield Line(page=number, y=-10_000.0 - 100 * at, x0=low, x1=low, size=10.0, cells=(cell,), column=(low, low))


def _outline(document: PdfDocument) -> list[Entry]:
    import pypdfium2

    entries: list[Entry] = []
    try:
        for bookmark in document.get_toc(max_depth=6):
            destination = bookmark.get_dest()
            index = destination.get_index() if destination is not None else None
            if index is not None and (title := bookmark.get_title().strip()):
                entries.append(Entry(bookmark.level, title, index))
            if len(entries) >= _MAX_ENTRIES:
                break
    except pypdfium2.PdfiumError:
        # A broken outline is none; the headings are found by their fonts.
        return entries
    return entries


def _title(document: PdfDocument, lines: Sequence[Line], found: dict[int, tuple[int, int]]) -> str | None:
    named = " ".join(document.get_metadata_dict().get("Title", "").split())
    named = _WORD_PREFIX.sub("", named)
    if named and not _FILE_NAME.search(named) and any(map(str.isalpha, named)):
        return named
    first = [(level, number) for number, (_, level) in found.items() if lines[number].page == 0]
    if not first:
        return None
    number = min(first)[1]
    return " ".join(" ".join(line.text for line in lines[number : found[number][0]]).split())
