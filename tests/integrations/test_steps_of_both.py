"""Every step of a query by its name in both frameworks, over one index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import Document as LlamaDocument, MetadataMode, NodeWithScore

from situate.chunkers import TopicChunker
from situate.embedders import Embedder, PairScores
from situate.integrations import langchain, llama_index
from situate.retrievers import Highlight, Index, MultiHop, Retriever, Where
from situate.retrievers.rerank import (
    CrossEncoderReranker,
    DiffusionReranker,
    LateInteractionReranker,
    LinkReranker,
    Mmr,
    PairwiseReranker,
    PointwiseReranker,
)
from situate.retrievers.types import Reranker
from situate.types import Document, Prompt

QUERY = "How long is the leave for parents?"
DOCUMENTS = (
    Document(
        "leave",
        "# Leave\n\n## Parental leave\n\nIt is twelve weeks long and paid in full. The form is on the intranet.\n\n"
        "## Sabbatical\n\nA sabbatical is twelve months of unpaid leave.",
        {"title": "Handbook", "page": 7},
    ),
    Document(
        "travel",
        "Flights are booked with the travel desk. Hotels cost at most 120 euros a night.",
        {"links": ["leave"]},
    ),
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

    def rerank(self, reranker: Reranker) -> Any:
        return llama_index.SituateRerank(using=reranker, metadata_mode=MetadataMode.NONE, on_error="raise")

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

    def rerank(self, reranker: Reranker) -> Any:
        return langchain.SituateReranker(reranker=reranker, on_error="raise")

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


# -- every reranker, expander and option, over one index ---------------------------------------------------------------


class Judge:
    """A language model: it splits questions, and tells how likely each grade is."""

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        return ["Where are flights booked?" if "<passage>" not in prompt.text else "NONE" for prompt in prompts]

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.generate(prompts)

    def answer_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        return [[1.0 + len(prompt.text) % 7, 2.0, 1.0, len(prompt.system) % 5][: len(answers)] for prompt in prompts]

    async def aanswer_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        return self.answer_probabilities(prompts, answers)


class Overlap:
    """A `PairScorer` by shared words, which knows how sure it is."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> PairScores:
        shared = [len({*a.lower().split()} & {*b.lower().split()}) / 10 for a, b in pairs]
        ones = np.ones(len(pairs), dtype=np.int64)
        return PairScores(np.array(shared, dtype=np.float32), ones, 0, 0, np.full(len(pairs), 0.1, dtype=np.float32))

    async def ascore(self, pairs: Sequence[tuple[str, str]]) -> PairScores:
        return self.score(pairs)


#: Each row of the query pipeline's optional steps, as options of `Retriever` and of both frameworks' retrievers.
STEPS: dict[str, Callable[[Embedder], dict[str, Any]]] = {
    "prior": lambda e: {"rerankers": [LateInteractionReranker(e, prior=0.5)]},
    "prior of diversity": lambda e: {"rerankers": [Mmr(e, prior=0.5)]},
    "sentences": lambda e: {"rerankers": [CrossEncoderReranker(Overlap(), sentences=2, prior=0.3)]},
    "a scorer that knows how sure it is": lambda e: {"rerankers": [CrossEncoderReranker(Overlap())]},
    "soft grades": lambda e: {"rerankers": [PointwiseReranker(Judge(), soft=True)]},
    "soft choices": lambda e: {"rerankers": [PairwiseReranker(Judge(), soft=True)]},
    "diffusion": lambda e: {"rerankers": [DiffusionReranker(e, neighbours=1)]},
    "links": lambda e: {"rerankers": [LinkReranker(0.5)]},
    "several hops": lambda e: {"expander": MultiHop(Judge(), hops=3), "fuse_texts": "minmax"},
    "instruction": lambda e: {"instruction": "Find rules about travel: "},
    "instruction and grades": lambda e: {
        "instruction": "Travel!",
        "rerankers": [PointwiseReranker(Judge(), soft=True)],
    },
    "highlight": lambda e: {"highlight": True},
}


