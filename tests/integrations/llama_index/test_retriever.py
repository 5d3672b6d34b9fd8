"""situate's pipeline as a LlamaIndex retriever, on real weights and the embedded store."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document
from llama_index.core.schema import MetadataMode, NodeRelationship, QueryBundle, TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler

from situate.chunkers import Prompt
from situate.errors import InputError
from situate.integrations.llama_index import HyDERetriever, SituateEmbedding, SituateRetriever, SituateStepsEvent
from situate.retrievers.config import PipelineConfig
from situate.retrievers.expand.hyde import Hyde
from situate.retrievers.index.index import Index
from situate.retrievers.retriever import Retriever
from situate.retrievers.search.hybrid import HybridSearch
from situate.retrievers.types import Hit

DOCUMENTS = [
    Document(
        id_="travel",
        text="# Travel\n\nBook with the travel desk.\n\n## Costs\n\nIt pays up to 180 euros. Then the head signs.",
        metadata={"title": "Handbook", "year": 2024, "file_path": "handbook/travel.md"},
        excluded_llm_metadata_keys=["file_path"],
    ),
    Document(id_="leave", text="# Leave\n\nEverybody has 30 days.", metadata={"title": "Handbook", "year": 2023}),
    Document(id_="lunch", text="Lunch is served at noon in the canteen.", metadata={"year": 2022}),
]
QUERY = "What may a hotel cost?"


class Backwards:
    """A reranker that reverses the order, and records its thread."""

    name = "backwards"

    def __init__(self) -> None:
        self.queries: list[str] = []

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        self.queries.append(query)
        return [hit.rescored(self.name, float(i)) for i, hit in enumerate(hits)][::-1]

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        return self.rerank(query, hits)


@pytest.fixture(scope="module")
def retriever(embed_model: SituateEmbedding) -> SituateRetriever:
    return SituateRetriever.from_documents(DOCUMENTS, embed_model=embed_model, similarity_top_k=2)


def ids(found: Sequence[Any]) -> list[str]:
    return [hit.node.ref_doc_id for hit in found]


def test_nodes_are_whole(retriever: SituateRetriever) -> None:
    found = retriever.retrieve(QUERY)
    assert len(found) == 2
    best = found[0]
    assert type(best.score) is float
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    node = best.node
    assert isinstance(node, TextNode)
    assert "180 euros" in node.text
    assert DOCUMENTS[0].text[node.start_char_idx : node.end_char_idx] == node.text
    assert node.ref_doc_id == "travel"
    assert set(node.relationships) == {NodeRelationship.SOURCE}
    shown = {key: value for key, value in node.metadata.items() if key not in ("situate", "situate_where")}
    assert shown == {**DOCUMENTS[0].metadata, "document_context": "Travel > Costs"}
    assert "file_path" not in node.get_content(metadata_mode=MetadataMode.LLM)
    assert "context: Travel > Costs" in node.get_content(metadata_mode=MetadataMode.LLM)
    assert "file_path: handbook/travel.md" in node.get_content(metadata_mode=MetadataMode.EMBED)


async def test_async_finds_the_same(retriever: SituateRetriever, ticking: Any) -> None:
    embedding = retriever.index.embedder.embed_queries([QUERY])[0].tolist()
    for bundle in (
        QueryBundle(QUERY),
        QueryBundle(QUERY, custom_embedding_strs=["hotel"]),
        QueryBundle(QUERY, embedding=embedding),
    ):
        found, _ = await ticking(retriever.aretrieve(bundle))
        wanted = retriever.retrieve(bundle)
        assert [hit.node for hit in found] == [hit.node for hit in wanted]
        np.testing.assert_allclose([h.score for h in found], [h.score for h in wanted], atol=1e-5)


def test_precedence_of_what_a_bundle_holds(embed_model: SituateEmbedding) -> None:
    dense = SituateRetriever.from_documents(
        DOCUMENTS, embed_model=embed_model, similarity_top_k=1, config=PipelineConfig.plain()
    )
    lunch = embed_model.get_query_embedding("When is lunch?")
    for bundle, wanted in [
        (QueryBundle(QUERY), "travel"),
        (QueryBundle(QUERY, custom_embedding_strs=["days off in a year"]), "leave"),
        (QueryBundle(QUERY, custom_embedding_strs=["days off in a year"], embedding=lunch), "lunch"),
    ]:
        before = copy.deepcopy(bundle)
        assert ids(dense.retrieve(bundle)) == [wanted]
        assert bundle == before
    scaled = QueryBundle("x", embedding=[3 * value for value in lunch])
    assert dense.retrieve(scaled)[0].score == pytest.approx(
        dense.retrieve(QueryBundle("x", embedding=lunch))[0].score, abs=1e-5
    )


@pytest.mark.parametrize("config", [PipelineConfig.plain(), PipelineConfig.hybrid(), PipelineConfig.quality()])
def test_a_given_vector_finds_what_the_query_finds(embed_model: SituateEmbedding, config: PipelineConfig) -> None:
    retriever = SituateRetriever.from_documents(DOCUMENTS, embed_model=embed_model, config=config)
    plain = retriever.retrieve(QUERY)
    given = retriever.retrieve(QueryBundle(QUERY, embedding=embed_model.get_query_embedding(QUERY)))
    assert [hit.node for hit in plain] == [hit.node for hit in given]
    np.testing.assert_allclose([hit.score for hit in plain], [hit.score for hit in given], atol=1e-4)


def test_filters(retriever: SituateRetriever) -> None:
    def having(*filters: Any, condition: FilterCondition = FilterCondition.AND) -> set[str]:
        narrow = SituateRetriever(
            retriever.retriever,
            similarity_top_k=10,
            filters=MetadataFilters(filters=list(filters), condition=condition),
        )
        return set(ids(narrow.retrieve(QUERY)))

    recent = MetadataFilter(key="year", value=2023, operator=FilterOperator.GTE)
    handbook = MetadataFilter(key="title", value="handBOOK", operator=FilterOperator.TEXT_MATCH_INSENSITIVE)
    assert having(recent) == {"travel", "leave"}
    assert having(recent, condition=FilterCondition.NOT) == {"lunch"}
    assert having(handbook, MetadataFilter(key="year", value=[2023], operator=FilterOperator.IN)) == {"leave"}
    assert having(MetadataFilter(key="title", value=None, operator=FilterOperator.IS_EMPTY)) == {"lunch"}


class Drafts:
    """A text generator that always drafts the same, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        self.asked += len(prompts)
        return ["Everybody has 30 days of leave."] * len(prompts)

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.generate(prompts)


