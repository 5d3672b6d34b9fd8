"""Documents are embedded and written in batches that bound memory and keep a progress bar accurate."""

from __future__ import annotations

import pytest

from situate.chunkers import Document
from situate.embedders import Embedder
from situate.retrievers.index import documents as module
from situate.retrievers.index.documents import IndexReport
from situate.retrievers.index.index import Index

DOCUMENTS = [Document(f"d{i}", "word " * (40 if i == 2 else 4)) for i in range(5)]


def test_a_batch_ends_by_documents_or_by_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(documents: int, characters: int) -> list[list[str]]:
        monkeypatch.setattr(module, "BATCH_DOCUMENTS", documents)
        monkeypatch.setattr(module, "BATCH_CHARACTERS", characters)
        return [[d.id for d, _ in batch] for batch in module.document_batches((d, None) for d in DOCUMENTS)]

    assert batches(2, 10_000) == [["d0", "d1"], ["d2", "d3"], ["d4"]]
    assert batches(9, 100) == [["d0", "d1", "d2"], ["d3", "d4"]]
    assert batches(5, 10_000) == [[d.id for d in DOCUMENTS]]
    assert list(module.document_batches([])) == []


@pytest.mark.parametrize("known", [True, False])
def test_the_bar_moves_when_a_batch_was_written(
    known: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 2)
    with Index(Embedder(), progress=True) as index:
        written: list[str] = []
        write = index._add_batch

        def noting(batch: list[object]) -> IndexReport:
            written.append(capsys.readouterr().err)
            return write(batch)  # type: ignore[arg-type]

        monkeypatch.setattr(index, "_add_batch", noting)
        assert index.add(DOCUMENTS if known else iter(DOCUMENTS)).added == 5
        after = capsys.readouterr().err
    assert ("| 0/5 [" if known else "0document [") in written[0]
    assert "5/5" in after if known else "5document" in after


def test_without_progress_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Index(Embedder()) as index:
        index.add(DOCUMENTS)
    assert "indexing" not in capsys.readouterr().err
