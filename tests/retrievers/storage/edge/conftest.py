"""The backends that the same tests run on."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models

from situate.retrievers.storage.edge import EdgeClient

#: A running server to hold to the same tests, too.
SERVER = os.environ.get("SITUATE_QDRANT_URL")
BACKENDS = ["memory", "folder", *(["server"] if SERVER else [])]


@pytest.fixture
def edge() -> Iterator[EdgeClient]:
    with EdgeClient(auto_optimize=False) as client:
        yield client


@pytest.fixture(params=BACKENDS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantClient]:
    """An embedded store in RAM, one in a folder, and the server, if there is one."""
    if request.param == "server":
        server = QdrantClient(url=SERVER, timeout=60)
        yield server
        server.close()
        return
    with EdgeClient(":memory:" if request.param == "memory" else tmp_path / "store") as embedded:
        yield embedded


@pytest.fixture
def name() -> str:
    """A collection name that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def collection(client: QdrantClient, name: str) -> Iterator[str]:
    """A collection with dense, sparse and multi vectors."""
    create(client, name)
    yield name
    client.delete_collection(name)


def create(client: QdrantClient, name: str) -> None:
    """Makes a collection with one vector of each kind."""
    client.create_collection(
        name,
        {
            "dense": models.VectorParams(size=4, distance=models.Distance.COSINE),
            "tokens": models.VectorParams(
                size=4,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            ),
        },
        sparse_vectors_config={"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )


Create = Callable[[QdrantClient, str], None]