def test_steps_of_the_pipeline_run(embed_model: SituateEmbedding) -> None:
    backwards, drafts = Backwards(), Drafts()
    full = SituateRetriever.from_documents(
        DOCUMENTS,
        embed_model=embed_model,
        similarity_top_k=10,
        expander=Hyde(drafts, drafts=2, query_weight=0.1),
        rerankers=[backwards],
        config=PipelineConfig.plain(),
    )
    found = full.retrieve(QUERY)
    assert drafts.asked == 2
    assert ids(found)[-1] == "leave", "first by HyDE, last by the reranker"
    assert backwards.queries == [QUERY]
    # A given vector is not expanded, but its hits are reranked.
    found = full.retrieve(QueryBundle(QUERY, embedding=embed_model.get_query_embedding(QUERY)))
    assert drafts.asked == 2
    assert "180" in found[-1].node.get_content()
    assert backwards.queries == [QUERY] * 2
    assert full.retriever.expander is not None


def test_hyde_around_it(retriever: SituateRetriever, embed_model: SituateEmbedding) -> None:
    hyde = HyDERetriever(retriever, llm=Drafts(), embed_model=embed_model, drafts=1, query_weight=0.0)
    dense = embed_model.get_text_embedding("Everybody has 30 days of leave.")
    assert [hit.node for hit in hyde.retrieve(QUERY)] == [
        hit.node for hit in retriever.retrieve(QueryBundle(QUERY, embedding=dense))
    ]


