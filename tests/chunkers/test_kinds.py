"""The chunkers beside text and Markdown."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from situate.chunkers import (
    Chunk,
    Chunker,
    ClusterSemanticChunker,
    CodeChunker,
    DialogueChunker,
    Document,
    FixedTokenChunker,
    HtmlChunker,
    PruningChunker,
    SemanticChunker,
    SentenceWindowChunker,
    SplitterChunker,
    TextChunker,
    low_value,
)
from situate.chunkers.readers.html import html_to_markdown
from situate.chunkers.semantic import best_groups
from situate.errors import InputError, MissingExtraError, NonFiniteVectorError, SpanError
from tests.chunkers.conftest import TEXTS


def by_letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """A plain embedding: counts of letters."""
    return np.array([[text.count(letter) + 0.01 for letter in "abcdefghij"] for text in texts], dtype=np.float32)


SMALL: list[Chunker] = [
    FixedTokenChunker(7),
    FixedTokenChunker(7, overlap=3),
    SentenceWindowChunker(20, window=1),
    DialogueChunker(20),
    DialogueChunker(20, merge=False),
    HtmlChunker(20),
    CodeChunker(20),
    SemanticChunker(20, embed=by_letters),
    ClusterSemanticChunker(20, embed=by_letters, piece=6),
    SplitterChunker(str.splitlines),
    PruningChunker(TextChunker(20)),
]


@pytest.mark.parametrize("chunker", SMALL, ids=lambda chunker: type(chunker).__name__)
def test_the_span_law_holds_for_every_text(chunker: Chunker) -> None:
    assert isinstance(chunker, Chunker)

    @settings(max_examples=60)
    @given(TEXTS)
    def holds(text: str) -> None:
        chunks = chunker.split(Document("d", text))
        for index, chunk in enumerate(chunks):
            assert text[chunk.start : chunk.end] == chunk.text
            assert chunk.text.strip()
            assert chunk.index == index
        assert all(a.start < b.start or a.end < b.end for a, b in pairwise(chunks))
        if not isinstance(chunker, SplitterChunker):
            assert all(len(chunk.text) <= 20 for chunk in chunks)
        if not isinstance(chunker, HtmlChunker | PruningChunker):
            covered = {i for chunk in chunks for i in range(chunk.start, chunk.end)}
            assert all(c.isspace() for i, c in enumerate(text) if i not in covered)

    holds()


@pytest.mark.parametrize("chunker", SMALL, ids=lambda chunker: type(chunker).__name__)
def test_white_space_gives_no_chunks(chunker: Chunker) -> None:
    assert chunker.split(Document("d", "")) == chunker.split(Document("d", " \n\t\r\n")) == []


@pytest.mark.parametrize("chunker", SMALL[:7], ids=lambda chunker: type(chunker).__name__)
def test_a_chunker_pickles_as_its_configuration(chunker: Chunker) -> None:
    document = Document("d", "Ann: One. Two three.\nBo: def f(): pass")
    before = chunker.split(document)
    copy = pickle.loads(pickle.dumps(chunker))
    assert copy == chunker
    assert copy.split(document) == before


@pytest.mark.parametrize("kind", [FixedTokenChunker, DialogueChunker, HtmlChunker, CodeChunker])
def test_sizes_count_the_models_tokens(kind: type[FixedTokenChunker], tokenizer: Tokenizer) -> None:
    chunker = kind(30, tokenizer=tokenizer)
    chunks = chunker.split(Document("d", "The quick brown fox jumps over the lazy dog. " * 100))
    counts = chunker.counts([chunk.text for chunk in chunks])
    assert max(counts) <= 30
    assert sum(counts) == 1000


def test_fixed_windows_overlap_by_tokens(tokenizer: Tokenizer) -> None:
    text = " ".join(f"w{i}" for i in range(50))
    chunks = FixedTokenChunker(10, overlap=4, tokenizer=tokenizer).split(Document("d", text))
    assert all(b.start < a.end for a, b in pairwise(chunks))
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert chunks[1].start == encoded.offsets[6][0]


def test_fixed_windows_of_a_byte_level_tokenizer_keep_characters_whole() -> None:
    from tokenizers import models, pre_tokenizers

    alphabet = {byte: i for i, byte in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "a😀b👩‍👧字"
    chunks = FixedTokenChunker(3, tokenizer=tokenizer).split(Document("d", text))
    assert set("".join(chunk.text for chunk in chunks)) == set(text)


def test_a_sentence_has_its_window_and_the_sentence_before() -> None:
    text = "One.  Two!\nThree? Four. Five."
    chunks = SentenceWindowChunker(window=1).split(Document("d", text, {"title": "T"}))
    assert [chunk.text for chunk in chunks] == ["One.", "Two!", "Three?", "Four.", "Five."]
    windows = [text[slice(*chunk.metadata["sentence_window"])] for chunk in chunks]
    assert windows == ["One.  Two!", "One.  Two!\nThree?", "Two!\nThree? Four.", "Three? Four. Five.", "Four. Five."]
    assert [chunk.context.previous for chunk in chunks] == [None, "One.", "Two!", "Three?", "Four."]
    assert {chunk.context.title for chunk in chunks} == {"T"}


@pytest.mark.parametrize(
    ("text", "speakers"),
    [
        ("Ann: Hi.\nBo Lee: Hello.", ["Ann", "Bo Lee"]),
        ("[10:32] Ann: Hi.\n10:33:01 Bo (host): Yes.", ["Ann", "Bo (host)"]),
        ("**Ann:** Hi.\n\n**Bo:** Yes.", ["Ann", "Bo"]),
        ("<ann> hi\n<bo> yes", ["ann", "bo"]),
        ("Minutes of May\n\nZoë: Oui.\n李雷: 好。", [None, "Zoë", "李雷"]),
        ("See https://a.b: it works.\nAt 10:30 we left.", [None]),
    ],
)
def test_turns_have_speakers(text: str, speakers: list[str | None]) -> None:
    chunks = DialogueChunker(merge=False).split(Document("d", text))
    assert [chunk.context.speaker for chunk in chunks] == speakers


def test_turns_share_chunks_and_long_ones_are_cut() -> None:
    text = "Ann: Hi.\nBo: Yes.\nAnn: " + "well " * 30
    chunks = DialogueChunker(40).split(Document("d", text))
    assert chunks[0].context.speaker == "Ann, Bo"
    assert chunks[0].text == "Ann: Hi.\nBo: Yes.\nAnn: well well well"
    assert len(chunks) > 3
    assert {chunk.context.speaker for chunk in chunks[1:]} == {"Ann"}


def test_a_question_is_not_cut_off_from_its_long_answer() -> None:
    text = "Ann: Who signs?\nBo: " + "The head of the department does. " * 3
    chunks = DialogueChunker(80).split(Document("d", text))
    assert chunks[0].text.startswith("Ann: Who signs?\nBo: The head")
    assert chunks[0].context.speaker == "Ann, Bo"
    assert all(len(chunk.text) <= 80 for chunk in chunks)
    assert DialogueChunker(80, merge=False).split(Document("d", text))[0].text == "Ann: Who signs?"


HTML = """<html><head><title>x</title></head><body>
<nav><ul><li>Home</li></ul></nav>
<h1>Leave &amp; pay</h1>
<p>Ask <b>her</b>
first.</p><ul><li>One<li>Two</ul>
<script>if (a < b) { document.write("<p>no</p>"); }</script>
<h2>Sick <i>leave</i></h2><div>Call us.<br>Then rest.</div><!-- <p>hidden</p> -->
<table><tr><td>1</td><td>2</td></tr></table>"""


def test_html_is_cut_by_sections() -> None:
    chunks = HtmlChunker(400).split(Document("d", HTML))
    assert [chunk.context.headings for chunk in chunks] == [
        ("Leave & pay",),
        ("Leave & pay", "Sick leave"),
    ]
    assert chunks[0].text.startswith("Leave &amp; pay</h1>")
    assert chunks[0].text.endswith("Two")
    assert chunks[1].text.endswith("<td>1</td><td>2</td>")
    assert all(word not in chunk.text for chunk in chunks for word in ("Home", "write", "title"))


def test_small_html_chunks_are_blocks() -> None:
    chunks = HtmlChunker(20).split(Document("d", HTML))
    assert [chunk.text for chunk in chunks if "<" not in chunk.text and ">" not in chunk.text] == [
        "Leave &amp; pay", "Call us.", "Then rest.",
    ]  # fmt: skip
    assert {chunk.context.headings[0] for chunk in chunks} == {"Leave & pay"}


@pytest.mark.parametrize(
    ("page", "texts"),
    [
        ("<html><head><title>t</title><body><p>Words.</p>", ["Words."]),  # </head> may be left out
        ("<head><style>p {}</style><p>Words.", ["Words."]),
        ("<nav>a<nav>b</nav>c</nav><p>Words.</p>", ["Words."]),
        ('<div role="navigation"><div>a</div>b</div><p>Words.</p>', ["Words."]),
        ("<nav>Menu<p>Words.</p>", ["Menu<p>Words."]),  # an element without an end must not hide the rest of the page
        ("<nav>Menu</nav><p>Words.</p><script>if (a) {", ["Words."]),
    ],
)
def test_what_is_left_out_of_html_ends(page: str, texts: list[str]) -> None:
    assert [chunk.text.removeprefix("<nav>") for chunk in HtmlChunker(200).split(Document("d", page))] == texts


def test_the_sign_that_links_to_a_heading_is_no_part_of_it() -> None:
    page = '<h1>Leave<a class="headerlink" href="#leave">¶</a></h1><p>Ask her.</p>'
    (chunk,) = HtmlChunker(100).split(Document("d", page))
    assert chunk.context.headings == ("Leave",)
    assert html_to_markdown(page) == ("# Leave\n\nAsk her.", "Leave")


def test_a_heading_stays_with_a_long_block() -> None:
    page = "<h2>Sick leave</h2><p>" + "Call before nine in the morning. " * 8 + "</p>"
    chunks = HtmlChunker(100).split(Document("d", page))
    assert chunks[0].text.startswith("Sick leave</h2><p>Call")


PYTHON = '''import os


def first(a, b):
    """Adds."""
    return a + b


class Thing:
    def second(self):
        return os.getcwd()

    def third(self):
        return 3
'''


def test_code_is_cut_at_definitions() -> None:
    chunks = CodeChunker(100, language="python", balance=False).split(Document("d", PYTHON))
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["import os", "class Thing:"]
    parts = CodeChunker(60, language="python", balance=False).split(Document("d", PYTHON))
    assert [chunk.text.strip().split("(")[0] for chunk in parts if "def " in chunk.text.split("\n")[0]] == [
        "def first",
        "def second",
        "def third",
    ]


def test_a_first_line_stays_with_what_it_opens() -> None:
    lines = "".join(f"    total += weights[{number}] * prices[{number}]\n" for number in range(9))
    source = f"import os\n\n\ndef total_of(weights, prices):\n    total = 0\n{lines}    return total\n\n\nLIMIT = 3\n"
    chunks = CodeChunker(160).split(Document("d", source))
    (first,) = [chunk for chunk in chunks if "def total_of" in chunk.text]
    assert "def total_of(weights, prices):\n    total = 0\n    total +=" in first.text
    assert {chunk.context.headings for chunk in chunks[1:-1]} == {("total_of",)}
    assert all(len(chunk.text) <= 160 for chunk in chunks)


def test_a_language_without_a_query_for_definitions_is_cut() -> None:
    assert CodeChunker(80, language="javascript").split(Document("d", "function f() { return 1 }"))


def test_a_missing_grammar_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tree_sitter_rust", None)
    with pytest.raises(MissingExtraError, match=r"tree-sitter-rust.*situate\[code\]"):
        CodeChunker(language="rust").split(Document("d", "fn main() {}"))
    with pytest.raises(InputError, match="language="):
        CodeChunker(language="../x")


TOPICS = "aaa aab. aba aaa. aab aaa. jjj jji. jij jjj. jji jjj."


def test_semantic_breakpoints_stand_where_the_topic_changes() -> None:
    chunks = SemanticChunker(200, embed=by_letters, buffer=0, percentile=80).split(Document("d", TOPICS))
    assert [chunk.text for chunk in chunks] == ["aaa aab. aba aaa. aab aaa.", "jjj jji. jij jjj. jji jjj."]


def test_clusters_keep_topics_together() -> None:
    chunks = ClusterSemanticChunker(30, embed=by_letters, piece=9).split(Document("d", TOPICS))
    assert [chunk.text for chunk in chunks] == ["aaa aab. aba aaa. aab aaa.", "jjj jji. jij jjj. jji jjj."]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=7), st.integers(4, 12), st.integers(0, 2**32 - 1))
def test_the_best_groups_are_those_of_trying_all(lengths: list[int], size: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(len(lengths), 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = vectors @ vectors.T
    mean = np.mean([similar[i, i + 1] for i in range(len(lengths) - 1)]) if len(lengths) > 1 else 0.0

    def reward(groups: list[tuple[int, int]]) -> float:
        return float(sum(similar[i, j] - mean for a, b in groups for i, j in combinations(range(a, b), 2)))

    def allowed(groups: list[tuple[int, int]]) -> bool:
        return all(b - a == 1 or sum(lengths[a:b]) <= size for a, b in groups)

    def ways() -> list[list[tuple[int, int]]]:
        inner = range(1, len(lengths))
        cuts = [c for n in range(len(lengths)) for c in combinations(inner, n)]
        return [list(pairwise((0, *cut, len(lengths)))) for cut in cuts]

    best = max(reward(groups) for groups in ways() if allowed(groups))
    found = best_groups(vectors, lengths, size)
    assert allowed(found)
    assert [a for a, _ in found[1:]] == [b for _, b in found[:-1]]
    assert reward(found) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("kind", [SemanticChunker, ClusterSemanticChunker])
def test_a_bad_embedding_is_named(kind: type[SemanticChunker]) -> None:
    with pytest.raises(InputError, match="embed="):
        kind()
    document = Document("d", TOPICS * 20)
    with pytest.raises(NonFiniteVectorError):
        kind(embed=lambda texts: np.full((len(texts), 2), np.nan, dtype=np.float32)).split(document)
    with pytest.raises(InputError, match="shape"):
        kind(embed=lambda texts: np.zeros((1, 2), dtype=np.float32)).split(document)


@pytest.mark.parametrize(
    "arguments",
    [
        (SentenceWindowChunker, {"window": -1}),
        (SemanticChunker, {"embed": by_letters, "percentile": 101}),
        (ClusterSemanticChunker, {"embed": by_letters, "overlap": 2}),
        (ClusterSemanticChunker, {"embed": by_letters, "piece": 500}),
    ],
)
def test_impossible_options_are_refused(arguments: tuple[type[TextChunker], dict[str, object]]) -> None:
    kind, options = arguments
    with pytest.raises(InputError):
        kind(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("The form goes to Ines four weeks before you leave.", 0.0, 0.0),
        ("它必须在两天之内由她批准。如果没有，请再问一次。", 0.0, 0.3),
        ("पंप की जाँच साल में दो बार होती है।", 0.0, 0.0),
        ("ປ້ຳຖືກກວດສອບປີລະສອງຄັ້ງ", 0.0, 0.3),
        ("| 1 | 2 | 3 |", 0.8, 1.0),
        ("* * *", 1.0, 1.0),
        ("", 1.0, 1.0),
        ("Home\nProducts\nAbout us\nContact\nLog in", 0.8, 1.0),
        ("[Home](/a) [Products](/b) [About](/c) [Jobs at our place](/d)", 0.8, 1.0),
        ("© 2024 Example Ltd. All rights reserved. Privacy policy. Subscribe to our newsletter.", 0.8, 1.0),
        ("We changed the privacy policy in May, so that visitors are told what the gauges record and why.", 0.0, 0.4),
    ],
)
def test_the_score_tells_boilerplate_from_text(text: str, low: float, high: float) -> None:
    assert low <= low_value(text) <= high


def test_pruning_leaves_out_what_says_nothing_and_never_a_whole_document() -> None:
    text = "Home\nProducts\nAbout us\nContact\n\nThe ferry leaves the pier at nine in the morning.\n\n---\n"
    kept = PruningChunker(TextChunker(60), threshold=0.8).split(Document("d", text))
    assert [chunk.text for chunk in kept] == ["The ferry leaves the pier at nine in the morning.\n\n---"]
    assert [chunk.index for chunk in kept] == [0]
    alone = PruningChunker(TextChunker(60)).split(Document("d", "* * *"))
    assert [chunk.text for chunk in alone] == ["* * *"]
    with pytest.raises(InputError, match="threshold"):
        PruningChunker(TextChunker(), threshold=0.0)


def by_length(texts: Sequence[str]) -> list[float]:
    """Longer texts hold more."""
    return [min(1.0, len(text) / 60) for text in texts]


def test_pruning_by_a_scorer_and_a_share_reports_what_it_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    documents = [Document(name, "One two.\n\n" + 20 * f"{name} keeps. ") for name in ("pears", "plums", "grapes")]
    chunker = TextChunker(60)
    whole = sum(len(chunker.split(document)) for document in documents)
    pruning = PruningChunker.of_share(chunker, documents, 0.3, by_length)
    with caplog.at_level("INFO", "situate.chunkers.pruning"):
        kept = [chunk for document in documents for chunk in pruning.split(document)]
    left = pruning.report
    assert (left.kept, left.dropped) == (len(kept), whole - len(kept))
    assert 0 < left.dropped <= 0.3 * whole
    assert len(left.last) == left.dropped
    spans = {(chunk.document_id, chunk.start, chunk.end) for chunk in kept}
    for name, start, end, score in left.last:
        assert (name, start, end) not in spans
        assert score == pytest.approx(1 - (end - start) / 60)
        assert score >= pruning.threshold
    assert "chunks of document 'pears' left out" in caplog.text
    assert pruning.fingerprint()["scorer"] == "by_length"
    assert "scorer" not in PruningChunker(chunker).fingerprint()
    assert pickle.loads(pickle.dumps(pruning)).split(documents[0]) == pruning.split(documents[0])
    with pytest.raises(InputError, match="no threshold leaves out 30% of 6 chunks"):
        PruningChunker.of_share(
            TextChunker(20), [Document("d", 6 * "Home. Home. Home.\n\n")], 0.3, lambda t: [0.5] * len(t)
        )
    for scorer, words in (
        (3, "cannot be called"),
        (lambda texts: [2.0] * len(texts), "a number from 0 to 1 for each"),
        (lambda texts: None, "gave no numbers, but None"),
        (lambda texts: ["high"] * len(texts), "gave no numbers"),
    ):
        with pytest.raises(InputError, match=words):
            PruningChunker(chunker, scorer=scorer).split(documents[0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="share=0"):
        PruningChunker.of_share(chunker, documents, 0.0)


def test_any_splitter_can_cut() -> None:
    document = Document("d", "aX, b, aX")
    chunks: list[Chunk] = SplitterChunker(lambda text: [*text.split(", "), " "]).split(document)
    assert [(chunk.start, chunk.end) for chunk in chunks] == [(0, 2), (4, 5), (7, 9)]
    with pytest.raises(SpanError, match="piece 1"):
        SplitterChunker(lambda text: ["aX", "something else"]).split(document)


def test_a_splitter_that_is_no_function_is_refused() -> None:
    with pytest.raises(InputError, match=r"a TextChunker is no function .* splitter\.split_text"):
        SplitterChunker(TextChunker())  # type: ignore[arg-type]


def test_the_sentence_before_is_bounded() -> None:
    text = "word " * 1_000 + "end. Then. Last."
    chunks = SentenceWindowChunker(200).split(Document("d", text))
    assert max(len(chunk.context.previous or "") for chunk in chunks) <= 1_000
    assert (chunks[-2].context.previous or "").endswith("word end.")
