"""`from_config`: `situate.yaml` as a LangChain retriever."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from situate import configuration
from situate.integrations.langchain.retriever import SituateRetriever


def from_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | configuration.Settings | None = None, *, filter: Any = None
) -> SituateRetriever:
    """The retriever that a configuration describes; its ``index`` takes the documents.

    Args:
        source: A YAML file, its values, or settings; None: ``situate.yaml`` in the working directory.
        filter: ``{"key": value}`` over the metadata, or a `qdrant_client.models.Filter`.

    Raises:
        InputError: The configuration cannot be used. The message names the file, the line and the key.
        MissingExtraError: The extra ``app`` is not installed.
    """
    return SituateRetriever.from_pipeline(configuration.from_config(source), filter=filter)
