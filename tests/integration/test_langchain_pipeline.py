"""Whole LangChain programs: the ones in the documentation, and combinations of the components."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_qdrant import QdrantVectorStore
from qdrant_client import models

from situate.integrations.langchain import (
    HyDERetriever,
    LangChainGenerator,
    LateInteractionReranker,
    SituateEmbeddings,
    SituateRetriever,
    SituateTextSplitter,
    SituateVectorStore,
    situated_text,
)
from situate.retrievers.config import PipelineConfig
from situate.retrievers.expand.hyde import Hyde
from situate.retrievers.rerank import LateInteractionReranker as Reranker
from situate.retrievers.storage.edge import EdgeClient

DOCS = Path(__file__).parents[2] / "docs" / "langchain.md"

HANDBOOK = [
    Document(
        page_content=(
            "# Working time\n\n## Core hours\n\nEverybody is reachable from ten to three. The rest is free.\n\n"
            "## Overtime\n\nIt is paid out in March, or taken as days off before the summer.\n"
        ),
        metadata={"title": "Working time", "source": "time.md"},
    ),
    Document(
        page_content=(
            "# Equipment\n\n## Laptops\n\nThey are replaced every four years. The old one may be bought for 100 euros."
            "\n\n## Phones\n\nThey stay the company's. A lost one is reported within a day.\n"
        ),
        metadata={"title": "Equipment", "source": "equipment.md"},
    ),
]
QUESTION = "What does it cost to keep my old laptop?"


class Prompts(BaseCallbackHandler):
    """The messages to the chat model."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_chat_model_start(self, serialized: Any, messages: list[list[BaseMessage]], **_: Any) -> None:
        self.texts += ["\n".join(str(message.content) for message in conversation) for conversation in messages]


@pytest.fixture(scope="module")
def embeddings() -> SituateEmbeddings:
    return SituateEmbeddings()


@pytest.fixture
def splitter(embeddings: SituateEmbeddings) -> SituateTextSplitter:
    return SituateTextSplitter(embeddings, chunk_size=32)


def test_the_documentation_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 8
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "sixteen weeks" in printed
    assert "Up to 120 euros a night." in printed
    assert "'num_added': 2" in printed
    assert len(namespace["reranked"]) == 2


def chain_of(retriever: Any, model: FakeListChatModel) -> Any:
    prompt = ChatPromptTemplate.from_template("Answer from:\n\n{passages}\n\nQuestion: {question}")
    as_text = RunnableLambda(lambda passages: "\n\n".join(situated_text(passage) for passage in passages))
    return {"passages": retriever | as_text, "question": RunnablePassthrough()} | prompt | model | StrOutputParser()


async def test_a_chain_answers_from_situated_passages(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter
) -> None:
    model = FakeListChatModel(responses=["100 euros."])
    hyde = Hyde(LangChainGenerator(FakeListChatModel(responses=["An old laptop costs 100 euros."])), drafts=2)
    retriever = SituateRetriever.from_documents(
        HANDBOOK, embeddings, splitter=splitter, config=PipelineConfig.quality(), settings={"k": 1, "expander": hyde}
    )
    chain = chain_of(retriever, model)
    for ask in (chain.invoke, chain.ainvoke):
        prompts = Prompts()
        answer = ask(QUESTION, config={"callbacks": [prompts]})
        assert (await answer if asyncio.iscoroutine(answer) else answer) == "100 euros."
        # HyDE's prompts are there too: its model is another one, but under the same callbacks where it has none.
        sent = next(text for text in prompts.texts if text.startswith("Human: Answer") or "Answer from" in text)
        assert "Equipment" in sent
        assert "100 euros" in sent
        assert "March" not in sent
    assert await chain.abatch([QUESTION] * 5) == ["100 euros."] * 5
    retriever.index.close()


async def test_indexing_searching_and_answering_on_disk(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, tmp_path: Path
) -> None:
    records = InMemoryRecordManager("handbook")
    store = SituateVectorStore(embeddings, path=tmp_path / "store")
    chunks = splitter.split_documents(HANDBOOK)
    settings: dict[str, Any] = {"batch_size": 3, "cleanup": "full", "key_encoder": "sha256"}
    assert (await aindex(chunks, records, store, **settings))["num_added"] == len(chunks)
    store.close()

    store = SituateVectorStore(embeddings, path=tmp_path / "store")
    writer = FakeListChatModel(responses=["Keeping the old laptop costs 100 euros."])
    by_hyde = HyDERetriever(vectorstore=store, llm=writer, n=2, k=1)
    by_store = store.as_retriever(search_kwargs={"k": 1})
    by_index = SituateRetriever(index=store.index, k=1)
    answers = await asyncio.gather(*(retriever.ainvoke(QUESTION) for retriever in (by_hyde, by_store, by_index)))
    assert all("100 euros" in passages[0].page_content for passages in answers)
    chain = chain_of(by_hyde, FakeListChatModel(responses=["100 euros."]))
    assert await chain.ainvoke(QUESTION) == "100 euros."
    store.close()


