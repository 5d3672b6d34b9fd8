"""Keyphrases by counts: against tf-idf written out, in every script, within bounds."""

from __future__ import annotations

import math
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from situate.chunkers import Document, KeyphraseSituator, Situator, TextChunker
from situate.embedders import ChunkScheme, Embedder
from situate.errors import InputError
from situate.retrievers import Index, PipelineConfig

CORPUS = [
    "The ferry leaves at nine. It is back by noon.",
    "The council met on Tuesday. It voted for the bridge.",
    "The orchestra plays on Tuesday at nine.",
    "It rained on the island for the whole of May.",
]
TEXT = "The tide table of the harbour. A tide table is printed in May; the harbour sells it. Harbour dues are low."


def test_scores_are_counts_times_rarity() -> None:
    situator = KeyphraseSituator(CORPUS, count=10, words=2, common=0.5)
    assert situator.keyphrases(TEXT)[:2] == ("tide table", "harbour")
    # "tide table" occurs twice and has two words of no text, "harbour" three times with one.
    assert situator._rarity([("tide", 0, 0), ("table", 0, 0)]) == pytest.approx(2 * math.log(5))
    assert situator._rarity([("tuesday", 0, 0)]) == pytest.approx(math.log(5 / 3))
    assert "the" not in " ".join(situator.keyphrases(TEXT)).lower().split()
    assert len(situator.keyphrases(TEXT)) <= 10


def test_phrases_share_no_word_and_cross_no_sentence() -> None:
    phrases = KeyphraseSituator(CORPUS, count=10, common=0.5).keyphrases(TEXT)
    assert len({*phrases}) == len(phrases)
    words = [word for phrase in phrases for word in phrase.lower().split()]
    assert len({*words}) == len(words)
    assert all(phrase in TEXT for phrase in phrases), "as they are written"


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("Mu\u0308llerei, Mu\u0308llerei", ("Mu\u0308llerei",)),
        ("पंप और मरम्मत, पंप, मरम्मत, मरम्मत", ("पंप और मरम्मत",)),
        ("שָׁלוֹם, שָׁלוֹם", ("שָׁלוֹם",)),
        ("ปั๊ม, ปั๊ม", ("ปั๊ม",)),
    ],
)
def test_a_mark_ends_no_word(text: str, phrases: tuple[str, ...]) -> None:
    assert KeyphraseSituator(CORPUS).keyphrases(text) == phrases


def test_it_is_a_situator_whose_phrases_bm25_reads() -> None:
    """`sentence` is read by default, and keyphrases behind it; dense vectors read them by name."""
    situator = KeyphraseSituator(CORPUS, count=2, common=0.5)
    assert isinstance(situator, Situator)
    document = Document("tides", TEXT)
    chunks = situator.situate(document, TextChunker(size=40).split(document))
    assert len(chunks) > 1
    assert {chunk.context.keyphrases for chunk in chunks} == {("tide table", "harbour")}
    assert chunks[-1].context.render(("headings", "sentence")) == "tide table, harbour"
    assert chunks[-1].context.render(("sentence", "keyphrases")) == "tide table, harbour"
    assert chunks[-1].context.render(("headings",)) == ""
    assert type(chunks[0].context).from_dict(chunks[0].context.to_dict()) == chunks[0].context
    config = PipelineConfig(dense=ChunkScheme(context=("headings", "keyphrases")))
    with Index(Embedder(), situators=[situator], chunker=TextChunker(size=40), config=config) as index:
        assert index.add([document]).added == 1
        assert index.add([document]).unchanged == 1
        hits = index.search("tide table", 5).hits
        assert {hit.chunk.context.keyphrases for hit in hits} == {("tide table", "harbour")}
        assert all("bm25" in hit.scores for hit in hits), "every chunk is found by its document's phrases"


async def test_it_is_the_same_in_every_process_and_script(tmp_path: Path) -> None:
    situator = KeyphraseSituator(CORPUS, common=0.5)
    again = pickle.loads(pickle.dumps(situator))
    assert again.fingerprint() == situator.fingerprint() != KeyphraseSituator(CORPUS[:3], common=0.5).fingerprint()
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(CORPUS), encoding="utf-8")
    assert KeyphraseSituator(file, common=0.5).fingerprint() == situator.fingerprint()
    document = Document("d", TEXT)
    chunks = TextChunker(size=40).split(document)
    assert await again.asituate(document, chunks) == situator.situate(document, chunks)
    assert situator.keyphrases("Срок подачи заявления: срок подачи.")[0] == "Срок подачи"
    assert situator.keyphrases("\ud800 🙂 ...") == ()
    assert situator.situate(document, []) == []


def test_hostile_text_takes_linear_time() -> None:
    situator = KeyphraseSituator(CORPUS, common=0.5)
    for text in ("a" * 200_000, "tide " * 40_000, "x-" * 100_000, " ".join(map(str, range(40_000)))):
        started = time.process_time()
        situator.keyphrases(text)
        assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"corpus": []}, "corpus has no texts"),
        ({"corpus": "no/such/file"}, "is no file: give texts, or a file"),
        ({"corpus": [3]}, "holds a int"),
        ({"corpus": None}, "corpus=None holds no texts"),
        ({"count": 0}, "count=0"),
        ({"words": 0}, "words=0"),
        ({"common": 0.0}, r"common=0\.0"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        KeyphraseSituator(**{"corpus": CORPUS, **given})


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes("Größe".encode("cp1252"))
    with pytest.raises(InputError, match=r"texts\.txt' is no text in UTF-8"):
        KeyphraseSituator(tmp_path / "texts.txt")
