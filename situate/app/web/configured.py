"""The chat application that a `situate.yaml` describes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from situate.app.web.application import create_app
from situate.app.web.settings import WebSettings
from situate.configuration.settings import Settings, load


def web_settings(settings: Settings) -> WebSettings:
    """The part of a configuration that is the chat application's; keys are read from the environment now.

    Raises:
        InputError: The environment variable of a tenant's key is not set, or a value cannot be used.
    """
    chat, store = settings.chat, settings.store.folder
    sources = chat.sources if chat.sources is not None else (() if store is None else (store.resolve().parent,))
    return WebSettings(
        chat.folder,
        keys={name: tenant.key() for name, tenant in chat.tenants.items()},
        hosts=chat.hosts,
        relevance=chat.relevance,
        passages=chat.passages,
        title=chat.title,
        sources=tuple(map(Path, sources)),
    )


def create_configured_app(source: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None) -> FastAPI:
    """The chat application that a configuration describes: ``uvicorn --factory situate.app.web:create_configured_app``.

    Args:
        source: As for `situate.configuration.load`; None: ``situate.yaml`` where there is one.
    """
    settings = load(source)
    return create_app(settings.retriever(), settings.generator(), settings=web_settings(settings))
