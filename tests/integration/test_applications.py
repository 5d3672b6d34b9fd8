"""The applications in examples/ run as written, offline, and answer from the documents."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.messages import ToolMessage

pytest.importorskip("langgraph", reason="the programs are written for the versions of the extra `examples`")

from examples import (
    langchain_agent,
    langchain_chain,
    langchain_indexing,
    langchain_parent_document,
    langchain_self_query,
    llama_index_agent,
    llama_index_auto_merging,
    llama_index_citations,
    llama_index_workflow,
)
from situate.integrations.langchain import SituateLoader, passage_where

LEAVE = "How long is parental leave?"
ANSWER = "Parents take twelve weeks of leave, paid in full."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handbook")
    (folder / "leave.md").write_text(f"# Leave\n\n## Parental leave\n\n{ANSWER}\n", encoding="utf-8")
    (folder / "travel.md").write_text("# Travel\n\n## Hotels\n\nIt pays up to 180 euros. Above that, she signs.\n")
    return folder


def test_a_query_engine_cites_passages_with_their_places(folder: Path) -> None:
    answer, places = llama_index_citations.answer(LEAVE, folder)
    assert answer == f"{ANSWER} [1]"
    assert places[0] == "Leave > Parental leave"


# LlamaIndex's own agent reads deprecated attributes of pydantic.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
def test_a_function_agent_asks_the_retriever(folder: Path) -> None:
    assert ANSWER in asyncio.run(llama_index_agent.ask(LEAVE, folder))


def test_a_workflow_answers_only_from_what_is_relevant(folder: Path) -> None:
    assert ANSWER in asyncio.run(llama_index_workflow.ask(LEAVE, folder))
    assert asyncio.run(llama_index_workflow.ask("Who won the tennis final?", folder)) == "Nothing relevant was found."


def test_auto_merging_returns_the_section_of_the_best_chunks(folder: Path) -> None:
    assert ANSWER in llama_index_auto_merging.find(LEAVE, folder)[0].node.get_content()


def test_a_chain_streams_its_answer_after_its_sources(folder: Path) -> None:
    parts = list(langchain_chain.chain(folder).stream(LEAVE))
    answers = [part["answer"] for part in parts if part.get("answer")]
    assert ANSWER in "".join(answers)
    assert len(answers) > 3
    sources = next(part["sources"] for part in parts if "sources" in part)
    assert str(passage_where(sources[0])) == "Leave > Parental leave"
    assert next(i for i, part in enumerate(parts) if "sources" in part) < parts.index({"answer": answers[0]})


def test_a_graph_agent_remembers_the_conversation(folder: Path) -> None:
    first, second = langchain_agent.converse([LEAVE, "What may a hotel cost?"], folder)
    assert ANSWER in first[-1].text
    assert "180 euros" in second[-1].text
    assert second[: len(first)] == first
    assert sum(isinstance(message, ToolMessage) for message in second) == 2


def test_the_record_manager_embeds_only_what_has_changed(folder: Path) -> None:
    documents = [Document(d.page_content, metadata=d.metadata) for d in SituateLoader(folder).load()]
    documents.append(Document("A third one.", metadata={"source": "third"}))
    first, again, changed = langchain_indexing.runs(documents)
    assert (first["num_added"], again["num_added"], again["num_skipped"]) == (3, 0, 3)
    assert (changed["num_added"], changed["num_skipped"], changed["num_deleted"]) == (1, 1, 2)


def test_a_filter_that_a_model_wrote_is_applied() -> None:
    found = langchain_self_query.find("How did Acme's revenue develop after 2024?")
    assert [(d.metadata["company"], d.metadata["year"]) for d in found] == [("Acme", 2025)]


def test_whole_documents_are_returned_for_their_best_chunks(folder: Path) -> None:
    found = langchain_parent_document.find(LEAVE, folder)
    assert found[0].page_content == (folder / "leave.md").read_text(encoding="utf-8")