async def test_reranked_in_the_retriever_and_after_it(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter
) -> None:
    index = SituateRetriever.from_documents(HANDBOOK, embeddings, splitter=splitter).index
    inside = SituateRetriever(index=index, rerankers=[Reranker(embeddings.embedder)], candidates=10, k=1)
    compressor = LateInteractionReranker(embeddings=embeddings, top_n=1)
    wide = SituateRetriever(index=index, k=10)
    after = RunnablePassthrough.assign(passages=lambda given: wide.invoke(given["question"])) | RunnableLambda(
        lambda given: compressor.compress_documents(given["passages"], given["question"]),
        afunc=lambda given: compressor.acompress_documents(given["passages"], given["question"]),
    )
    (one,), (other,) = inside.invoke(QUESTION), await after.ainvoke({"question": QUESTION})
    assert one.id == other.id
    assert "100 euros" in one.page_content
    assert abs(one.metadata["relevance_score"] - other.metadata["relevance_score"]) < 1e-3
    index.close()


async def test_events_of_a_stream_show_the_steps(embeddings: SituateEmbeddings) -> None:
    retriever = SituateRetriever.from_documents(HANDBOOK, embeddings, settings={"k": 1})
    chain = chain_of(retriever, FakeListChatModel(responses=["100 euros."]))
    events = [event async for event in chain.astream_events(QUESTION, version="v2")]
    (steps,) = [event["data"] for event in events if event["event"] == "on_custom_event"]
    assert [step["name"] for step in steps] == ["embed", "search"]
    (found,) = [event["data"]["output"] for event in events if event["event"] == "on_retriever_end"]
    assert len(found) == 1
    retriever.index.close()


def test_the_other_framework_finds_the_same(embeddings: SituateEmbeddings) -> None:
    from llama_index.core.schema import Document as LlamaIndexDocument

    from situate.integrations.llama_index import SituateEmbedding, SituateRetriever as LlamaIndexRetriever

    langchain = SituateRetriever.from_documents(HANDBOOK, embeddings, settings={"k": 4})
    llama_index = LlamaIndexRetriever.from_documents(
        [LlamaIndexDocument(text=d.page_content, metadata=d.metadata) for d in HANDBOOK],
        embed_model=SituateEmbedding(),
        similarity_top_k=4,
    )
    for question in (QUESTION, "When is overtime paid?", "phone"):
        ours = [(p.page_content, p.metadata["relevance_score"]) for p in langchain.invoke(question)]
        theirs = [(n.node.get_content(), n.score) for n in llama_index.retrieve(question)]
        assert [text for text, _ in ours] == [text for text, _ in theirs]
        assert all(abs(mine - float(other or 0)) < 1e-3 for (_, mine), (_, other) in zip(ours, theirs, strict=True))
    langchain.index.close()


async def test_the_official_store_on_the_embedded_engine(
    embeddings: SituateEmbeddings, splitter: SituateTextSplitter, tmp_path: Path
) -> None:
    client = EdgeClient(tmp_path / "store")
    size = len(embeddings.embed_query("size"))
    client.create_collection("official", models.VectorParams(size=size, distance=models.Distance.COSINE))
    store = QdrantVectorStore(client=client, collection_name="official", embedding=embeddings)
    chunks = splitter.split_documents(HANDBOOK)
    ids = store.add_documents(chunks)
    assert len(ids) == len(chunks)
    (found,) = store.similarity_search(QUESTION, k=1)
    assert "100 euros" in found.page_content
    assert situated_text(found).startswith("Equipment")
    only = models.Filter(must=[models.FieldCondition(key="metadata.source", match=models.MatchValue(value="time.md"))])
    assert {d.metadata["source"] for d in store.similarity_search("laptop", k=9, filter=only)} == {"time.md"}
    assert len(store.max_marginal_relevance_search(QUESTION, k=2)) == 2
    ((best, score),) = await store.asimilarity_search_with_score(QUESTION, k=1)
    assert best.page_content == found.page_content
    assert 0 < score <= 1
    assert store.delete(ids[:1])
    assert len(store.get_by_ids(ids)) == len(ids) - 1
    client.close()
