"""Bulk indexing on a local Ray: the same points as without, and nothing lost or doubled when it is interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from situate.chunkers import Document, HeadingSituator, MarkdownChunker
from situate.embedders import Embedder
from situate.errors import InputError
from situate.retrievers import Index, IndexReport, LexicalScheme, PipelineConfig, connect
from situate.retrievers.index.documents import EmptyDocumentWarning
from situate.retrievers.index.ray import Row, add_dataset, row_to_document
from situate.retrievers.storage.edge import EdgeClient
from tests.rest_server import RestServer
from tests.retrievers.index.crash_writer import HashEncoder

ray = pytest.importorskip("ray", reason="bulk indexing needs the extra 'ray'")
ray_data = pytest.importorskip("ray.data", reason="bulk indexing needs the extra 'ray'")

KEY = "a-secret"
pytestmark = [
    # Ray's own warnings, on other libraries and on sockets that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection"),
]
ROWS: list[dict[str, Any]] = [
    {
        "id": f"document {i}",
        "text": f"# Part {i}\n\n" + f"It has {i} pages. " * 20 + f"\n\n## End\n\nIt ends after {i}.",
        "kind": "even" if i % 2 == 0 else None,
        "number": i,
    }
    for i in range(200)
]
DOCUMENTS = [row_to_document(row) for row in ROWS]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two CPUs, whose workers import what this process imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        ray_data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()


@pytest.fixture
def server() -> Iterator[RestServer]:
    """A server in this process: the actors' processes write to it over a socket."""
    with EdgeClient(auto_optimize=False) as client:
        running = RestServer(client, key=KEY)
        yield running
        running.stop()


def index_on(**store: Any) -> Index:
    return Index(
        Embedder(encoder=HashEncoder()),
        collection="bulk",
        chunker=MarkdownChunker(size=120),
        situators=[HeadingSituator()],
        config=PipelineConfig(lexical=LexicalScheme()),
        **store,
    )


def served(server: RestServer) -> Index:
    return index_on(client=partial(connect, server.url, api_key=KEY))


def dataset(rows: list[dict[str, Any]] = ROWS) -> Any:
    return ray_data.from_items(rows, override_num_blocks=4)


def contents(index: Index) -> tuple[dict[str, Any], Any]:
    """Every point with its vectors, and the collection's metadata."""
    points: dict[str, Any] = {}
    records, _ = index.client.scroll(index.collection, limit=10_000, with_vectors=True)
    for record in records:
        payload = {**(record.payload or {})}
        assert payload.pop("version") > 0  # when it was written
        points[str(record.id)] = payload, record.model_dump()["vector"]
    config = index.client.get_collection(index.collection).config
    return points, (config.metadata, config.params)


@pytest.fixture(scope="module")
def expected() -> tuple[dict[str, Any], Any]:
    """The points that one process writes."""
    with index_on() as index:
        assert index.add(DOCUMENTS).added == len(ROWS)
        return contents(index)


def test_an_embedded_store_is_written_by_the_process_that_has_it(cluster: None, tmp_path: Path, expected: Any) -> None:
    with index_on(path=tmp_path / "store") as index:
        with pytest.raises(InputError, match=r"actors=2: the embedded store .* belongs to one process"):
            add_dataset(index, dataset(), actors=2)
        with pytest.warns(EmptyDocumentWarning, match="1 documents without text"):
            report = add_dataset(index, dataset([*ROWS, {"id": "blank", "text": " "}]))
        assert report == IndexReport(added=len(ROWS), skipped=("blank",), chunks=len(expected[0]))
        assert contents(index) == expected


def _stops(row: Row) -> Document:
    if row["id"] == "document 150":
        raise InputError("the source is broken here")
    return row_to_document(row)


def _dies_once(mark: str, row: Row) -> Document:
    """Kills its process with a batch half read; another attempt finds the mark."""
    if row["id"] == "document 190" and not os.path.exists(mark):
        with open(mark, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    return row_to_document(row)


@pytest.mark.full
def test_an_interrupted_run_is_resumed_and_a_dead_actor_replaced(
    cluster: None, server: RestServer, expected: Any, tmp_path: Path
) -> None:
    """The final collection equals that of one process, point by point."""
    mark = tmp_path / "killed"
    with served(server) as index:
        with pytest.raises(InputError, match="the source is broken here") as error:
            add_dataset(index, dataset(), to_document=_stops, actors=1)
        assert "continues from there" in error.value.__notes__[0]
        there = len(index.document_ids())
        assert there < len(ROWS)
        report = add_dataset(index, dataset(), to_document=partial(_dies_once, str(mark)))
        assert mark.exists()
        assert report.unchanged >= there
        assert report.unchanged + report.added == len(ROWS)
        assert contents(index) == expected


@pytest.mark.full
def test_several_actors_and_another_run(cluster: None, server: RestServer, expected: Any) -> None:
    with served(server) as index:
        report = add_dataset(index, dataset())
        assert report == IndexReport(added=len(ROWS), chunks=len(expected[0]))
        assert contents(index) == expected
        assert add_dataset(index, dataset(), actors=1) == IndexReport(unchanged=len(ROWS))
        with pytest.raises(ray.exceptions.RayError, match="ZeroDivisionError"):
            add_dataset(index, dataset(), to_document=lambda row: row_to_document({**row, "text": 1 / 0}))


def test_rows_that_are_no_documents() -> None:
    for row in ({"text": "x"}, {"id": 3, "text": "x"}, {"id": "a", "text": None}):
        with pytest.raises(InputError, match=r"as '(id|text)'"):
            row_to_document(row)


def test_what_cannot_be_sent_to_actors(cluster: None, server: RestServer) -> None:
    client = connect(server.url, api_key=KEY)
    with pytest.raises(InputError, match="cannot be pickled"):
        add_dataset(index_on(client=client), dataset())
    client.close()
    with served(server) as index, pytest.raises(InputError, match="actors=0"):
        add_dataset(index, dataset(), num_cpus=50)


#: Reads slowly and writes to a store of its own, until it is killed.
DRIVER = """
import sys
from tests.retrievers.index.test_bulk import *

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)

def document(row):
    print(row["id"], flush=True)
    return row_to_document(row)

with index_on(path=sys.argv[1]) as index:
    add_dataset(index, dataset(), to_document=document)
"""


@pytest.mark.full
def test_a_killed_run_is_resumed(cluster: None, tmp_path: Path, expected: Any) -> None:
    import subprocess

    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path / "store")], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    for line in driver.stdout:
        if line == b"document 150\n":
            driver.kill()
    driver.wait()
    driver.stdout.close()
    with index_on(path=tmp_path / "store") as index:
        assert 0 < len(index.document_ids()) < len(ROWS)
        add_dataset(index, dataset())
        assert contents(index) == expected
