"""Token vectors: pooled, pruned, in bytes, and as one long vector, against the same computed another way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from sklearn.cluster import AgglomerativeClustering

from situate.embedders import ChunkScheme, Embedder, MultiVectorEmbedder
from situate.embedders.centre import SAMPLE
from situate.errors import IncompatibleIndexError, InputError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.rerank import StoredTokens
from situate.retrievers.signals.base import Batch, Signal
from situate.retrievers.signals.dense import Dense
from situate.retrievers.signals.muvera import Muvera
from situate.retrievers.signals.tokens import Tokens, pooled, pruned
from situate.types import Chunk, Document

DOCUMENTS = [
    Document("ferry", "The ferry to the island leaves at nine. It is back by noon."),
    Document("orchard", "Apples ripen in autumn. Pears keep in a cool cellar for months."),
    Document("council", "The council voted for the new bridge on Tuesday. Work begins in spring."),
]
QUERY = "How long do pears keep?"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def random_tokens(seed: int, count: int, size: int = 24) -> np.ndarray:
    """Vectors around a few directions, as the tokens of a text are."""
    random = np.random.default_rng(seed)
    topics = random.normal(size=(6, size))
    return unit(topics[random.integers(0, 6, count)] + random.normal(size=(count, size)))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_pooling_is_wards(factor: int) -> None:
    rows = random_tokens(factor, 41)
    # With a connectivity, scikit-learn merges by its own heap and not by scipy.
    model = AgglomerativeClustering(41 // factor, linkage="ward", connectivity=np.ones((41, 41)))
    labels = model.fit_predict(rows)
    expected = np.array([unit(rows[labels == i].mean(0)) for i in range(41 // factor)])
    found = pooled(rows, factor)
    assert len(found) == 41 // factor
    assert found[np.argsort(found[:, 0])] == pytest.approx(expected[np.argsort(expected[:, 0])], abs=1e-5)


def test_pooling_few_or_equal_vectors() -> None:
    rows = random_tokens(1, 3)
    assert pooled(rows, 1) is rows
    assert pooled(rows[:1], 4) is not None
    assert len(pooled(rows, 4)) == 1
    same = pooled(np.repeat(rows[:1], 8, 0), 2)
    assert same == pytest.approx(np.repeat(rows[:1], len(same), 0), abs=1e-6)


def test_pruning_drops_the_most_frequent_words(embedder: Embedder) -> None:
    text = "The ferry of the island"
    chunk = Chunk.of(document := Document("d", text), 0, 0, len(text))
    vectors = embedder.encode_chunks([(document, [chunk])], token_vectors=True)
    batch = Batch([(document, [chunk])], embedder, [vectors[0].dense], [vectors[0].tokens or ()])
    (kept,) = Tokens(prune=0.6).encode(batch)[0]
    # "the", "of" and "the" are gone.
    assert kept == pytest.approx((vectors[0].tokens or ())[0][[1, 4]])
    assert len(pruned(np.ones((1, 4), np.float32), [5], 0.9)) == 1
    with pytest.raises(InputError, match="pool_context=False"):
        pruned(np.ones((3, 4), np.float32), [5], 0.5)


def maxsim(embedder: Embedder, signal: Signal) -> dict[str, float]:
    with Index(embedder, config=PipelineConfig(signals=(signal,))) as index:
        index.add(DOCUMENTS)
        return {hit.chunk.document_id: hit.scores["maxsim"] for hit in index.search(QUERY, 3)}


def exact(embedder: Embedder, factor: int = 1) -> dict[str, float]:
    (query,) = embedder.embed_query_tokens([QUERY])
    documents = embedder.encode_chunks([(d, [Chunk.of(d, 0, 0, len(d.text))]) for d in DOCUMENTS], token_vectors=True)
    return {
        document.id: float((query @ pooled((made.tokens or ())[0], factor).T).max(1).sum())
        for document, made in zip(DOCUMENTS, documents, strict=True)
    }


@pytest.mark.parametrize("datatype", ["float32", "float16", "int8"])
def test_every_format_gives_maxsim(embedder: Embedder, datatype: str) -> None:
    """Qdrant's own bytes would cut the signs off; a cosine of two vectors in bytes is right to about .002."""
    (query,) = embedder.embed_query_tokens([QUERY])
    error = len(query) * {"float32": 1e-6, "float16": 5e-4, "int8": 2e-3}[datatype]
    assert maxsim(embedder, Tokens(datatype=datatype)) == pytest.approx(exact(embedder), abs=error)  # type: ignore[arg-type]


def test_pooled_tokens_are_scored(embedder: Embedder) -> None:
    assert maxsim(embedder, Tokens(pool=3, datatype="float32")) == pytest.approx(exact(embedder, 3), rel=1e-4)