async def test_documents_come_and_change(embed_model: SituateEmbedding, tmp_path: Path, events: Any) -> None:
    first = SituateRetriever.from_documents(DOCUMENTS[:2], embed_model=embed_model, path=tmp_path, similarity_top_k=9)
    count = first.index.count()
    first.index.close()
    again = SituateRetriever.from_documents(DOCUMENTS[:2], embed_model=embed_model, path=tmp_path, similarity_top_k=9)
    assert again.index.count() == count
    await again.aadd_documents([Document(id_="leave", text="There are 25 days."), DOCUMENTS[2]])
    texts = {hit.node.get_content() for hit in again.retrieve(QUERY)}
    assert "There are 25 days." in texts
    assert not any("30 days" in text for text in texts)
    assert set(ids(again.retrieve(QUERY))) == {"travel", "leave", "lunch"}
    again.index.close()


async def test_documents_of_a_generator_are_all_added(embed_model: SituateEmbedding) -> None:
    made = SituateRetriever.from_documents((document for document in DOCUMENTS[:1]), embed_model=embed_model)
    await made.aadd_documents(document for document in DOCUMENTS[1:2])  # type: ignore[arg-type]
    assert made.refresh_ref_docs(document for document in DOCUMENTS) == [False, False, True]  # type: ignore[arg-type]
    assert made.index.document_ids() == ["leave", "lunch", "travel"]
    for wrong, said in ((DOCUMENTS[0], "documents is a Document: give a list"), (["x"], "'x' is a str, and no docum")):
        with pytest.raises(InputError, match=said):
            made.add_documents(wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=said):
            made.refresh_ref_docs(wrong)  # type: ignore[arg-type]


def test_what_could_not_be_used_later_is_refused_at_once(retriever: SituateRetriever) -> None:
    for settings, said in (
        ({"filters": {"year": 2024}}, "filters is a dict: give LlamaIndex's MetadataFilters"),
        ({"context_fields": ("heading",)}, "no field 'heading': it has title, headings"),
        ({"context_fields": "headings"}, r"give a list of names, \['headings'\]"),
    ):
        with pytest.raises(InputError, match=said):
            SituateRetriever(retriever.index, **settings)  # type: ignore[arg-type]


def test_takes_an_index_or_a_retriever(retriever: SituateRetriever) -> None:
    index: Index = retriever.index
    assert ids(SituateRetriever(index, similarity_top_k=1).retrieve(QUERY)) == ["travel"]
    assert len(SituateRetriever(Retriever(index, k=3)).retrieve(QUERY)) == 3
    with pytest.raises(InputError, match="similarity_top_k=0"):
        SituateRetriever(index, similarity_top_k=0)


async def test_a_query_without_text(retriever: SituateRetriever, embed_model: SituateEmbedding) -> None:
    assert retriever.retrieve("  ") == []
    vector_alone = QueryBundle("", embedding=embed_model.get_query_embedding("When is lunch?"))
    assert ids(retriever.retrieve(vector_alone))[0] == "lunch"
    assert ids(await retriever.aretrieve(vector_alone))[0] == "lunch"


async def test_the_search_is_off_the_event_loop(retriever: SituateRetriever, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    search = HybridSearch.search

    def noted(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.get_ident())
        return search(*args, **kwargs)

    monkeypatch.setattr(HybridSearch, "search", noted)
    await retriever.aretrieve(QUERY)
    await retriever.aretrieve(QueryBundle(QUERY, embedding=[0.1] * 384))
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_the_steps_of_a_query_go_to_the_instrumentation(retriever: SituateRetriever) -> None:
    seen: list[SituateStepsEvent] = []

    class Handler(BaseEventHandler):
        def handle(self, event: BaseEvent, **kwargs: Any) -> None:
            if isinstance(event, SituateStepsEvent):
                seen.append(event)

    root = get_dispatcher()
    handler = Handler()
    root.add_event_handler(handler)
    try:
        retriever.retrieve(QUERY)
        await retriever.aretrieve(QUERY)
    finally:
        root.event_handlers.remove(handler)
    assert [event.query for event in seen] == [QUERY, QUERY]
    for event in seen:
        assert [step["name"] for step in event.steps] == ["embed", "search"]
        assert event.steps[1]["details"] == {"hits": 2}
        assert all(step["seconds"] >= 0 and step["error"] is None for step in event.steps)
