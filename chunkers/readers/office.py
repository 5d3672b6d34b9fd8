"""Word, PowerPoint and Excel files as Markdown. Macros are never run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from html import escape
from io import BytesIO
from itertools import groupby
from typing import Any
from zipfile import ZipFile

from situate.chunkers.headings import atx_heading
from situate.chunkers.readers.html import html_to_markdown
from situate.chunkers.readers.packages import check_length, opened
from situate.chunkers.readers.tables import MAX_CELLS, markdown_table
from situate.errors import InputError, MissingExtraError
from situate.types import PAGE_STARTS

#: Levels of groups of shapes on a slide.
_GROUPS = 20
#: Word's styles for the title and subtitle of a document, which stand above its headings; and its breaks part words.
_STYLES = (
    "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh\n"
    "br[type='page'] => br\nbr[type='column'] => br"
)
#: Words in the other direction, which the converter would leave out: it looks into smart tags.
_DIRECTED = re.compile(rb"<(/?)w:(?:dir|bdo)\b[^<>]*>")
#: The first row of a table is its header: few documents mark it.
_FIRST_ROW = re.compile(r"<table><tr>.*?</tr>", re.DOTALL)
_CHART = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
# No search goes beyond where the next formula begins, so that all of them together read the file once.
_FORMULA = re.compile(
    rb"<m:oMath>[^<]*+(?:<(?!/?m:oMath>)[^<]*+)*+</m:oMath>"
    rb"|<m:oMathParaPr>[^<]*+(?:<(?!/?m:oMathParaPr>)[^<]*+)*+</m:oMathParaPr>|</?m:oMathPara>"
)
_SIGNS = re.compile(rb"<m:t(?: [^<>]*+)?>([^<]*+)</m:t>")
_NOTE = re.compile(rb"((?:foot|end)noteReference)\b[^<]{0,300}?\bid=[\"']([^\"'<>]*)")
_DOCUMENT = "word/document.xml"
_TITLE = re.compile(rb"<dc:title>([^<]+)</dc:title>")


def read_docx(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """A Word document: headings, lists, tables, footnotes and the signs of formulas, without comments, heads and feet.

    Raises:
        InputError: It is none, nests too deeply, or is beyond the limits of `packages`.
        MissingExtraError: mammoth is not installed.
    """
    package = opened(data, "DOCX")
    try:
        import mammoth
    except ImportError as error:
        raise MissingExtraError.of("mammoth", "documents", "reading DOCX files") from error
    _check_notes(package)
    try:
        # Images are not opened: the converter would put their bytes into the page.
        page = mammoth.convert_to_html(
            BytesIO(_readable(data, package)),
            style_map=_STYLES,
            include_embedded_style_map=False,
            convert_image=mammoth.images.img_element(lambda image: {}),
        ).value
    except RecursionError as error:
        raise InputError("its tables or other parts nest too deeply to be read: save it as PDF or HTML") from error
    text, heading = html_to_markdown(
        _FIRST_ROW.sub(lambda row: row[0].replace("<td", "<th").replace("</td", "</th"), page)
    )
    return text, _known(package, heading)


def _check_notes(package: ZipFile) -> None:
    """Refuse a file whose text refers to a note again and again: the converter writes it anew for each reference.

    Raises:
        InputError: The notes could become longer than `packages.MAX_CHARACTERS`.
    """
    again = size = 0
    for member in package.infolist():
        if not member.filename.startswith("word/media/"):
            size += member.file_size
            named = _NOTE.findall(package.read(member))
            again += len(named) - len(set(named))
    check_length(again * size)


def _readable(data: bytes, package: ZipFile) -> bytes:
    """The file with formulas' signs and words of another direction as text, which the converter would leave out."""
    source = package.read(_DOCUMENT) if _DOCUMENT in package.namelist() else b""
    if b"<m:oMath>" not in source and not _DIRECTED.search(source):
        return data
    source = _DIRECTED.sub(rb"<\1w:smartTag>", source)

    def signs(formula: re.Match[bytes]) -> bytes:
        words = b" ".join(_SIGNS.findall(formula[0]))
        return b'<w:r><w:t xml:space="preserve">' + words + b"</w:t></w:r>" if words else b""

    written = BytesIO()
    with ZipFile(written, "w") as copy:
        for name in package.namelist():
            if not name.startswith("word/media/"):
                copy.writestr(name, _FORMULA.sub(signs, source) if name == _DOCUMENT else package.read(name))
    return written.getvalue()


