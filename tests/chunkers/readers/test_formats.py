"""Office files, books, mail, tables and source code as documents, and what is wrong with some of them."""

from __future__ import annotations

import json
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path

import pytest

from situate.chunkers import AutoChunker, Chunk, Document, read_documents
from situate.chunkers.headings import markdown_headings
from situate.chunkers.readers import packages
from situate.chunkers.readers.decoding import DecodingWarning
from situate.chunkers.readers.files import SkippedFilesWarning
from situate.chunkers.readers.formats import FORMATS
from situate.errors import FallbackWarning, InputError, MissingExtraError


def read(suffix: str, data: bytes | str) -> Document:
    name = f"a{suffix}"
    text, metadata = FORMATS[suffix](data.encode() if isinstance(data, str) else data, name)
    return Document(name, text, metadata)


def chunks(document: Document, size: int = 200) -> list[Chunk]:
    return AutoChunker(size).split(document)


def zipped(members: dict[str, bytes | str]) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as package:
        for name, data in members.items():
            package.writestr(name, data)
    return stream.getvalue()


# -- a file of each kind, written by another library or by hand -----------------------------------------------------

_W = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
)


def docx(body: str = "", **members: bytes | str) -> bytes:
    """A Word document: its parts as Word writes them."""

    def style(id: str, name: str) -> str:
        return f'<w:style w:type="paragraph" w:styleId="{id}"><w:name w:val="{name}"/></w:style>'

    def paragraph(text: str, style: str = "") -> str:
        kind = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f"<w:p>{kind}<w:r><w:t>{text}</w:t></w:r></w:p>"

    def row(*cells: str) -> str:
        return f"<w:tr>{''.join(f'<w:tc>{paragraph(cell)}</w:tc>' for cell in cells)}</w:tr>"

    body = body or (
        paragraph("Travel", "Heading1")
        + paragraph("Costs", "Heading2")
        + paragraph("It pays 180 euros.")
        + f"<w:tbl>{row('Town', 'Limit')}{row('Rome', '210')}</w:tbl>"
    )
    package = "application/vnd.openxmlformats-package.relationships+xml"
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    styles = "application/vnd.openxmlformats-officedocument.wordprocessingml.styles+xml"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    links = "http://schemas.openxmlformats.org/package/2006/relationships"
    return zipped(
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            f'<Default Extension="rels" ContentType="{package}"/>'
            f'<Override PartName="/word/document.xml" ContentType="{main}"/>'
            f'<Override PartName="/word/styles.xml" ContentType="{styles}"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{links}"><Relationship Id="r1" '
            f'Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
            "word/_rels/document.xml.rels": f'<Relationships xmlns="{links}"><Relationship Id="r2" '
            f'Type="{office}/styles" Target="styles.xml"/></Relationships>',
            "word/styles.xml": f"<w:styles {_W}>{style('Heading1', 'heading 1')}{style('Heading2', 'heading 2')}"
            "</w:styles>",
            "word/document.xml": f"<w:document {_W}><w:body>{body}</w:body></w:document>",
            "docProps/core.xml": '<cp:coreProperties xmlns:cp="x" xmlns:dc="y"><dc:title>Rules &amp; costs</dc:title>'
            "</cp:coreProperties>",
            **members,
        }
    )


def pptx() -> bytes:
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData, XyChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    deck = Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "Travel"
    frame = first.placeholders[1].text_frame
    frame.text = "Costs"
    frame.add_paragraph().text = "# 180 euros"
    frame.paragraphs[1].level = 1
    first.notes_slide.notes_text_frame.text = "Say it slowly."
    second = deck.slides.add_slide(deck.slide_layouts[6])
    table = second.shapes.add_table(2, 2, 0, 0, Inches(2), Inches(2)).table
    for place, text in enumerate(("Town", "Limit", "Rome", "210")):
        table.cell(place // 2, place % 2).text = text
    data = CategoryChartData()
    data.categories = ["2023", "2024"]
    data.add_series("Sales", (1.5, 2))
    second.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(2), Inches(2), data)
    points = XyChartData()
    series = points.add_series("Heat")
    series.add_data_point(1, 20.5)
    second.shapes.add_chart(XL_CHART_TYPE.XY_SCATTER, 0, 0, Inches(2), Inches(2), points)
    stream = BytesIO()
    deck.save(stream)
    return stream.getvalue()


