"""Progress by the work that is done."""

from __future__ import annotations

import threading

import pytest

from situate.chunkers import Document
from situate.embedders import Embedder
from situate.errors import InputError
from situate.integrations.langchain import SituateEmbeddings, SituateVectorStore
from situate.progress import DocumentBar, listener
from situate.retrievers import Index

#: More tokens than a pass has, all chunks different.
LONG = Document("long", " ".join(f"Ferry {i} leaves at {i % 60} past nine." for i in range(500)))
SHORT = [Document(f"short {i}", f"Ferry {i} leaves at ten.") for i in range(3)]


@pytest.mark.parametrize("add", ["add", "aadd"])
async def test_one_long_document_moves_it_pass_by_pass(add: str) -> None:
    """By its tokens, and to its end; a document that is unchanged counts as done."""
    moves: list[int] = []
    with Index(Embedder(), progress=moves.append) as index:
        documents = [LONG, *SHORT]
        for passes in (2, 1):
            moves.clear()
            _ = index.add(documents) if add == "add" else await index.aadd(documents)
            assert sum(moves) == sum(len(document.text) for document in documents)
            assert len(moves) >= passes
        assert len(moves) == 1


def test_a_function_that_raises_ends_its_own_call() -> None:
    """The thread that runs the model serves others."""

    def full(moved: int) -> None:
        raise OSError("no room to write to")

    embedder = Embedder()
    with Index(embedder, progress=full) as index, pytest.raises(OSError, match="no room"):
        index.add([LONG])
    told: list[int] = []

    def late(moved: int) -> None:
        told.append(moved)
        if sum(told) == len(SHORT[0].text):
            raise OSError("no room to write to")

    with Index(embedder, progress=late) as index:
        with pytest.raises(OSError, match="no room"):
            index.add(SHORT[:1])
        told.clear()
        with pytest.raises(OSError, match="no room"):
            index.add(SHORT[:1])
        assert index.count() == 1
        index.progress = False
        assert index.add(SHORT).chunks == 3 - 1
    assert len(embedder.embed_documents([document.text for document in SHORT] * 4)) == 12


def test_the_bar_names_documents_and_characters(capsys: pytest.CaptureFixture[str]) -> None:
    store = SituateVectorStore(SituateEmbeddings(), splitter=None, show_progress=True)
    store.add_texts(["One passage.", "Another one."])
    shown = capsys.readouterr().err
    assert "2/2 [" in shown
    assert "character" in shown


def test_shares_never_pass_their_batch() -> None:
    """Work that is done twice, or told of in parts that round up, does not move the bar beyond the documents."""
    moves: list[int] = []
    with DocumentBar("", None, moves.append) as bar, bar.batch([10, 5]):
        told = listener(1, 1)
        assert told is not None
        threads = [threading.Thread(target=told, args=(0.4,)) for _ in range(4)]
        for thread in threads:
            thread.start()
            thread.join()
    assert sum(moves) == 15
    assert moves[:2] == [6, 6]
    assert listener(1, 1) is None


def test_what_is_neither_shown_nor_a_function_is_refused() -> None:
    with pytest.raises(InputError, match=r"progress is 'yes'.*True, False or a function"):
        Index(Embedder(), progress="yes")  # type: ignore[arg-type]
