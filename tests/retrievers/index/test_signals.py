"""Document-level scores and question vectors, against the same computed by hand and through a whole index."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from qdrant_client import QdrantClient

from situate.chunkers import Chunk, Document, Prompt, QuestionSituator, TextChunker
from situate.embedders import Embedder
from situate.errors import IncompatibleIndexError, InputError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.config import DocumentSignals, Feedback, LexicalScheme
from situate.retrievers.index.chunk_access import delete_chunks
from situate.retrievers.index.collection import Collection, Version
from situate.retrievers.index.lexical import LexicalEncoder, SparseVector
from situate.retrievers.index.payload import BM25, DENSE, DOCUMENT, DOCUMENT_BM25, QUESTIONS
from situate.retrievers.search.gateway import gateway
from situate.retrievers.search.hybrid import HybridSearch
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.signals.base import Batch
from situate.retrievers.storage.edge import EdgeClient
from tests.retrievers.search.test_search import best, min_max, unit

SIZE, DOCUMENTS, CHUNKS = 8, 12, 4
CONFIG = PipelineConfig(prefetch=15, document=DocumentSignals(dense=0.2, lexical=0.1), questions=0.25)


class Data:
    """Random vectors of 12 documents of 4 chunks, and a query's. Every second chunk answers questions."""

    def __init__(self) -> None:
        random = np.random.default_rng(11)
        self.dense = unit(random.normal(size=(DOCUMENTS, CHUNKS, SIZE)))
        self.documents = unit(self.dense.mean(1))
        self.questions = [
            [unit(random.normal(size=(n if j % 2 else 0, SIZE))) for j in range(CHUNKS)]
            for n in random.integers(1, 4, DOCUMENTS)
        ]
        # Each term stands in half of the chunks, and in half of the documents.
        self.terms, self.document_terms = (self._weights(random, n) for n in (DOCUMENTS * CHUNKS, DOCUMENTS))
        self.query = QueryVectors(unit(random.normal(size=SIZE)), SparseVector(np.arange(3), np.ones(3, np.float32)))

    @staticmethod
    def _weights(random: np.random.Generator, rows: int) -> np.ndarray:
        weights = np.zeros((rows, 6), dtype=np.float32)
        for term in range(6):
            weights[random.permutation(rows)[: rows // 2], term] = random.uniform(0.5, 2, rows // 2)
        return weights

    def versions(self) -> Iterator[Version]:
        for i in range(DOCUMENTS):
            document = Document(f"d{i:02}", "word " * CHUNKS, {"even": i % 2 == 0})
            yield Version(
                document.id,
                f"hash {document.id}",
                [Chunk.of(document, j, 5 * j, 5 * j + 4) for j in range(CHUNKS)],
                {
                    DENSE: self.dense[i],
                    BM25: [_sparse(self.terms[i * CHUNKS + j]) for j in range(CHUNKS)],
                    DOCUMENT: [self.documents[i], *[None] * (CHUNKS - 1)],
                    DOCUMENT_BM25: [_sparse(self.document_terms[i]), *[None] * (CHUNKS - 1)],
                    QUESTIONS: self.questions[i],
                },
            )

    def expected(self, dense: np.ndarray) -> np.ndarray:
        """Scores of all chunks by the formula, for this dense query vector."""
        chunk, asked = (self.dense @ dense).ravel(), np.full(DOCUMENTS * CHUNKS, -np.inf)
        for i, rows in enumerate(q for questions in self.questions for q in questions):
            if len(rows):
                asked[i] = (rows @ dense).max()
        lexical = _idf(DOCUMENTS * CHUNKS) * self.terms[:, :3].sum(1)
        near, answering = best(chunk, 15), best(asked, 15)
        lifted = np.full(len(chunk), chunk[near].min())
        lifted[near] = chunk[near]
        lifted[answering] += 0.25 * np.maximum(0, asked - lifted)[answering]
        similar = np.union1d(near, answering)
        base = (min_max(lifted, similar) + min_max(lexical, best(lexical, 15))) / 2
        found = np.union1d(similar, best(lexical, 15))
        of = np.arange(DOCUMENTS * CHUNKS) // CHUNKS
        document = (self.documents @ dense)[of]
        document_lexical = (_idf(DOCUMENTS) * self.document_terms[:, :3].sum(1))[of]
        # A document without any term of the query is not found, and counts as the least.
        with_terms = found[document_lexical[found] > 0]
        return 0.7 * min_max(base, found) + 0.2 * min_max(document, found) + 0.1 * min_max(document_lexical, with_terms)


def _idf(count: int) -> float:
    return float(np.log(1 + (count / 2 + 0.5) / (count / 2 + 0.5)))


def _sparse(weights: np.ndarray) -> SparseVector:
    return SparseVector(np.flatnonzero(weights), weights[weights > 0])


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


@pytest.fixture(scope="module", params=["edge", "local"])
def client(request: pytest.FixtureRequest, data: Data) -> Iterator[QdrantClient]:
    opened = EdgeClient() if request.param == "edge" else QdrantClient(":memory:")
    collection = Collection(gateway(opened, "c"))
    with warnings.catch_warnings():
        # The local mode warns that payload indexes have no effect there.
        warnings.simplefilter("ignore")
        collection.open({"model": "random"}, SIZE, CONFIG)
    collection.write(list(data.versions()))
    yield opened
    opened.close()


def found(client: QdrantClient, config: PipelineConfig, query: QueryVectors, **more: object) -> list[tuple[int, float]]:
    hits = HybridSearch(gateway(client, "c"), config).search(query, 10, **more)  # type: ignore[arg-type]
    return [(CHUNKS * int(hit.chunk.document_id[1:]) + hit.chunk.index, hit.score) for hit in hits]


def assert_equal(hits: Sequence[tuple[int, float]], expected: np.ndarray) -> None:
    assert [score for _, score in hits] == pytest.approx(sorted(expected, reverse=True)[:10], abs=1e-4)
    assert [expected[place] for place, _ in hits] == pytest.approx([score for _, score in hits], abs=1e-4)


def test_documents_and_questions_have_their_shares(client: QdrantClient, data: Data) -> None:
    assert_equal(found(client, CONFIG, data.query), data.expected(data.query.dense))
    hit = HybridSearch(gateway(client, "c"), CONFIG).search(data.query, 1)[0]
    assert {"fused", "document"} <= set(hit.scores)


def test_feedback_moves_what_they_are_compared_with(client: QdrantClient, data: Data) -> None:
    first = best(data.expected(data.query.dense), 2)
    moved = unit(data.query.dense + 0.5 * data.dense.reshape(-1, SIZE)[first].mean(0))
    hits = found(client, replace(CONFIG, feedback=Feedback(top=2, beta=0.5)), data.query)
    assert_equal(hits, data.expected(moved))


def test_a_question_lifts_its_chunk_and_lowers_none(client: QdrantClient, data: Data) -> None:
    """Chunks without questions do not lose, and distant questions do not gain."""
    config = PipelineConfig(lexical=None, questions=1.0, prefetch=DOCUMENTS * CHUNKS)
    dense = QueryVectors(data.query.dense)
    own = dict(found(client, replace(config, questions=0.0), dense))
    for (chunk, score), hit in zip(
        found(client, config, dense), HybridSearch(gateway(client, "c"), config).search(dense, 10), strict=True
    ):
        rows = data.questions[chunk // CHUNKS][chunk % CHUNKS]
        nearest = float((rows @ dense.dense).max()) if len(rows) else -1.0
        assert score == pytest.approx(max(hit.scores["dense"], nearest), abs=1e-4)
        assert hit.scores["dense"] == pytest.approx(own.get(chunk, hit.scores["dense"]), abs=1e-4)


def test_a_share_of_nothing_changes_nothing(client: QdrantClient, data: Data) -> None:
    without = found(client, replace(CONFIG, document=None, questions=0.0), data.query)
    assert found(client, replace(CONFIG, document=DocumentSignals(0.0, 0.0), questions=0.0), data.query) == without
    dense = QueryVectors(data.query.dense)
    assert len(found(client, CONFIG, dense)) == 10


def test_a_filter_holds(client: QdrantClient, data: Data) -> None:
    hits = HybridSearch(gateway(client, "c"), CONFIG).search(data.query, 24, {"even": True})
    assert len(hits) == 24
    assert all(hit.chunk.metadata["even"] for hit in hits)


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(InputError, match="together less than 1"):
        PipelineConfig(document=DocumentSignals(0.5, 0.5))
    with pytest.raises(InputError, match="each must be 0 or more"):
        PipelineConfig(document=DocumentSignals(-0.1, 0.5))
    for share in (-0.1, 1.1):
        with pytest.raises(InputError, match=rf"questions={share} is a share"):
            PipelineConfig(questions=share)
    with pytest.raises(InputError, match="need fusion='minmax'"):
        PipelineConfig(questions=0.2, fusion="rrf")
    with pytest.raises(InputError, match="needs lexical="):
        PipelineConfig(lexical=None, document=DocumentSignals())
    with pytest.raises(InputError, match="average_length=0"):
        PipelineConfig(document=DocumentSignals(average_length=0))


def test_they_are_off_in_the_presets_and_leave_older_indexes_as_they_are() -> None:
    for name in ("plain", "hybrid", "fast", "quality"):
        config = getattr(PipelineConfig, name)()
        assert config.document is None
        assert not config.questions
        assert set(config.stored()) == {"dense", "lexical", "token_vectors"}


# -- through an index ---------------------------------------------------------------------------------------------

FERRY = Document(
    "ferry", "The ferry to the island. " + "It leaves at nine and is back by noon. " * 3, {"title": "Ferry"}
)
BUS = Document("bus", "The bus to the airport. " + "It leaves at eight and is back by one. " * 3, {"title": "Bus"})
ORCHARD = Document("orchard", "Apples ripen in autumn. Pears keep in a cool cellar for months.")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


class Asks:
    """A stand-in that writes questions which share no word with the passage."""

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        return ["Which fruit can I harvest?\nHow is it stored?" if "Apples" in p.text else "?" for p in prompts]

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.generate(prompts)


def test_the_documents_vectors_are_those_of_its_chunks_and_its_words(embedder: Embedder) -> None:
    config = PipelineConfig(document=DocumentSignals(average_length=300))
    chunks = TextChunker(size=60).split(FERRY)
    dense = embedder.encode_chunks([(FERRY, chunks)], scheme=config.dense)[0].dense
    batch = Batch([(FERRY, chunks)], embedder, [dense])
    made = {signal.name: signal.encode(batch)[0] for signal in config.table}
    vector, terms = made[DOCUMENT][0], made[DOCUMENT_BM25][0]
    assert not any(value is not None for name in (DOCUMENT, DOCUMENT_BM25) for value in made[name][1:])
    mean = dense.mean(0)
    assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    whole = Chunk.of(FERRY, 0, 0, len(FERRY.text))
    assert config.lexical is not None
    scheme = replace(config.lexical, average_length=300, neighbours=0)
    expected = LexicalEncoder(scheme).encode_chunks([whole])[0]
    assert isinstance(terms, SparseVector)
    assert terms.indices.tolist() == expected.indices.tolist()
    assert terms.values == pytest.approx(expected.values)


def test_a_chunk_rises_with_its_document(embedder: Embedder) -> None:
    def first(config: PipelineConfig) -> str:
        with Index(embedder, chunker=TextChunker(size=40), config=config) as index:
            index.add([FERRY, BUS, ORCHARD])
            hits = [hit for hit in index.search("ferry to the island: back by when?", 20) if "back" in hit.chunk.text]
            return hits[0].chunk.document_id

    plain = PipelineConfig(lexical=LexicalScheme(context=(), neighbours=0))
    assert first(replace(plain, document=DocumentSignals(0.3, 0.3))) == "ferry"


def test_the_documents_vectors_go_on_with_its_remaining_chunks(embedder: Embedder) -> None:
    config = PipelineConfig(document=DocumentSignals(0.3, 0.2))
    with Index(embedder, chunker=TextChunker(size=40), config=config) as index:
        index.add([FERRY, BUS])
        before = index.search("the ferry", 20)
        assert all({"document", "document_bm25"} & set(hit.scores) for hit in before)
        first = index.get_chunks(["ferry"])[0]
        assert delete_chunks(index, [first.id]) == 1
        after = {hit.chunk.id: hit.scores["document"] for hit in index.search("the ferry", 20)}
        assert after == {
            hit.chunk.id: pytest.approx(hit.scores["document"], abs=1e-5) for hit in before if hit.chunk.id != first.id
        }
        # A new version brings its own.
        assert index.add([replace(FERRY, text=BUS.text), BUS]).replaced == 1
        scores = {hit.scores["document"] for hit in index.search("the ferry", 20)}
        assert max(scores) - min(scores) < 1e-3


@pytest.mark.filterwarnings("ignore::situate.chunkers.situators.generating.SituatingWarning")
def test_a_chunk_is_found_by_a_question_that_it_answers(embedder: Embedder) -> None:
    lexical = LexicalScheme(context=())
    situators = [QuestionSituator(Asks(), attempts=1, backoff=0.0)]
    with Index(embedder, situators=situators, config=PipelineConfig(lexical=lexical, questions=0.4)) as index:
        index.add([FERRY, BUS, ORCHARD])
        hits = index.search("How is it stored?", 5)
        assert hits[0].chunk.document_id == "orchard"
        assert hits[0].scores["questions"] == pytest.approx(1.0, abs=1e-3)
        # The nearest of its questions counts; a chunk without questions has no such score.
        one = embedder.embed_queries(["Which fruit can I harvest?", "How is it stored?", "fruit"])
        score = index.search("fruit", 5)[0].scores["questions"]
        assert score == pytest.approx(float(max(one[0] @ one[2], one[1] @ one[2])), abs=1e-3)
        assert all("questions" not in hit.scores for hit in hits if hit.chunk.document_id != "orchard")


def test_an_index_without_them_is_not_searched_with_them(embedder: Embedder, tmp_path: object) -> None:
    with Index(embedder, path=str(tmp_path)) as index:
        index.add([FERRY])
    for config in (
        replace(PipelineConfig.fast(), document=DocumentSignals()),
        replace(PipelineConfig.fast(), questions=0.2),
    ):
        with pytest.raises(IncompatibleIndexError, match=r"stored\.(document|questions)=None"):
            Index(embedder, path=str(tmp_path), config=config).count()
    with Index(embedder, path=str(tmp_path)) as index:
        assert index.count() == 1