def xlsx() -> bytes:
    from datetime import datetime

    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    sheet.title = "Limits"
    for row in (["Town", "Limit", "From"], ["Rome", 210.0, datetime(2024, 5, 1)], [], ["All in euros."]):
        sheet.append(row)
    book.create_sheet("Others").append(["a | b", None, "c"])
    stream = BytesIO()
    book.save(stream)
    return stream.getvalue()


def epub(**members: bytes | str) -> bytes:
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="u"><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles>'
            "</container>",
            "OPS/book.opf": '<package xmlns="o" xmlns:dc="d"><metadata><dc:title>The Boiler</dc:title>'
            '<dc:language>en</dc:language></metadata><manifest><item id="b" href="text/b%20c.xhtml"/>'
            '<item id="a" href="text/a.xhtml"/><item id="x" href="../../../etc/passwd"/></manifest>'
            '<spine><itemref idref="a"/><itemref idref="x"/><itemref idref="b"/></spine></package>',
            "OPS/text/a.xhtml": "<!DOCTYPE html><html><body><h1>Heat</h1><p>It is hot.</p></body></html>",
            "OPS/text/b c.xhtml": "<html><body><h1>Cold</h1><p>It is cold.</p></body></html>",
            **members,
        }
    )


def eml() -> bytes:
    inner = EmailMessage()
    inner["Subject"], inner["From"] = "Limits", "ada@example.org"
    inner.set_content("Rome is 210.\n\n# not a heading\n")
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = "Costs for Rome", "Bo <bo@example.org>", "cy@example.org"
    mail["Date"] = "Wed, 01 May 2024 10:00:00 +0200"
    mail.set_content("See below.")
    mail.add_alternative("<p>See <b>below</b>.</p>", subtype="html")
    mail.add_attachment(inner)
    mail.add_attachment(b"MZ", maintype="application", subtype="octet-stream", filename="../run.exe")
    return mail.as_bytes()


