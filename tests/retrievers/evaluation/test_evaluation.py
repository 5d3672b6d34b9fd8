"""Measures against values worked out by hand, and the reading of sets."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from situate.chunkers import Chunk, Document, Prompt, TextChunker
from situate.embedders import Embedder
from situate.embedders.types import Encoded, SpanEncoder, SpanText
from situate.errors import InputError, StorageError, StoreCorruptError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation import (
    CachedEncoder,
    Comparison,
    EncodingStore,
    EvaluationSet,
    Judgement,
    compare,
    evaluate,
    load_beir,
    load_jsonl,
    write_questions,
)
from situate.retrievers.types import Hit

A, B, C = (Document(name, name * 100) for name in "abc")
WHOLE = EvaluationSet("whole", [A, B, C], {"q": "query"}, [Judgement("q", "a", 2), Judgement("q", "c", 1)])
EXCERPTS = EvaluationSet("excerpts", [A], {"q": "query"}, [Judgement("q", "a", 1, ((10, 30), (50, 60)))])


def hit(document: Document, start: int, end: int, score: float = 1.0) -> Hit:
    return Hit(Chunk.of(document, 0, start, end), score)


def test_ndcg_takes_a_document_where_its_best_chunk_stands() -> None:
    ranked = [hit(B, 0, 5), hit(A, 0, 5), hit(B, 5, 9), hit(A, 9, 12), hit(C, 0, 5)]
    scores = evaluate(WHOLE, lambda _: ranked, ["nDCG@10", "RR@10", "R@2"])
    ideal = 1 + 1 / math.log2(3)
    assert scores["nDCG@10"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(4)) / ideal)
    assert scores["RR@10"] == pytest.approx(0.5)
    assert scores["R@2"] == pytest.approx(0.5)


def test_grades_count_unless_binary() -> None:
    ranked = [hit(C, 0, 5), hit(A, 0, 5)]
    graded = evaluate(WHOLE, lambda _: ranked, ["nDCG@10"], binary=False)["nDCG@10"]
    assert graded == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))
    assert evaluate(WHOLE, lambda _: ranked, ["nDCG@10"])["nDCG@10"] == pytest.approx(1.0)


def test_characters_of_excerpts_are_counted_once() -> None:
    ranked = [hit(A, 0, 20), hit(A, 15, 25), hit(A, 50, 60)]
    measures = ["char_recall@2", "char_precision@2", "char_iou@2", "char_recall@3"]
    scores = evaluate(EXCERPTS, lambda _: ranked, measures)
    assert scores["char_recall@2"] == pytest.approx(15 / 30)
    assert scores["char_precision@2"] == pytest.approx(15 / 25)
    assert scores["char_iou@2"] == pytest.approx(15 / 40)
    assert scores["char_recall@3"] == pytest.approx(25 / 30)


def test_an_excerpt_has_the_rank_of_the_first_chunk_that_shares_half_with_it() -> None:
    other = Judgement("r", "a", 1, ((40, 50),))
    data = EvaluationSet("both", [A], {"q": "query", "r": "other"}, [*EXCERPTS.judgements, other])
    # Too little of the first excerpt; the other query's; half of the first; all of the last with as much again.
    ranked = [hit(A, 25, 40), hit(A, 40, 50), hit(A, 20, 40), hit(A, 45, 65)]
    scores = evaluate(data, lambda _: ranked, ["excerpt_nDCG@10", "excerpt_RR@10"])
    ideal = 1 + 1 / math.log2(3)
    assert scores["excerpt_nDCG@10"] == pytest.approx([(1 / math.log2(3) + 1 / math.log2(4)) / ideal, 1.0])
    assert scores["excerpt_RR@10"] == pytest.approx([0.5, 1.0])


def test_a_token_budget_takes_whole_chunks() -> None:
    ranked = [hit(A, 0, 20), hit(A, 20, 30), hit(A, 50, 60)]
    scores = evaluate(EXCERPTS, lambda _: ranked, ["char_recall@35tokens"], count_tokens=len)
    assert scores["char_recall@35tokens"] == pytest.approx(20 / 30)
    with pytest.raises(InputError, match="count_tokens"):
        evaluate(EXCERPTS, lambda _: ranked, ["char_recall@35tokens"])


def test_nothing_found_scores_zero() -> None:
    assert evaluate(WHOLE, lambda _: [], ["nDCG@10"])["nDCG@10"] == 0
    assert evaluate(EXCERPTS, lambda _: [], ["char_recall@5"])["char_recall@5"] == 0


def test_unfitting_measures_are_refused() -> None:
    with pytest.raises(InputError, match="judged excerpts"):
        evaluate(WHOLE, lambda _: [], ["char_recall@5"])
    with pytest.raises(InputError, match="judged excerpts"):
        evaluate(WHOLE, lambda _: [], ["excerpt_nDCG@10"])
    with pytest.raises(InputError, match="not a measure"):
        evaluate(WHOLE, lambda _: [], ["goodness@10"])


def test_a_comparison_brackets_the_true_difference() -> None:
    random = np.random.default_rng(3)
    base = random.uniform(size=400)
    comparison = Comparison("s", {"base": {"m": base}, "better": {"m": base + random.normal(0.1, 0.2, 400)}})
    interval = comparison.difference("better", "base", "m")
    assert interval.low < 0.1 < interval.high
    assert interval.clear
    assert not comparison.difference("base", "base", "m").clear
    table = comparison.table("base")
    assert "| base |" in table
    assert f"{100 * interval.mean:+.1f} [" in table
    assert json.loads(comparison.to_json("base"))["configurations"]["better"]["m"]["difference"]["low"] == interval.low


def test_a_comparison_is_drawn(tmp_path: Path) -> None:
    searches = {"one": lambda _: [hit(A, 0, 20)], "two": lambda _: [hit(A, 0, 60)]}
    comparison = compare(EXCERPTS, searches, ["char_recall@1"])
    comparison.plot(tmp_path / "plot.png", "char_recall@1", "one")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_sets_are_read(tmp_path: Path) -> None:
    def write(name: str, *rows: dict[str, object]) -> None:
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

    write("documents.jsonl", {"id": "d", "title": "T", "text": "abc"})
    write("queries.jsonl", {"id": "q", "text": "what?"})
    write("qrels.jsonl", {"query_id": "q", "document_id": "d", "spans": [[0, 2]], "grade": 1})
    data = load_jsonl(tmp_path)
    assert data.documents[0].title == "T"
    assert data.judgements == [Judgement("q", "d", 1.0, ((0, 2),))]
    write("corpus.jsonl", {"_id": "d", "title": "T", "text": "abc"})
    write("queries.jsonl", {"_id": "q", "text": "what?"}, {"_id": "unjudged", "text": "?"})
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n", encoding="utf-8")
    data = load_beir(tmp_path)
    assert dict(data.queries) == {"q": "what?"}
    assert not data.has_spans
    with pytest.raises(InputError, match=r"dev\.tsv is missing"):
        load_beir(tmp_path, "dev")


def test_questions_are_written_from_passages() -> None:
    class Model:
        def generate(self, prompts: list[Prompt]) -> list[str]:
            return ["" if "bread" in p.text else f"What of {p.text.split()[1]}?\nIgnored line" for p in prompts]

        async def agenerate(self, prompts: list[Prompt]) -> list[str]:
            return self.generate(prompts)

    documents = [Document("cats", "Cats sleep all day long."), Document("bread", "There is bread, and only bread.")]
    data = write_questions(documents, TextChunker(size=100), Model(), questions=5)
    assert len(data.queries) == 1
    (judgement,) = data.judgements
    assert judgement.document_id == "cats"
    assert judgement.spans == ((0, len(documents[0].text)),)
    with pytest.raises(InputError, match="0 passages"):
        write_questions([Document("empty", "")], TextChunker(), Model())


class Counting:
    """An encoder that counts its inputs."""

    def __init__(self, encoder: SpanEncoder) -> None:
        self.encoder = encoder
        self.asked = 0

    @property
    def dimension(self) -> int:
        return self.encoder.dimension

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        self.asked += len(inputs)
        return self.encoder.encode(inputs, token_vectors=token_vectors)

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        return self.encode(inputs, token_vectors=token_vectors)


@pytest.fixture(scope="module")
def encoder() -> SpanEncoder:
    return Embedder().encoder


TEXTS = [SpanText("Cats sleep."), SpanText("Bread rises slowly.", ((0, 5), (6, 19))), SpanText("Cats sleep.")]


class TestEncodingsAreKept:
    def cached(self, encoder: SpanEncoder, path: Path, **more: Any) -> tuple[CachedEncoder, Counting]:
        counting = Counting(encoder)
        return CachedEncoder(counting, EncodingStore(path, **more), {"model": "a"}), counting

    @pytest.mark.parametrize("token_vectors", [False, True])
    async def test_a_second_run_encodes_nothing(
        self, encoder: SpanEncoder, tmp_path: Path, token_vectors: bool
    ) -> None:
        first, counting = self.cached(encoder, tmp_path / "new" / "kept.sqlite")
        wanted = encoder.encode(TEXTS, token_vectors=token_vectors)
        made = first.encode(TEXTS, token_vectors=token_vectors)
        assert counting.asked == 2
        again, counting = self.cached(encoder, tmp_path / "new" / "kept.sqlite")
        read = await again.aencode(TEXTS, token_vectors=token_vectors)
        assert counting.asked == 0
        for expected, one, other in zip(wanted, made, read, strict=True):
            assert np.allclose(expected.vectors, other.vectors, atol=1e-6)
            assert np.array_equal(one.vectors, other.vectors)
            assert (other.tokens is not None) == token_vectors
            for mine, theirs, exact in zip(one.tokens or (), other.tokens or (), expected.tokens or (), strict=True):
                assert np.array_equal(mine, theirs)
                assert np.allclose(theirs, exact, atol=1e-3)

    def test_another_encoder_or_kind_is_encoded_anew(self, encoder: SpanEncoder, tmp_path: Path) -> None:
        first, _ = self.cached(encoder, tmp_path / "kept.sqlite")
        first.encode(TEXTS)
        _, counting = self.cached(encoder, tmp_path / "kept.sqlite")
        CachedEncoder(counting, first.store, {"model": "b"}).encode(TEXTS)
        assert counting.asked == 2
        CachedEncoder(counting, first.store, {"model": "a"}).encode(TEXTS, token_vectors=True)
        assert counting.asked == 4
        # Results with token vectors serve requests without them.
        CachedEncoder(counting, first.store, {"model": "c"}).encode(TEXTS, token_vectors=True)
        assert counting.asked == 6
        (one, *_) = CachedEncoder(counting, first.store, {"model": "c"}).encode(TEXTS)
        assert counting.asked == 6
        assert one.tokens is None
        with pytest.raises(InputError, match="fingerprint"):
            CachedEncoder(encoder, tmp_path / "kept.sqlite")

    def test_texts_read_least_recently_are_deleted_first(self, encoder: SpanEncoder, tmp_path: Path) -> None:
        cached, counting = self.cached(encoder, tmp_path / "kept.sqlite", max_bytes=10_000)
        texts = [SpanText(f"Sentence {number}.") for number in range(20)]
        for text in texts:
            cached.encode([texts[0], text])
        assert cached.store is not None
        assert 5_000 < cached.store.size() <= 10_000
        before = counting.asked
        cached.encode([texts[0], texts[19]])
        assert counting.asked == before
        cached.encode([texts[1]])
        assert counting.asked == before + 1

    def test_a_file_that_is_something_else_is_named(self, encoder: SpanEncoder, tmp_path: Path) -> None:
        (tmp_path / "kept.sqlite").write_bytes(b"not a database" * 100)
        cached, _ = self.cached(encoder, tmp_path / "kept.sqlite")
        with pytest.raises(StoreCorruptError, match=r"kept\.sqlite"):
            cached.encode(TEXTS)
        (tmp_path / "folder.sqlite").mkdir()
        cached, _ = self.cached(encoder, tmp_path / "folder.sqlite")
        with pytest.raises(StorageError, match=r"folder\.sqlite"):
            cached.encode(TEXTS)

    def test_a_search_through_kept_encodings_finds_the_same(self, tmp_path: Path) -> None:
        documents = [Document("cats", "Cats sleep all day long."), Document("bread", "Bread rises slowly.")]
        found = []
        for _ in range(2):
            embedder = Embedder(encoder=CachedEncoder.of(Embedder(), tmp_path / "kept.sqlite"))
            with Index(embedder, config=PipelineConfig.quality()) as index:
                index.add(documents)
                found.append([(hit.chunk.id, hit.score) for hit in index.search("yeast")])
        assert found[0] == found[1]
