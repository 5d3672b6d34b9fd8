"""The vector store on real Qdrant Edge: LlamaIndex's interface, and common mistakes of its users."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import models

from situate.embedders import ChunkScheme, Embedder
from situate.errors import IncompatibleIndexError, InputError, NonFiniteVectorError
from situate.integrations.llama_index import SituateVectorStore
from situate.integrations.llama_index.points import point_id
from situate.retrievers import LexicalScheme
from situate.retrievers.storage.edge import EdgeClient

UUID_ID = "0a2c6c7e-6d0e-4a3e-9f43-0d9f6f1b2c3d"
TEXTS = {
    "first node": "The travel budget is approved by the finance team.",
    UUID_ID: "Expense reports are due on the fifth working day.",
    "ümlaut/ä?": "The travel desk books trains, and sometimes planes.",
    "4": "Lunch is served at noon.",
}


def nodes() -> list[TextNode]:
    return [
        TextNode(
            id_=node_id,
            text=text,
            embedding=[1.0, i / 2, 0.5],
            metadata={"place": i, "title": f"Page {i}"},
            excluded_llm_metadata_keys=["place"],
            start_char_idx=i,
            end_char_idx=i + len(text),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc-{i % 2}")},
        )
        for i, (node_id, text) in enumerate(TEXTS.items())
    ]


@pytest.fixture(params=["memory", "folder", "client"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SituateVectorStore]:
    match request.param:
        case "memory":
            store = SituateVectorStore()
        case "folder":
            store = SituateVectorStore(path=str(tmp_path / "store"))
        case _:
            store = SituateVectorStore(client=EdgeClient(":memory:"), collection_name="theirs")
    yield store
    store.close()


@pytest.mark.parametrize(
    ("settings", "distance"),
    [({}, models.Distance.COSINE), ({"similarity": "dot"}, models.Distance.DOT)],
)
def test_vectors_are_compared_as_they_were_meant_to_be(settings: dict[str, Any], distance: models.Distance) -> None:
    store = SituateVectorStore(**settings)
    store.add(
        [TextNode(id_="short", text="a", embedding=[1.0, 0.0]), TextNode(id_="long", text="b", embedding=[2.0, 2.0])]
    )
    assert store.client.get_collection("llama_index").config.params.vectors["dense"].distance == distance
    found = store.query(VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=1))
    assert found.ids == ["long" if settings else "short"]
    store.close()


def query(mode: str = "default", k: int = 10, **settings: Any) -> VectorStoreQuery:
    return VectorStoreQuery(
        query_embedding=[1.0, 0.0, 0.5],
        query_str="travel budget",
        mode=VectorStoreQueryMode(mode),
        similarity_top_k=k,
        **settings,
    )


def test_nodes_come_back_as_they_went_in(store: SituateVectorStore) -> None:
    assert store.add(nodes()) == list(TEXTS)
    back = store.get_nodes(node_ids=["4", UUID_ID, "nobody", "first node"])
    assert [node.node_id for node in back] == ["4", UUID_ID, "first node"]
    for node in back:
        original = next(n for n in nodes() if n.node_id == node.node_id)
        assert node.embedding is not None
        length = sum(x * x for x in original.embedding or []) ** 0.5
        assert node.embedding == pytest.approx([x / length for x in original.embedding or []])
        node.embedding = original.embedding
        assert node == original


def test_adding_again_replaces(store: SituateVectorStore) -> None:
    store.add(nodes())
    changed = nodes()[0]
    changed.set_content("The budget was changed.")
    store.add([changed])
    assert len(store.get_nodes()) == len(TEXTS)
    assert store.get_nodes(node_ids=["first node"])[0].get_content() == "The budget was changed."


def test_more_than_one_page(store: SituateVectorStore) -> None:
    many = [TextNode(id_=f"n{i}", text=f"text {i}", embedding=[1.0, i / 600, 0.0]) for i in range(600)]
    store.add(many)
    assert {node.node_id for node in store.get_nodes()} == {node.node_id for node in many}


@pytest.mark.parametrize("mode", ["default", "sparse", "text_search", "hybrid", "mmr"])
def test_modes(store: SituateVectorStore, mode: str) -> None:
    store.add(nodes())
    result = store.query(query(mode))
    assert result.ids is not None
    assert result.similarities is not None
    assert result.ids[0] == "first node"
    assert result.nodes is not None
    assert [node.node_id for node in result.nodes] == result.ids
    assert all(type(score) is float for score in result.similarities)
    if mode in ("sparse", "text_search"):
        assert set(result.ids) == {"first node", "ümlaut/ä?"}
    else:
        assert set(result.ids) == set(TEXTS)


def test_default_scores_are_cosines(store: SituateVectorStore) -> None:
    store.add(nodes())
    result = store.query(query())
    wanted = [(1 + 0.25) / ((1 + 0.25) ** 0.5 * (1 + (i / 2) ** 2 + 0.25) ** 0.5) for i in range(len(TEXTS))]
    assert result.similarities == pytest.approx(wanted, abs=1e-6)


def test_alpha_goes_from_bm25_to_dense(store: SituateVectorStore) -> None:
    store.add(nodes())
    dense, sparse = store.query(query()).ids, store.query(query("sparse")).ids
    assert store.query(query("hybrid", alpha=1)).ids == dense
    assert store.query(query("hybrid", alpha=0)).ids == sparse
    # "ümlaut/ä?" has a word in common with the query, UUID_ID is nearer.
    lexical, semantic = (store.query(query("hybrid", alpha=alpha)).ids or [] for alpha in (0.1, 0.9))
    assert lexical.index("ümlaut/ä?") < lexical.index(UUID_ID)
    assert semantic.index(UUID_ID) <= lexical.index(UUID_ID)


def test_limits(store: SituateVectorStore) -> None:
    store.add(nodes())
    assert len(store.query(query(k=2)).ids or []) == 2
    assert len(store.query(query("sparse", k=5, sparse_top_k=1)).ids or []) == 1
    assert len(store.query(query("hybrid", k=1, hybrid_top_k=3)).ids or []) == 3


def test_stop_words_alone(store: SituateVectorStore) -> None:
    store.add(nodes())
    for mode, wanted in {"sparse": set[str](), "hybrid": set(TEXTS)}.items():
        nothing = VectorStoreQuery([1.0, 0.0, 0.5], 10, query_str="the of and", mode=VectorStoreQueryMode(mode))
        assert set(store.query(nothing).ids or []) == wanted


def test_mmr_prefers_what_is_different(store: SituateVectorStore) -> None:
    vectors = {"a": [1.0, 0.0, 0.0], "a2": [0.999, 0.02, 0.0], "b": [0.8, 0.0, 0.6]}
    store.add([TextNode(id_=name, text=name, embedding=vector) for name, vector in vectors.items()])

    def found(threshold: float, **given: Any) -> list[str]:
        wanted = VectorStoreQuery([1.0, 0.0, 0.0], 2, mode=VectorStoreQueryMode.MMR, **given)
        return store.query(wanted, **({} if given else {"mmr_threshold": threshold})).ids or []

    assert found(1.0) == ["a", "a2"]
    assert found(0.2) == ["a", "b"]
    assert found(0.2, mmr_threshold=0.2) == ["a", "b"]


def test_ids_documents_and_filters_narrow_together(store: SituateVectorStore) -> None:
    store.add(nodes())
    even = MetadataFilters(
        filters=[
            MetadataFilter(key="place", value=2, operator=FilterOperator.LTE),
            MetadataFilter(key="title", value="PAGE 0", operator=FilterOperator.TEXT_MATCH_INSENSITIVE),
        ],
        condition=FilterCondition.OR,
    )
    for mode in ("default", "hybrid", "mmr"):
        assert set(store.query(query(mode, doc_ids=["doc-0"])).ids or []) == {"first node", "ümlaut/ä?"}
        assert set(store.query(query(mode, node_ids=["4", UUID_ID])).ids or []) == {"4", UUID_ID}
        assert set(store.query(query(mode, filters=even)).ids or []) == set(TEXTS) - {"4"}
        assert store.query(query(mode, filters=even, doc_ids=["doc-1"])).ids == [UUID_ID]


def test_qdrant_filters_come_on_top(store: SituateVectorStore) -> None:
    from qdrant_client import models

    store.add(nodes())
    where = models.Filter(must=[models.FieldCondition(key="place", range=models.Range(gte=1))])
    assert set(store.query(query(doc_ids=["doc-0"]), qdrant_filters=where).ids or []) == {"ümlaut/ä?"}


def test_deleting(store: SituateVectorStore) -> None:
    store.add(nodes())
    store.delete("doc-1")
    assert {node.node_id for node in store.get_nodes()} == {"first node", "ümlaut/ä?"}
    store.delete("doc-1")
    store.delete_nodes(node_ids=["first node", "nobody"])
    assert {node.node_id for node in store.get_nodes()} == {"ümlaut/ä?"}
    store.add(nodes())
    store.delete_nodes(
        filters=MetadataFilters(filters=[MetadataFilter(key="place", value=1, operator=FilterOperator.GT)])
    )
    assert {node.node_id for node in store.get_nodes()} == {"first node", UUID_ID}
    with pytest.raises(InputError, match="clear"):
        store.delete_nodes()
    store.clear()
    assert store.get_nodes() == []
    assert store.query(query()).ids == []
    store.clear()
    assert store.add(nodes())[0] == "first node"


def test_an_empty_store_answers_with_nothing(store: SituateVectorStore) -> None:
    assert store.add([]) == []
    assert store.query(query("hybrid")).nodes == []
    assert store.get_nodes() == []
    store.delete("doc-0")
    store.delete_nodes(node_ids=["4"])


async def test_async_twins(store: SituateVectorStore) -> None:
    assert await store.async_add(nodes()) == list(TEXTS)
    for mode in ("default", "sparse", "hybrid", "mmr"):
        assert (await store.aquery(query(mode))).ids == store.query(query(mode)).ids
    assert [n.node_id for n in await store.aget_nodes(node_ids=["4"])] == ["4"]
    await store.adelete("doc-0")
    await store.adelete_nodes(node_ids=["4"])
    assert [n.node_id for n in await store.aget_nodes()] == [UUID_ID]
    await store.aclear()
    assert await store.aget_nodes() == []


async def test_async_work_is_done_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    client = EdgeClient(":memory:")
    store = SituateVectorStore(client=client)
    threads: list[int] = []

    def noting(original: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            threads.append(threading.get_ident())
            return original(*args, **kwargs)

        return noted

    for name in ("upsert", "query_points", "scroll", "delete", "delete_collection"):
        monkeypatch.setattr(client, name, noting(getattr(client, name)))
    await store.async_add(nodes())
    await asyncio.gather(*(store.aquery(query("hybrid")) for _ in range(4)))
    await store.aget_nodes()
    await store.adelete("doc-0")
    await store.aclear()
    assert len(threads) == 8
    assert threading.get_ident() not in threads


def test_an_embedder_that_mixes_neighbours_otherwise_is_refused() -> None:
    """The store makes no vectors, so it cannot make them as the collection's are."""
    client = EdgeClient(":memory:")
    before = Embedder(scheme=ChunkScheme(neighbours=0.3, centred=False))
    rows = before.embed_documents([node.text for node in nodes()])
    kept = [node.model_copy(update={"embedding": row.tolist()}) for node, row in zip(nodes(), rows, strict=True)]
    SituateVectorStore(client=client, embedder=before).add(kept)
    with pytest.raises(IncompatibleIndexError, match=r"scheme\.centred=None \(now True\)"):
        SituateVectorStore(client=client, embedder=Embedder(scheme=ChunkScheme(neighbours=0.3))).add(kept)
    SituateVectorStore(client=client, embedder=before).add(kept)