@pytest.mark.parametrize("step", STEPS)
async def test_each_step_is_an_option_of_both_retrievers(way: Way, index: Index, step: str) -> None:
    options = {"on_error": "raise", **STEPS[step](index.embedder)}
    expected = Retriever(index, **options).retrieve(QUERY)
    wanted = [(hit.chunk.text, pytest.approx(hit.score, abs=1e-4), hit.where, hit.highlight) for hit in expected]
    for found in (way.search(**options), await way.asearch(**options)):
        assert [(p.text, p.score, p.where, p.highlight) for p in found] == wanted
    plain = Retriever(index).retrieve(QUERY)
    assert [(hit.chunk.id, hit.score, hit.highlight) for hit in expected] != [
        (hit.chunk.id, hit.score, hit.highlight) for hit in plain
    ], "the step changes nothing"


@pytest.mark.parametrize("step", [step for step in STEPS if "instruction" not in step])
async def test_each_reranker_orders_what_others_found(way: Way, index: Index, step: str) -> None:
    rerankers = STEPS[step](index.embedder).get("rerankers")
    if rerankers is None:
        return
    hits = index.search(QUERY).hits
    expected = [(hit.chunk.text, pytest.approx(hit.score, abs=1e-4)) for hit in rerankers[0].rerank(QUERY, hits)]
    made = way.rerank(rerankers[0])
    for found in (way.run(made, way.search()), await way.arun(made, way.search())):
        assert [(passage.text, passage.score) for passage in found] == expected


async def test_an_instruction_of_one_query(index: Index) -> None:
    task = "Find rules about travel: "
    wanted = [(hit.chunk.text, pytest.approx(hit.score, abs=1e-4)) for hit in index.search(QUERY, instruction=task)]
    retriever = langchain.SituateRetriever(index=index)
    for found in (retriever.invoke(QUERY, instruction=task), await retriever.ainvoke(QUERY, instruction=task)):
        assert [(p.text, p.score) for p in LangChainWay.read(found)] == wanted
    nodes = llama_index.SituateRetriever(index).with_instruction(task).retrieve(QUERY)
    assert [(p.text, p.score) for p in LlamaIndexWay.read(nodes)] == wanted


def test_chunks_by_topic_in_both(index: Index) -> None:
    text = "Leave is twelve weeks.\n\nParental leave is paid.\n\nTrains are booked early.\n\nHotels cost 120 euros."
    chunker = TopicChunker(100, embed=index.embedder.embed_documents)
    wanted = [chunk.text for chunk in chunker.split(Document("rules", text))]
    assert len(wanted) == 2
    embed_model = llama_index.SituateEmbedding.from_embedder(index.embedder)
    parser = llama_index.LateChunkingNodeParser(embed_model=embed_model, splitter=chunker)
    assert [node.get_content() for node in parser.get_nodes_from_documents([LlamaDocument(text=text)])] == wanted
    splitter = langchain.SituateTextSplitter(chunker=chunker)
    assert [d.page_content for d in splitter.split_documents([LangChainDocument(text)])] == wanted


class OnlyAnswers:
    """An `AnswerScorer` that writes no texts."""

    answer_probabilities = Judge.answer_probabilities
    aanswer_probabilities = Judge.aanswer_probabilities


def test_parameters_of_the_classes_are_the_rerankers() -> None:
    cross_encoders: list[Any] = [
        llama_index.CrossEncoderRerank(prior=0.5, sentences=2).reranker,
        langchain.CrossEncoderReranker(prior=0.5, sentences=2)._ranks(),
    ]
    assert [(each.settings.prior, each.sentences) for each in cross_encoders] == [(0.5, 2)] * 2
    graded: Any = llama_index.SituateLLMRerank(llm=Judge(), soft=True, prior=0.25, top=3).reranker
    assert (graded.soft, graded.settings.prior, graded.settings.top) == (True, 0.25, 3)
    chosen: Any = llama_index.SituateLLMRerank(llm=OnlyAnswers(), method="pairwise").reranker
    assert chosen.soft
    plain: Any = llama_index.SituateLLMRerank(llm=Judge()).reranker
    assert not plain.soft
