"""PDFs: pages, headings, columns, tables, running heads, hyphens; and files that are not read."""

from __future__ import annotations

import pickle
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from reportlab.lib import colors
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Table, TableStyle

from situate.chunkers import AutoChunker, Document, read_documents
from situate.chunkers.readers.files import SkippedFilesWarning
from situate.chunkers.readers.pdf.reader import PdfReader, UnreadPagesWarning
from situate.chunkers.readers.pdf.reading import read_pdf
from situate.errors import InputError
from tests.conftest import short_of
from tests.pdfs import HEIGHT, LEFT, column, heading, pdf, report, ruled

REPORT = report()


@pytest.fixture(scope="module")
def reader() -> Iterator[PdfReader]:
    with PdfReader() as reader:
        yield reader


def test_a_pdf_is_read_in_every_respect(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(REPORT)
    (document,) = read_documents(tmp_path)
    assert document.text == (
        "# Annual Report on Boilers\n\n"
        "## 1 Maintenance\n\n"
        "Every boiler of the works is inspected twice a year, once before the heating season and once behind the "
        "maintenance of the pumps. A well-known firm does it, and its well-known engineers write what they find.\n\n"
        "### 1.1 Valves\n\n"
        "The flow valves are fitted first, and this sentence runs on to the next page of the report.\n\n"
        "## 2 The Boiler House\n\n"
        "The left column opens the report and tells of the boiler house, which has stood behind the old mill since the "
        "great flood carried the first one off. Its chimney leans towards the river by a hand's breadth, and no one "
        "minds it.\n\n"
        "The right column goes on with pumps: there are four of them in the cellar, and a fifth is kept in reserve for "
        "the winters in which the others freeze in spite of the lamps that are hung below the pipes on every night of "
        "hard frost.\n\n"
        "## 3 Inspections\n\n"
        "| Boiler | Pressure | Inspector |\n| --- | --- | --- |\n| North | 2.1 bar | Ida |\n| East | 1.9 bar | Omar |\n"
        "| South | 2.4 bar | Ida |\n| West | 2.0 bar | Jun |\n\n"
        "All of them passed, and none of the valves had to be replaced in the whole year.\n\n"
        "## 4 Outlook\n\n"
        "In the coming year the reserve pump is to be used in turn with the others."
    )
    starts = document.metadata["page_starts"]
    opening = ["# Annual", "report.", "## 3", "| South", "## 4"]
    assert [document.text[start:].startswith(words) for start, words in zip(starts, opening, strict=True)] == [True] * 5
    assert document.metadata == {
        "path": "report.pdf", "format": "markdown", "pages": 5, "page_starts": starts, "title": "Annual report",
    }  # fmt: skip


def test_chunks_tell_page_and_headings(reader: PdfReader) -> None:
    text, metadata = reader.document(REPORT)
    chunks = AutoChunker(size=200).split(Document("d", text, metadata))
    found: dict[str, set[int]] = {}
    for chunk in chunks:
        found.setdefault(chunk.context.headings[-1], set()).update(chunk.metadata["pages"])
    assert found == {
        "1 Maintenance": {1}, "1.1 Valves": {1, 2}, "2 The Boiler House": {2}, "3 Inspections": {3, 4},
        "4 Outlook": {5},
    }  # fmt: skip
    assert all(chunk.context.headings[0] == "Annual Report on Boilers" for chunk in chunks)


def test_turned_pages_and_vertical_lines_are_read_alike(reader: PdfReader) -> None:
    def draw(canvas: Canvas) -> None:
        for word, turn in (("North", 0), ("East", 90), ("South", 180), ("West", 270)):
            canvas.translate(300, 420)
            canvas.rotate(turn)
            canvas.translate(-300, -420)
            y = heading(canvas, word, 18, HEIGHT - 320)
            column(canvas, ["The page is turned, and its text is read", "as if it were not."], y=y, x=100)
            ruled(canvas, [["A", "B"], ["1", "2"]], y - 60, x=100)
            canvas.showPage()

    text = reader.read(pdf(draw)).text
    once = "\n\nThe page is turned, and its text is read as if it were not.\n\n| A | B |\n| --- | --- |\n| 1 | 2 |"
    assert text == "\n\n".join(f"# {word}{once}" for word in ("North", "East", "South", "West"))


@pytest.mark.parametrize("lower", [0, 5, 6, 7.5])
def test_columns_are_read_one_after_the_other_wherever_their_lines_stand(reader: PdfReader, lower: float) -> None:
    def draw(canvas: Canvas) -> None:
        for number in range(12):
            for side, x, y in (("left", 50, 0.0), ("right", 320, lower)):
                column(canvas, [f"{side}{number} pump valve boiler house mill and river"], x, 740 - 13 * number - y)
        canvas.showPage()

    found = re.findall(r"(?:left|right)\d+", reader.read(pdf(draw)).text)
    assert found == [f"{side}{number}" for side in ("left", "right") for number in range(12)]


def test_exponents_and_indices_stay_with_their_words(reader: PdfReader) -> None:
    def draw(canvas: Canvas) -> None:
        for row in range(4):
            text = canvas.beginText(LEFT, 700 - 12 * row)
            for words, size, rise in (
                ("A hall of 20 m", 10, 0),
                ("2", 7, 3.63),
                (" has H", 10, 0),
                ("2", 7, -3.4),
                ("O.", 10, 0),
            ):
                text.setFont("Times-Roman", size)
                text.setRise(rise)
                text.textOut(words)
            canvas.drawText(text)
        canvas.showPage()

    assert reader.read(pdf(draw)).text == " ".join(["A hall of 20 m2 has H2O."] * 4)


@pytest.mark.parametrize("angle", [45, 90, -60])
def test_a_watermark_is_a_line_and_no_heading(reader: PdfReader, angle: int) -> None:
    def draw(canvas: Canvas) -> None:
        heading(canvas, "The Boiler House", 16, 760)
        column(canvas, ["The pump is inspected twice a year, and its valves are replaced."] * 4)
        canvas.translate(200, 400)
        canvas.rotate(angle)
        canvas.setFont("Helvetica-Bold", 50)
        canvas.drawString(0, 0, "DRAFT OF MAY")
        canvas.showPage()

    read = reader.read(pdf(draw))
    assert read.title == "The Boiler House"
    assert [line for line in read.text.split("\n") if "DRAFT" in line] == ["DRAFT OF MAY"]


def test_numbers_that_stand_below_each_other_are_a_table(reader: PdfReader) -> None:
    rows = [
        ("Revenue", "$ 1,577", "$ (403)"),
        ("Costs of the works:", "", ""),
        ("Coal and coke", "208", "1,210"),
        ("Wages", "(44)", "7"),
        ("Net income", "$ 1,741", "$ 814"),
    ]

    def draw(canvas: Canvas) -> None:
        column(canvas, ["The works earned more in 2022 than in the year before, and paid for it."], y=700)
        canvas.setFont("Times-Roman", 10)
        canvas.drawCentredString(350, 660, "Years ended")
        for x, year in ((320, "2022"), (420, "2021")):
            canvas.drawRightString(x, 645, year)
        for y, (label, *numbers) in zip(range(630, 500, -14), rows, strict=False):
            canvas.drawString(80, y, label)
            for x, number in zip((320, 420), numbers, strict=True):
                canvas.drawRightString(x, y, number)
        column(canvas, ["Nothing of this is true."], y=500)
        canvas.showPage()

    assert reader.read(pdf(draw)).text == (
        "The works earned more in 2022 than in the year before, and paid for it.\n\n"
        "|  | Years ended 2022 | Years ended 2021 |\n| --- | --- | --- |\n| Revenue | $ 1,577 | $ (403) |\n"
        "| Costs of the works: |  |  |\n| Coal and coke | 208 | 1,210 |\n| Wages | (44) | 7 |\n"
        "| Net income | $ 1,741 | $ 814 |\n\n"
        "Nothing of this is true."
    )


def test_tables_that_follow_each_other_keep_their_rows(reader: PdfReader) -> None:
    lines = [
        ("Cash", "2,853", "3,053"), ("Goodwill", "10,051", "10,513"), ("Total assets", "36,500", "37,987"),
        ("Commitments",), ("Equity",), ("Shareholders' equity:",), ("Shares outstanding in each year:",),
        ("Retained earnings", "40,636", "39,115"), ("Treasury stock", "(29,626)", "(25,887)"), ("In all", "7", "8"),
        ("Segments", "2020", "2019"),
        ("Banking", "12,517", "13,287"), ("Assets", "4,077", "3,389"), ("Total", "33,119", "29,010"),
    ]  # fmt: skip

    def draw(canvas: Canvas) -> None:
        canvas.setFont("Times-Roman", 10)
        for y, (label, *numbers) in zip(range(700, 400, -14), lines, strict=False):
            canvas.drawString(80, y, label)
            for x, number in zip((320, 420), numbers, strict=False):
                canvas.drawRightString(x, y, number)
        canvas.showPage()

    def table(rows: list[tuple[str, ...]]) -> str:
        return "".join(f"\n| {' | '.join((*row, '', '')[:3])} |" for row in rows)

    rule = "| --- | --- | --- |"
    assert reader.read(pdf(draw)).text == (
        f"|  |  |  |\n{rule}{table(lines[:10])}\n\n| Segments | 2020 | 2019 |\n{rule}{table(lines[11:])}"
    )


@pytest.mark.parametrize("edges", [(220, 320, 420), (320, 420, 520), (76, 320, 420, 520)])
def test_lines_around_some_numbers_leave_a_table_whole(reader: PdfReader, edges: tuple[int, ...]) -> None:
    """Frames around two columns of numbers, and around labels together with their first number."""
    rows = [
        ("Year", "2022", "2021", "2020"), ("Sales", "$ 55,893", "$ 51,386", "47,142"),
        ("Services of all kinds, net of what", "", "", ""), ("customers gave back", "10,715", "10,900", "11,016"),
        ("Costs", "(53,969)", "(49,954)", "(54,568)"), ("of which:", "", "", ""),
        ("Income", "12,639", "12,332", "3,590"),
    ]  # fmt: skip

    def draw(canvas: Canvas) -> None:
        canvas.setFont("Times-Roman", 10)
        for y, (label, *numbers) in zip(range(700, 500, -14), rows, strict=False):
            canvas.drawString(80, y, label)
            for x, number in zip((320, 420, 520), numbers, strict=True):
                canvas.drawRightString(x - 4, y, number)
            for left, right in pairwise(edges if "2022" not in numbers else ()):
                canvas.rect(left, y - 4, right - left, 14)
        canvas.showPage()

    assert reader.read(pdf(draw)).text == (
        "| Year | 2022 | 2021 | 2020 |\n| --- | --- | --- | --- |\n| Sales | $ 55,893 | $ 51,386 | 47,142 |\n"
        "| Services of all kinds, net of what customers gave back | 10,715 | 10,900 | 11,016 |\n"
        "| Costs | (53,969) | (49,954) | (54,568) |\n| of which: |  |  |  |\n| Income | 12,639 | 12,332 | 3,590 |"
    )


def test_rows_without_lines_between_them_are_rows(reader: PdfReader) -> None:
    def draw(canvas: Canvas) -> None:
        rows = [["Payee", "Amount"], ["Ida\nOmar\nJun", "37.50\n21.00\n8.75"]]
        table = Table(rows, colWidths=110)
        table.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.black)]))
        _, height = table.wrapOn(canvas, 500, 500)
        table.drawOn(canvas, 72, 600 - height)
        canvas.showPage()

    rows = "| Payee | Amount |\n| --- | --- |\n| Ida | 37.50 |\n| Omar | 21.00 |\n| Jun | 8.75 |"
    assert reader.read(pdf(draw)).text == rows