def test_refusals_change_nothing(store: SituateVectorStore) -> None:
    store.add(nodes())
    bad = TextNode(id_="bad", text="x", embedding=[1.0, float("nan"), 0.0])
    with pytest.raises(NonFiniteVectorError, match="'bad'"):
        store.add([*nodes(), bad])
    with pytest.raises(InputError, match="no embedding"):
        store.add([TextNode(id_="bare", text="x")])
    with pytest.raises(InputError, match="different models"):
        store.add([nodes()[0], TextNode(id_="short", text="x", embedding=[1.0])])
    with pytest.raises(IncompatibleIndexError, match="2 dimensions"):
        store.add([TextNode(id_="short", text="x", embedding=[1.0, 0.0])])
    with pytest.raises(NonFiniteVectorError):
        store.query(VectorStoreQuery([float("inf"), 0.0, 0.0], 1))
    for mode in ("svm", "semantic_hybrid", "linear_regression", "logistic_regression"):
        with pytest.raises(InputError, match=mode):
            store.query(query(mode))
    with pytest.raises(InputError, match="query_embedding"):
        store.query(VectorStoreQuery(query_str="x"))
    with pytest.raises(InputError, match="query_str"):
        store.query(VectorStoreQuery([1.0, 0.0, 0.0], mode=VectorStoreQueryMode.SPARSE))
    with pytest.raises(InputError, match="alpha=2"):
        store.query(query("hybrid", alpha=2))
    with pytest.raises(InputError, match="serach_params"):
        store.query(query(), serach_params=None)
    assert {node.node_id for node in store.get_nodes()} == set(TEXTS)