def test_a_reranker_reads_tokens_that_are_stored_in_bytes(embedder: Embedder) -> None:
    with Index(embedder, config=PipelineConfig(signals=(Tokens(datatype="int8"),))) as index:
        index.add(DOCUMENTS)
        hits = index.search(QUERY, 3).hits
        stored = StoredTokens(index.client, index.collection)(hits)
    for hit in hits:
        (rows,) = embedder.embed_document_tokens([hit.chunk.text])
        assert stored[hit.chunk.id] == pytest.approx(rows, abs=1e-2)
    assert np.linalg.norm(stored[hits[0].chunk.id], axis=1) == pytest.approx(1, abs=1e-5)


def encoded(signal: Muvera, rows: np.ndarray, document: bool) -> np.ndarray:
    """The paper's definition, region by region (section 2.1), over the signal's random draws."""
    planes, signs = signal._random(rows.shape[1])
    out = []
    for r in range(signal.repetitions):
        own = planes[:, r * signal.bits : (r + 1) * signal.bits]
        code = [tuple(bool(x > 0) for x in row @ own) for row in rows]
        for region in range(2**signal.bits):
            bits = tuple(bool(region >> b & 1) for b in range(signal.bits))
            inside = [row for row, c in zip(rows, code, strict=True) if c == bits]
            if inside:
                value = np.mean(inside, 0) if document else np.sum(inside, 0)
            elif document:
                distance = [sum(x != y for x, y in zip(c, bits, strict=True)) for c in code]
                value = rows[int(np.argmin(distance))]
            else:
                value = np.zeros(rows.shape[1])
            if signs is not None:
                size = signal.projection or 0
                value = value @ signs[:, r * size : (r + 1) * size]
            out.append(value)
    return np.concatenate(out)


@pytest.mark.parametrize("projection", [None, 5])
def test_encodings_are_the_papers(projection: int | None) -> None:
    signal = Muvera(repetitions=3, bits=3, projection=projection, seed=7)
    rows = random_tokens(3, 9)
    assert signal.of_query(rows) == pytest.approx(encoded(signal, rows, False), abs=1e-5)
    assert signal.of_document(rows) == pytest.approx(encoded(signal, rows, True), abs=1e-5)


def test_their_dot_product_approximates_maxsim_the_better_the_more_repetitions() -> None:
    query = random_tokens(0, 8, 64)
    documents = [random_tokens(i, 30, 64) for i in range(40)]
    maxsims = [float((query @ rows.T).max(1).sum()) for rows in documents]

    def dots(signal: Muvera) -> list[float]:
        return [float(signal.of_query(query) @ signal.of_document(rows)) for rows in documents]

    few, many = dots(Muvera(repetitions=2, projection=4)), dots(Muvera(repetitions=40, projection=None))
    assert np.corrcoef(maxsims, few)[0, 1] < np.corrcoef(maxsims, many)[0, 1]
    assert np.corrcoef(maxsims, many)[0, 1] > 0.9
    # Document 0 is around the query's own directions. Two processes draw the same hyperplanes.
    assert int(np.argmax(many)) == int(np.argmax(maxsims)) == 0
    assert dots(Muvera(repetitions=2, projection=4)) == few


class Crowded:
    """A model whose token vectors, like E5's, lie around one direction."""

    def embed_document_tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.around(random_tokens(1000 + i, 20, 64)) for i in range(len(texts))]

    def around(self, rows: np.ndarray) -> np.ndarray:
        return unit(0.5 * rows + np.eye(1, 64, dtype=np.float32))


def test_token_vectors_around_one_direction_are_told_apart() -> None:
    model, question = Crowded(), random_tokens(0, 8, 64)
    shares = np.linspace(0, 1, 60)
    texts = [random_tokens(1 + i, 30, 64) for i in range(60)]
    documents = [
        model.around(unit(rows + share * np.resize(question, rows.shape)))
        for rows, share in zip(texts, shares, strict=True)
    ]
    query = model.around(question)
    maxsims = [float((query @ rows.T).max(1).sum()) for rows in documents]

    def agreement(signal: Muvera) -> float:
        (own,) = signal.around(model, [query])  # type: ignore[arg-type]
        encodings = [signal.of_document(rows) for rows in signal.around(model, documents)]  # type: ignore[arg-type]
        return float(spearmanr(maxsims, [signal.of_query(own) @ each for each in encodings]).statistic)

    assert 1 - agreement(Muvera()) < (1 - agreement(Muvera(centred=False))) / 2


