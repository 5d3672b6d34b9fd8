"""Documents from files."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest

from situate.chunkers import read_documents
from situate.chunkers.markdown import MarkdownChunker
from situate.chunkers.readers.files import SkippedFilesWarning, decoded
from situate.chunkers.readers.html import html_to_markdown
from situate.errors import InputError, MissingExtraError

PAGE = b"""<!doctype html><html><head><title>Travel  rules</title><style>p {}</style><script>var a = "<p>";</script>
</head><body><nav><a href="/">Home</a></nav><h1>Travel <em>rules</em></h1><p>Book <b>early</b>,
please.</p><!-- secret --><h2>Trains</h2><ul><li>First class<li>Second&nbsp;class</ul>
<table><tr><th>Day<th>Limit</tr><tr><td>Mon<td>20 | 30</table><pre>a
  b</pre></body></html>"""


def pdf_of(*lines: str) -> bytes:
    """The smallest PDF that shows one line of text per page."""
    count = len(lines)
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{' '.join(f'{3 + 2 * i} 0 R' for i in range(count))}] /Count {count} >>",
    ]
    for i, line in enumerate(lines):
        content = f"BT /F1 12 Tf 72 720 Td ({line}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {4 + 2 * i} 0 R "
            "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    out, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF"
    return f"{out}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}".encode()


def test_a_folder_is_read_in_order_with_relative_ids(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("plain", encoding="utf-8")
    (tmp_path / "a.md").write_text("---\ndate: 2024-05-01\n---\n# Leave\n\nText.", encoding="utf-8")
    (tmp_path / "sub" / "c.html").write_bytes(PAGE)
    (tmp_path / "sub" / "d.pdf").write_bytes(pdf_of("First page", "Second page"))
    (tmp_path / ".hidden.md").write_text("# no", encoding="utf-8")
    documents = {document.id: document for document in read_documents(tmp_path)}
    assert list(documents) == ["a.md", "b.txt", "sub/c.html", "sub/d.pdf"]
    assert documents["a.md"].metadata == {
        "path": "a.md", "format": "markdown", "date": "2024-05-01", "title": "Leave",
    }  # fmt: skip
    assert documents["sub/c.html"].title == "Travel rules"
    assert documents["sub/d.pdf"].text == "First page\n\nSecond page"
    assert documents["sub/d.pdf"].metadata["pages"] == 2


def test_html_keeps_what_a_reader_sees_and_its_structure() -> None:
    text, title = html_to_markdown(PAGE)
    assert title == "Travel rules"
    assert text == (
        "# Travel rules\n\nBook early, please.\n\n## Trains\n\n- First class\n- Second class\n\n"
        "| Day | Limit |\n| --- | --- |\n| Mon | 20 \\| 30 |\n\n```\na\n  b\n```"
    )


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<head><title>t</title><body><p>Words.</p>", "Words."),  # </head> may be left out
        ('<div role="navigation"><a>Home</a></div><p>Words.</p>', "Words."),
        ("<form>Search</form><p>Words.</p>", "Words."),
        ("<body><form><script>x</script><p>Words.</p></form></body>", "Words."),  # the whole page in a form
    ],
)
def test_what_is_left_out_of_html_leaves_the_text(page: str, text: str) -> None:
    assert html_to_markdown(page)[0] == text


def test_html_of_any_depth_is_read() -> None:
    assert html_to_markdown("<div>" * 5000 + "deep")[0] == "deep"


def test_html_headings_situate_its_chunks(tmp_path: Path) -> None:
    (tmp_path / "p.html").write_bytes(PAGE)
    (document,) = read_documents(tmp_path / "p.html")
    assert document.id == "p.html"
    chunks = MarkdownChunker(200).split(document)
    assert chunks[-1].context.headings == ("Travel rules", "Trains")


def test_a_data_set_folder_reads_only_its_documents(tmp_path: Path) -> None:
    lines = [{"id": "7", "title": "T", "text": "one", "year": 2020}, {"text": "two"}, {"id": 3, "text": ""}]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text('{"id": "q", "text": "a question"}', encoding="utf-8")
    documents = list(read_documents(tmp_path))
    assert [(document.id, document.text) for document in documents] == [
        ("7", "one"),
        ("documents.jsonl:2", "two"),
        ("3", ""),
    ]
    assert documents[0].metadata == {"title": "T", "year": 2020}


def test_what_cannot_be_read_is_counted_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 broken")
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n{broken\n[1]\n', encoding="utf-8")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    (tmp_path / "d.txt").write_text("fine too", encoding="utf-8")
    with pytest.warns(SkippedFilesWarning, match="4 files or lines were skipped: a.pdf"):
        assert [document.text for document in read_documents(tmp_path)] == ["fine", "fine too"]
    with pytest.raises(InputError, match=r"a\.pdf cannot be read"):
        list(read_documents(tmp_path, on_error="raise"))


@pytest.mark.parametrize("bracket", ["[", '{"a":', '{"text": "x", "tags": [['])
@pytest.mark.parametrize("depth", [400, 20_000])
def test_a_line_nested_without_end_is_skipped_alone(tmp_path: Path, bracket: str, depth: int) -> None:
    closing = {"[": "]", "{": "}"}
    nested = bracket * depth + "1" + "".join(closing[c] for c in reversed(bracket * depth) if c in closing)
    (tmp_path / "a.jsonl").write_text(f'{{"text": "one"}}\n{nested}\n{{"text": "two"}}\n', encoding="utf-8")
    with pytest.warns(SkippedFilesWarning, match=r"a\.jsonl:2 .*nested deeper"):
        assert [document.text for document in read_documents(tmp_path)] == ["one", "two"]


def test_a_missing_path_and_an_unknown_kind_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_documents(tmp_path / "nothing")
    (tmp_path / "x.docx").write_bytes(b"")
    with pytest.raises(InputError, match=r"\.pdf"):
        read_documents(tmp_path / "x.docx")


def test_an_empty_folder_has_no_documents(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read_documents(tmp_path)) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings_are_recognised(encoding: str) -> None:
    assert decoded("café – “ok”".encode(encoding)) == "café – “ok”"


def test_any_bytes_are_some_text() -> None:
    assert decoded(bytes(range(256)))


@pytest.mark.parametrize(("package", "name", "content"), [("pypdf", "a.pdf", pdf_of("x")), ("bs4", "a.html", PAGE)])
def test_a_missing_library_names_the_extra(
    package: str, name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"situate\[documents\]"):
        list(read_documents(tmp_path))