@pytest.mark.parametrize("embedding", [["a", 0.0, 0.0], [10**400, 0.0, 0.0], [[1.0, 0.0, 0.0]], 1.0])
def test_a_query_embedding_that_is_no_list_of_numbers_is_refused(embedding: Any) -> None:
    store = SituateVectorStore()
    store.add(nodes())
    with pytest.raises(InputError, match="the query's embedding"):
        store.query(VectorStoreQuery(embedding, 1))


def test_numbers_of_nodes_that_are_none_are_refused_by_name() -> None:
    store = SituateVectorStore()
    store.add(node for node in nodes())  # type: ignore[arg-type]
    for name in ("similarity_top_k", "sparse_top_k", "hybrid_top_k"):
        for wrong in (-1, 1.5, True, 2**70):
            with pytest.raises(InputError, match=name):
                store.query(VectorStoreQuery([1.0, 0.0, 0.5], mode=VectorStoreQueryMode.HYBRID, **{name: wrong}))
    assert len(store.get_nodes()) == len(TEXTS)


def test_an_empty_query_which_llama_index_does_not_embed_finds_nothing() -> None:
    store = SituateVectorStore()
    store.add(nodes())
    for mode in ("default", "hybrid", "sparse", "mmr"):
        assert store.query(VectorStoreQuery(None, 2, query_str=" ", mode=VectorStoreQueryMode(mode))).ids == []


