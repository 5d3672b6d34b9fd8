"""Chunks that end where the topic changes."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from situate.chunkers import Chunker, TopicChunker
from situate.embedders import Embedder
from situate.errors import InputError, NonFiniteVectorError
from situate.types import Document

TOPICS = (
    ("Parental leave is twelve weeks long.", "It is paid in full by the employer.", "Both parents can take the leave."),
    ("Trains are booked with the travel desk.", "Hotels cost at most 120 euros.", "Flights need an approval."),
    ("Passwords have twelve characters.", "Locked accounts are opened by the help desk.", "Never share a password."),
)
TEXT = "\n\n".join(paragraph for topic in TOPICS for paragraph in topic)


def flat(texts: Any) -> Any:
    """Every text alike."""
    return np.ones((len(texts), 2), dtype=np.float32)


@dataclass
class Scores:
    """A `PairScorer` with the scores of a test."""

    scores: Any
    pairs: list[Any] = field(default_factory=list)

    def score(self, pairs: Any) -> Scores:
        self.pairs += pairs
        return self


def starts(chunker: TopicChunker, text: str) -> list[str]:
    return [chunk.text.split("\n\n")[0] for chunk in chunker.split(Document("d", text))]


def test_paragraphs_of_one_topic_stay_together() -> None:
    embedder = Embedder(device="cpu", dtype="float32")
    chunker = TopicChunker(500, embed=embedder.embed_documents)
    assert isinstance(chunker, Chunker)
    assert starts(chunker, TEXT) == [topic[0] for topic in TOPICS]
    assert starts(pickle.loads(pickle.dumps(chunker)), TEXT) == [topic[0] for topic in TOPICS]
    assert len(starts(TopicChunker(500, embed=flat), TEXT)) == 1
    together = TEXT.replace("\n\n", " ")  # without paragraphs: sentence by sentence
    found = TopicChunker(500, embed=embedder.embed_documents).split(Document("d", together))
    assert [chunk.text.startswith(topic[0]) for chunk, topic in zip(found, TOPICS, strict=True)] == [True] * 3


def test_a_scorer_of_pairs_reads_both_sides() -> None:
    scorer = Scores([0.9, 0.8, 0.1, 0.9, 0.9, 0.4, 0.9, 0.8])
    chunker = TopicChunker(500, scorer=scorer, block=1, threshold=0.3)
    assert starts(chunker, TEXT) == [TOPICS[0][0], TOPICS[1][0]]
    assert scorer.pairs[2] == (TOPICS[0][2], TOPICS[1][0])
    assert starts(TopicChunker(500, scorer=Scores(scorer.scores), block=1), TEXT) == [topic[0] for topic in TOPICS]
    wide = Scores(scorer.scores)
    TopicChunker(500, scorer=wide, block=2).split(Document("d", TEXT))
    assert wide.pairs[2] == ("\n".join(TOPICS[0][1:]), "\n".join(TOPICS[1][:2]))
    logits = Scores([10 * score - 100 for score in scorer.scores])
    assert starts(TopicChunker(500, scorer=logits, block=1), TEXT) == [topic[0] for topic in TOPICS], "on any scale"


def test_a_heading_belongs_to_what_follows_and_sizes_hold() -> None:
    text = "# Leave\n\n## Parents\n\nTwelve weeks.\n\nPaid in full.\n\n# Travel\n\nTrains only.\n\n# End"
    chunks = TopicChunker(500, scorer=Scores([0.9, 0.1, 0.9]), threshold=0.5).split(Document("d", text))
    assert [chunk.text for chunk in chunks] == [text[: text.index("# Travel")].strip(), text[text.index("# Travel") :]]
    chunks = TopicChunker(40, embed=flat).split(Document("d", TEXT))
    assert max(len(chunk.text) for chunk in chunks) <= 40
    assert TopicChunker(40, embed=flat).split(Document("d", " \n\n ")) == []


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["# H", "a b.", "\n\n", "\n", " ", "\t", "\r\n\r\n", "c", "## "]), max_size=25).map(
        "".join
    )
)
def test_every_character_is_in_a_chunk(text: str) -> None:
    chunks = TopicChunker(12, embed=flat, threshold=2.0, block=1).split(Document("d", text))
    covered = {at for chunk in chunks for at in range(chunk.start, chunk.end)}
    assert covered >= {at for at, character in enumerate(text) if not character.isspace()}
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)


def test_linear_time() -> None:
    for text in ("\n " * 50_000, "\n\n" * 50_000, "# " * 50_000, "\n\na" * 5_000):
        started = time.process_time()
        TopicChunker(500, embed=flat).split(Document("d", text))
        assert time.process_time() - started < 5


def test_wrong_arguments_and_models() -> None:
    with pytest.raises(InputError, match="one of embed"):
        TopicChunker()
    with pytest.raises(InputError, match="one of embed"):
        TopicChunker(embed=flat, scorer=Scores([]))
    with pytest.raises(InputError, match="block=0"):
        TopicChunker(embed=flat, block=0)
    with pytest.raises(InputError, match=r"shape \(1,\) for 8 pairs"):
        TopicChunker(scorer=Scores([0.5])).split(Document("d", TEXT))
    with pytest.raises(NonFiniteVectorError, match="scorer returned"):
        TopicChunker(scorer=Scores([float("nan")] * 8)).split(Document("d", TEXT))
