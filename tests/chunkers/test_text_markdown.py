"""TextChunker and MarkdownChunker: the span law, sizes in tokens, headings as context."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from tokenizers import Encoding, Tokenizer

from situate.chunkers import AutoChunker, Context, Document, HeadingSituator, HtmlChunker, MarkdownChunker, TextChunker
from situate.chunkers.base import MAX_CHARACTERS_PER_TOKEN, blocks, untruncated
from situate.chunkers.headings import front_matter_end, markdown_headings
from situate.errors import InputError
from situate.types import Chunk, Chunker
from tests.chunkers.conftest import TEXTS
from tests.conftest import short_of

BOTH = pytest.mark.parametrize("kind", [TextChunker, MarkdownChunker])


def assert_span_law(document: Document, chunks: list[Chunk]) -> None:
    for index, chunk in enumerate(chunks):
        assert document.text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert chunk.index == index
        assert chunk.document_id == document.id
    assert all(a.start < b.start for a, b in pairwise(chunks))
    assert len({chunk.id for chunk in chunks}) == len(chunks)


@given(TEXTS)
def test_the_span_law_holds_for_every_text(text: str) -> None:
    document = Document("d", text)
    for chunker in (TextChunker(7), TextChunker(9, overlap=4), MarkdownChunker(7), MarkdownChunker(30, overlap=9)):
        chunks = chunker.split(document)
        assert_span_law(document, chunks)
        assert all(len(chunk.text) <= chunker.size for chunk in chunks)
        if isinstance(chunker, TextChunker):
            covered = {i for chunk in chunks for i in range(chunk.start, chunk.end)}
            assert all(c.isspace() for i, c in enumerate(text) if i not in covered)


@BOTH
def test_the_span_law_holds_in_tokens(kind: type[TextChunker], tokenizer: Tokenizer) -> None:
    chunker = kind(5, tokenizer=tokenizer)

    @given(TEXTS)
    def holds(text: str) -> None:
        document = Document("d", text)
        chunks = chunker.split(document)
        assert_span_law(document, chunks)
        assert all(count <= 5 for count in chunker.counts([chunk.text for chunk in chunks]))

    holds()


@BOTH
@pytest.mark.parametrize("text", ["", " ", "\n\r\n\t", "\u00a0\u2028", "\x1c\x1f"])
def test_nothing_but_white_space_gives_no_chunks(kind: type[TextChunker], text: str) -> None:
    assert kind().split(Document("d", text)) == []


@BOTH
def test_a_truncating_tokenizer_does_not_hide_the_size(kind: type[TextChunker], tokenizer: Tokenizer) -> None:
    assert tokenizer.truncation is not None
    text = "The quick brown fox jumps over the lazy dog. " * 200
    chunker = kind(200, tokenizer=tokenizer)
    chunks = chunker.split(Document("d", text))
    # 10 tokens a sentence: nothing is cut off at the truncation limit, and chunks are filled.
    assert [chunker.count(chunk.text) for chunk in chunks] == [200] * 10
    assert tokenizer.truncation is not None


@BOTH
def test_one_long_word_is_capped_though_it_is_one_token(kind: type[TextChunker], tokenizer: Tokenizer) -> None:
    document = Document("d", "A" * 50_000)
    chunks = kind(100, tokenizer=tokenizer).split(document)
    assert_span_law(document, chunks)
    assert max(len(chunk.text) for chunk in chunks) <= 100 * MAX_CHARACTERS_PER_TOKEN
    assert sum(len(chunk.text) for chunk in chunks) == 50_000


@BOTH
def test_one_long_line_is_cut_in_blocks(kind: type[TextChunker]) -> None:
    document = Document("d", "word " * 100_000)
    chunks = kind(500).split(document)
    assert_span_law(document, chunks)
    assert sum(chunk.text.count("word") for chunk in chunks) == 100_000


def test_blocks_end_at_the_strongest_pause_and_lose_nothing() -> None:
    text = "aaa. bbb ccc and d\n\nddd eee. " * 5
    spans = list(blocks(text, 3, len(text), 30))
    assert "".join(text[s:e] for s, e in spans) == text[3:]
    assert text[spans[0][0] : spans[0][1]].endswith("\n\n")


@BOTH
def test_a_chunker_pickles_as_its_configuration(kind: type[TextChunker], tokenizer: Tokenizer) -> None:
    chunker = kind(20, overlap=5, tokenizer=tokenizer)
    document = Document("d", "One two three. " * 50)
    chunks = chunker.split(document)
    copy = pickle.loads(pickle.dumps(chunker))
    assert copy == chunker
    assert set(copy.__dict__) == {"size", "overlap", "tokenizer", "balance"}
    assert copy.split(document) == chunks
    assert copy.fingerprint() == chunker.fingerprint()
    assert "tokenizer" not in repr(chunker)


def test_the_fingerprint_tells_configurations_apart(tokenizer: Tokenizer) -> None:
    prints = [TextChunker(), TextChunker(100), MarkdownChunker(), TextChunker(tokenizer=tokenizer)]
    assert len({str(chunker.fingerprint()) for chunker in prints}) == 4


@BOTH
@pytest.mark.parametrize("arguments", [(0, 0), (-1, 0), (10, -1), (10, 10)])
def test_impossible_sizes_are_refused(kind: type[TextChunker], arguments: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="size="):
        kind(*arguments)


@BOTH
def test_metadata_becomes_context(kind: type[TextChunker]) -> None:
    document = Document("d", "Body.", {"title": "T", "path": "p/q.md", "date": "2024-02-29", "speaker": "Ann", "x": 1})
    chunk = kind().split(document)[0]
    assert chunk.context.to_dict() == {"title": "T", "path": "p/q.md", "date": "2024-02-29", "speaker": "Ann"}
    assert chunk.metadata == document.metadata
    assert isinstance(kind(), Chunker)


HANDBOOK = """---
title: Handbook
---
Preface.

