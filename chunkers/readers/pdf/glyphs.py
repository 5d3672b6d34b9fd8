"""A page's words and ruling lines, as PDFium finds them."""

from __future__ import annotations

import ctypes
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

#: Path objects of a page that are looked at: a map or a plot has many, and no table.
_MAX_PATHS = 20_000
_MAX_DEPTH = 8
#: Points up to which a path is a line and not an area.
_THIN = 2.5
#: Font sizes below which a gap is no space.
_KERN = 0.1
#: Signs that PDFium writes for a hyphen at the end of a line.
_HYPHENS = {0x02: "\u00ad", 0xFFFE: "\u00ad", 0xAD: "\u00ad"}
#: Signs of Symbol and Wingdings, which fonts place in the private use area.
_BULLETS = frozenset([0xF0B7, 0xF0A7, 0xF0D8, 0xF076, 0xF06E, 0xF06F, 0xF0FC, 0xF0A8])


@dataclass(slots=True)
class Word:
    """Letters without a space, where they stand.

    Coordinates are points in the frame in which the word reads from left to right and lines follow downwards: ``y``
    is the baseline and grows upwards, as in PDF.

    Attributes:
        text: The letters.
        x0: Left edge.
        x1: Right edge.
        y: Baseline.
        size: Font size.
        bold: Whether the font is a bold one.
        italic: Whether it is an italic one.
        code: Whether all its letters are of one width, as program text is set.
        turned: Degrees by which the frame is turned, 0, 90, 180, 270 or any other angle; -1 for vertical writing.
        spaced: Whether a space stands before it.
        unmapped: Whether its font does not say which characters its glyphs are.
        place: Its number in the order of the file.
    """

    text: str
    x0: float
    x1: float
    y: float
    size: float
    bold: bool
    italic: bool
    code: bool
    turned: int
    spaced: bool
    unmapped: bool
    place: int


@dataclass(slots=True)
class Page:
    """What stands on a page.

    Attributes:
        words: In the order of the file.
        across: Ruling lines along its lines of text, as ``(x0, x1, y)`` in their frame.
        down: Ruling lines across them, as ``(y0, y1, x)``.
        images: How many images it shows.
        fields: Names and values of its form fields.
        width: Points.
        height: Points.
        turned: Degrees by which most of its text is turned, as in `Word`.
    """

    words: list[Word] = field(default_factory=list)
    across: list[tuple[float, float, float]] = field(default_factory=list)
    down: list[tuple[float, float, float]] = field(default_factory=list)
    images: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0
    turned: int = 0


@dataclass(slots=True)
class _Glyph:
    sign: str
    x: float
    y: float
    left: float
    right: float
    font: _Font
    spaced: bool


@dataclass(slots=True)
class _Font:
    """What the glyphs of one text object share."""

    size: float
    bold: bool
    italic: bool
    code: bool
    turned: int
    unmapped: bool


def read_page(document: PdfDocument, number: int) -> Page:
    """What stands on page ``number``, counted from 0."""
    page = document[number]
    try:
        left, bottom, right, top = page.get_bbox()
        # What lies outside of the page is not seen: a printer's marks and notes.
        glyphs = [g for g in _glyphs(page) if left - 2 < g.x < right + 2 and bottom - 2 < g.y < top + 2]
        vertical = _is_vertical(glyphs)
        found = Page(list(_words(glyphs, vertical)))
        found.width, found.height = page.get_size()
        letters = Counter[int]()
        for word in found.words:
            letters[word.turned] += len(word.text)
        found.turned = max(letters, key=letters.__getitem__, default=0)
        _read_objects(page, found)
        found.fields = list(_fields(document, page)) if document.formenv is not None else []
        return found
    finally:
        page.close()


