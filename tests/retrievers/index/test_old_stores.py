"""A folder that an earlier version wrote opens, answers alike, and nothing in it counts as changed."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from situate.chunkers import Document, FixedTokenChunker, HeadingSituator
from situate.chunkers.base import is_bare
from situate.embedders import Embedder
from situate.errors import TruncationWarning
from situate.retrievers import Index, PipelineConfig

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "store.json").read_text())
CONFIGS = {"fast": PipelineConfig.fast(), "quality": PipelineConfig.quality()}


ZEROS = bytes(2**20)


def copied(source: str, target: str) -> None:
    """Copies a file without its zeros, which are most of a store's 300 MB."""
    with open(source, "rb") as read, open(target, "wb") as write:
        while block := read.read(len(ZEROS)):
            if block == ZEROS:
                write.seek(len(block), 1)
            else:
                write.write(block)
        write.truncate()


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old store."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(FIXTURES / "store.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "store"


@pytest.fixture(params=CONFIGS)
def old(request: pytest.FixtureRequest, archived: Path, tmp_path: Path) -> Iterator[tuple[dict[str, Any], Index]]:
    """The expected state of a collection of the old store, and an index on a copy of it."""
    name: str = request.param
    shutil.copytree(archived, tmp_path / "store", copy_function=copied)
    index = Index(
        Embedder(),
        path=tmp_path / "store",
        collection=name,
        situators=(HeadingSituator(),),
        config=CONFIGS[name],
    )
    yield EXPECTED[name], index
    index.close()


def test_unchanged_documents_stay_unchanged(old: tuple[dict[str, Any], Index]) -> None:
    expected, index = old
    documents = [Document(d["id"], d["text"], d["metadata"]) for d in expected["documents"]]
    report = index.add(documents)
    assert (report.unchanged, report.added, report.replaced) == (len(documents), 0, 0)


def test_payloads_and_ids_are_those_that_this_version_writes(old: tuple[dict[str, Any], Index]) -> None:
    expected, index = old
    documents = [Document(d["id"], d["text"], d["metadata"]) for d in expected["documents"]]

    def payloads() -> dict[str, Any]:
        points, _ = index.client.scroll(index.collection, limit=1000, with_payload=True)
        return {str(point.id): point.payload for point in points}

    assert payloads() == expected["payloads"]
    index.delete([d.id for d in documents])
    index.add(documents)
    written, before = payloads(), dict(expected["payloads"])
    for alone in [point for point, payload in before.items() if is_bare(payload["text"])]:
        # That version made a chunk of the heading at a document's end, which now joins the chunk before it.
        tail = before.pop(alone)
        same = [point for point, payload in before.items() if payload["document_id"] == tail["document_id"]]
        last = before.pop(max(same, key=lambda point: before[point]["index"]))
        (joined,) = written.keys() - before.keys()
        assert written.pop(joined)["text"].split() == f"{last['text']} {tail['text']}".split()
        for point in set(same) & before.keys():
            before[point] = {**before[point], "chunks": tail["chunks"] - 1}
    assert written.keys() == before.keys()
    for point, payload in written.items():
        assert {**payload, "version": 0} == {**before[point], "version": 0}


def test_searches_find_the_same(old: tuple[dict[str, Any], Index]) -> None:
    expected, index = old
    hits = index.search(EXPECTED["question"], k=5).hits
    assert [hit.chunk.id for hit in hits] == [chunk for chunk, _ in expected["hits"]]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected["hits"]], abs=2e-3)


def test_an_old_store_keeps_cutting_what_is_too_long(old: tuple[dict[str, Any], Index]) -> None:
    _, index = old
    index.open()
    assert index.embedder.fingerprint["on_overflow"] == "cut"
    long = Document("long", " ".join(f"The pump of line {n} is checked." for n in range(100)))
    [chunk] = FixedTokenChunker(10_000).split(long)
    with pytest.warns(TruncationWarning):
        index.add_chunks([(long, [chunk])])
    with Index(Embedder(), chunker=FixedTokenChunker(10_000), config=index.config) as new:
        assert new.add([long]).chunks == 1
        assert new.embedder.fingerprint["on_overflow"] == "window"
