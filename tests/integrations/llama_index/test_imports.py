"""Importing the integration costs next to nothing beyond LlamaIndex itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import situate.integrations.llama_index as integration

HEAVY = ("torch", "transformers", "sentence_transformers", "qdrant_client", "qdrant_edge", "tokenizers")


def loaded_after(program: str) -> set[str]:
    """The heavy packages that a fresh interpreter holds after running ``program``."""
    listing = f"import sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", f"{program}\n{listing}"], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import situate.integrations.llama_index") == set()


def test_every_class_can_be_imported_and_configured_without_anything_heavy() -> None:
    names = ", ".join(integration.__all__)
    made = "LateChunkingNodeParser(embed_model=SituateEmbedding(device='cpu')); SituateVectorStore()"
    assert loaded_after(f"from situate.integrations.llama_index import {names}\n{made}") == set()


def test_public_names() -> None:
    for name in integration.__all__:
        assert getattr(integration, name).__name__ == name
    assert dir(integration) == sorted(integration.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        integration.Nothing  # noqa: B018