# Leave *policy*

## Sick `leave`

Tell her by nine.

```python
# not a heading
```

### Long illness

It must be approved.

Expenses
--------

> # quoted

    # indented

<!--
# commented
-->

1. # in a list

Trips
=====

Book early.
"""


def test_headings_are_those_of_commonmark() -> None:
    found = [(heading.level, heading.text) for heading in markdown_headings(HANDBOOK)]
    assert found == [(1, "Leave policy"), (2, "Sick leave"), (3, "Long illness"), (2, "Expenses"), (1, "Trips")]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_chunk_knows_the_headings_above_it(line_end: str) -> None:
    document = Document("d", HANDBOOK.replace("\n", line_end))
    chunks = MarkdownChunker(400).split(document)
    assert [(chunk.context.headings, chunk.text.split(line_end)[0]) for chunk in chunks] == [
        ((), "Preface."),
        (("Leave policy", "Sick leave"), "# Leave *policy*"),
        (("Leave policy", "Sick leave", "Long illness"), "### Long illness"),
        (("Leave policy", "Expenses"), "Expenses"),
        (("Trips",), "Trips"),
    ]
    assert_span_law(document, chunks)


def test_only_headings_are_one_section() -> None:
    chunks = MarkdownChunker(400).split(Document("d", "# A\n## B\n### C\n"))
    assert [(chunk.text, chunk.context.headings) for chunk in chunks] == [("# A\n## B\n### C", ("A", "B", "C"))]


def test_a_long_section_keeps_its_headings_in_every_chunk() -> None:
    text = "# A\n\n" + "\n\n".join(f"Paragraph {i} says something." for i in range(20)) + "\n\n# B\n\nEnd."
    chunks = MarkdownChunker(80).split(Document("d", text))
    assert len(chunks) > 5
    assert {chunk.context.headings for chunk in chunks[:-1]} == {("A",)}
    assert chunks[-1].context.headings == ("B",)


def test_a_fence_that_never_closes_hides_what_looks_like_headings() -> None:
    chunks = MarkdownChunker(400).split(Document("d", "# A\n\n```\n# b\n## c\n"))
    assert [chunk.context.headings for chunk in chunks] == [("A",)]


@given(TEXTS)
def test_headings_stand_where_they_say(text: str) -> None:
    from situate.chunkers.base import encodable

    last = 0
    for heading in markdown_headings(encodable(text)):
        assert last <= heading.start < heading.end <= len(text)
        assert 1 <= heading.level <= 6
        last = heading.end


def test_a_text_of_a_few_chunks_falls_into_about_equal_ones() -> None:
    text = " ".join(f"Sentence number {number} is here." for number in range(16))
    balanced = [len(chunk.text) for chunk in TextChunker(size=400).split(Document("d", text))]
    full = [len(chunk.text) for chunk in TextChunker(size=400, balance=False).split(Document("d", text))]
    assert len(balanced) == len(full) == 2
    assert min(balanced) > 0.7 * max(balanced)
    assert min(full) < 0.4 * max(full)


README = (
    "# Pumps\n\nHow to run them.\n\n## Install\n\n```bash\n" + "pip install pumps\n" * 12 + "```\n\n"
    "## Use\n\n" + "A paragraph about pumps that is fairly long. " * 8 + "\n\n```python\n"
    + "".join(f"pump_{n} = make(pump={n})\n" for n in range(40)) + "```\n\nEnd.\n"
)  # fmt: skip


@pytest.mark.parametrize("size", [60, 100, 150, 300])
@pytest.mark.parametrize("overlap", [0, 20])
def test_a_fence_stays_with_its_code_and_a_heading_with_what_follows(size: int, overlap: int) -> None:
    chunks = MarkdownChunker(size, overlap).split(Document("d", README))
    assert len(chunks) > 4
    assert all(len(chunk.text) <= size for chunk in chunks)
    for chunk in chunks:
        lines = chunk.text.splitlines()
        assert not lines[-1].startswith("#")
        assert lines[-1] not in {"```bash", "```python"}
        assert lines[0] != "```"
        assert set(chunk.text) != {"`"}


def test_the_default_chunker_leaves_no_fence_and_no_heading_alone(tokenizer: Tokenizer) -> None:
    from pathlib import Path

    page = Document("chunkers.md", (Path(__file__).parents[2] / "docs" / "chunkers.md").read_text(encoding="utf-8"))
    for size in (60, 200):
        chunks = AutoChunker(size, tokenizer=tokenizer).split(page)
        alone = [chunk.text for chunk in chunks if "\n" not in chunk.text and chunk.text.startswith(("#", "```"))]
        assert alone == []


@pytest.mark.parametrize(
    "text", ["ccc````d\n```\n# x\n```\n````\nx=1#o\n```\n\n![i](x", "```\n\u0e1b|b\n-|-1|2\u2028>#d\nxt\n---k:v"]
)
def test_chunks_that_overlap_are_in_order_around_fences(text: str, tokenizer: Tokenizer) -> None:
    chunks = MarkdownChunker(16, 5, tokenizer).split(Document("d", text))
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    covered = {place for chunk in chunks for place in range(chunk.start, chunk.end)}
    assert not [c for place, c in enumerate(text) if place not in covered and not c.isspace()]


TABLE = "# Limits\n\n| Day | *Limit* in \\| |\n| --- | --- |\n" + "".join(f"| Day {n} | {n} km |\n" for n in range(30))


def test_the_rows_of_a_long_table_keep_its_column_names() -> None:
    document = Document("d", f"{TABLE}\nAfter the table.\n\n```\n| a | b |\n| --- | --- |\n| 1 | 2 |\n```\n")
    first, *later = MarkdownChunker(120).split(document)
    assert "Day | *Limit*" in first.text
    assert first.context.columns == ()
    rows = [chunk for chunk in later if chunk.text.startswith("| Day")]
    assert len(rows) > 2
    assert {chunk.context.columns for chunk in rows} == {("Day", "*Limit* in |")}
    assert {chunk.context.columns for chunk in later if chunk not in rows} <= {()}
    assert rows[0].context.render(("headings",)) == "Limits\nDay | *Limit* in |"
    assert rows[0].context.render(("title",)) == ""
    assert "columns" not in first.context.to_dict()
    assert Context.from_dict(rows[0].context.to_dict()) == rows[0].context


def test_column_names_without_end_are_not_kept_with_every_chunk() -> None:
    wide = "| " + " | ".join(f"column {n}" for n in range(2_000)) + " |\n|" + " --- |" * 2_000 + "\n"
    chunks = MarkdownChunker(400).split(Document("d", wide + "| 1 | 2 |\n" * 50))
    assert sum(map(len, chunks[-1].context.columns)) <= 500


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("---\ntitle: A\n---\n# B", 17),
        ("\ufeff---\ntitle: A\n---\n# B", 18),
        ("\ufeff\ufeff---\ntitle: A\n---\n# B", 19),
        ("---\nAnn: Hello.\nBo: Yes.\nAnn: Good.\n---\n", 0),
        ("---\r\ntitle: A\r\ntags:\r\n  - x\r\n- y\r\n# note\r\n\r\n...\r\nB", 49),
        ("---\n# a comment\n'key': 1\n---\nB", 29),
        ("---\n\n# Pumps\n\nText.\n\n---\n\n# Boilers\n", 0),
        ("---\nog:title: A\n$id: 1\n---\n", 27),
        ("---\ntags: [\n  x\n]\nmore: {\n  a: 1\n}\n---\n", 39),
        ("---\ntags: &t # all\n- x\n---\n", 27),
        ("---\n10:32 Ann: Hello.\n10:33 Bo: Yes.\n---\n", 0),
        ("---\nNote: hot.\n\n- Check oil: weekly\n- Check belts\n\n---\n", 0),
        ("---\n# Pumps\n---\n", 0),
        ("---\n\ntitle: A\n---\n", 0),
        ("---\nTwo words and a colon in here: no.\nAnd a line.\n---\n", 0),
        ("---\nhttp://a.b\n---\n", 0),
        ("---\n---\n", 0),
        ("---\ntitle: A\n", 0),
        ("text\n---\ntitle: A\n---\n", 0),
        (" ---\ntitle: A\n---\n", 0),
    ],
)
def test_front_matter_is_yaml_keys_at_the_very_start(text: str, end: int) -> None:
    assert front_matter_end(text) == end


def test_a_rule_at_the_start_loses_no_text() -> None:
    text = "---\n\n# Pumps\n\n" + "Serviced twice. " * 1_000 + "\n\n---\n\n# Boilers\n\nyearly."
    chunks = MarkdownChunker(800).split(Document("d", text))
    assert sum(chunk.text.count("Serviced twice.") for chunk in chunks) == 1_000
    assert {chunk.context.headings for chunk in chunks} == {("Pumps",), ("Boilers",)}  # the rule is no chunk of its own


@pytest.mark.parametrize("kind", [AutoChunker, MarkdownChunker])
def test_a_byte_order_mark_hides_no_heading(kind: type[AutoChunker]) -> None:
    document = Document("d", "\ufeff# Foo\n\nHi")
    assert [chunk.context.headings for chunk in kind(50).split(document)] == [("Foo",)]
    assert HeadingSituator().situate(document, TextChunker(50).split(document))[0].context.headings == ("Foo",)


@pytest.mark.parametrize("piece", short_of(["_a", "var a=b,c=d;function e(f,g){return f+g*h[i]}", "word ", "字"], 3))
def test_a_text_without_sentences_is_not_tokenized_again_for_every_chunk(piece: str, tokenizer: Tokenizer) -> None:
    text = (piece * 20_000)[:20_000]
    tokenized: list[int] = []
    plain = untruncated(tokenizer)

    class Counted:
        def encode(self, text: str, *, add_special_tokens: bool) -> Encoding:
            tokenized.append(len(text))
            return plain.encode(text, add_special_tokens=add_special_tokens)

    class Counting(TextChunker):
        _tokenizer = Counted()  # type: ignore[assignment]

    chunks = Counting(64, 16, tokenizer).split(Document("d", text))
    assert chunks == TextChunker(64, 16, tokenizer).split(Document("d", text))
    # A search for each chunk's end among texts of at most 16 characters per token.
    assert tokenized
    assert sum(tokenized) < 4 * 64 * MAX_CHARACTERS_PER_TOKEN * len(chunks)


@pytest.mark.parametrize("kind", [MarkdownChunker, AutoChunker])
def test_byte_order_marks_inside_of_a_text_hide_no_heading(kind: type[AutoChunker]) -> None:
    document = Document("d", "\ufeff\ufeff# A\n\nOne.\n\n\ufeff# B\n\nTwo.\n")
    assert [(c.text, c.context.headings) for c in kind(20).split(document)] == [
        ("\ufeff\ufeff# A\n\nOne.", ("A",)),
        ("\ufeff# B\n\nTwo.", ("B",)),
    ]


def test_a_byte_order_mark_is_no_chunk_of_its_own() -> None:
    assert [c.text for c in MarkdownChunker(20).split(Document("d", "\ufeff\n\n# A\n\nOne."))] == [
        "\ufeff\n\n# A\n\nOne."
    ]
    assert [c.text for c in HtmlChunker(20).split(Document("d", "\ufeff<h1>A</h1>One."))] == ["A</h1>One."]