def test_dense_alone() -> None:
    store = SituateVectorStore(lexical=None)
    store.add(nodes())
    assert (store.query(query()).ids or [])[0] == "first node"
    with pytest.raises(InputError, match="lexical=None"):
        store.query(query("hybrid"))


def test_a_folder_is_there_the_next_time(tmp_path: Path) -> None:
    first = SituateVectorStore(path=str(tmp_path))
    first.add(nodes())
    first.close()
    second = SituateVectorStore(path=str(tmp_path))
    assert {node.node_id for node in second.get_nodes()} == set(TEXTS)
    assert (second.query(query("hybrid")).ids or [])[0] == "first node"
    second.close()
    third = pickle.loads(pickle.dumps(second))
    assert len(third.get_nodes()) == len(TEXTS)
    third.close()
    with pytest.raises(InputError, match="path="):
        pickle.dumps(SituateVectorStore())


def test_documents_are_read_in_their_languages(tmp_path: Path) -> None:
    german = ["Der Vermieter kündigt die Wohnungen und Häuser.", "Die Miete ist am ersten Tag des Monats fällig."]
    english = ["The landlord rents out flats and houses to all who ask.", "The rent is due on the first day."]

    def added(store: SituateVectorStore, language: str, texts: list[str]) -> None:
        source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=language)}
        store.add(
            [
                TextNode(id_=f"{language} {n}", text=text, embedding=[1.0, 0.0], relationships=source)
                for n, text in enumerate(texts)
            ]
        )

    def best(store: SituateVectorStore, text: str) -> list[str]:
        found = store.query(VectorStoreQuery(query_str=text, mode=VectorStoreQueryMode.SPARSE, similarity_top_k=1))
        return list(found.ids or [])

    folder = str(tmp_path / "store")
    store = SituateVectorStore(path=folder)
    added(store, "german", german)
    added(store, "english", english)
    assert (best(store, "Wohnung und Haus"), best(store, "renting a house")) == (["german 0"], ["english 0"])
    store.close()
    opened = SituateVectorStore(path=folder)  # the collection keeps the languages
    assert best(opened, "Wohnung und Haus") == ["german 0"]
    opened.close()

    # A collection that keeps none, as earlier versions made them, is read as English by both sides.
    client = EdgeClient(":memory:")
    before = SituateVectorStore(client=client, lexical=LexicalScheme(context=(), neighbours=0.0, language="english"))
    added(before, "german", german)
    stored = client.retrieve("llama_index", [point_id("german 0")], with_vectors=True)[0].vector
    now = SituateVectorStore(client=client)
    assert (best(now, "Wohnung"), best(now, "Wohnungen")) == ([], ["german 0"])
    added(now, "german", german)
    assert client.retrieve("llama_index", [point_id("german 0")], with_vectors=True)[0].vector == stored