def test_the_models_mean_is_taken_off(embedder: Embedder) -> None:
    (rows,) = embedder.embed_query_tokens(["When are pears ripe?"])
    sample = np.concatenate(embedder.embed_document_tokens(SAMPLE))
    (own,) = Muvera().around(embedder, [rows])
    assert own == pytest.approx(unit(rows - sample.mean(0)), abs=1e-5)
    assert Muvera(centred=False).around(embedder, [rows])[0] is rows
    assert "centred" not in Muvera(centred=False).stored()
    with Index(embedder, config=PipelineConfig(signals=(Muvera(repetitions=2),))) as index:
        index.add(DOCUMENTS)
        other = PipelineConfig(signals=(Muvera(repetitions=2, centred=False),))
        with pytest.raises(IncompatibleIndexError, match="centred"):
            Index(embedder, client=index.client, config=other).open()


def test_collections_of_before_keep_their_forms(embedder: Embedder, tmp_path: Path) -> None:
    """Neither encodings nor mixes of neighbours were made around the model's mean."""
    mixed, before = ChunkScheme(neighbours=0.4), ChunkScheme(neighbours=0.4, centred=False)
    instructed = Embedder(document_instruction="fact: ", scheme=before)
    old = PipelineConfig(
        dense=before,
        signals=(
            Muvera(repetitions=2, centred=False),
            Dense(scheme=before, name="again", weight=0.1),
            Dense(instructed, name="facts", weight=0.1),
            Tokens(model=instructed),
        ),
    )
    with Index(embedder, path=tmp_path, config=old) as index:
        index.add(DOCUMENTS[:2])
        expected = index.search(QUERY).hits
    now = PipelineConfig(
        dense=mixed,
        signals=(
            Muvera(repetitions=2),
            Dense(scheme=mixed, name="again", weight=0.1),
            Dense(Embedder(document_instruction="fact: ", scheme=mixed), name="facts", weight=0.1),
            Tokens(model=Embedder(document_instruction="fact: ", scheme=mixed)),
        ),
    )
    with Index(embedder, path=tmp_path, config=now) as index:
        assert index.search(QUERY).hits == expected
        assert index.config.stored() == old.stored()
        assert index.add(DOCUMENTS[:2]).unchanged == 2
        assert index.add(DOCUMENTS[2:]).added == len(DOCUMENTS) - 2
    with Index(embedder, path=tmp_path / "new", config=now) as index:
        assert index.open().config.stored() == now.stored() != old.stored()


def test_they_find_candidates_alone(embedder: Embedder) -> None:
    """With all of the weight nothing else is asked, and MaxSim has the last word."""
    signals = (Muvera(weight=1.0), Tokens(weight=1.0, datatype="float32"))
    with Index(embedder, config=PipelineConfig(signals=signals)) as index:
        index.add(DOCUMENTS)
        hits = index.search(QUERY, 3)
        assert {"muvera", "maxsim"} <= set(hits[0].scores)
        assert not {"dense", "bm25"} & set(hits[0].scores)
        assert [hit.chunk.document_id for hit in hits] == sorted(e := exact(embedder), key=lambda name: -e[name])
        assert hits[0].relevance is not None


@pytest.mark.filterwarnings("ignore::situate.errors.TruncationWarning")  # it reads 12 tokens, the sample has more
def test_a_trained_model_is_stored_and_asked(embedder: Embedder, colbert_path) -> None:
    trained = MultiVectorEmbedder(colbert_path, device="cpu", dtype="float32")
    texts = {"cat": "the cat sat on the mat .", "river": "old river runs ."}
    config = PipelineConfig(signals=(Tokens(trained, datatype="float32"), Muvera(trained, weight=0.2)))
    with Index(embedder, config=config) as index:
        index.add([Document(name, text) for name, text in texts.items()])
        found = {hit.chunk.document_id: hit.scores["maxsim"] for hit in index.search("the cat", 2)}
    (query,) = trained.embed_query_tokens(["the cat"])
    expected = {
        name: float((query @ rows.T).max(1).sum())
        for name, rows in zip(texts, trained.embed_document_tokens(list(texts.values())), strict=True)
    }
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Tokens(Embedder, weight=0.2), "is no model for this signal: give a MultiVectorEmbedder or Embedder"),
        (lambda: Tokens(pool=0), "pool=0"),
        (lambda: Tokens(prune=1.0), "prune=1.0"),
        (lambda: Tokens("some/colbert", prune=0.2), "leaves tokens out by itself"),
        (lambda: Tokens(MultiVectorEmbedder("m"), options={"dtype": "float32"}), "options .* are for a model's name"),
        (lambda: Muvera(bits=12), "40 repetitions \\* 2 \\*\\* 12 regions \\* 16 numbers has 2621440"),
        (lambda: Muvera(repetitions=0), "repetitions=0"),
        (lambda: PipelineConfig(signals=(Muvera(weight=0.7), Muvera(weight=0.7, name="b"))), "together at most 1"),
        (lambda: PipelineConfig(questions=0.2, signals=(Muvera(weight=1.0),)), "no share, which 'questions' could"),
    ],
)
def test_what_cannot_be_is_refused(make, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
