"""PDFs that tests write, with known words on known pages."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Table, TableStyle

pdfmetrics.registerFont(TTFont("Vera", "Vera.ttf"))
WIDTH, HEIGHT = A4
LEFT, SIZE, LEADING = 72, 10, 13


def pdf(draw: Callable[[Canvas], None], **options: object) -> bytes:
    """The PDF that ``draw`` draws, as the same bytes every time."""
    out = BytesIO()
    canvas = Canvas(out, pagesize=A4, invariant=1, **options)
    draw(canvas)
    canvas.save()
    return out.getvalue()


def column(canvas: Canvas, lines: list[str], x: float = LEFT, y: float = HEIGHT - 110) -> float:
    """Lines of text below each other; the height behind the last."""
    canvas.setFont("Times-Roman", SIZE)
    for line in lines:
        canvas.drawString(x, y, line)
        y -= LEADING
    return y


def heading(canvas: Canvas, text: str, size: float, y: float, x: float = LEFT) -> float:
    canvas.setFont("Helvetica-Bold", size)
    canvas.drawString(x, y, text)
    return y - 2 * size


def running(canvas: Canvas, page: int) -> None:
    """A head and a foot as every page has them."""
    canvas.setFont("Times-Italic", 9)
    canvas.drawString(LEFT, HEIGHT - 50, "Boilers and Pumps")
    canvas.drawRightString(WIDTH - LEFT, HEIGHT - 50, f"Page {page} of 5")
    canvas.drawCentredString(WIDTH / 2, 40, f"Confidential - {page}")


def ruled(canvas: Canvas, rows: list[list[str]], y: float, x: float = LEFT) -> float:
    """A table with ruling lines, its top edge at ``y``."""
    table = Table(rows, colWidths=[110] * len(rows[0]), rowHeights=16)
    table.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.black), ("FONTSIZE", (0, 0), (-1, -1), 9)]))
    _, height = table.wrapOn(canvas, WIDTH, HEIGHT)
    table.drawOn(canvas, x, y - height)
    return y - height - 20


FIRST_COLUMN = [
    "The left column opens the report and",
    "tells of the boiler house, which has",
    "stood behind the old mill since the",
    "great flood carried the first one off.",
    "Its chimney leans towards the river by",
    "a hand's breadth, and no one minds it.",
]
SECOND_COLUMN = [
    "The right column goes on with pumps:",
    "there are four of them in the cellar,",
    "and a fifth is kept in reserve for the",
    "winters in which the others freeze in",
    "spite of the lamps that are hung below",
    "the pipes on every night of hard frost.",
]


def report() -> bytes:
    """Five pages: a title and hyphenation, two columns, a table over two pages, an empty page's neighbour, an end."""

    def draw(canvas: Canvas) -> None:
        canvas.setTitle("Annual report")
        running(canvas, 1)
        y = heading(canvas, "Annual Report on Boilers", 24, HEIGHT - 120)
        y = heading(canvas, "1 Maintenance", 16, y)
        y = column(
            canvas,
            [
                "Every boiler of the works is inspected twice a year, once before the heating season and once behind "
                "the mainte-",
                "nance of the pumps. A well-known firm does it, and its well-",
                "known engineers write what they find.",
            ],
            y=y,
        )
        y = heading(canvas, "1.1 Valves", 12, y - 20)
        canvas.setFont("Vera", SIZE)
        canvas.drawString(
            LEFT, y, "The \ufb02ow valves are \ufb01tted \ufb01rst, and this sentence runs on to the next page of the"
        )
        canvas.showPage()
        running(canvas, 2)
        y = column(canvas, ["report."])
        y = heading(canvas, "2 The Boiler House", 16, y - 20)
        column(canvas, FIRST_COLUMN, y=y)
        column(canvas, SECOND_COLUMN, x=WIDTH / 2 + 15, y=y)
        canvas.showPage()
        running(canvas, 3)
        y = heading(canvas, "3 Inspections", 16, HEIGHT - 110)
        ruled(
            canvas, [["Boiler", "Pressure", "Inspector"], ["North", "2.1 bar", "Ida"], ["East", "1.9 bar", "Omar"]], y
        )
        canvas.showPage()
        running(canvas, 4)
        y = ruled(
            canvas,
            [["Boiler", "Pressure", "Inspector"], ["South", "2.4 bar", "Ida"], ["West", "2.0 bar", "Jun"]],
            HEIGHT - 80,
        )
        column(canvas, ["All of them passed, and none of the valves had to be replaced in the whole year."], y=y - 10)
        canvas.showPage()
        running(canvas, 5)
        y = heading(canvas, "4 Outlook", 16, HEIGHT - 110)
        column(canvas, ["In the coming year the reserve pump is to be used in turn with the others."], y=y)
        canvas.showPage()

    return pdf(draw)
