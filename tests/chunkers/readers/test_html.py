"""HTML as Markdown: the visible text, for any markup."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from situate.chunkers import Document, HtmlChunker, MarkdownChunker
from situate.chunkers.headings import markdown_headings
from situate.chunkers.readers.html import html_to_markdown
from situate.chunkers.readers.markup import Tag, Text, parts
from tests.chunkers.work import steps
from tests.conftest import short_of

LAYOUT = (
    "<table><tr><td><h2>Hotels</h2><p>Book early.</p><h2>Sick leave</h2><ul><li>One</li><li>Two</li></ul>"
    "<pre>a\n  b</pre></td><td><p>Left</p><p>Right</p></td></tr></table>"
)


def headings(page: str) -> list[tuple[int, str]]:
    return [(heading.level, heading.text) for heading in markdown_headings(html_to_markdown(page)[0])]


def test_a_table_that_lays_out_a_page_is_read_as_blocks() -> None:
    text = html_to_markdown(LAYOUT)[0]
    assert headings(LAYOUT) == [(2, "Hotels"), (2, "Sick leave")]
    assert "Book early.\n\n## Sick leave\n\n- One\n\n- Two\n\n```\na\n  b\n```\n\nLeft\n\nRight" in text
    assert "|" not in text


def test_a_table_of_data_stays_one_inside_of_a_table_that_lays_out() -> None:
    page = "<table><tr><td><table><tr><th>Day<th>Limit<tr><td><p>Mon</p><td>20</table><td>aside</table>"
    assert html_to_markdown(page)[0] == "| Day | Limit |\n| --- | --- |\n| Mon | 20 |\n\naside"


def test_a_table_that_names_its_columns_is_one_of_data_whatever_its_cells_hold() -> None:
    page = "<table><tr><th>Day<th>Tours<tr><td><p>Mon</p><p>Tue</p><td><ul><li>Rome<li>Pisa</ul></table>"
    assert html_to_markdown(page)[0] == "| Day | Tours |\n| --- | --- |\n| Mon Tue | Rome Pisa |"
    for boxed in ("<table><tr><th><p>One</p><p>Two</p></table>", "<table><tr><td><p>One</p><p>Two</p></table>"):
        assert html_to_markdown(boxed)[0] == "One\n\nTwo"


def test_cells_of_several_rows_and_columns_leave_the_others_in_theirs() -> None:
    rows = ("<th rowspan=2>Town<th colspan=2>Limit", "<th>Day<th>Night", "<td rowspan=2>Rome<td>1<td>2", "<td>3<td>4")
    text = html_to_markdown(f"<table>{''.join(f'<tr>{row}' for row in rows)}<tr><td colspan=2>Pisa<td>5</table>")[0]
    assert [line for line in text.split("\n") if "---" not in line] == [
        "| Town | Limit | Limit |",
        "|  | Day | Night |",
        "| Rome | 1 | 2 |",
        "|  | 3 | 4 |",
        "| Pisa |  | 5 |",
    ]
    for cell in ("<td colspan=9999 rowspan=9999>", "<th colspan=9999>x", "<tr><td rowspan=9999>x"):
        assert len(html_to_markdown(f"<table><tr>{cell * 2_000}</table>")[0]) < 200_000


@pytest.mark.parametrize(
    "body",
    [
        "<p># of items: 12</p>",
        "<p>#</p>",
        "<pre>```\n# comment\n~~~</pre>",
        "<p>Total<br>-----</p>",
        "<p>Total<br>===</p>",
        "<p>Total<br>- - -</p>",
        "<p>```python</p>",
        "<p>~~~</p>",
        "<p>&lt;script&gt; is a tag</p>",
        "<p>&lt;!-- a comment</p>",
        "<p>---</p><p>title: x</p><p>---</p>",
        "<ul><li># one</li></ul>",
        "<table><tr><td># a<td>b</table>",
    ],
)
def test_text_that_looks_like_markdown_makes_no_heading_and_hides_none(body: str) -> None:
    page = f"<h1>Real</h1>{body}<h2>Next</h2><p>End.</p>"
    assert headings(page) == [(1, "Real"), (2, "Next")]
    assert headings(f"{body}<h2>Next</h2>") == [(2, "Next")]


@pytest.mark.parametrize(
    "words", ["__init__", "a # b ##", "*args, **kwargs", "C:\\temp", "x &amp;copy; y", "`a", "[a](b)", "# x"]
)
def test_a_heading_reads_as_it_stands_in_the_page(words: str) -> None:
    assert headings(f"<h2>{words}</h2><p>x") == [(2, words.replace("&amp;", "&"))]


@given(st.text(min_size=1, max_size=30))
def test_any_heading_reads_as_it_stands_in_the_page(words: str) -> None:
    from html import escape

    expected = " ".join(words.replace("\0", "\ufffd").split()).removesuffix("¶").rstrip()
    found = headings(f"<h3>{escape(words)}</h3>")
    assert found == ([(3, expected)] if expected and not any("\ud800" <= c <= "\udfff" for c in words) else found)


@pytest.mark.parametrize(
    "hidden",
    [
        "<p hidden>no</p>",
        '<div style="color: red; DISPLAY : none">no<p>no</p></div>',
        "<p style='visibility:hidden'>no</p>",
        "<video src=a><p>no</p></video>",
    ],
)
def test_what_a_page_hides_is_not_read(hidden: str) -> None:
    page = f"<h1>A</h1><p>yes</p>{hidden}<p>yes</p>"
    assert html_to_markdown(page)[0] == "# A\n\nyes\n\nyes"
    assert all("no" not in chunk.text for chunk in HtmlChunker(100).split(Document("d", page)))


@pytest.mark.parametrize("page", ["<html hidden>{}", '<body style="visibility:hidden">{}', "<body hidden>{}</body>"])
def test_a_page_that_hides_itself_until_it_has_loaded_is_read(page: str) -> None:
    page = page.format("<h1>A</h1><p>yes</p>")
    assert html_to_markdown(page)[0] == "# A\n\nyes"
    assert "yes" in HtmlChunker(100).split(Document("d", page))[0].text


def test_rows_that_a_table_hides_are_not_read() -> None:
    rows = "<tr><th>Day<tr style='display:none'><td>no<tbody hidden><tr><td>no</tbody><tr hidden><td>no<tr><td>Mon"
    assert html_to_markdown(f"<table>{rows}</table>")[0] == "| Day |\n| --- |\n| Mon |"


@pytest.mark.parametrize(
    "page",
    [
        "<header>A</header><nav><a>B</a><main><h1>C</h1><p>yes</p></main></body>",
        "<p>A</p><div><form action=a><p>yes</div>",
        "<p>A</p><div><video src=a><p>yes</div>",
        "<p>A<!-- B --!>yes<p>C<!-- D -->",
    ],
)
def test_an_end_tag_that_is_missing_hides_nothing(page: str) -> None:
    assert "yes" in html_to_markdown(page)[0]
    assert any("yes" in chunk.text for chunk in HtmlChunker(100).split(Document("d", page)))


def test_a_page_of_navigation_alone_is_read() -> None:
    page = "<body><nav><h2>Parts</h2><p>One</p></nav></body>"
    assert html_to_markdown(page)[0] == "## Parts\n\nOne"
    assert [chunk.context.headings for chunk in HtmlChunker(100).split(Document("d", page))] == [("Parts",)]


@pytest.mark.parametrize(
    "words", ["Pumps<br>A", "<div>Pumps</div> A", "<p>Pumps</p><p>A</p>", "<img src=a alt='Pumps A'>"]
)
def test_a_heading_is_one_whatever_stands_in_it(words: str) -> None:
    page = f"<h2>{words}</h2><p>text</p><h3>Valves</h3><p>text"
    found = [chunk.context.headings for chunk in HtmlChunker(200).split(Document("d", page))]
    assert found == [("Pumps A",), ("Pumps A", "Valves")]
    assert headings(page) == [(2, "Pumps A"), (3, "Valves")]


def test_the_pages_of_a_book_are_xml() -> None:
    page = (
        '<html><head><title/><script src="a.js"/><style/></head><body><h2 id="a"/><p>a <object data="b"/>b</p>'
        '<div hidden=""/><pre><![CDATA[# <c> &amp;]]></pre></body></html>'
    )
    assert html_to_markdown(page, xml=True)[0] == "a b\n\n```\n# <c> &amp;\n```"


def test_a_shadow_tree_is_read_and_a_template_is_not() -> None:
    page = "<my-page><template shadowrootmode=open><p>yes</p></template></my-page><template><p>no</p></template>"
    assert html_to_markdown(page)[0] == "yes"


def test_a_heading_that_is_a_button_keeps_its_words() -> None:
    page = "<h2><button>Sick leave<svg><text>v</text></svg></button></h2><p>x</p><h2>B <button>Copy</button></h2><p>y"
    assert html_to_markdown(page)[0] == "## Sick leave\n\nx\n\n## B\n\ny"


@pytest.mark.parametrize("name", ["center", "dialog", "form", "hgroup", "legend", "menu", "nav", "search", "textarea"])
def test_the_words_of_two_blocks_are_apart(name: str) -> None:
    assert html_to_markdown(f"<{name}>one</{name}><{name}>two</{name}>")[0] == "one\n\ntwo"


@pytest.mark.parametrize(
    "page", ["<table><caption># of items</caption><tr><td>x</table>", "<p>\ufeff# b</p>", "<p>a<br>===\ufeff</p>"]
)
def test_what_looks_like_a_heading_in_any_place_is_none(page: str) -> None:
    assert headings(page) == []


def test_options_are_apart_and_an_image_stands_for_a_heading() -> None:
    page = "<h1><img src=a.png alt='Pumps &amp; more'></h1><select><option>Chile<option>Peru</select>Next"
    assert html_to_markdown(page)[0] == "# Pumps & more\n\nChile\nPeru\nNext"


def test_a_quote_that_never_ends_hides_nothing() -> None:
    assert html_to_markdown('<p>One <a href="x>two</a> three.</p><p>Four.</p>')[0] == "One two three.\n\nFour."


def test_parts_hold_the_whole_text_of_a_page() -> None:
    page = "<p>a<!-- b --><b title='c>d'>e</b>< f &amp; g<br/>h"
    texts = [page[part.start : part.end] for part in parts(page) if isinstance(part, Text)]
    assert texts == ["a", "e", "< f &amp; g", "h"]
    names = [(part.name, part.closing) for part in parts(page) if isinstance(part, Tag)]
    assert names == [("p", False), ("b", False), ("b", True), ("br", False)]


HOSTILE = {
    "less than": "<",
    "tags without end": "<a b",
    "comments without end": "<!--",
    "sections without end": "<![CDATA[",
    "quotes without end": '<a b="',
    "nested tables": "<table><tr><td>",
    "nested divisions": "<div>",
    "nested lists": "<ul><li>",
    "cells": "<td>",
    "titles": "<title>",
    "headings": "<h1>a",
    "hidden": "<p hidden>",
    "navigation": "<nav>",
    "end tags": "<i></b>",
    "ampersands": "&#",
    "preformatted": "<pre>",
    "spaces": "<a = ",
    "wide cells": "<tr><td colspan=999 rowspan=999>",
}


@pytest.mark.parametrize("piece", short_of(HOSTILE.values(), 2), ids=HOSTILE)
@pytest.mark.parametrize("read", [html_to_markdown, lambda page: HtmlChunker(2_000).split(Document("d", page))])
def test_work_grows_with_the_length_of_a_hostile_page(piece: str, read: object) -> None:
    assert callable(read)
    short, long = (steps(read, piece * (n // len(piece))) for n in (4_000, 16_000))
    assert long < 5.5 * short + 2_000


@given(st.text(alphabet="<>/=!-'\"&; abhptd\n", max_size=120))
def test_any_page_has_a_text_and_headings_in_order(page: str) -> None:
    text, _ = html_to_markdown(page)
    assert text == text.strip()
    for chunk in MarkdownChunker(40).split(Document("d", text)):
        assert text[chunk.start : chunk.end] == chunk.text