def read_pptx(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """A presentation: a page per slide, under its title, with tables, the data of charts and the speaker's notes.

    Raises:
        InputError: It is none, or beyond the limits of `packages`.
        MissingExtraError: python-pptx is not installed.
    """
    package = opened(data, "PPTX")
    try:
        from pptx import Presentation
    except ImportError as error:
        raise MissingExtraError.of("python-pptx", "documents", "reading PPTX files") from error
    slides: list[str] = []
    starts: list[int] = []
    length = 0
    for number, slide in enumerate(Presentation(BytesIO(data)).slides, 1):
        starts.append(length)
        slides.append(_slide(slide, number))
        length += len(slides[-1]) + 2
        check_length(length)
    known = _known(package, None)
    return "\n\n".join(slides), {**known, "pages": len(slides), **({PAGE_STARTS: starts} if starts else {})}


def read_xlsx(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """A workbook: a section per sheet, in which rows without text separate tables; of formulas their last values.

    Raises:
        InputError: It is none, has more than `MAX_CELLS` cells, or is beyond the limits of `packages`.
        MissingExtraError: openpyxl is not installed.
    """
    package = opened(data, "XLSX")
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise MissingExtraError.of("openpyxl", "documents", "reading XLSX files") from error
    book = load_workbook(BytesIO(data), read_only=True, data_only=True, keep_links=False)
    parts: list[str] = []
    cells = characters = 0
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # a sheet may claim sixteen thousand columns
        rows: list[list[str]] = []
        for row in sheet.iter_rows(values_only=True):
            cells += max(1, len(row))
            if cells > MAX_CELLS:
                raise InputError(f"more than {MAX_CELLS:,} cells: save its sheets as CSV files, and give these")
            rows.append([_cell(value) for value in row])
            characters += sum(map(len, rows[-1]))
            check_length(characters)
        parts.append(atx_heading(2, " ".join(sheet.title.split())))
        parts += _blocks(rows)
    return "\n\n".join(parts), _known(package, None)


def _blocks(rows: Iterable[list[str]]) -> Iterator[str]:
    """The runs of rows between empty ones: tables, and lines of one cell as text."""
    for filled, run in groupby(rows, key=lambda row: any(map(str.strip, row))):
        block = list(run)
        if filled and all(sum(bool(cell.strip()) for cell in row) == 1 for row in block):
            yield html_to_markdown("".join(f"<p>{escape(' '.join(row).strip())}</p>" for row in block))[0]
        elif filled:
            yield markdown_table(block)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else str(value)


def _slide(slide: Any, number: int) -> str:
    shape = slide.shapes.title
    title = " ".join(shape.text_frame.text.split()) if shape is not None else ""
    others = [one for one in slide.shapes if shape is None or one.shape_id != shape.shape_id]
    parts = [atx_heading(2, title or f"Slide {number}")]
    parts += filter(None, (part for one in others for part in _shape(one)))
    if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None:
        parts += filter(None, [_paragraphs("Notes: " + frame.text.strip() if frame.text.strip() else "")])
    return "\n\n".join(parts)


def _shape(shape: Any, depth: int = 0) -> Iterator[str]:
    """The text of a shape: of a group that of its members."""
    if hasattr(shape, "shapes"):
        for member in shape.shapes if depth < _GROUPS else ():
            yield from _shape(member, depth + 1)
    elif getattr(shape, "has_table", False):
        yield markdown_table([[cell.text for cell in row.cells] for row in shape.table.rows])
    elif getattr(shape, "has_chart", False):
        yield from _chart(shape.chart)
    elif shape.has_text_frame:
        lines = [(p.level, p.text.strip()) for p in shape.text_frame.paragraphs if p.text.strip()]
        if len(lines) > 1:
            yield "\n".join(f"{'  ' * level}- {' '.join(text.split())}" for level, text in lines)
        else:
            yield _paragraphs(lines[0][1] if lines else "")


def _chart(chart: Any) -> Iterator[str]:
    """A chart's title, and its series as the columns of a table."""
    if chart.has_title and chart.chart_title.has_text_frame:
        yield _paragraphs(chart.chart_title.text_frame.text)
    names: dict[str, str] = {}
    columns: dict[str, dict[str, str]] = {}
    for number, series in enumerate(chart.element.iter(f"{_CHART}ser")):
        title = " ".join(_points(series, "tx").values()) or f"series {number + 1}"
        names = {**_points(series, "cat", "xVal"), **names}
        columns[title] = _points(series, "val", "yVal")
    places = dict.fromkeys([*names, *(place for column in columns.values() for place in column)])
    if len(places) * len(columns) > MAX_CELLS:
        raise InputError(f"a chart of {len(places):,} places and {len(columns):,} series: at most {MAX_CELLS:,} values")
    rows = [[names.get(place, ""), *(column.get(place, "") for column in columns.values())] for place in places]
    yield markdown_table([["", *columns], *rows])


def _points(series: Any, *kinds: str) -> dict[str, str]:
    """The values of a series by their places, from the first of the kinds that it has."""
    found = next((part for kind in kinds if (part := series.find(f"{_CHART}{kind}")) is not None), None)
    points = [] if found is None else found.iter(f"{_CHART}pt", f"{_CHART}v")
    return {one.getparent().get("idx", "0"): one.text or "" for one in points if one.tag == f"{_CHART}v"}


def _paragraphs(text: str) -> str:
    return html_to_markdown("".join(f"<p>{escape(line)}</p>" for line in text.splitlines()))[0]


def _known(package: ZipFile, heading: str | None) -> dict[str, Any]:
    """The metadata: the title that the file's properties name, else the first heading."""
    title = heading
    if "docProps/core.xml" in package.namelist() and (match := _TITLE.search(package.read("docProps/core.xml"))):
        found, _ = html_to_markdown(match[1])
        title = " ".join(found.split()) or heading
    return {"format": "markdown", **({"title": title} if title else {})}