def test_names_over_several_columns_are_those_of_each(reader: PdfReader) -> None:
    def draw(canvas: Canvas) -> None:
        rows = [["Payee", "Dates", ""], ["", "Start", "End"], ["Ida", "May", "June"], ["Omar", "July", "August"]]
        table = Table(rows, colWidths=110)
        table.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.black), ("SPAN", (1, 0), (2, 0))]))
        _, height = table.wrapOn(canvas, 500, 500)
        table.drawOn(canvas, 72, 600 - height)
        canvas.showPage()

    head = "| Payee | Dates Start | Dates End |\n| --- | --- | --- |\n"
    assert reader.read(pdf(draw)).text == f"{head}| Ida | May | June |\n| Omar | July | August |"


def mapped(texts: list[tuple[int, int, str]], signs: str) -> bytes:
    """A PDF that shows letters by codes from 65 on, which a ToUnicode map names."""
    shown = "".join(
        f"BT /F1 12 Tf {x} {y} Td ({''.join(chr(65 + signs.index(sign)) for sign in text)}) Tj ET\n"
        for x, y, text in texts
    )
    named = "\n".join(f"<{65 + place:02X}> <{ord(sign):04X}>" for place, sign in enumerate(signs))
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00> <FF> "
        f"endcodespacerange {len(signs)} beginbfchar\n{named}\nendbfchar endcmap end end"
    )
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Courier /ToUnicode 6 0 R >>"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream",
        font,
        f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream",
    ]
    out = "%PDF-1.4\n" + "".join(f"{n} 0 obj\n{body}\nendobj\n" for n, body in enumerate(objects, 1))
    return (out + "trailer << /Root 1 0 R >>\n%%EOF").encode()