def framed(x: float, y: float, turned: int) -> tuple[float, float]:
    """A place of the page in the frame of text that is turned."""
    if turned == 90:
        return y, -x
    if turned == 180:
        return -x, -y
    if turned in (270, -1):
        return -y, x
    if turned:
        cosine, sine = math.cos(math.radians(turned)), math.sin(math.radians(turned))
        return x * cosine + y * sine, y * cosine - x * sine
    return x, y


def _glyphs(page: PdfPage) -> list[_Glyph]:
    import pypdfium2.raw as pdfium

    text = page.get_textpage()
    x, y, box = ctypes.c_double(), ctypes.c_double(), pdfium.FS_RECTF()
    at_x, at_y, at_box = ctypes.byref(x), ctypes.byref(y), ctypes.byref(box)
    fonts: dict[int, _Font] = {}
    glyphs: list[_Glyph] = []
    spaced, guessed = True, False
    for index in range(pdfium.FPDFText_CountChars(text)):
        code = pdfium.FPDFText_GetUnicode(text, index)
        if code in (0x20, 0x0D, 0x0A, 0x09, 0xA0):
            spaced = True
            guessed = code == 0x20 and pdfium.FPDFText_IsGenerated(text, index) == 1
            continue
        owner = pdfium.FPDFText_GetTextObject(text, index)
        if not owner:
            spaced = True
            continue
        key = ctypes.addressof(owner.contents)
        font = fonts.get(key)
        if font is None:
            font = fonts[key] = _font(pdfium, text, index)
        sign = _sign(code)
        if not sign:
            continue
        pdfium.FPDFText_GetCharOrigin(text, index, at_x, at_y)
        pdfium.FPDFText_GetLooseCharBox(text, index, at_box)
        if sign == "\u00ad" and box.right - box.left < 0.05 * font.size and not font.turned:
            continue
        left, right = (box.bottom, box.top) if font.turned in (90, 270) else (box.left, box.right)
        if (
            spaced
            and guessed
            and glyphs
            and glyphs[-1].font is font
            and 0 <= left - glyphs[-1].right < _KERN * font.size
        ):
            # PDFium takes a wide kern for a space.
            spaced = False
        glyphs.append(_Glyph(sign, x.value, y.value, left, right, font, spaced))
        spaced = guessed = False
    text.close()
    return glyphs


def _font(pdfium: Any, text: Any, index: int) -> _Font:
    matrix = pdfium.FS_MATRIX()
    pdfium.FPDFText_GetMatrix(text, index, matrix)
    size = pdfium.FPDFText_GetFontSize(text, index) * (math.hypot(matrix.c, matrix.d) or 1.0)
    angle = math.degrees(math.atan2(matrix.b, matrix.a)) % 360
    straight = (right for right in (0, 90, 180, 270) if min(abs(angle - right), 360 - abs(angle - right)) < 5)
    turned = next(straight, round(angle))
    name = ctypes.create_string_buffer(128)
    flags = ctypes.c_int()
    pdfium.FPDFText_GetFontInfo(text, index, name, 128, flags)
    called = name.value.decode("latin-1").lower()
    weight = pdfium.FPDFText_GetFontWeight(text, index)
    bold = weight >= 600 or any(mark in called for mark in ("bold", "black", "heavy", "-demi", "semibold", "cmbx"))
    unmapped = pdfium.FPDFText_HasUnicodeMapError(text, index) == 1
    italic = bool(flags.value & 64) or "italic" in called or "oblique" in called
    code = bool(flags.value & 1) or any(mark in called for mark in ("mono", "courier", "consol", "cmtt", "typewriter"))
    return _Font(round(size, 1), bold, italic, code, turned, unmapped)


def _sign(code: int) -> str:
    """The character as it is indexed: ligatures and presentation forms as their letters; "" for none."""
    if code in _HYPHENS:
        return _HYPHENS[code]
    if code in _BULLETS:
        return "\u2022"
    if code < 0x20 or 0x7F <= code < 0xA0 or 0xE000 <= code <= 0xF8FF or 0xD800 <= code <= 0xDFFF or code > 0x10FFFF:
        return ""
    sign = chr(code)
    if 0xFB00 <= code <= 0xFDFF or 0xFE70 <= code <= 0xFEFC:
        return unicodedata.normalize("NFKC", sign)
    return "" if code in (0xFEFF, 0xFFFF, 0x200B) else sign


