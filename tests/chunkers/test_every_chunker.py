"""Properties of every chunker on every text: nothing lost, spans, sizes, linear work, copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from situate.chunkers import (
    AutoChunker,
    Chunk,
    Chunker,
    ClusterSemanticChunker,
    CodeChunker,
    DialogueChunker,
    Document,
    FixedTokenChunker,
    HeadingSituator,
    HtmlChunker,
    MarkdownChunker,
    PruningChunker,
    SemanticChunker,
    SentenceWindowChunker,
    SplitterChunker,
    TextChunker,
    low_value,
)
from situate.chunkers.base import SizedChunker, is_bare
from situate.chunkers.headings import front_matter_end, markdown_headings
from situate.chunkers.sentences import sentence_spans
from tests.chunkers.work import grows_linearly
from tests.conftest import FULL


def by_letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """A plain embedding: counts of letters."""
    return np.array([[text.count(letter) + 0.01 for letter in "abcdefghij"] for text in texts], dtype=np.float32)


SIZED: dict[str, Callable[..., SizedChunker]] = {
    "auto": AutoChunker,
    "text": TextChunker,
    "markdown": MarkdownChunker,
    "html": HtmlChunker,
    "code": CodeChunker,
    "javascript": lambda *args, **kwargs: CodeChunker(*args, **kwargs, language="javascript"),
    "dialogue": DialogueChunker,
    "window": SentenceWindowChunker,
    "fixed": FixedTokenChunker,
    "semantic": lambda *args, **kwargs: SemanticChunker(*args, **kwargs, embed=by_letters),
    "cluster": lambda *args, **kwargs: ClusterSemanticChunker(*args, **kwargs, embed=by_letters, piece=5),
}
EVERY = pytest.mark.parametrize("kind", SIZED.values(), ids=SIZED)

#: Pieces of text that a chunker may not read as words.
PIECES = st.sampled_from(
    [
        "The pump is serviced twice. ", "word ", "\n", "\n\n", "\r\n", "\r", "\t", "    ", "\ufeff", "\ud800", "\0",
        "cafe\u0301", "สวัสดี", "नमस्त्", "한국어 문장입니다. ", "שלום", "字が書いてある。", "👩‍👩‍👧‍👦", "\u200b", "\u00ad",
        "---\n", "---\n\n", "title: x\n", "...\n", "# A\n", "## B ##\n", "A\n===\n", "```python\n", "```\n", "~~~\n",
        "x = f(1)\n", "| a | b |\n", "| --- | --- |\n", "| 1 | 2 |\n", "> ", "- ", "1. ", "* * *\n", "[a](b)",
        "<p>", "</p>", "<table><tr><td>", "<h2>", "</h2>", "<script>", "</script>", "<!--", "-->", "<nav>", "&amp;",
        "Ann: ", "[10:32] Bo: ", "def f():\n", "class A:\n", "}", "(", '"', "'", "x" * 60,
    ]
)  # fmt: skip
MIXED = st.lists(PIECES, max_size=30).map("".join)


def assert_law(document: Document, chunks: list[Chunk]) -> None:
    for index, chunk in enumerate(chunks):
        assert document.text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert chunk.index == index
    assert all(a.start < b.start or a.end < b.end for a, b in pairwise(chunks))


def lost(text: str, chunks: list[Chunk], first: int = 0) -> str:
    """The text in no chunk, without white space."""
    covered = bytearray(len(text))
    for chunk in chunks:
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
    return "".join(c for i, c in enumerate(text) if i >= first and not covered[i] and not c.isspace())


@EVERY
@pytest.mark.parametrize("overlap", [0, 4])
def test_nothing_is_lost_and_sizes_hold(kind: Callable[..., SizedChunker], overlap: int, tokenizer: Tokenizer) -> None:
    if overlap and kind is SIZED["cluster"]:
        pytest.skip("joined pieces cannot overlap")
    chunkers = [kind(24, overlap), kind(10, overlap, tokenizer)]

    @settings(max_examples=60 if FULL else 20)
    @given(MIXED)
    def holds(text: str) -> None:
        for chunker in chunkers:
            document = Document("d", text)
            chunks = chunker.split(document)
            assert_law(document, chunks)
            assert all(count <= chunker.size for count in chunker.counts([chunk.text for chunk in chunks]))
            if not isinstance(chunker, HtmlChunker):
                markdown = isinstance(chunker, MarkdownChunker | AutoChunker)
                assert lost(text, chunks, front_matter_end(text) if markdown else 0) == ""

    holds()


#: Blocks that say nothing by themselves, and blocks that do.
BARE = st.sampled_from(["# Boilers", "## Pumps and valves", "---", "* * *"])
SAYING = st.sampled_from(
    [
        "It hums.", "The pump is serviced twice a year, and its valves once.", "- an item\n- another",
        "```python\nx = f(1)\n```", "| a | b |\n| --- | --- |\n| one | two |\n| three | four |",
        "A long paragraph tells of the boiler house, which stands behind the mill. It goes on, and no one minds. " * 3,
    ]
)  # fmt: skip
SECTIONS = st.lists(st.tuples(st.lists(BARE, max_size=2), SAYING), min_size=1, max_size=5)


@pytest.mark.parametrize("name", [name for name in SIZED if name not in ("html", "code", "javascript")])
def test_no_chunk_says_nothing(name: str, tokenizer: Tokenizer) -> None:
    chunkers = [SIZED[name](160), SIZED[name](40, 0, tokenizer)]

    @settings(max_examples=12)
    @given(SECTIONS, st.lists(BARE, max_size=2))
    def holds(sections: list[tuple[list[str], str]], tail: list[str]) -> None:
        blocks = [block for bare, saying in sections for block in (*bare, saying)]
        document = Document("d", "\n\n".join([*blocks, *tail]), {"format": "markdown"})
        for chunker in chunkers:
            chunks = chunker.split(document)
            assert not [chunk.text for chunk in chunks if is_bare(chunk.text)]
            assert all(count <= chunker.size for count in chunker.counts([chunk.text for chunk in chunks]))
            assert lost(document.text, chunks) == ""

    holds()


def test_no_chunk_of_a_page_is_a_heading_alone() -> None:
    page = "<p>" + "Words of the first part. " * 8 + "</p><h2>Pumps</h2>"
    assert HtmlChunker(120).split(Document("d", page))[-1].text.endswith("Words of the first part. </p><h2>Pumps")
    assert [chunk.text for chunk in HtmlChunker(120).split(Document("d", "<h2>Pumps</h2>"))] == ["Pumps"]


@given(
    st.lists(
        st.sampled_from(["<p>", "</p>", "<h2>", "</h2>", "<td>", "<b>", "</b>", "&amp;", "word ", "\n"]), max_size=30
    )
)
def test_no_word_of_a_page_is_lost(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert "word" not in lost(text, HtmlChunker(24).split(Document("d", text)))


@pytest.mark.parametrize(
    "text",
    [
        "สวัสดี",
        "cafe\u0301",
        "नमस्त्",
        "a\u0301\u0302\u0303",
        "क्ष",
        "👩‍👩‍👧‍👦",
        "각",
        "한국어 형태소 분석기는 어렵습니다 " * 8,
    ],
)
@EVERY
def test_the_last_mark_of_a_word_is_in_a_chunk(
    kind: Callable[..., SizedChunker], text: str, tokenizer: Tokenizer
) -> None:
    chunker = kind(10, 0, tokenizer)
    chunks = chunker.split(Document("d", text))
    assert lost(text, chunks) == ""
    assert max(chunker.counts([chunk.text for chunk in chunks])) <= 10


#: Pieces that were or could be slow to read again and again.
HOSTILE = {
    "dots": ".", "abbreviations": "Mr. ", "quotes": "> ", "quote marks": ">", "lists": "- ", "brackets": "[",
    "images": "![", "emphasis": "*a **b ", "underscores": "_a", "fences": "```\n", "ticks": "`", "rules": "---\n",
    "tables": "| a | b |\n", "table rules": "| --- |\n| --- |\n", "headings": "# a\n", "keys": "a: b\n", "tags": "<a b",
    "less than": "<", "letters": "x", "spaces": " ", "line ends": "\n", "speakers": "Ann: ", "times": "10:32\n",
    "names": "Ann Lee ", "parentheses": "(", "braces": "{", "functions": "function a(){", "blocks": "if x:\n",
    "words": "word ", "ideographs": "字", "references": "[a]: b\n", "digits": "1", "surrogates": "\ud800",
    "entities": "&#", "links": "[a](", "escapes": "\\", "carriage returns": "\r", "pipes": "|", "marks": "a\u0301",
}  # fmt: skip
READERS: dict[str, Callable[[str], object]] = {
    # The grammars' own parsers take more than linear time for some text that is no code.
    **{
        name: lambda text, kind=kind: kind(2_000).split(Document("d", text))  # type: ignore[misc]
        for name, kind in SIZED.items()
        if name not in ("code", "javascript", "cluster")
    },
    "cluster": lambda text: ClusterSemanticChunker(2_000, embed=by_letters, piece=1_500).split(Document("d", text)),
    "pruning": low_value,
    "sentences": sentence_spans,
    "markdown headings": markdown_headings,
    "front matter": lambda text: front_matter_end("---\na: b\n" + text),
    "situator": lambda text: HeadingSituator().situate(
        Document("d", text), TextChunker(2_000).split(Document("d", text))
    ),
}


#: The short form takes every fourth piece for a reader, others for the next one.
HOSTILE_CASES = [
    pytest.param(read, piece, id=f"{reader}-{name}", marks=[] if FULL or (i + j) % 4 == 0 else pytest.mark.full)
    for i, (reader, read) in enumerate(READERS.items())
    for j, (name, piece) in enumerate(HOSTILE.items())
]


@pytest.mark.parametrize(("read", "piece"), HOSTILE_CASES)
def test_work_grows_with_the_length_of_a_hostile_text(read: Callable[[str], object], piece: str) -> None:
    assert grows_linearly(read, piece, 8_000)


CHUNKERS: list[Chunker] = [
    *(kind(50) for kind in SIZED.values()),
    SplitterChunker(str.splitlines),
    PruningChunker(TextChunker(50)),
]


@pytest.mark.parametrize("chunker", CHUNKERS, ids=lambda chunker: type(chunker).__name__)
def test_every_chunker_copies_and_pickles_as_its_configuration(chunker: Chunker) -> None:
    document = Document("d.md", "Ann: One. Two three.\n\n# A\n\nBo: def f(): pass\n")
    before = chunker.split(document)
    for made in (copy.deepcopy(chunker), pickle.loads(pickle.dumps(chunker))):
        assert made.split(document) == before
    with pytest.raises(TypeError, match="top_k"):
        type(chunker)(top_k=3)  # type: ignore[call-arg]