def test_scripts_are_read_in_their_own_order(reader: PdfReader) -> None:
    # Files hold letters that are written from right to left as they stand: the last one first.
    words = ["\u05e9\u05dc\u05d5\u05dd", "\u05e2\u05d5\u05dc\u05dd"]
    signs = "".join(dict.fromkeys("".join(words)))
    hebrew = mapped([(300, 700, words[0][::-1]), (250, 700, words[1][::-1])], signs)
    assert reader.read(hebrew).text == " ".join(words)
    japanese = "\u5b57\u304c\u66f8\u3044\u3066\u3042\u308b"
    columns = [(500, 700, japanese[:4]), (480, 700, japanese[4:])]
    stacked = [(x, y - 14 * n, sign) for x, y, text in columns for n, sign in enumerate(text)]
    assert reader.read(mapped(stacked, japanese)).text == japanese
    across = [(72, 700, japanese[:4]), (72, 686, japanese[4:])]
    assert reader.read(mapped(across, japanese)).text == japanese
    ligatures = "e\ufb03cient \ufb02ow"
    assert reader.read(mapped([(72, 700, ligatures)], "".join(dict.fromkeys(ligatures)))).text == "efficient flow"


@pytest.mark.parametrize("pages", short_of((12, 2_000), 2))
def test_a_file_of_labels_keeps_its_pages_though_they_are_alike(pages: int) -> None:
    def draw(canvas: Canvas) -> None:
        for number in range(pages):
            column(canvas, [f"Page word{number} of the long report is here.", "So is its second line."])
            canvas.showPage()

    with PdfReader(seconds=None) as reader:
        found = reader.read(pdf(draw))
    assert len(found.page_starts) == pages
    assert all(f"word{n} " in found.text[start : start + 99] for n, start in enumerate(found.page_starts))


