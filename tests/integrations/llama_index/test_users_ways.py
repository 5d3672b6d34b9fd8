"""What users of LlamaIndex do with a store and a retriever: open, close, update, and read why a step was skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from situate.errors import InputError, StorageError, StoreLockedError
from situate.integrations.llama_index import (
    LateChunkingNodeParser,
    SituateEmbedding,
    SituateRetriever,
    SituateVectorStore,
)
from situate.retrievers.storage.edge import EdgeClient
from situate.retrievers.types import QueryText


def retriever_over(embed_model: SituateEmbedding, **settings: Any) -> SituateRetriever:
    documents = [Document(id_=name, text=f"{name} is paid yearly.") for name in ("Travel", "Leave")]
    return SituateRetriever.from_documents(documents, embed_model=embed_model, **settings)


async def test_a_service_fails_when_it_starts(embed_model: SituateEmbedding) -> None:
    away = SituateVectorStore(url="http://localhost:1", client_options={"attempts": 1})
    with pytest.raises(StorageError, match="localhost"):
        away.open()
    with pytest.raises(StorageError, match="localhost"):
        await away.aopen()
    retriever = retriever_over(embed_model)
    assert retriever.open() is retriever is await retriever.awarm_up()


@pytest.mark.parametrize("where", ["memory", "folder"])
async def test_what_was_closed_says_so(embed_model: SituateEmbedding, where: str, tmp_path: Path) -> None:
    path = ":memory:" if where == "memory" else str(tmp_path / "store")
    async with SituateVectorStore(path=path) as store:
        store.add([TextNode(text="a", embedding=[1.0, 0.0])])
    for use in (store.get_nodes, store.open, lambda: store.add([TextNode(text="b", embedding=[1.0, 0.0])])):
        with pytest.raises(StorageError, match="closed"):
            use()
    with retriever_over(embed_model, path=path if where == "memory" else str(tmp_path / "index")) as retriever:
        assert retriever.retrieve("travel")
    with pytest.raises(StorageError, match="closed"):
        retriever.retrieve("travel")


def test_a_folder_that_is_held_elsewhere(tmp_path: Path) -> None:
    import subprocess
    import sys

    holder = EdgeClient(tmp_path / "store")
    program = (
        "from situate.integrations.llama_index import SituateVectorStore\n"
        f"SituateVectorStore(path={str(tmp_path / 'store')!r}).open()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert StoreLockedError.__name__ in done.stderr
    holder.close()


def test_documents_are_updated_under_llama_indexs_names(embed_model: SituateEmbedding) -> None:
    retriever = retriever_over(embed_model)
    changed = [
        Document(id_="Travel", text="Travel is paid monthly."),
        Document(id_="Leave", text="Leave is paid yearly."),
    ]
    assert retriever.refresh_ref_docs(changed) == [True, False]
    retriever.update_ref_doc(Document(id_="Leave", text="Leave is unpaid."))
    retriever.insert(Document(id_="Lunch", text="Lunch is at noon."))
    assert retriever.index.document_ids() == ["Leave", "Lunch", "Travel"]
    assert {found.node.get_content() for found in retriever.retrieve("paid")} >= {"Leave is unpaid."}
    retriever.delete_ref_doc("Lunch")
    assert retriever.index.document_ids() == ["Leave", "Travel"]


class Away:
    """An expander whose language model is away."""

    name = "hyde"

    def expand(self, query: str) -> list[QueryText]:
        raise ConnectionError("401 Unauthorized for api_key=sk-abcdef1234567890")

    async def aexpand(self, query: str) -> list[QueryText]:
        return self.expand(query)


async def test_a_skipped_step_is_on_every_node(embed_model: SituateEmbedding, caplog: Any) -> None:
    retriever = retriever_over(embed_model, expander=Away())
    for found in (retriever.retrieve("travel"), await retriever.aretrieve("travel")):
        assert found
        for hit in found:
            assert "401 Unauthorized" in hit.degraded["hyde"]  # type: ignore[attr-defined]
            assert "sk-abc" not in str(hit)
    assert "401 Unauthorized" in caplog.text
    assert "sk-abc" not in caplog.text


def test_relevance_can_be_the_score(embed_model: SituateEmbedding) -> None:
    ranked = retriever_over(embed_model).retrieve("What is paid for travel?")
    retriever = retriever_over(embed_model, scores="relevance")
    found = retriever.retrieve("What is paid for travel?")
    assert [hit.node.ref_doc_id for hit in found] == [hit.node.ref_doc_id for hit in ranked]
    assert [hit.score for hit in found] == [hit.relevance for hit in ranked]  # type: ignore[attr-defined]
    assert all(0 <= (hit.score or 0) <= 1 for hit in found)
    strangest = retriever.retrieve("Which enzyme splits lactose?")
    cutoff = SimilarityPostprocessor(similarity_cutoff=max(hit.score or 0 for hit in strangest) + 1e-6)
    assert cutoff.postprocess_nodes(strangest) == []
    assert cutoff.postprocess_nodes(found)


# -- metadata and filters --------------------------------------------------------------------------------------------


def test_filters_find_keys_with_dots_and_documents_by_id(embed_model: SituateEmbedding) -> None:
    documents = [
        Document(id_="travel", text="Travel is paid.", metadata={"a.b": 1, "p.q": "Rome", "n": np.int64(7)}),
        Document(id_="leave", text="Leave is paid.", metadata={"a.b": 2.0}),
    ]
    retriever = SituateRetriever.from_documents(documents, embed_model=embed_model)
    store = SituateVectorStore()
    store.add(LateChunkingNodeParser(embed_model=embed_model).get_nodes_from_documents(documents))
    cases: list[tuple[str, Any, FilterOperator, set[str]]] = [
        ("a.b", 1, FilterOperator.EQ, {"travel"}),
        ("a.b", 1, FilterOperator.GT, {"leave"}),
        ("a.b", [2], FilterOperator.NIN, {"travel"}),
        ("p.q", None, FilterOperator.IS_EMPTY, {"leave"}),
        ("p.q", "rome", FilterOperator.TEXT_MATCH_INSENSITIVE, {"travel"}),
        ("n", 7.0, FilterOperator.EQ, {"travel"}),
        ("ref_doc_id", "leave", FilterOperator.EQ, {"leave"}),
        ("doc_id", "leave", FilterOperator.NE, {"travel"}),
    ]
    for key, value, operator, right in cases:
        where = MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])
        assert {node.ref_doc_id for node in store.get_nodes(filters=where)} == right, key
        retriever.filters = where
        assert {found.node.ref_doc_id for found in retriever.retrieve("paid")} == right, key


def test_two_nodes_of_one_id_are_not_stored_over_each_other() -> None:
    store = SituateVectorStore()
    with pytest.raises(InputError, match="two different nodes of one call have the id 'x'"):
        store.add([TextNode(id_="x", text=text, embedding=[1.0, 0.0]) for text in ("a", "b")])


def test_similarity_top_k_is_a_whole_number(embed_model: SituateEmbedding) -> None:
    index = retriever_over(embed_model).index
    for k in (0, "3", 2.5):
        with pytest.raises(InputError, match=r"similarity_top_k=.* must be a whole number"):
            SituateRetriever(index, similarity_top_k=k)