def msg(**streams: str) -> bytes:
    """A message as Outlook saves it: a compound file of storages and streams.

    Args:
        streams: Their contents by path, ``/`` between storages.
    """
    end, sector = 0xFFFFFFFE, 512
    moment = int((datetime(2024, 5, 1, tzinfo=UTC) - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds())
    dates = bytes(32) + struct.pack("<HHIQ", 0x0040, 0x0039, 6, moment * 10_000_000)
    contents = {"__properties_version1.0": dates, **{path: text.encode("utf-16-le") for path, text in streams.items()}}
    contents = {path: data.ljust(4096, b"\0") for path, data in contents.items()}  # smaller ones share sectors
    paths = sorted({"/".join(path.split("/")[: n + 1]) for path in contents for n in range(path.count("/") + 1)})
    entries = ["", *paths]
    directory_sectors = -(-len(entries) * 128 // sector)
    chains = [0xFFFFFFFD, *range(2, directory_sectors + 1), end]
    data = b""
    directory = b""
    for number, path in enumerate(entries):
        children = [n for n, other in enumerate(entries) if n and other.rpartition("/")[0] == path and n != number]
        siblings = [n for n, other in enumerate(entries) if n and other.rpartition("/")[0] == path.rpartition("/")[0]]
        after = next((n for n in siblings if n > number), 0xFFFFFFFF) if number else 0xFFFFFFFF
        content, start = contents.get(path, b""), end
        if content:
            start, count = len(chains), -(-len(content) // sector)
            chains += [*range(start + 1, start + count), end]
            data += content.ljust(count * sector, b"\0")
        name = (path.rpartition("/")[2] or "Root Entry").encode("utf-16-le") + b"\0\0"
        kind = 5 if not number else 2 if path in contents else 1
        links = struct.pack("<III", 0xFFFFFFFF, after, children[0] if children else 0xFFFFFFFF)
        directory += name.ljust(64, b"\0") + struct.pack("<HBB", len(name), kind, 1) + links + bytes(36)
        directory += struct.pack("<IQ", start, len(content))
    fat = struct.pack(f"<{len(chains)}I", *chains).ljust(sector, b"\xff")
    assert len(fat) == sector
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    header += struct.pack("<IIIIIIIIII", 0, 1, 1, 0, 4096, end, 0, end, 0, 0)
    return header.ljust(sector, b"\xff") + fat + directory.ljust(directory_sectors * sector, b"\0") + data


def notebook() -> str:
    cells = [
        {"cell_type": "markdown", "source": ["# Heat\n", "It is hot."]},
        {
            "cell_type": "code",
            "source": "print('a')  # not a heading",
            "outputs": [{"output_type": "stream", "text": ["a\n"]}, {"data": {"text/plain": "x" * 5000}}],
        },
    ]
    return json.dumps({"cells": cells, "metadata": {"kernelspec": {"language": "julia"}}})


RST = (
    "=====\nGuide\n=====\n\nIntro.\n\nCosts\n=====\n\nA check::\n\n    Law\n    ===\n\n.. autofunction:: f\n\n"
    "Law\n---\n\nBy law.\n"
)
RTF = r"{\rtf1\ansi\ansicpg1252{\fonttbl\f0 Arial;}\f0 Caf\'e9 \b costs\b0  180\~euros.\par{\*\generator x;}Next.}"


def test_word() -> None:
    document = read(".docx", docx())
    assert (
        document.text == "# Travel\n\n## Costs\n\nIt pays 180 euros.\n\n| Town | Limit |\n| --- | --- |\n| Rome | 210 |"
    )
    assert document.title == "Rules & costs"
    [*_, last] = chunks(document, 60)
    assert last.context.headings == ("Travel", "Costs")


def test_the_cells_and_breaks_of_word() -> None:
    def cell(*lines: str, span: int = 1) -> str:
        words = "".join(f"<w:p><w:r><w:t>{line}</w:t></w:r></w:p>" for line in lines)
        return f'<w:tc><w:tcPr><w:gridSpan w:val="{span}"/></w:tcPr>{words}</w:tc>'

    rows = [cell("Town", span=2) + cell("Limit"), cell("Rome") + cell("Pisa") + cell("210", "in May")]
    table = "".join(f"<w:tr>{row}</w:tr>" for row in rows)
    other = '<w:dir w:val="rtl"><w:r><w:t> שלום</w:t></w:r></w:dir>'
    broken = f'<w:p><w:r><w:t>One</w:t><w:br w:type="page"/><w:t>two</w:t></w:r>{other}</w:p>'
    text = read(".docx", docx(f"<w:tbl>{table}</w:tbl>{broken}")).text
    assert text == "| Town | Town | Limit |\n| --- | --- | --- |\n| Rome | Pisa | 210 in May |\n\nOne\ntwo שלום"


def test_macros_are_neither_read_nor_run() -> None:
    macro = b'Attribute VB_Name = "AutoOpen"\nSub AutoOpen()\nShell "touch /tmp/run"\nEnd Sub'
    document = read(".docm", docx(**{"word/vbaProject.bin": macro}))
    assert document.text == read(".docx", docx()).text
    assert "AutoOpen" not in document.text


def test_the_signs_of_words_formulas_are_text() -> None:
    def formula(*signs: str) -> str:
        return f"<m:oMath>{''.join(f'<m:r><m:t>{sign}</m:t></m:r>' for sign in signs)}</m:oMath>"

    body = (
        f"<w:p><w:r><w:t>It is </w:t></w:r>{formula('E=m', 'c')}<w:r><w:t>.</w:t></w:r></w:p>"
        f"<w:p><m:oMathPara><m:oMathParaPr><m:jc/></m:oMathParaPr>{formula('a&lt;b')}</m:oMathPara></w:p>"
    )
    source = docx(body)
    assert read(".docx", source).text == "It is E=m c.\n\na<b"


def test_powerpoint() -> None:
    document = read(".pptx", pptx())
    first, second = chunks(document, 400)
    assert first.text == "## Travel\n\n- Costs\n  - # 180 euros\n\nNotes: Say it slowly."
    assert first.context.headings == ("Travel",)
    assert (first.metadata["page"], second.metadata["page"], document.metadata["pages"]) == (1, 2, 2)
    assert second.text == (
        "## Slide 2\n\n| Town | Limit |\n| --- | --- |\n| Rome | 210 |\n\n|  | Sales |\n| --- | --- |\n| 2023 | 1.5 |\n"
        "| 2024 | 2 |\n\n|  | Heat |\n| --- | --- |\n| 1 | 20.5 |"
    )


def test_excel() -> None:
    document = read(".xlsx", xlsx())
    assert document.text == (
        "## Limits\n\n| Town | Limit | From |\n| --- | --- | --- |\n| Rome | 210 | 2024-05-01 |\n\nAll in euros.\n\n"
        "## Others\n\n| a \\| b | c |\n| --- | --- |"
    )
    assert {chunk.context.headings for chunk in chunks(document, 60)} == {("Limits",), ("Others",)}


def test_books() -> None:
    document = read(".epub", epub())
    assert document.text == "# Heat\n\nIt is hot.\n\n# Cold\n\nIt is cold."
    assert document.metadata == {"format": "markdown", "title": "The Boiler", "language": "en"}


def test_a_book_names_its_chapters_by_fragments() -> None:
    book = str(zipfile.ZipFile(BytesIO(epub())).read("OPS/book.opf"), "utf-8")
    assert (
        read(".epub", epub(**{"OPS/book.opf": book.replace('html"', 'html#start"')})).text == read(".epub", epub()).text
    )


def test_mail() -> None:
    document = read(".eml", eml())
    assert document.text == (
        "# Costs for Rome\n\nFrom: Bo <bo@example.org>\nTo: cy@example.org\nDate: Wed, 01 May 2024 10:00:00 +0200\n\n"
        "See below.\n\n## Limits\n\nFrom: ada@example.org\n\nRome is 210.\n\n\\# not a heading"
    )
    assert document.metadata["attachments"] == ["../run.exe"]
    assert (document.title, document.metadata["date"]) == ("Costs for Rome", "2024-05-01")
    assert chunks(document, 60)[-1].context.headings == ("Costs for Rome", "Limits")


def test_outlook() -> None:
    value, inner = "__substg1.0_{}001F", "__attach_version1.0_#00000000/__substg1.0_3701000D"
    parts = {
        value.format("0037"): "Costs for Rome",
        value.format("0C1A"): "Bo",
        value.format("0C1F"): "bo@example.org",
        value.format("0E04"): "Cy",
        value.format("1000"): "See below.\r\n\r\n# not a heading\r\n",
        f"{inner}/__properties_version1.0": "",
        f"{inner}/{value.format('0037')}": "Limits",
        f"{inner}/{value.format('1013')}": "<p>Rome is <b>210</b>.</p>",
        f"__attach_version1.0_#00000001/{value.format('3707')}": "../run.exe",
    }
    document = read(".msg", msg(**parts))
    assert document.text == (
        "# Costs for Rome\n\nFrom: Bo <bo@example.org>\nTo: Cy\nDate: 2024-05-01 00:00+00:00\n\n"
        "See below.\n\n\\# not a heading\n\n## Limits\n\nRome is 210."
    )
    assert document.metadata["attachments"] == ["../run.exe"]
    assert (document.title, document.metadata["date"]) == ("Costs for Rome", "2024-05-01")


def test_notebooks() -> None:
    document = read(".ipynb", notebook())
    assert document.text.startswith(
        "# Heat\nIt is hot.\n\n```julia\nprint('a')  # not a heading\n```\n\n```text\na\n```"
    )
    assert document.text.endswith("x\n[1,000 more characters are left out]\n```")
    assert {chunk.context.headings for chunk in chunks(document)} == {("Heat",)}


def test_restructured_text() -> None:
    document = read(".rst", RST)
    assert document.title == "Guide"
    above = {chunk.text.splitlines()[-1]: chunk.context.headings for chunk in chunks(document, 60)}
    assert above["By law."] == ("Guide", "Costs", "Law")
    assert "    Law\n    ===" in document.text
    assert ".. autofunction:: f" in document.text


@pytest.mark.parametrize(
    "body",
    [
        ".. code-block:: python\n\n   # a comment\n   x = 1",
        ".. code-block:: php\n\n   <?php\n   $x = 1;",
        ".. code-block:: html\n\n   <script>\n   <!-- a",
        "# of items: 12",
        "Some\nwords\n=====",
        "a\n\n~~~~~\n\nb",
        "```\n\nb",
        "=====  =====\nA      B\n=====  =====\n1      2\n=====  =====",
    ],
)
def test_no_line_of_restructured_text_is_read_as_markdown(body: str) -> None:
    text = read(".rst", f"Guide\n=====\n\n{body}\n\nLimits\n------\n\nEnd.").text
    assert [heading.text for heading in markdown_headings(text)] == ["Guide", "Limits"]


def test_a_title_of_restructured_text_may_be_longer_than_its_line() -> None:
    assert read(".rst", "A long title\n====\n\n水泵維護\n----\n\nx").text.startswith("# A long title\n\n\n## 水泵維護")


@pytest.mark.parametrize("line", ["-- ", "-", "  ---", "=", " # a", "```", "<!-- a", "<?php", "<script>"])
def test_no_line_of_a_mail_is_read_as_markdown(line: str) -> None:
    inner = "Content-Type: message/rfc822\n\nSubject: Inner\n\nWords."
    body = f"--B\nContent-Type: text/plain\n\nSee you, Ines\n{line}\nACME\n--B\n{inner}\n--B--\n"
    text = read(".eml", f"Subject: A\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B\n\n{body}").text
    assert [heading.text for heading in markdown_headings(text)] == ["A", "Inner"]
    assert line.strip() in text


@pytest.mark.parametrize("fence", ["```python\nx = 1", "~~~~\n```\n~~~", "- a\n\n  ```\n  b", "```\na\n```"])
def test_a_fence_that_a_cell_leaves_open_ends_with_it(fence: str) -> None:
    cells = [{"cell_type": "markdown", "source": source} for source in (fence, "# Pumps", "Text.")]
    text = read(".ipynb", json.dumps({"cells": cells})).text
    assert [heading.text for heading in markdown_headings(text)] == ["Pumps"]


def test_rich_text() -> None:
    assert read(".rtf", RTF).text == "Café costs 180\xa0euros.\nNext."


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_csv_keeps_its_columns(sign: str) -> None:
    rows = [["Town", "Limit, in euros", "Note"], *([f"Town {n}", str(n), f"a|b\n{n}"] for n in range(40))]
    lines = [sign.join(f'"{cell}"' for cell in row) for row in rows]
    document = read(".csv", "\ufeff" + "\r\n".join(lines))
    assert document.text.startswith(
        "| Town | Limit, in euros | Note |\n| --- | --- | --- |\n| Town 0 | 0 | a\\|b 0 |\n"
    )
    first, *rest = chunks(document)
    assert first.context.columns == ()
    assert {chunk.context.columns for chunk in rest} == {("Town", "Limit, in euros", "Note")}
    for chunk in rest:
        assert chunk.text.startswith("| Town")
        assert chunk.text.endswith(" |")


def test_source_code_is_cut_along_its_definitions() -> None:
    document = read(
        ".py", "class Boiler:\n    def heat(self):\n        return 1\n\n    def cool(self):\n        return 2\n"
    )
    assert document.metadata == {"format": "code", "language": "python"}
    assert [chunk.context.headings for chunk in chunks(document, 50)][-1] == ("Boiler", "cool")
    chunker = AutoChunker(200)
    with pytest.warns(FallbackWarning, match="tree-sitter-cobol"):
        assert chunker.split(Document("a", "MOVE A TO B.", {"format": "code", "language": "cobol"}))
    assert chunker.split(Document("b", "MOVE B TO A.", {"format": "code", "language": "cobol"})), "warned of once"


def test_a_mail_keeps_the_words_behind_its_pictures_and_in_unknown_encodings() -> None:
    picture = "Content-Type: image/png\nContent-Disposition: inline; filename=a.png\n\nx"
    parts = ("Content-Type: text/plain; charset=x-none\n\nFirst.", picture, "Content-Type: text/plain\n\nSecond.")
    body = "".join(f"--B\n{part}\n" for part in parts)
    mail = f"Subject: a\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B\n\n{body}--B--\n"
    document = read(".eml", mail)
    assert document.text == "# a\n\nFirst.\n\nSecond."
    assert document.metadata["attachments"] == ["a.png"]


def _multipart(kind: str, *parts: str, sign: str = "B") -> str:
    inner = "".join(f"--{sign}\n{part}\n" for part in parts)
    return f"Content-Type: multipart/{kind}; boundary={sign}\n\n{inner}--{sign}--\n"


_PLAIN, _PAGE = "Content-Type: text/plain\n\n{}", "Content-Type: text/html\n\n<p>{}</p>"
_BOTH = _multipart("alternative", _PLAIN.format("One."), _PAGE.format("One."), sign="A")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (_multipart("mixed", _PAGE.format("One."), _PLAIN.format("A footer.")), "One.\n\nA footer."),
        (_multipart("mixed", _BOTH, _PLAIN.format("A footer.")), "One.\n\nA footer."),
        (
            _multipart("signed", _multipart("mixed", _PLAIN.format("One."), _PAGE.format("Two."), sign="A")),
            "One.\n\nTwo.",
        ),
        (_multipart("alternative", _PLAIN.format(" "), _PAGE.format("One.")), "One."),
        (_multipart("alternative", _PAGE.format("One."), _PLAIN.format("One.")), "One."),
        ("Content-Type: multipart/mixed\n\nOne.", "One."),
        ("Content-Type: text/enriched\n\nOne.", "One."),
        ("Content-Type: text/html\n\n<meta charset=koi8-r><p>\udcce\udcc1\udcd3\udccf\udcd3</p>", "насос"),
    ],
)
def test_a_mail_of_any_parts_has_its_words_once(body: str, words: str) -> None:
    for mark in ("", "\ufeff"):
        mail = f"{mark}Subject: A\nMIME-Version: 1.0\n{body}".encode("utf-8", "surrogateescape")
        assert read(".eml", mail).text == f"# A\n\n{words}"


def test_a_header_in_no_declared_encoding_is_read_with_a_warning() -> None:
    with pytest.warns(DecodingWarning, match="the header Subject"):
        assert read(".eml", "Subject: Größe der Prüfung\n\nx".encode("cp1252")).title == "Größe der Prüfung"


def test_a_mail_to_very_many_is_read_at_once() -> None:
    started = time.perf_counter()
    assert "To: a@b.c, a@b.c" in read(".eml", "Subject: a\nTo: " + "a@b.c, " * 20_000 + "\n\nWords.\n").text
    assert time.perf_counter() - started < 5


def test_a_chapter_that_a_book_names_again_and_again_is_read_once() -> None:
    book = str(zipfile.ZipFile(BytesIO(epub())).read("OPS/book.opf"), "utf-8")
    again = book.replace('<itemref idref="a"/>', '<itemref idref="a"/>' * 1000)
    assert read(".epub", epub(**{"OPS/book.opf": again})).text == read(".epub", epub()).text


def test_a_slide_that_a_deck_names_again_and_again_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_CHARACTERS", 20)
    for suffix, data in ((".pptx", pptx()), (".xlsx", xlsx())):
        with pytest.raises(InputError, match="more than 20 characters"):
            read(suffix, data)


@pytest.mark.parametrize("text", ["sep=;\r\na;b\r\nx, y;2", 'a, b\n"x, y", 2', '"sep=\t"\na\tb\nx, y\t2'])
def test_csv_as_spreadsheets_and_people_write_it(text: str) -> None:
    assert read(".csv", text).text == "| a | b |\n| --- | --- |\n| x, y | 2 |"


def test_signs_of_a_format_stay_signs_of_the_text() -> None:
    table = read(".csv", "name,text\nx,one\u2028two\ny,a\x0cb\n").text
    assert table.splitlines()[2:] == ["| x | one two |", "| y | a b |"]
    assert read(".rtf", r"{\rtf1\ansi\uc1 \u-10179?\u-8704?}").text == "\U0001f600"
    cells = [{"cell_type": "code", "source": "`" * 100_000}]
    about = {"language_info": {"name": "python\n# Not a heading"}}
    text = read(".ipynb", json.dumps({"cells": cells, "metadata": about})).text
    assert text.split("\n") == ["`" * 100_001 + "text", "`" * 100_000, "`" * 100_001]


# -- what is wrong with files ----------------------------------------------------------------------------------------

_ENTITY = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": (".docx", lambda: b"", "no DOCX"),
    "mislabelled": (".xlsx", lambda: b"%PDF-1.4", "no XLSX"),
    "of before 2007, or encrypted": (".pptx", lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "password"),
    "cut off": (".docx", lambda: docx()[:-60], "no DOCX"),
    "another package": (".docx", lambda: zipped({"a.txt": "x"}), ""),
    "external entity": (".docx", lambda: docx(**{"word/comments.xml": _ENTITY + "<x/>"}), "document type"),
    "hidden entity": (".docx", lambda: docx(**{"word/c.xml": _ENTITY.encode("utf-16")}), "document type"),
    "entity in a part of another name": (
        ".docx",
        lambda: docx(**{"word/notes.bin": _ENTITY + "<x/>"}),
        "document type",
    ),
    "entity after a long comment": (
        ".docx",
        lambda: docx(**{"a.xml": f"<!--{'-' * 9999}-->{_ENTITY}"}),
        "document type",
    ),
    "tables in tables": (
        ".docx",
        lambda: docx("<w:tbl><w:tr><w:tc>" * 3000 + "</w:tc></w:tr></w:tbl>" * 3000),
        "too deep",
    ),
    "bomb": (".docx", lambda: docx(**{"word/media/a.bin": b"\0" * 17_000_000}), "unpacked"),
    "entity in a book": (".epub", lambda: epub(**{"OPS/book.opf": _ENTITY + "<package>&a;</package>"}), "Entit"),
    "book without a spine's file": (".epub", lambda: zipped({"META-INF/container.xml": "<c/>"}), "no package document"),
    "book whose chapters are not there": (
        ".epub",
        lambda: epub(**{"OPS/book.opf": "<package><spine><itemref idref='z'/></spine></package>"}),
        "no chapter that it names has any text",
    ),
    "no mail": (".eml", lambda: b"Just words.", "no e-mail"),
    "no Outlook": (".msg", lambda: b"MZ" * 999, "no message of Outlook"),
    "cut Outlook": (".msg", lambda: msg(a="b")[:700], ""),
    "no notebook": (".ipynb", lambda: b"[1]", "no notebook"),
    "endless cell": (".csv", lambda: b'a,b\n"' + b"x" * 200_000, "no CSV"),
    "no RTF": (".rtf", lambda: b"words", "no RTF"),
    "ragged table": (".csv", lambda: b"a\n" * 3000 + b"b," * 3000, "nearly all of them empty"),
    "picture as a table": (".csv", lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "NUL"),
    "picture as code": (".py", lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "NUL"),
    "formulas without an end": (".docx", lambda: docx("<m:oMath>" * 20_000), ""),
    "note that is named again and again": (
        ".docx",
        lambda: docx('<w:footnoteReference w:id="2"/>' * 50_000, **{"word/footnotes.xml": "<w:footnotes/>"}),
        "more than 100,000,000 characters",
    ),
    "endless header": (".eml", lambda: b"Subject: a\nContent-Type: text/plain" + b"; a=b" * 20_000, "describe parts"),
}