@pytest.mark.parametrize("seed", range(12))
def test_no_word_is_lost_or_written_twice(seed: int) -> None:
    """Pages of labels, years, numbers, text and frames in any order."""
    random = Random(seed)
    drawn: list[str] = []

    def word(kind: str) -> str:
        drawn.append(
            {"label": f"label{len(drawn)}", "number": f"{1000 + len(drawn):,}", "year": f"{1900 + len(drawn)}"}[kind]
        )
        return drawn[-1]

    def draw(canvas: Canvas) -> None:
        columns = [300 + 70 * n for n in range(random.randint(1, 4))]
        y = 760.0
        while y > 80 and len(drawn) < 99:
            kind = random.choices(["row", "label", "years", "text", "gap", "frame"], [9, 3, 2, 1, 1, 2])[0]
            canvas.setFont("Times-Roman", random.choice([10, 10, 10, 14]))
            if kind in ("row", "label", "frame"):
                canvas.drawString(80 + random.choice([0, 10]), y, f"{word('label')} {word('label')}")
            if kind == "text":
                canvas.drawString(80, y, " ".join(word("label") for _ in range(9)))
            for x in columns if kind in ("row", "years", "frame") else ():
                canvas.drawRightString(x, y, word("year" if kind == "years" else "number"))
                if kind == "frame":
                    canvas.rect(x - 60, y - 4, 70, 14)
            y -= 40 if kind == "gap" else 14
        canvas.showPage()

    text = read_pdf(pdf(draw)).text
    found = Counter(re.findall(r"[\w,]+", text))
    assert found == Counter(drawn)


def test_form_fields_are_read_with_their_names(reader: PdfReader) -> None:
    def draw(canvas: Canvas) -> None:
        canvas.acroForm.textfield(name="given", tooltip="Given name", value="Ada", x=100, y=600)
        canvas.acroForm.textfield(name="empty", value="", x=100, y=500)
        canvas.acroForm.checkbox(name="agreed", checked=True, x=100, y=400)
        canvas.showPage()

    assert reader.read(pdf(draw)).text == "Given name: Ada\n\nagreed: Yes"


def scan(words: str = "") -> bytes:
    def draw(canvas: Canvas) -> None:
        column(canvas, [words])
        canvas.showPage()
        canvas.drawInlineImage(_image(), 72, 300, 200, 200)
        canvas.showPage()

    return pdf(draw)


def _image() -> object:
    from PIL import Image

    return Image.new("1", (8, 8))


def unmapped() -> bytes:
    """A PDF whose font names its glyphs by numbers alone."""
    body = "(7KLV LV D VHQWHQFH WKDW FDQQRW EH UHDG)"
    content = f"BT /F1 12 Tf 72 720 Td {body} Tj ET"
    names = " ".join(f"/g{code}" for code in range(32, 127))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type3 /FontBBox [0 0 10 10] /FontMatrix [0.1 0 0 0.1 0 0] /CharProcs << >> "
        f"/FirstChar 32 /LastChar 126 /Widths [{'6 ' * 95}] /Encoding << /Differences [32 {names}] >> >>",
    ]
    out = "%PDF-1.4\n" + "".join(f"{n} 0 obj\n{body}\nendobj\n" for n, body in enumerate(objects, 1))
    return (out + "trailer << /Root 1 0 R >>\n%%EOF").encode()


