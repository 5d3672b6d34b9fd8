"""Marks and attributions by the real model, against sentence-transformers' token vectors."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from situate.embedders import Embedder
from situate.errors import InputError, SpanError
from situate.retrievers import Highlighter, Hit, Index, Retriever
from situate.retrievers.cache_codecs import RESULTS
from situate.retrievers.highlight.covering import covering
from situate.retrievers.highlight.highlighter import _UNRELATED
from situate.types import Document

LEAVE = (
    "Parental leave is open to every employee. It is twelve weeks long and paid in full. "
    "The form is on the intranet.\n- Ask your manager first.\n- Pension contributions go on."
)
TRAVEL = "Flights are booked with the travel desk. Hotels cost at most 120 euros a night."
QUERY = "How long is the leave for parents?"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def highlighter(embedder: Embedder) -> Highlighter:
    return Highlighter(embedder)


def test_further_spans_are_chosen_for_what_they_add() -> None:
    matches = np.array([[1, 0, 0, 0], [0.9, 0.9, 0, 0], [0.8, 0.9, 0, 0], [0, 0, 1, 0]], dtype=np.float32)
    assert covering(matches, 4, 0.1) == [1, 3]
    assert covering(matches, 4, 0.02) == [1, 3, 0]
    assert covering(matches, 1, 0.0) == [1]
    assert covering(matches[:, :0], 2, 0.1) == covering(matches[:0], 2, 0.1) == []


def test_scores_are_bertscores_recall_rescaled(
    highlighter: Highlighter, hits: Callable[..., list[Hit]], minilm_path: str
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(minilm_path, device="cpu")

    def tokens(text: str, start: int = 0, end: int | None = None) -> np.ndarray:
        vectors = np.asarray(model.encode(text, output_value="token_embeddings", normalize_embeddings=False))
        offsets = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        chosen = [v for v, (a, b) in zip(vectors, offsets, strict=False) if a < b and a >= start and b <= (end or 999)]
        return np.array(chosen) / np.linalg.norm(chosen, axis=1, keepdims=True)

    def recall(targets: np.ndarray, found: np.ndarray) -> float:
        return float((found @ targets.T).max(axis=0).mean())

    others = [tokens(text) for text in _UNRELATED]
    baseline = np.mean([recall(a, b) for a in others for b in others if a is not b])
    [found] = highlighter.highlight(QUERY, hits(LEAVE))
    assert found.highlight is not None
    assert "It is twelve weeks long and paid in full." in found.highlight.spans
    for mark in found.highlight.marks:
        expected = (recall(tokens(QUERY), tokens(LEAVE, mark.start, mark.end)) - baseline) / (1 - baseline)
        assert mark.score == pytest.approx(expected, abs=1e-4)


async def test_hits_keep_everything_but_their_marks(highlighter: Highlighter, hits: Callable[..., list[Hit]]) -> None:
    given = hits(LEAVE, TRAVEL, LEAVE, " ", "...")
    found = highlighter.highlight(QUERY, given)
    assert [(h.chunk, h.score, dict(h.scores)) for h in found] == [(h.chunk, h.score, dict(h.scores)) for h in given]
    assert all(h.highlight is None for h in given)
    assert [h.highlight.text for h in found if h.highlight] == [h.chunk.text for h in given]
    assert found[0].highlight == found[2].highlight
    assert found[3].highlight is not None
    assert found[3].highlight.marks == ()
    again = await pickle.loads(pickle.dumps(highlighter)).ahighlight(QUERY, given)
    assert [h.highlight and h.highlight.spans for h in again] == [h.highlight and h.highlight.spans for h in found]
    assert all(h.highlight and not h.highlight.marks for h in highlighter.highlight("  ", given))
    assert highlighter.highlight(QUERY, []) == []


async def test_an_answer_is_attributed_to_the_passages_that_support_it(
    highlighter: Highlighter, hits: Callable[..., list[Hit]]
) -> None:
    answer = (
        "Parents get twelve weeks of leave, fully paid. A hotel room may cost up to 120 euros a night. "
        "The moon is made of green cheese."
    )
    given = hits(TRAVEL, LEAVE)
    found = highlighter.attribute(answer, given)
    assert [[each.text for each in claim.evidence][:1] for claim in found.claims] == [
        ["It is twelve weeks long and paid in full."],
        ["Hotels cost at most 120 euros a night."],
        [],
    ]
    assert [claim.supported for claim in found.claims] == [True, True, False]
    assert found.unsupported == ("The moon is made of green cheese.",)
    assert [hit.chunk.id for hit in found.sources] == [given[1].chunk.id, given[0].chunk.id]
    assert found.to_text().splitlines() == [
        "Parents get twelve weeks of leave, fully paid. [1] A hotel room may cost up to 120 euros a night. [2] "
        "The moon is made of green cheese.",
        "",
        "[1] document-1",
        "[2] document-0",
    ]
    assert await highlighter.aattribute(answer, given) == found
    assert highlighter.attribute("", given).claims == ()
    assert highlighter.attribute(answer, []).unsupported == tuple(answer[c.start : c.end] for c in found.claims)


def test_a_retriever_marks_its_hits_and_a_cache_keeps_the_marks(embedder: Embedder) -> None:
    index = Index(embedder)
    index.add([Document("leave", LEAVE), Document("travel", TRAVEL)])
    plain = Retriever(index, k=1).retrieve(QUERY)
    assert plain[0].highlight is None
    found = Retriever(index, k=1, highlight=True).retrieve(QUERY)
    assert [step.name for step in found.steps][-1] == "highlight"
    assert found[0].highlight is not None
    assert "It is twelve weeks long and paid in full." in found[0].highlight.spans
    assert RESULTS.decode(RESULTS.encode(found)).hits == found.hits
    assert RESULTS.decode(RESULTS.encode(plain)).hits == plain.hits


def test_wrong_arguments_are_refused(embedder: Embedder) -> None:
    for wrong in ({"at_most": 0}, {"gain": -1.0}, {"gain": float("nan")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Highlighter(embedder, **wrong)  # type: ignore[arg-type]
    with pytest.raises(SpanError, match=r"\(1, 9\) is empty or outside"):
        embedder.embed_span_tokens(["text"], [[(1, 9)]])