@pytest.mark.parametrize("fault", BAD)
def test_one_bad_file_never_costs_the_others(tmp_path: Path, fault: str) -> None:
    suffix, data, why = BAD[fault]
    (tmp_path / f"a{suffix}").write_bytes(data())
    (tmp_path / "b.md").write_text("# Words")
    started = time.perf_counter()
    with pytest.warns(SkippedFilesWarning, match=rf"(?s)1 files or lines were skipped: a\{suffix} .*{why}"):
        assert [document.id for document in read_documents(tmp_path)] == ["b.md"]
    assert time.perf_counter() - started < 5


def test_pictures_and_pages_in_a_file_may_have_a_document_type(tmp_path: Path) -> None:
    drawn = '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd"><svg/>'
    (tmp_path / "a.docx").write_bytes(docx(**{"word/media/a.svg": drawn, "word/chunk.html": "<!DOCTYPE html><p>Hi."}))
    [document] = read_documents(tmp_path)
    assert "It pays 180 euros." in document.text


def test_limits_of_a_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_MEMBERS", 3)
    with pytest.raises(InputError, match="at most 3 members"):
        packages.opened(docx(), "DOCX")
    monkeypatch.setattr(packages, "MAX_XML", 3)
    monkeypatch.setattr(packages, "MAX_MEMBERS", 30)
    with pytest.raises(InputError, match="at most 3 are read"):
        packages.opened(docx(), "DOCX")


def test_a_folder_may_change_while_it_is_read(tmp_path: Path) -> None:
    for name in ("a.md", "b.csv", "c.md"):
        (tmp_path / name).write_text("Words,more\n1,2\n")
    documents = read_documents(tmp_path)
    assert next(documents).id == "a.md"
    (tmp_path / "b.csv").unlink()
    with pytest.warns(SkippedFilesWarning, match=r"b\.csv \(FileNotFoundError"):
        assert [document.id for document in documents] == ["c.md"]


@pytest.mark.parametrize(("suffix", "module"), [(".docx", "mammoth"), (".pptx", "pptx"), (".xlsx", "openpyxl")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, suffix: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"situate\[documents\]"):
        read(suffix, docx())


@pytest.mark.parametrize("text", ["a,b\n" * 100_000, ('"' * 3 + "\n") * 20_000, ";" * 200_000])
def test_a_large_table_is_read_in_linear_time(text: str) -> None:
    started = time.perf_counter()
    read(".csv", text)
    assert time.perf_counter() - started < 10