def encrypted() -> bytes:
    def draw(canvas: Canvas) -> None:
        column(canvas, ["A secret that the password opens."])
        canvas.showPage()

    return pdf(draw, encrypt=StandardEncryption("open sesame"))


def bomb() -> bytes:
    """A page whose content is 1 GiB of spaces behind two layers of compression."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * 2**24) + packer.flush(zlib.Z_FULL_FLUSH)
    content = zlib.compress(head + block * 64, 9)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>",
        b"<< /Filter [/FlateDecode /FlateDecode] /Length %d >>\nstream\n" % len(content) + content + b"\nendstream",
    ]
    written = b"".join(b"%d 0 obj\n" % number + body + b"\nendobj\n" for number, body in enumerate(objects, 1))
    return b"%PDF-1.4\n" + written + b"trailer << /Root 1 0 R >>\n%%EOF"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"PK\3\4 a mislabelled archive", "no PDF"),
        (b"%PDF-1.7\n%%EOF", "broken"),
        (REPORT[: len(REPORT) // 3], "broken"),
        (encrypted(), "encrypted: pass password="),
        (scan(), "a scan"),
        (unmapped(), "ToUnicode"),
        (pdf(lambda canvas: canvas.showPage()), "holds no text"),
    ],
    ids=["empty", "mislabelled", "broken", "cut off", "encrypted", "scan", "unmapped", "blank"],
)
def test_what_cannot_be_read_is_named_and_the_others_are_read(data: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(data)
    (tmp_path / "b.txt").write_text("fine", encoding="utf-8")
    with pytest.warns(SkippedFilesWarning, match=rf"a\.pdf \(.*{why}"):
        assert [document.text for document in read_documents(tmp_path)] == ["fine"]


def test_a_bomb_neither_hangs_nor_takes_all_memory(reader: PdfReader) -> None:
    with pytest.raises(InputError, match=r"memory|text|broken"):
        reader.read(bomb())
    assert reader.read(REPORT).title == "Annual report"


def test_a_password_opens_and_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(encrypted())
    (document,) = read_documents(tmp_path, password="open sesame")
    assert document.text == "A secret that the password opens."
    with pytest.raises(InputError, match="the password does not open it"):
        list(read_documents(tmp_path, password="wrong", on_error="raise"))
    assert "sesame" not in repr(PdfReader("open sesame"))


def test_scanned_pages_among_others_are_named(reader: PdfReader) -> None:
    with pytest.warns(UnreadPagesWarning, match=r"a\.pdf: 1 of 2 pages \(2\) hold images and no text"):
        text, metadata = reader.document(scan("Words on the first page."), "a.pdf")
    assert (text, metadata["page_starts"]) == ("Words on the first page.", [0, 24])


def test_limits_end_a_file_and_not_the_next(reader: PdfReader) -> None:
    with PdfReader(max_pages=4) as limited, pytest.raises(InputError, match="5 pages and max_pages=4"):
        limited.read(REPORT)
    with PdfReader(seconds=0.01) as limited:
        with pytest.raises(InputError, match=r"more than seconds=0\.01"):
            limited.read(REPORT)
        with pytest.raises(InputError, match=r"more than seconds=0\.01"):
            limited.read(REPORT)
    for values in ({"max_pages": 0}, {"seconds": 0.0}):
        with pytest.raises(InputError, match=next(iter(values))):
            PdfReader(**values)


def test_a_reader_is_copied_as_its_settings(reader: PdfReader) -> None:
    reader.read(REPORT)
    for copy in (deepcopy(reader), pickle.loads(pickle.dumps(reader))):
        with copy:
            assert copy == reader
            assert copy.read(REPORT) == reader.read(REPORT)


def test_line_numbers_and_marks_outside_of_the_page_are_no_text(reader: PdfReader) -> None:
    lines = [f"The witness says the sentence of line {number} of the record." for number in range(1, 21)]

    def draw(canvas: Canvas) -> None:
        canvas.drawString(700, 400, "Printer's mark")
        for number, line in enumerate(lines, 1):
            canvas.drawRightString(60, HEIGHT - 80 - 20 * number, str(number))
            canvas.drawString(100, HEIGHT - 80 - 20 * number, line)
        canvas.showPage()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reader.read(pdf(draw)).text.split() == " ".join(lines).split()
