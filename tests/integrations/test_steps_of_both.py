"""Every step of a query by its name in both frameworks, over one index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import MetadataMode, NodeWithScore

from situate.embedders import Embedder
from situate.integrations import langchain, llama_index
from situate.retrievers import Highlight, Index, Where
from situate.types import Document

QUERY = "How long is the leave for parents?"
DOCUMENTS = (
    Document(
        "leave",
        "# Leave\n\n## Parental leave\n\nIt is twelve weeks long and paid in full. The form is on the intranet.\n\n"
        "## Sabbatical\n\nA sabbatical is twelve months of unpaid leave.",
        {"title": "Handbook", "page": 7},
    ),
    Document("travel", "Flights are booked with the travel desk. Hotels cost at most 120 euros a night."),
)


@dataclass(frozen=True)
class Passage:
    """What both frameworks say of a found passage."""

    text: str
    score: float
    where: Where | None
    highlight: Highlight | None
    given: Any


class LlamaIndexWay:
    """The LlamaIndex classes."""

    highlighter = llama_index.SituateHighlighter

    def __init__(self, index: Index) -> None:
        self.index = index
        self.model = {"embed_model": llama_index.SituateEmbedding.from_embedder(index.embedder)}

    def search(self, query: str = QUERY, **options: Any) -> list[Passage]:
        return self.read(llama_index.SituateRetriever(self.index, **options).retrieve(query))

    async def asearch(self, query: str = QUERY, **options: Any) -> list[Passage]:
        return self.read(await llama_index.SituateRetriever(self.index, **options).aretrieve(query))

    def run(self, step: Any, passages: list[Passage], query: str = QUERY) -> list[Passage]:
        return self.read(step.postprocess_nodes([each.given for each in passages], query_str=query))

    async def arun(self, step: Any, passages: list[Passage], query: str = QUERY) -> list[Passage]:
        return self.read(await step.apostprocess_nodes([each.given for each in passages], query_str=query))

    def seen_by_models(self, passage: Passage) -> str:
        node = passage.given.node
        return node.get_content(MetadataMode.LLM) + node.get_content(MetadataMode.EMBED)

    @staticmethod
    def read(nodes: list[NodeWithScore]) -> list[Passage]:
        where, highlight = llama_index.passage_where, llama_index.passage_highlight
        return [Passage(n.get_content(), float(n.score or 0), where(n), highlight(n), n) for n in nodes]


class LangChainWay:
    """The LangChain classes."""

    highlighter = langchain.SituateHighlighter

    def __init__(self, index: Index) -> None:
        self.index = index
        self.model = {"embeddings": langchain.SituateEmbeddings.from_embedder(index.embedder)}

    def search(self, query: str = QUERY, **options: Any) -> list[Passage]:
        return self.read(langchain.SituateRetriever(index=self.index, **options).invoke(query))

    async def asearch(self, query: str = QUERY, **options: Any) -> list[Passage]:
        return self.read(await langchain.SituateRetriever(index=self.index, **options).ainvoke(query))

    def run(self, step: Any, passages: list[Passage], query: str = QUERY) -> list[Passage]:
        return self.read(list(step.compress_documents([each.given for each in passages], query)))

    async def arun(self, step: Any, passages: list[Passage], query: str = QUERY) -> list[Passage]:
        return self.read(list(await step.acompress_documents([each.given for each in passages], query)))

    def seen_by_models(self, passage: Passage) -> str:
        return str(passage.given.page_content)

    @staticmethod
    def read(documents: list[LangChainDocument]) -> list[Passage]:
        where, highlight = langchain.passage_where, langchain.passage_highlight
        return [
            Passage(d.page_content, d.metadata.get("relevance_score", 0.0), where(d), highlight(d), d)
            for d in documents
        ]


Way = LlamaIndexWay | LangChainWay


@pytest.fixture(scope="module")
def index() -> Index:
    index = Index(Embedder(device="cpu", dtype="float32"))
    index.add(DOCUMENTS)
    return index


@pytest.fixture(scope="module", params=[LlamaIndexWay, LangChainWay], ids=["llama_index", "langchain"])
def way(request: pytest.FixtureRequest, index: Index) -> Way:
    made: Callable[[Index], Way] = request.param
    return made(index)


async def test_a_passage_tells_where_it_stands_and_what_matches(way: Way) -> None:
    for found in (way.search(highlight=True, k=1), await way.asearch(highlight=True, k=1)):
        [passage] = found
        assert str(passage.where) == "Handbook > Leave > Parental leave, page 7"
        assert passage.where is not None
        assert DOCUMENTS[0].text[passage.where.start : passage.where.end] == passage.text
        assert passage.highlight is not None
        assert "It is twelve weeks long and paid in full." in passage.highlight.spans
        assert "situate_" not in way.seen_by_models(passage)
        assert "page 7" not in way.seen_by_models(passage)


async def test_found_passages_are_marked_by_a_class_of_the_framework(way: Way) -> None:
    found = way.search(k=3)
    assert all(passage.highlight is None for passage in found)
    step = way.highlighter(**way.model, at_most=1)
    for marked in (way.run(step, found), await way.arun(step, found)):
        assert [(p.text, p.score, p.where) for p in marked] == [(p.text, p.score, p.where) for p in found]
        assert marked[0].highlight is not None
        assert marked[0].highlight.spans == ("It is twelve weeks long and paid in full.",)
    assert all(passage.highlight is None for passage in way.read([p.given for p in found])), "copies are marked"
    attribution = step.attribute("Parental leave takes twelve weeks.", [p.given for p in found])
    assert attribution.to_text().endswith("[1]\n\n[1] Handbook > Leave > Parental leave, page 7")
    assert await step.aattribute("Parental leave takes twelve weeks.", [p.given for p in found]) == attribution


def test_marks_count_from_the_beginning_of_a_situated_document(index: Index) -> None:
    [found] = langchain.SituateRetriever(index=index, k=1, highlight=True, content="situated").invoke(QUERY)
    highlight = langchain.passage_highlight(found)
    assert highlight is not None
    assert highlight.text.startswith("Handbook")
    assert "It is twelve weeks long and paid in full." in highlight.spans