def _is_vertical(glyphs: list[_Glyph]) -> bool:
    """Whether most glyphs stand below the one before them."""
    below = beside = 0
    for a, b in pairwise(glyphs):
        if a.font.turned or b.font.turned:
            continue
        size = a.font.size
        if abs(a.x - b.x) < 0.3 * size and 0.5 * size < a.y - b.y < 2 * size:
            below += 1
        else:
            beside += 1
    return below > 4 and below > beside


def _words(glyphs: list[_Glyph], vertical: bool) -> Iterator[Word]:
    word: Word | None = None
    for place, glyph in enumerate(glyphs):
        turned = -1 if vertical and not glyph.font.turned else glyph.font.turned
        x, y = framed(glyph.x, glyph.y, turned)
        if turned == -1:
            left, right = x - glyph.font.size / 2, x + glyph.font.size / 2
        elif turned in (180, 270):
            left, right = -glyph.right, -glyph.left
        elif turned not in (0, 90):
            # The box of a glyph that leans tells nothing of its width.
            left, right = x, x + glyph.font.size / 2
        else:
            left, right = glyph.left, glyph.right
        size = glyph.font.size
        if word is not None:
            near = left - word.x1 < 0.6 * size and word.x0 - right < 0.6 * size
            same = word.turned == turned and abs(word.y - y) < 0.1 * size and abs(word.size - size) < 0.35 * size
            if near and same and not glyph.spaced and len(word.text) < 1000:
                word.text += glyph.sign
                word.x0, word.x1 = min(word.x0, left), max(word.x1, right)
                continue
            yield word
        font = glyph.font
        word = Word(
            glyph.sign,
            left,
            right,
            y,
            size,
            font.bold,
            font.italic,
            font.code,
            turned,
            glyph.spaced,
            font.unmapped,
            place,
        )
    if word is not None:
        yield word


# -- rules and images -----------------------------------------------------------------------------------------------


def _read_objects(page: PdfPage, found: Page) -> None:
    import pypdfium2.raw as pdfium

    left = _MAX_PATHS
    for kind, item, place in _objects(pdfium, page.raw, None, 0):
        if kind == pdfium.FPDF_PAGEOBJ_IMAGE:
            found.images += 1
        elif kind == pdfium.FPDF_PAGEOBJ_PATH:
            left -= 1
            if left < 0:
                # No table has as many lines: what was read of them is a drawing.
                found.across.clear()
                found.down.clear()
                return
            _read_path(pdfium, item, place, found)


_Matrix = tuple[float, float, float, float, float, float]


def _objects(pdfium: Any, owner: Any, place: _Matrix | None, depth: int) -> Iterator[tuple[int, Any, _Matrix | None]]:
    """The kinds and objects of a page or form, with the matrix of the form that they stand in."""
    if depth > _MAX_DEPTH:
        return
    count = pdfium.FPDFFormObj_CountObjects(owner) if depth else pdfium.FPDFPage_CountObjects(owner)
    for number in range(count):
        item = pdfium.FPDFFormObj_GetObject(owner, number) if depth else pdfium.FPDFPage_GetObject(owner, number)
        kind = pdfium.FPDFPageObj_GetType(item)
        if kind == pdfium.FPDF_PAGEOBJ_FORM:
            yield from _objects(pdfium, item, _joined(_matrix(pdfium, item), place), depth + 1)
        else:
            yield kind, item, place


def _matrix(pdfium: Any, item: Any) -> _Matrix:
    matrix = pdfium.FS_MATRIX()
    pdfium.FPDFPageObj_GetMatrix(item, matrix)
    return matrix.a, matrix.b, matrix.c, matrix.d, matrix.e, matrix.f


