"""Chunks that a language model left without context are situated again when their document is added again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from situate.chunkers import Document, LLMSituator, MarkdownChunker, Prompt
from situate.chunkers.situators.generating import FAILED, SituatingWarning
from situate.embedders import Embedder
from situate.retrievers import Index, IndexReport, PipelineConfig

PIERS = Document("ferry", "# Ferry\n\n" + "\n\n".join(f"## Pier {i}\n\nIt leaves at {i}." for i in range(1, 5)))
HOURS = Document("hours", "The office opens at nine.")


class Model:
    """Answers, but for passages that hold one of these words."""

    def __init__(self, *refuses: str) -> None:
        self.refuses = refuses
        self.asked = 0

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        self.asked += len(prompts)
        if any(word in prompt.text for word in self.refuses for prompt in prompts):
            raise TimeoutError
        return ["It is about the timetable of the ferry."] * len(prompts)

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.generate(prompts)


def index(model: Model, folder: Path) -> Index:
    situator = LLMSituator(model, model="stand-in", attempts=1, backoff=0.0, cache=folder / "answers.db")
    return Index(
        Embedder(),
        path=folder / "store",
        chunker=MarkdownChunker(60),
        situators=[situator],
        config=PipelineConfig.fast(),
    )


def sentences(index: Index) -> list[bool]:
    return [chunk.context.sentence is not None for chunk in index.get_chunks(["ferry"])]


def test_a_failed_chunk_is_tried_again_until_it_succeeds(tmp_path: Path) -> None:
    with index(Model("Pier 3", "Pier 2"), tmp_path) as failing:
        with pytest.warns(SituatingWarning, match="2 of 4"):
            assert failing.add([PIERS, HOURS]) == IndexReport(added=2, chunks=5)
        assert sentences(failing) == [True, False, False, True]
        points = {record.id for record in failing.client.scroll(failing.collection)[0]}
        # The same chunks fail once more: their prompts are sent again, and nothing is written.
        with pytest.warns(SituatingWarning, match="2 of 4"):
            assert failing.add([PIERS, HOURS]) == IndexReport(unchanged=2)
        assert {record.id for record in failing.client.scroll(failing.collection)[0]} == points
    with index(better := Model("Pier 3"), tmp_path) as some:
        with pytest.warns(SituatingWarning, match="1 of 4"):
            assert some.add([PIERS, HOURS]) == IndexReport(replaced=1, unchanged=1, chunks=4)
        assert sentences(some) == [True, True, False, True]
        # Answered prompts are not sent again, and a document without failures is skipped.
        assert better.asked == 2
    with index(Model(), tmp_path) as working:
        assert asyncio.run(working.aadd([PIERS, HOURS])).replaced == 1
        assert sentences(working) == [True] * 4
        assert not any(FAILED in chunk.metadata for chunk in working.get_chunks(["ferry"]))
        assert working.count() == 5
        assert working.add([PIERS, HOURS]) == IndexReport(unchanged=2)
        assert working.search("timetable", k=1)[0].chunk.document_id == "ferry"


def test_a_failed_summary_is_tried_again(tmp_path: Path) -> None:
    long = Document("long", "The ferry leaves at nine. " * 100)

    def added(*refuses: str) -> IndexReport:
        situator = LLMSituator(Model(*refuses), window=1000, long_documents="summary", attempts=1, backoff=0.0)
        with Index(Embedder(), path=tmp_path, situators=[situator], config=PipelineConfig.plain()) as some:
            return some.add([long])

    with pytest.warns(SituatingWarning, match="could not be summarised"):
        assert added("Summarise").added == 1
    with pytest.warns(SituatingWarning, match="could not be summarised"):
        assert added("Summarise").unchanged == 1
    assert added().replaced == 1
    assert added().unchanged == 1
