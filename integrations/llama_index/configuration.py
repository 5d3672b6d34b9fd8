"""`from_config`: `situate.yaml` as a LlamaIndex retriever."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from situate import configuration
from situate.integrations.llama_index.retriever import SituateRetriever


def from_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | configuration.Settings | None = None, **options: Any
) -> SituateRetriever:
    """The retriever that a configuration describes; its ``retriever.index`` takes the documents.

    Args:
        source: A YAML file, its values, or settings; None: ``situate.yaml`` in the working directory.
        options: Further arguments of `SituateRetriever`.

    Raises:
        InputError: The configuration cannot be used. The message names the file, the line and the key.
        MissingExtraError: The extra ``app`` is not installed.
    """
    return SituateRetriever(configuration.from_config(source), **options)
