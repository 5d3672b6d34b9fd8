"""Documents from files."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import pytest

from situate.chunkers import read_documents
from situate.chunkers.markdown import MarkdownChunker
from situate.chunkers.readers.decoding import DecodingWarning, decoded
from situate.chunkers.readers.files import SkippedFilesWarning
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


def test_a_file_that_is_gone_before_it_is_read_does_not_stop_the_rest(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}\n', encoding="utf-8")
    found = read_documents(tmp_path)
    ids = [next(found).id]
    (tmp_path / "b.jsonl").unlink()
    with pytest.warns(SkippedFilesWarning, match=r"b\.jsonl \(FileNotFoundError"):
        ids += [document.id for document in found]
    assert ids == ["a.jsonl:1", "c.jsonl:1"]


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("A", encoding="utf-8")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    # Permissions do not stop a privileged user, who may run these tests.
    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.warns(SkippedFilesWarning, match=r"closed \(PermissionError"):
        assert [document.id for document in read_documents(tmp_path)] == ["a.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_a_file_name_that_is_no_text_gives_an_id_that_is(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.txt")).write_text("A", encoding="utf-8")
    assert [document.id for document in read_documents(tmp_path)] == ["a\\xff.txt"]


def test_what_is_no_file_is_said_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A", encoding="utf-8")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.warns(SkippedFilesWarning, match=r"^3 files"):
        assert [document.id for document in read_documents(tmp_path)] == ["a.txt"]
    with pytest.raises(InputError, match="neither a file nor a folder"):
        read_documents(tmp_path / "pipe.txt")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_lines_are_in_the_encoding_of_their_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "ä"}\n{"text": "b"}\n', encoding=encoding)
    assert [document.text for document in read_documents(tmp_path)] == ["ä", "b"]


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"\xef\xbb\xbfa \xff b", "a \ufffd b"), (b"\xff\xfea\0b", "a\ufffd"), (b"\xfe\xff\0a\xd8", "a\ufffd")],
)
def test_bytes_replaced_behind_a_byte_order_mark_are_said(data: bytes, text: str) -> None:
    with pytest.warns(DecodingWarning, match=r"1 bytes are no UTF-(8|16) and became"):
        assert decoded(data) == text


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("title: Pumps\nauthor:\n  title: Dr\n", "Pumps"),
        ("title: Pumps # draft\n", "Pumps"),
        ("title: 'C# for all' # draft\n", "C# for all"),
        ("title: C#\n", "C#"),
        ("title: >\n  Folded\n", "H"),
        ("Title: Pumps\nsubtitle: no\n", "Pumps"),
        ("subject: no\n", "H"),
    ],
)
def test_the_title_is_the_one_of_the_document(tmp_path: Path, front: str, title: str) -> None:
    (tmp_path / "a.md").write_text(f"---\n{front}---\n# H\n", encoding="utf-8")
    assert [document.metadata["title"] for document in read_documents(tmp_path)] == [title]


def test_a_missing_path_and_an_unknown_kind_raise_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_documents(tmp_path / "nothing")
    (tmp_path / "x.xyz").write_bytes(b"")
    with pytest.raises(InputError, match=r"\.pdf"):
        read_documents(tmp_path / "x.xyz")


def test_an_empty_folder_has_no_documents(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read_documents(tmp_path)) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_are_recognised(encoding: str) -> None:
    assert decoded("café – “ok”".encode(encoding)) == "café – “ok”"


def test_a_short_text_in_a_legacy_encoding_is_a_guess_with_a_warning() -> None:
    with pytest.warns(DecodingWarning, match=r"a\.txt: the encoding is not declared, and cp1252 is a guess"):
        assert decoded("café – “ok”".encode("cp1252"), "a.txt") == "café – “ok”"


def test_any_bytes_are_some_text() -> None:
    with pytest.warns(DecodingWarning):
        assert decoded(bytes(range(256)))


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("cp1251", "Насос обслуживается два раза в год. Это стоит недорого. "),
        ("koi8-r", "Насос обслуживается два раза в год. Это стоит недорого. "),
        ("gb18030", "水泵每年维修两次。费用很低。请在春天再检查一次。"),
        ("big5", "水泵每年維修兩次。費用很低。請在春天再檢查一次。"),
        ("shift_jis", "ポンプは年に二回整備されます。費用は安いです。"),
        ("cp1253", "Η αντλία συντηρείται δύο φορές το χρόνο. Κοστίζει λίγο. "),
    ],
)
def test_a_legacy_encoding_is_detected_by_its_language(encoding: str, sentence: str) -> None:
    assert decoded((sentence * 5).encode(encoding)) == sentence * 5


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("utf-16-le", "Die Größe. "),
        ("utf-16-be", "Насос и клапан. "),
        ("utf-32-le", "Die Größe. "),
        ("koi8-r", "Насос обслуживается дважды в год. Клапаны проверяются один раз. "),
        ("iso8859-2", "Pompa jest sprawdzana dwa razy. Źródło zażółć gęślą jaźń. "),
    ],
)
@pytest.mark.filterwarnings("ignore::situate.chunkers.readers.decoding.DecodingWarning")
def test_a_short_text_is_in_an_encoding_that_people_use(encoding: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(sentence.encode(encoding))
    (tmp_path / "b.html").write_bytes(f"<h1>{sentence}</h1>".encode(encoding))
    text, page = read_documents(tmp_path)
    assert (text.text, page.title) == (sentence, sentence.strip())


def test_text_that_escapes_its_characters_is_japanese() -> None:
    assert decoded("ポンプは年に二回。".encode("iso2022_jp")) == "ポンプは年に二回。"
    assert decoded(b"\x1b[31mred\x1b[0m $B") == "\x1b[31mred\x1b[0m $B"


def test_one_bad_byte_does_not_turn_a_utf8_text_into_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Grüße aus Köln, ".encode() + b"\xff" + "schöne Straße".encode())
    with pytest.warns(DecodingWarning, match=r"a\.txt: 1 bytes are no UTF-8"):
        (document,) = read_documents(tmp_path)
    assert document.text == "Grüße aus Köln, \ufffdschöne Straße"


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("windows-1251", "cp1251"),
        ("iso-8859-1", "cp1252"),
        ("shift_jis", "shift_jis"),
        ("utf-16", "utf-8"),
        ("x", "utf-8"),
    ],
)
def test_a_page_is_read_in_the_encoding_that_it_declares(declared: str, encoding: str) -> None:
    words = {"cp1251": "Насос", "cp1252": "“Grüße”", "shift_jis": "ポンプ"}.get(encoding, "Grüße")
    page = f'<html><head><meta charset="{declared}"></head><p>{words}</p>'.encode(encoding)
    assert html_to_markdown(page)[0] == words


def test_a_declaration_of_pythons_own_encodings_is_not_believed() -> None:
    for declared in ("punycode", "unicode_escape", "hex", "idna", "utf-7"):
        assert html_to_markdown(f'<meta charset="{declared}"><p>a\\x41 +AGE- b'.encode())[0] == "a\\x41 +AGE- b"


def test_links_out_of_the_folder_are_followed_only_if_allowed(tmp_path: Path) -> None:
    (secret := tmp_path / "secret").mkdir()
    (secret / "key.txt").write_text("secret", encoding="utf-8")
    (folder := tmp_path / "folder").mkdir()
    (folder / "a.txt").write_text("mine", encoding="utf-8")
    (folder / "again.txt").symlink_to(folder / "a.txt")
    (folder / "key.txt").symlink_to(secret / "key.txt")
    (folder / "more").symlink_to(secret)
    (folder / "round").symlink_to(folder)
    with pytest.warns(SkippedFilesWarning, match=r"2 files or lines were skipped: .*follow_symlinks=True"):
        assert [document.id for document in read_documents(folder)] == ["a.txt", "again.txt"]
    followed = [document.id for document in read_documents(folder, follow_symlinks=True)]
    assert followed == ["a.txt", "again.txt", "key.txt", "more/key.txt"]
    (folder / "documents.jsonl").symlink_to(secret / "key.txt")
    with pytest.warns(SkippedFilesWarning, match=r"documents\.jsonl"):
        assert list(read_documents(folder)) == []


def test_a_file_above_the_limit_is_skipped_with_a_warning(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as sparse:
        sparse.truncate(3 * 2**30)
    lines = [{"text": "x" * 2_000}, {"text": "short"}, {"text": "x" * 2_000}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.warns(
        SkippedFilesWarning, match=r"3 files or lines .*larger than max_bytes=1,000: pass a larger limit"
    ):
        assert [document.text for document in read_documents(tmp_path, max_bytes=1_000)] == ["short"]
    with pytest.raises(InputError, match="max_bytes=0"):
        read_documents(tmp_path, max_bytes=0)


def test_one_nested_line_does_not_stop_the_rest(tmp_path: Path) -> None:
    deep = '{"text": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (tmp_path / "a.jsonl").write_text(f'{deep}\n{{"text": "fine"}}\n', encoding="utf-8")
    with pytest.warns(SkippedFilesWarning, match="nested deeper than"):
        assert [document.text for document in read_documents(tmp_path)] == ["fine"]
    with pytest.raises(InputError, match=r"a\.jsonl:1"):
        list(read_documents(tmp_path, on_error="raise"))


@pytest.mark.parametrize(("package", "name", "content"), [("pypdfium2", "a.pdf", pdf_of("x"))])
def test_a_missing_library_names_the_extra(
    package: str, name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"situate\[documents\]"):
        list(read_documents(tmp_path))


def test_an_empty_path_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("Not asked for.", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        list(read_documents(""))
