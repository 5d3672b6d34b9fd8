"""One file, `situate.yaml`, that says what an index and its retriever are made of: `load`, `from_config`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.configuration.sections import (
        ChatSettings as ChatSettings,
        LanguageModelSettings as LanguageModelSettings,
        ModelSettings as ModelSettings,
        ServerSettings as ServerSettings,
        StepSettings as StepSettings,
        StoreSettings as StoreSettings,
        TenantSettings as TenantSettings,
    )
    from situate.configuration.settings import (
        Settings as Settings,
        from_config as from_config,
        load as load,
        schema as schema,
    )

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.configuration.sections": (
            "ChatSettings",
            "LanguageModelSettings",
            "ModelSettings",
            "ServerSettings",
            "StepSettings",
            "StoreSettings",
            "TenantSettings",
        ),
        "situate.configuration.settings": (
            "Settings",
            "from_config",
            "load",
            "schema",
        ),
    },
    extra="app",
    needs=("pydantic_settings", "yaml"),
)