def test_the_official_store_reads_what_this_one_wrote_and_the_other_way_round() -> None:
    client = EdgeClient(":memory:")
    mine = SituateVectorStore(client=client, collection_name="shared", lexical=None)
    mine.add(nodes())
    theirs = QdrantVectorStore("shared", client=client, dense_vector_name="dense")
    result = theirs.query(query(k=4))
    assert result.nodes is not None
    assert [node.node_id for node in result.nodes] == list(TEXTS)
    assert [node.node_id for node in theirs.query(query(doc_ids=["doc-1"])).nodes or []] == [UUID_ID, "4"]
    added = TextNode(
        id_=UUID_ID, text="Written by the other store.", embedding=[0.0, 1.0, 0.0], metadata={"title": "Q"}
    )
    theirs.add([added])
    assert mine.get_nodes(node_ids=[UUID_ID])[0].get_content() == "Written by the other store."
    insensitive = MetadataFilters(
        filters=[MetadataFilter(key="title", value="q", operator=FilterOperator.TEXT_MATCH_INSENSITIVE)]
    )
    assert [node.node_id for node in mine.get_nodes(filters=insensitive)] == [UUID_ID]
    assert len(mine.get_nodes()) == len(TEXTS)


def test_foreign_collections_are_named() -> None:
    from qdrant_client import models

    client = EdgeClient(":memory:")
    client.create_collection(
        "other", vectors_config={"v": models.VectorParams(size=3, distance=models.Distance.COSINE)}
    )
    with pytest.raises(IncompatibleIndexError, match=r"\['v'\]"):
        SituateVectorStore(client=client, collection_name="other").add(nodes())
    with pytest.raises(IncompatibleIndexError, match="bm25"):
        SituateVectorStore(client=client, collection_name="other", dense_vector_name="v").add(nodes())
