"""Tiny language models, and the same as transformers runs them."""

from __future__ import annotations

import pytest

from tests.tiny_models import PlainModel, tiny_language_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny language models by kind."""
    kinds = ["llama", "qwen3", "olmoe", "bert"]
    return {kind: str(tiny_language_model(tmp_path_factory.mktemp("tiny") / kind, kind)) for kind in kinds}


@pytest.fixture(scope="session")
def plain(folders: dict[str, str]) -> dict[str, PlainModel]:
    """The same models, called by transformers alone."""
    return {kind: PlainModel(folder) for kind, folder in folders.items()}