def _joined(inner: _Matrix, outer: _Matrix | None) -> _Matrix:
    if outer is None:
        return inner
    a, b, c, d, e, f = inner
    p, q, r, s, t, u = outer
    return (
        a * p + b * r,
        a * q + b * s,
        c * p + d * r,
        c * q + d * s,
        e * p + f * r + t,
        e * q + f * s + u,
    )


def _read_path(pdfium: Any, item: Any, place: _Matrix | None, found: Page) -> None:
    segments = pdfium.FPDFPath_CountSegments(item)
    if not 2 <= segments <= 1000:
        return
    a, b, c, d, e, f = _joined(_matrix(pdfium, item), place)
    x, y = ctypes.c_float(), ctypes.c_float()
    points: list[tuple[float, float]] = []
    first = (0.0, 0.0)
    fill, stroke = ctypes.c_int(), ctypes.c_int()
    pdfium.FPDFPath_GetDrawMode(item, fill, stroke)
    if not fill.value and not stroke.value:
        return
    edges: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for number in range(segments):
        segment = pdfium.FPDFPath_GetPathSegment(item, number)
        pdfium.FPDFPathSegment_GetPoint(segment, x, y)
        point = (a * x.value + c * y.value + e, b * x.value + d * y.value + f)
        kind = pdfium.FPDFPathSegment_GetType(segment)
        if kind == pdfium.FPDF_SEGMENT_BEZIERTO:
            return
        if kind == pdfium.FPDF_SEGMENT_MOVETO:
            first = point
        else:
            edges.append((points[-1] if points else first, point))
        if pdfium.FPDFPathSegment_GetClose(segment):
            edges.append((point, first))
        points.append(point)
    if fill.value and not stroke.value and (len(edges) > 5 or not _is_thin(edges)):
        # Areas: the background of a cell or a page, which has no visible line.
        return
    for start, end in edges:
        (x0, y0), (x1, y1) = framed(*start, found.turned), framed(*end, found.turned)
        if abs(y1 - y0) <= 0.5 and abs(x1 - x0) > 1:
            found.across.append((min(x0, x1), max(x0, x1), (y0 + y1) / 2))
        elif abs(x1 - x0) <= 0.5 and abs(y1 - y0) > 1:
            found.down.append((min(y0, y1), max(y0, y1), (x0 + x1) / 2))


def _is_thin(edges: list[tuple[tuple[float, float], tuple[float, float]]]) -> bool:
    xs = [x for edge in edges for x, _ in edge]
    ys = [y for edge in edges for _, y in edge]
    return bool(xs) and min(max(xs) - min(xs), max(ys) - min(ys)) <= _THIN


# -- form fields ----------------------------------------------------------------------------------------------------


def _fields(document: PdfDocument, page: PdfPage) -> Iterator[tuple[str, str]]:
    import pypdfium2.raw as pdfium

    form = document.formenv.raw
    for number in range(pdfium.FPDFPage_GetAnnotCount(page.raw)):
        annotation = pdfium.FPDFPage_GetAnnot(page.raw, number)
        if not annotation:
            continue
        try:
            if pdfium.FPDFAnnot_GetSubtype(annotation) != pdfium.FPDF_ANNOT_WIDGET:
                continue
            value = _string(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation)
            name = _string(pdfium.FPDFAnnot_GetFormFieldAlternateName, form, annotation) or _string(
                pdfium.FPDFAnnot_GetFormFieldName, form, annotation
            )
            if value and value != "Off":
                yield name, value
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)


def _string(call: Any, form: Any, annotation: Any) -> str:
    length = call(form, annotation, None, 0)
    if not 2 < length <= 1 << 20:
        return ""
    buffer = (ctypes.c_ushort * (length // 2 + 1))()
    call(form, annotation, buffer, length)
    return " ".join(bytes(buffer).decode("utf-16-le", errors="replace").split("\0", 1)[0].split())
