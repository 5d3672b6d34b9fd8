"""The index, with real weights and the real engine."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from situate.chunkers import Chunk, Document
from situate.embedders import ChunkScheme, Embedder
from situate.errors import IncompatibleIndexError, InputError, NonFiniteVectorError, ServerError, SpanError
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.collection import Collection, Version
from situate.retrievers.index.documents import EmptyDocumentWarning, IndexReport
from situate.retrievers.index.index import Index
from situate.retrievers.index.payload import DENSE, STATE, WRITING
from situate.retrievers.search.gateway import ClientGateway, gateway
from situate.retrievers.storage.edge import EdgeClient
from situate.retrievers.types import QueryText

CATS = Document("cats", "Cats sleep for most of the day. They hunt at night.", {"title": "Cats", "kind": "animal"})
BRIDGES = Document("bridges", "A suspension bridge hangs its deck from cables.", {"title": "Bridges", "kind": "work"})
BREAD = Document("bread", "Sourdough rises slowly, because wild yeast is slow.", {"title": "Bread", "year": 2020})
DOCUMENTS = [CATS, BRIDGES, BREAD]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture(params=["plain", "hybrid", "fast", "quality"])
def index(request: pytest.FixtureRequest, embedder: Embedder) -> Any:
    config = getattr(PipelineConfig, request.param)()
    with Index(embedder, config=config) as index:
        index.add(DOCUMENTS)
        yield index


def test_every_preset_finds_the_answer(index: Index) -> None:
    for query, wanted in (
        ("when do cats sleep?", "cats"),
        ("how does a suspension bridge work", "bridges"),
        ("yeast", "bread"),
    ):
        result = index.search(query, k=3)
        assert result[0].chunk.document_id == wanted
        assert [hit.score for hit in result] == sorted((hit.score for hit in result), reverse=True)
        assert not result.degraded


def test_a_hit_carries_the_chunk_as_it_was_cut(index: Index) -> None:
    hit = index.search("cats")[0]
    assert CATS.text[hit.chunk.start : hit.chunk.end] == hit.chunk.text
    assert hit.chunk.context.title == "Cats"
    assert hit.chunk.metadata == CATS.metadata


async def test_async_finds_the_same(index: Index) -> None:
    several = await asyncio.gather(*(index.asearch("cats at night") for _ in range(5)))
    once = index.search("cats at night")
    assert all([h.chunk for h in result] == [h.chunk for h in once] for result in several)


def test_a_hit_tells_the_score_of_each_stage(embedder: Embedder) -> None:
    with Index(embedder, config=PipelineConfig.quality()) as index:
        index.add(DOCUMENTS)
        scores = index.search("wild yeast", k=1)[0].scores
    assert set(scores) == {"dense", "bm25", "fused", "maxsim"}


def test_adding_again_changes_nothing(embedder: Embedder) -> None:
    with Index(embedder) as index:
        assert index.add(DOCUMENTS) == IndexReport(added=3, chunks=3)
        before = index.get_chunks(["cats", "bread"])
        assert index.add(DOCUMENTS) == IndexReport(unchanged=3)
        assert index.get_chunks(["cats", "bread"]) == before
        assert index.count() == 3


def test_a_changed_document_replaces_its_chunks(embedder: Embedder) -> None:
    with Index(embedder) as index:
        index.add(DOCUMENTS)
        long = " ".join(f"Sentence {number} tells of whales and of the sea." for number in range(60))
        assert index.add([Document("cats", long)]).replaced == 1
        assert index.document_ids() == ["bread", "bridges", "cats"]
        chunks = index.get_chunks(["cats"])
        assert len(chunks) > 1
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        assert all(long[chunk.start : chunk.end] == chunk.text for chunk in chunks)
        assert index.add([CATS]).replaced == 1
        assert index.get_chunks(["cats"])[0].text == CATS.text
        assert index.count() == 3


def test_equal_texts_of_two_documents_are_both_kept(embedder: Embedder) -> None:
    with Index(embedder) as index:
        index.add([Document("a", "The same words."), Document("b", "The same words.")])
        assert {hit.chunk.document_id for hit in index.search("same words")} == {"a", "b"}


def test_delete(embedder: Embedder) -> None:
    with Index(embedder) as index:
        index.add(DOCUMENTS)
        index.delete(["cats", "never there"])
        assert index.document_ids() == ["bread", "bridges"]
        assert "cats" not in {hit.chunk.document_id for hit in index.search("cats")}


def test_empty_documents_are_skipped_counted_and_reported(embedder: Embedder) -> None:
    with Index(embedder) as index:
        with pytest.warns(EmptyDocumentWarning, match="2 documents without text were not indexed: void, blank"):
            report = index.add([Document("void", ""), CATS, Document("blank", " \n\t")])
        assert report == IndexReport(added=1, skipped=("void", "blank"), chunks=1)


def test_filters(index: Index) -> None:
    assert {h.chunk.document_id for h in index.search("anything", filter={"kind": "animal"})} == {"cats"}
    assert {h.chunk.document_id for h in index.search("anything", filter={"kind": ["animal", "work"]})} == {
        "cats",
        "bridges",
    }
    assert {h.chunk.document_id for h in index.search("anything", filter={"year": 2020})} == {"bread"}
    assert len(index.search("anything", filter={"kind": "nothing"})) == 0
    with pytest.raises(InputError, match="the filter on 'kind'"):
        index.search("anything", filter={"kind": object()})


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(index: Index, k: int) -> None:
    with pytest.raises(InputError, match=f"k={k}"):
        index.search("cats", k=k)


def test_k_larger_than_the_index(index: Index) -> None:
    assert len(index.search("cats", k=500)) >= 1


@pytest.mark.parametrize("query", ["", "   \n"])
def test_an_empty_query_finds_nothing(index: Index, query: str) -> None:
    assert len(index.search(query)) == 0


def test_a_query_of_stop_words_is_searched_by_its_meaning(index: Index) -> None:
    assert len(index.search("what is it that they are")) > 0


def test_a_lone_surrogate_harms_nothing(index: Index) -> None:
    assert len(index.search("cats \ud800")) > 0


def test_search_texts_equals_the_formula() -> None:
    embedder = Embedder(dtype="float32")  # texts that are embedded together and alone differ less than in bfloat16
    texts = [QueryText("pets"), QueryText("Cats sleep.", role="document"), QueryText("They hunt.", "document", 2.0)]
    with Index(embedder, config=PipelineConfig.plain()) as index:
        index.add(DOCUMENTS)
        mean = embedder.embed_queries(["pets"])[0]
        mean = mean + embedder.embed_documents(["Cats sleep."])[0] + 2 * embedder.embed_documents(["They hunt."])[0]
        expected = embedder.embed_chunks(CATS, index.get_chunks(["cats"]))[0] @ (mean / np.linalg.norm(mean))
        hit = index.search_texts("pets", texts)[0]
    assert hit.chunk.document_id == "cats"
    assert hit.score == pytest.approx(float(expected), abs=1e-3)


def test_unknown_roles_and_weights_are_refused(embedder: Embedder) -> None:
    with Index(embedder) as index:
        with pytest.raises(InputError, match="unknown roles"):
            index.search_texts("q", [QueryText("q", role="answer")])
        with pytest.raises(InputError, match="a weight of more than 0"):
            index.search_texts("q", [QueryText("q", weight=0.0)])


def test_foreign_chunks(embedder: Embedder) -> None:
    chunks = [Chunk.of(CATS, 7, 0, 31), Chunk.of(CATS, 3, 32, 51)]
    with Index(embedder, config=PipelineConfig(dense=ChunkScheme(late=True))) as index:
        assert index.add_chunks([(CATS, chunks)]) == IndexReport(added=1, chunks=2)
        assert index.add_chunks([(CATS, chunks)]) == IndexReport(unchanged=1)
        assert [chunk.text for chunk in index.get_chunks(["cats"])] == [chunk.text for chunk in chunks]
        with pytest.raises(SpanError, match="does not hold that span"):
            index.add_chunks([(BREAD, chunks)])


def test_metadata_that_json_cannot_express_is_refused(embedder: Embedder) -> None:
    with Index(embedder) as index:
        with pytest.raises(InputError, match="metadata of document 'x' cannot be stored"):
            index.add([Document("x", "text", {"when": object()})])
        assert index.count() == 0


def test_an_empty_id_is_refused(embedder: Embedder) -> None:
    with Index(embedder) as index, pytest.raises(InputError, match="empty id"):
        index.add([Document("", "text")])


def test_nan_never_reaches_the_store() -> None:
    chunk = Chunk.of(CATS, 0, 0, 4)
    with pytest.raises(NonFiniteVectorError, match="'cats' got a vector with NaN"):
        Version("cats", "hash", [chunk], {DENSE: np.array([[np.nan, 1.0]], dtype=np.float32)})


def test_an_index_survives_closing_and_pickles_as_its_path(embedder: Embedder, tmp_path: Path) -> None:
    with Index(embedder, path=tmp_path / "store") as index:
        index.add(DOCUMENTS)
        found = index.search("cats")
    index = pickle.loads(pickle.dumps(index))
    with index:
        assert [hit.chunk for hit in index.search("cats")] == [hit.chunk for hit in found]
        assert index.add(DOCUMENTS).unchanged == 3
    with pytest.raises(InputError, match="cannot be pickled"):
        pickle.dumps(Index(embedder))


#: The name in an index's error -> settings that change nothing else of the fingerprint.
ENCODER_SETTINGS: dict[str, dict[str, Any]] = {
    "max_tokens": {"max_tokens": 128},
    "on_overflow": {"on_overflow": "warn"},
    "layers": {"layers": 3},
    "scheme.late": {"scheme": ChunkScheme(late=True)},
    "scheme.context": {"scheme": ChunkScheme(context=("title",))},
}


def test_another_encoder_or_configuration_is_refused_and_nothing_lost(embedder: Embedder, tmp_path: Path) -> None:
    with Index(embedder, path=tmp_path) as index:
        index.add(DOCUMENTS)
    other = Index(Embedder(document_instruction="passage: "), path=tmp_path)
    with pytest.raises(IncompatibleIndexError, match=r"encoder\.document_instruction"):
        other.search("cats")
    for name, settings in ENCODER_SETTINGS.items():
        with pytest.raises(IncompatibleIndexError) as raised:
            Index(Embedder(**settings), path=tmp_path).count()
        named = re.findall(r"encoder\.([\w.]+)=", str(raised.value))
        assert named == [name], "the setting that differs, and no other"
    with pytest.raises(IncompatibleIndexError, match=r"stored\.token_vectors"):
        Index(embedder, path=tmp_path, config=PipelineConfig.quality()).count()
    with Index(embedder, path=tmp_path) as index:
        assert index.count() == 3


def test_a_collection_of_another_library_is_refused(embedder: Embedder) -> None:
    from qdrant_client import models

    with EdgeClient() as client:
        client.create_collection("theirs", models.VectorParams(size=4, distance=models.Distance.DOT))
        with pytest.raises(IncompatibleIndexError, match="was not made by situate"):
            Index(embedder, client=client, collection="theirs").count()
        assert client.collection_exists("theirs")


class TestRepair:
    """A collection after a crash, written as the crash would leave it."""

    def _interrupted(self, embedder: Embedder, path: Path, points: slice, delete_old: bool) -> None:
        """Index CATS, then stop in the middle of replacing it by a new version of several chunks."""
        new = Document("cats", " ".join(f"Sentence {i} tells of whales and the sea." for i in range(60)))
        with Index(embedder, path=path) as index:
            index.add([CATS, BREAD])
            old = [str(r.id) for r in index.client.scroll(index.collection, limit=10)[0]]
            index.add([new])
            records = index.client.scroll(index.collection, limit=100, with_vectors=True)[0]
            written = [r for r in records if r.payload["document_id"] == "cats"]
            kept = sorted(written, key=lambda r: r.payload["index"])[points]
            index.client.set_payload(index.collection, {STATE: WRITING}, [r.id for r in written])
            index.client.delete(index.collection, [r.id for r in written if r not in kept])
            assert old
            if not delete_old:
                from qdrant_client import models

                # The old version's point, as it was before the interrupted write reached the deletion.
                with Index(embedder, config=index.config) as scratch:
                    scratch.add([CATS])
                    point = scratch.client.scroll(scratch.collection, limit=1, with_vectors=True)[0][0]
                index.client.upsert(
                    index.collection,
                    [models.PointStruct(id=point.id, vector=point.vector, payload={**point.payload, "version": 1})],
                )

    @staticmethod
    def _unmarked(index: Index) -> None:
        for record in index.client.scroll(index.collection, limit=100)[0]:
            assert STATE not in (record.payload or {})

    def test_a_half_written_version_is_undone_and_the_old_one_stays(self, embedder: Embedder, tmp_path: Path) -> None:
        self._interrupted(embedder, tmp_path, slice(0, 2), delete_old=False)
        with Index(embedder, path=tmp_path) as index:
            assert [chunk.text for chunk in index.get_chunks(["cats"])] == [CATS.text]
            assert index.document_ids() == ["bread", "cats"]
            self._unmarked(index)

    def test_a_version_that_is_whole_is_finished(self, embedder: Embedder, tmp_path: Path) -> None:
        self._interrupted(embedder, tmp_path, slice(None), delete_old=False)
        with Index(embedder, path=tmp_path) as index:
            assert all("whales" in chunk.text for chunk in index.get_chunks(["cats"]))
            assert index.count() == len(index.get_chunks(["cats"])) + 1
            self._unmarked(index)

    def test_only_the_mark_was_left(self, embedder: Embedder, tmp_path: Path) -> None:
        self._interrupted(embedder, tmp_path, slice(None), delete_old=True)
        with Index(embedder, path=tmp_path) as index:
            assert "whales" in index.get_chunks(["cats"])[0].text
            self._unmarked(index)

    def test_on_a_server_what_another_writer_just_began_is_left_alone(self, embedder: Embedder) -> None:
        with EdgeClient() as client:
            index = Index(embedder, client=client)
            index.add([CATS])
            point = client.scroll(index.collection)[0][0].id
            client.set_payload(index.collection, {STATE: WRITING, "chunks": 5}, [point])
            served = Collection(ClientGateway(client, index.collection))
            served.open(embedder.fingerprint, embedder.dimension, index.config)
            assert client.count(index.collection).count == 1
            owned = Collection(gateway(client, index.collection))
            owned.open(embedder.fingerprint, embedder.dimension, index.config)
            assert client.count(index.collection).count == 0


def test_writers_of_the_same_documents_lose_none(embedder: Embedder) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with Index(embedder) as index:
        index.add(DOCUMENTS)

        def rewrite(number: int) -> IndexReport:
            return index.add([Document(d.id, f"{d.text} Version {number % 3}.", d.metadata) for d in DOCUMENTS])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(rewrite, range(12)))
        assert index.document_ids() == ["bread", "bridges", "cats"]
        assert index.count() == 3


class TestTwoWriters:
    """Two writers of one document, each interrupted by the other at the worst moment."""

    def _open(self, client: EdgeClient, embedder: Embedder) -> Collection:
        collection = Collection(gateway(client, "c"))
        collection.open(embedder.fingerprint, embedder.dimension, PipelineConfig.plain())
        return collection

    def _version(self, text: str, pieces: int) -> Version:
        size = len(text) // pieces
        chunks = [
            Chunk(f"{text[:3]}-{i}", "d", i, text[i * size : (i + 1) * size], i * size, (i + 1) * size)
            for i in range(pieces)
        ]
        return Version("d", text, chunks, {DENSE: np.eye(384, dtype=np.float32)[:pieces]})

    def _stored(self, client: EdgeClient) -> list[tuple[str, str | None]]:
        payloads = [record.payload or {} for record in client.scroll("c", limit=100)[0]]
        return sorted((p["text"], p.get(STATE)) for p in payloads)

    def test_an_older_writer_that_is_overtaken(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its points arrive after the newer writer's search for older ones, and are deleted nevertheless."""
        with EdgeClient() as client:
            older, newer = self._open(client, embedder), self._open(client, embedder)
            upsert = client.upsert

            def overtaken(*args: Any, **kwargs: Any) -> Any:
                monkeypatch.setattr(client, "upsert", upsert)
                newer.write([self._version("the newer words", 3)])
                return upsert(*args, **kwargs)

            monkeypatch.setattr(client, "upsert", overtaken)
            older.write([self._version("older words", 2)])
            assert self._stored(client) == [("ewer ", None), ("the n", None), ("words", None)]

    def test_a_crash_while_the_same_words_are_written_again(
        self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An acknowledged write of the first writer is not undone with the second's incomplete one."""
        monkeypatch.setattr("situate.retrievers.index.collection.BATCH_POINTS", 2)
        with EdgeClient() as client:
            collection = self._open(client, embedder)
            version = self._version("the very same words", 4)
            collection.write([version])
            before = self._stored(client)
            upsert, calls = client.upsert, iter([True, False])

            def killed(*args: Any, **kwargs: Any) -> Any:
                if not next(calls):
                    raise KeyboardInterrupt
                return upsert(*args, **kwargs)

            monkeypatch.setattr(client, "upsert", killed)
            with pytest.raises(KeyboardInterrupt):
                collection.write([version])
            assert [state for _, state in self._stored(client)].count(WRITING) == 2
            self._open(client, embedder)
            assert self._stored(client) == before
            numbers = {(record.payload or {})["version"] for record in client.scroll("c")[0]}
            assert len(numbers) == 1

    def test_both_make_the_collection(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        with EdgeClient() as client:
            monkeypatch.setattr(client, "collection_exists", lambda name: False)
            self._open(client, embedder)
            self._open(client, embedder)
            with pytest.raises(IncompatibleIndexError):
                Collection(gateway(client, "c")).open(embedder.fingerprint, 384, PipelineConfig.fast())


def test_an_index_opens_its_client_when_it_is_used_and_where(embedder: Embedder, tmp_path: Path) -> None:
    """A function in place of a client: pickled by name, called at first use, closed with the index."""
    index = Index(embedder, client=partial(EdgeClient, tmp_path / "store"))
    copy = pickle.loads(pickle.dumps(index))
    assert not (tmp_path / "store").exists()
    with index:
        index.add([CATS])
        client = index.client
    assert isinstance(client, EdgeClient)
    assert client.closed
    with copy:
        assert copy.document_ids() == ["cats"]


async def test_an_index_takes_every_location(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL is not a folder: it is contacted, and nothing is made on the disk."""
    monkeypatch.setattr("situate.retrievers.storage.server.FIRST_WAIT", 0.001)
    monkeypatch.chdir(tmp_path)
    for path in ("http://127.0.0.1:9", ["http://127.0.0.1:9", "http://127.0.0.1:10"]):
        index = Index(embedder, path=path)
        assert pickle.loads(pickle.dumps(index)).path == path
        with pytest.raises(ServerError, match=r"http://127\.0\.0\.1:9"):
            await index.asearch("cats")
    assert os.listdir(tmp_path) == []
    with Index(embedder, path=str(tmp_path / "store")) as index:
        index.add([CATS])
        assert (await index.asearch("cats"))[0].chunk.document_id == "cats"


def test_a_served_model_without_a_tokenizer_is_chunked_by_characters() -> None:
    from situate.embedders.models.families import Family
    from tests.retrievers.index.crash_writer import HashEncoder

    served = Embedder("nobody/served-model", encoder=HashEncoder(), family=Family("served", "the test"))
    with Index(served) as index:
        index.add([Document("long", "Some words of a sentence. " * 100)])
        assert max(len(chunk.text) for chunk in index.get_chunks(["long"])) in range(400, 801)
