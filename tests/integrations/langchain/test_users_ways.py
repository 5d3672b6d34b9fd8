"""Uses of a store and a retriever in LangChain: open, close, gather, prompt, filter."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.load import dumps
from langchain_core.prompts import format_document
from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery
from langchain_text_splitters import RecursiveCharacterTextSplitter

from situate.errors import InputError, StorageError, StoreLockedError, UnknownArgumentError
from situate.integrations.langchain import (
    SITUATED_PROMPT,
    SituatedContextTransformer,
    SituateDocumentIndex,
    SituateEmbeddings,
    SituateRetriever,
    SituateTextSplitter,
    SituateTranslator,
    SituateVectorStore,
    create_situated_tool,
)
from situate.retrievers.config import DocumentSignals, PipelineConfig

QUERY = "What does a hotel cost?"


@pytest.fixture
def store(embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]) -> SituateVectorStore:
    return SituateVectorStore.from_documents(handbook, embeddings, splitter=splitter)


# -- opening and closing ---------------------------------------------------------------------------------------------


async def test_a_service_fails_when_it_starts(embeddings: SituateEmbeddings, tmp_path: Path) -> None:
    unknown = SituateVectorStore(SituateEmbeddings("no/such-model-at-all"))
    away = SituateVectorStore(embeddings, url="http://localhost:1", client_options={"attempts": 1})
    for broken in (unknown, away, SituateRetriever(index=unknown.index)):
        with pytest.raises(Exception, match=r"no/such-model|localhost"):
            broken.open()
        with pytest.raises(Exception, match=r"no/such-model|localhost"):
            await broken.aopen()
    assert SituateVectorStore(embeddings).warm_up().similarity_search("x") == []


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_closed_store_says_so(
    embeddings: SituateEmbeddings, handbook: list[Document], where: str, tmp_path: Path
) -> None:
    path = ":memory:" if where == "memory" else str(tmp_path / "store")
    with SituateVectorStore(embeddings, path=path) as store:
        store.add_documents(handbook)
    for use in (lambda: store.similarity_search("x"), lambda: store.add_documents(handbook), store.open):
        with pytest.raises(StorageError, match="closed"):
            use()


async def test_stores_and_retrievers_are_context_managers(
    embeddings: SituateEmbeddings, handbook: list[Document]
) -> None:
    async with SituateVectorStore(embeddings) as store:
        await store.aadd_documents(handbook)
    with pytest.raises(StorageError, match="closed"):
        await store.asimilarity_search("x")
    with SituateRetriever.from_documents(handbook, embeddings, k=2, collection_name="handbook") as retriever:
        assert len(retriever.invoke(QUERY)) == 2
        assert retriever.index.collection == "handbook"
    await SituateDocumentIndex(embeddings=embeddings).aclose()


# -- found passages --------------------------------------------------------------------------------------------------


def test_passages_of_several_queries_are_gathered_once(store: SituateVectorStore) -> None:
    retriever = SituateRetriever(index=store.index, k=3)
    passages = [passage for query in (QUERY, "cost of hotels", "hotel price") for passage in retriever.invoke(query)]
    # the rule of LangChain's MultiQueryRetriever
    distinct = [passage for place, passage in enumerate(passages) if passage not in passages[:place]]
    assert len(distinct) == len({passage.id for passage in passages}) < len(passages)
    assert all(passage.metadata["relevance_score"] is not None for passage in passages)
    plain = Document(**passages[0].model_dump(exclude={"type"}))
    assert passages[0] == plain == passages[0]
    assert passages[0] != plain.model_copy(update={"page_content": "other"})
    assert json.loads(dumps(passages[0]))["id"] == Document.lc_id(), "LangChain reads it as its own"


def test_prompts_show_what_situates_a_passage(store: SituateVectorStore) -> None:
    retriever = SituateRetriever(index=store.index, k=1)
    [passage] = retriever.invoke(QUERY)
    assert "Travel > Hotels" in passage.metadata["document_context"].replace("\n", " > ")
    assert "Hotels" in format_document(passage, SITUATED_PROMPT)
    tool = create_situated_tool(retriever, "handbook", "Searches the handbook.")
    told = tool.invoke({"query": QUERY})
    assert told == format_document(passage, SITUATED_PROMPT)
    [found] = store.similarity_search(QUERY, k=1)
    assert found.metadata["document_context"] == passage.metadata["document_context"]


def test_the_context_can_be_written_into_the_text(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    store = SituateVectorStore.from_documents(handbook, embeddings, splitter=splitter, content="situated")
    [found] = store.similarity_search(QUERY, k=1)
    [plain] = SituateRetriever(index=store.index, k=1).invoke(QUERY)
    [situated] = SituateRetriever(index=store.index, k=1, content="situated").invoke(QUERY)
    for passage in (found, situated):
        assert passage.page_content == f"{plain.metadata['document_context']}\n\n{plain.page_content}"
        start = passage.metadata["start_index"]
        whole = next(d for d in handbook if d.metadata["source"] == passage.metadata["source"])
        assert whole.page_content[start : start + len(plain.page_content)] == plain.page_content


def test_a_key_of_the_users_is_not_overwritten(store: SituateVectorStore) -> None:
    with pytest.raises(InputError, match="document_context"):
        store.add_documents([Document(page_content="text", metadata={"document_context": "mine"})])
    with pytest.raises(InputError, match="situate"):
        SituateVectorStore(store.embeddings).add_documents(
            [Document(page_content="text", metadata={"situate": "mine"})]
        )  # type: ignore[arg-type]


def test_found_passages_can_be_stored_again(store: SituateVectorStore) -> None:
    found = store.similarity_search(QUERY, k=9)
    other = SituateVectorStore(store.embeddings)  # type: ignore[arg-type]
    other.add_documents(found)
    assert sorted(d.page_content for d in other.similarity_search(QUERY, k=20)) == sorted(d.page_content for d in found)


def test_another_splitter_cuts_chunks_further(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, handbook: list[Document]
) -> None:
    parents = splitter.split_documents(handbook)
    child = RecursiveCharacterTextSplitter(chunk_size=30, chunk_overlap=0)
    children = [
        piece.model_copy(update={"metadata": {**piece.metadata, "doc_id": parent.id}})
        for parent in parents
        for piece in child.split_documents([parent])
    ]
    store = SituateVectorStore(embeddings)
    store.add_documents(children)
    found = store.similarity_search(QUERY, k=3)
    assert {parent.id for parent in parents} >= {document.metadata["doc_id"] for document in found}
    assert any("120 euros" in document.page_content for document in found)


# -- splitters and pages of the web ----------------------------------------------------------------------------------


def test_a_foreign_splitters_chunks_stand_under_the_documents_headings(
    embeddings: SituateEmbeddings, handbook: list[Document]
) -> None:
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=0)
    store = SituateVectorStore.from_documents(handbook, embeddings, splitter=splitter)
    [found] = store.similarity_search("120 euros a night", k=1)
    assert "Hotels" in found.metadata["document_context"]


@pytest.mark.parametrize("own", [True, False])
def test_html_from_a_loader_is_read_as_its_words(embeddings: SituateEmbeddings, own: bool) -> None:
    page = (
        "<html><body><h1>Travel</h1><h2>Hotels</h2><p>Up to <b>120 euros</b>.</p><script>var x</script></body></html>"
    )
    splitter = SituateTextSplitter(embeddings) if own else RecursiveCharacterTextSplitter(chunk_size=200)
    store = SituateVectorStore.from_documents(
        [Document(id="p", page_content=page, metadata={"source": "p.html"})], embeddings, splitter=splitter
    )
    found = store.similarity_search("euros", k=5)
    assert any("120 euros" in passage.page_content for passage in found)
    assert not any("<" in passage.page_content or "var x" in passage.page_content for passage in found)
    situated = SituatedContextTransformer([]).transform_documents(found)
    assert len(situated) == len(found)


# -- filters ---------------------------------------------------------------------------------------------------------


def test_filters_with_operators_and_odd_keys(embeddings: SituateEmbeddings) -> None:
    documents = [
        Document(id="a", page_content="same", metadata={"year": 2020, "file name": "x", "Invoice No.": 1, "a/b": "y"}),
        Document(id="b", page_content="same", metadata={"year": 2024.0, "it's": "z", "document_id": "B-7"}),
    ]
    documents[0].metadata |= {"a.b": 1, "owner": "/x"}
    documents[1].metadata |= {"owner": UUID(int=7), "size": 1e300}
    store = SituateVectorStore.from_documents(documents, embeddings)
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({"year": {"$gt": 2020}}, ["b"]),
        ({"year": 2024}, ["b"]),
        ({"$or": [{"file name": "x"}, {"it's": "z"}]}, ["a", "b"]),
        ({"Invoice No.": {"$in": [1, 2]}}, ["a"]),
        ({"a/b": "y"}, ["a"]),
        ({"document_id": "B-7"}, ["b"]),
        ({"a.b": {"$gte": 1}}, ["a"]),
        ({"a.b": {"$exists": False}}, ["b"]),
        ({"a.b": {"$ne": 1}}, ["b"]),
        ({"metadata.year": 2020}, ["a"]),
        ({"owner": UUID(int=7)}, ["b"]),
        ({"owner": PurePosixPath("/x")}, ["a"]),
        ({"year": {"$lte": np.int64(2020)}}, ["a"]),
        ({"year": np.float32(2024)}, ["b"]),
        ({"size": 1e300}, ["b"]),
        ({"year": 2**70}, []),
    ]
    for conditions, ids in expected:
        for mode in ("hybrid", "dense"):
            found = store.similarity_search("same", k=5, filter=conditions, mode=mode)
            assert sorted(str(document.id) for document in found) == ids, conditions
        assert len(store.max_marginal_relevance_search("same", k=5, filter=conditions)) == len(ids)


def test_what_a_self_query_retriever_asks(embeddings: SituateEmbeddings) -> None:
    documents = [
        Document(id=str(year), page_content="same", metadata={"year": year, "day": f"{year}-05-01", "tags": ["t", "u"]})
        for year in (2020, 2022, 2024)
    ]
    store = SituateVectorStore.from_documents(documents, embeddings)

    def ids(*parts: Any, operator: Operator = Operator.AND) -> list[str]:
        query, search = SituateTranslator().visit_structured_query(
            StructuredQuery(query="same", filter=Operation(operator=operator, arguments=list(parts)), limit=None)
        )
        return sorted(str(document.id) for document in store.similarity_search(query, k=9, **search))

    late = Comparison(comparator=Comparator.GTE, attribute="year", value=2022)
    dated = Comparison(comparator=Comparator.LT, attribute="day", value={"date": "2022-01-01", "type": "date"})
    tagged = Comparison(comparator=Comparator.CONTAIN, attribute="tags", value="t")
    assert ids(late) == ["2022", "2024"]
    assert ids(dated) == ["2020"]
    assert ids(late, tagged) == ["2022", "2024"]
    assert ids(late, dated, operator=Operator.OR) == ["2020", "2022", "2024"]
    assert ids(late, operator=Operator.NOT) == ["2020"]


def test_dense_mode_on_what_else_a_collection_holds(embeddings: SituateEmbeddings, handbook: list[Document]) -> None:
    config = PipelineConfig(document=DocumentSignals())
    store = SituateVectorStore.from_documents(handbook, embeddings, config=config, mode="dense")
    [(found, cosine)] = store.similarity_search_with_score(QUERY, k=1)
    assert found.id == "travel"
    assert -1 <= cosine <= 1


def test_one_folder_has_one_writer(embeddings: SituateEmbeddings, tmp_path: Path) -> None:
    import subprocess
    import sys

    with SituateVectorStore(embeddings, path=tmp_path / "store"):
        program = (
            "from situate.integrations.langchain import *\n"
            f"SituateVectorStore(SituateEmbeddings(), path={str(tmp_path / 'store')!r}).open()"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert StoreLockedError.__name__ in done.stderr


async def test_relevance_means_the_same_for_every_query(store: SituateVectorStore) -> None:
    def best(query: str) -> float:
        return store.similarity_search_with_relevance_scores(query, k=4)[0][1]

    assert best("What is the capital of France?") < 0.8 * best("How many weeks do parents of a newborn get?")
    found = await store.asimilarity_search_with_relevance_scores("sixteen weeks", k=4)
    assert found == store.similarity_search_with_relevance_scores("sixteen weeks", k=4)
    threshold = found[1][1]
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 4, "score_threshold": threshold}
    )
    assert retriever.invoke("sixteen weeks") == [document for document, score in found if score >= threshold]


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
async def test_a_threshold_goes_by_relevance_in_every_mode(store: SituateVectorStore, mode: Any) -> None:
    asked, unasked = "How many weeks do parents of a newborn get?", "What is the capital of France?"
    for search in ("similarity", "similarity_score_threshold"):
        search_kwargs = {"k": 4, "score_threshold": 0.5, "mode": mode}
        retriever = store.as_retriever(search_type=search, search_kwargs=search_kwargs)
        assert retriever.invoke(asked)
        assert retriever.invoke(asked) == await retriever.ainvoke(asked)
        assert retriever.invoke(unasked) == await retriever.ainvoke(unasked) == []


def test_a_search_names_what_it_does_not_know(store: SituateVectorStore) -> None:
    for name, hint in (("top_k", "it takes k, filter"), ("filters", "did you mean filter")):
        with pytest.raises(UnknownArgumentError, match=hint):
            store.as_retriever(search_kwargs={name: 2}).invoke(QUERY)
    for k in (0, -1, "3", 2.5, None):
        for search in (store.similarity_search, store.max_marginal_relevance_search):
            with pytest.raises(InputError, match=r"k=.* must be a whole number"):
                search(QUERY, k=k)  # type: ignore[operator]


# -- ids -------------------------------------------------------------------------------------------------------------


def test_ids_of_any_kind_are_text_and_name_one_document(embeddings: SituateEmbeddings) -> None:
    store = SituateVectorStore(embeddings)
    odd: Any = [7, UUID(int=3), None]
    ids = store.add_texts(["one", "two", "three"], ids=odd)
    assert ids[:2] == ["7", str(UUID(int=3))]
    assert [found.page_content for found in store.get_by_ids(odd[:2])] == ["one", "two"]
    store.delete(odd[:1])
    assert not store.get_by_ids(["7"])
    for use in (store.get_by_ids, store.delete):
        with pytest.raises(InputError, match="give a list of ids"):
            use("7")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two different documents of one call have the id 'x'"):
        store.add_texts(["four", "five"], ids=["x", "x"])
    assert store.add_texts(["four", "four"], ids=["x", "x"]) == ["x", "x"]


def test_a_deep_copy_searches_the_same_store(store: SituateVectorStore) -> None:
    retriever = store.as_retriever(search_kwargs={"k": 1})
    for copied in (retriever.model_copy(deep=True), deepcopy(store).as_retriever(search_kwargs={"k": 1})):
        assert copied.invoke(QUERY) == retriever.invoke(QUERY)
