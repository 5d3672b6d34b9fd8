"""A passage's place and its marks, as values and as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings, strategies as st
from markdown_it import MarkdownIt

from situate.errors import SpanError
from situate.retrievers import Highlight, Hit, Mark, Where
from situate.types import Chunk, Context


def hit(context: Context | None = None, **metadata: object) -> Hit:
    return Hit(Chunk("c", "d.pdf", 0, "text", 10, 14, context or Context(), metadata), 0.5)


def test_a_hit_tells_where_it_stands() -> None:
    found = hit(Context(title="Handbook", headings=("Handbook", "Leave")), pages=[3, 4], file_path="/x/d.pdf").where
    assert found == Where("d.pdf", "Handbook", "/x/d.pdf", ("Leave",), (3, 4), 10, 14)
    assert str(found) == "Handbook > Leave, pages 3-4"
    assert Where.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("metadata", "pages"),
    [
        ({"page": 3}, (3,)),
        ({"page": 0, "page_label": "1"}, ("1",)),  # PyPDFLoader counts from 0 and writes the label
        ({"page_number": 2}, (2,)),
        ({"pages": [3, 5], "page_label": "iii"}, (3, 4, 5)),
        ({"pages": [3, 3]}, (3,)),
        ({"pages": [3, 7, 9]}, (3, 7, 9)),
        ({"pages": [1, 10**12]}, (1, 10**12)),
        ({"pages": [], "page": 3}, ()),
        ({"pages": 12, "page": 3}, (3,)),  # a document's length
        ({"page": None}, ()),
        ({}, ()),
    ],
)
def test_pages_are_read_as_loaders_write_them(metadata: dict[str, object], pages: tuple[object, ...]) -> None:
    assert hit(**metadata).where.pages == pages


HOSTILE = (
    "# Head <script>alert(1)</script>\n- item ![i](http://x/y.png) `code` [l](javascript:x)\r1. one\n    indented\n"
    "Setext\n===\n| a |\n|---|\n"
    "&lt;b&gt; \x1b[31mred\x07 <http://a.example> **bold** ~~x~~ \\* end\n\n***\n中文。第二句。"
)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Tags:
    parser = Tags()
    parser.feed(html)
    parser.close()
    return parser


def highlighted(*spans: str) -> Highlight:
    marks = [Mark(HOSTILE.index(span), HOSTILE.index(span) + len(span), 0.5) for span in spans]
    return Highlight(HOSTILE, tuple(marks))


def test_html_holds_the_passage_escaped_and_marks_alone() -> None:
    found = parsed(highlighted("<script>alert(1)", "第二句。").to_html())
    assert found.tags == {"mark"}
    assert found.text.replace("\r", "\n") == HOSTILE.replace("\r", "\n")


def test_markdown_is_rendered_as_the_passage_with_marks_in_bold() -> None:
    found = highlighted("Head <script>", "`code` [l](javascript:x)", "中文。", "第二句。")
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(found.to_markdown())
    assert parsed(rendered).tags == {"p", "strong"}
    assert re.findall("<strong>(.*?)</strong>", rendered) == [
        "Head &lt;script",
        "code` [l](javascript:x",
        "中文",
        "第二句",
    ]
    bare = re.sub(r"\s+", "", HOSTILE.replace("\x1b", "").replace("\x07", ""))
    assert re.sub(r"\s+", "", parsed(rendered).text.replace("\x1b", "").replace("\x07", "")) == bare


def test_a_terminal_gets_no_control_characters_of_the_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    found = highlighted("\x1b[31mred")
    monkeypatch.delenv("NO_COLOR", raising=False)
    colored = found.to_ansi()
    assert colored.count("\x1b[") == 2
    assert "\x1b[1;33m\ufffd[31mred\x1b[0m\ufffd" in colored
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in found.to_ansi()
    assert ">>\ufffd[31mred<<" in found.to_ansi()
    assert found.to_ansi(color=True) == colored


@settings(max_examples=40)
@given(st.text(max_size=60), st.data())
def test_any_text_survives_html_and_stays_inert_in_markdown(text: str, data: st.DataObject) -> None:
    edges = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=4)))
    marks = tuple(Mark(*span, 0.5) for span in zip(edges[::2], edges[1::2], strict=False))
    found = Highlight(text, marks)
    assert parsed(found.to_html()).tags <= {"mark"}
    assert parsed(MarkdownIt("gfm-like", {"linkify": False}).render(found.to_markdown())).tags <= {"p", "strong"}


@pytest.mark.parametrize("marks", [((0, 0),), ((3, 2),), ((0, 5),), ((0, 3), (2, 4))])
def test_marks_that_do_not_fit_the_text_are_refused(marks: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(SpanError, match=r"does not lie within the text of 4 characters"):
        Highlight("text", tuple(Mark(*span, 0.5) for span in marks))
