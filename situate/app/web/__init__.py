"""The chat application: upload documents, ask, see each source in its document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.app.web.application import create_app as create_app
    from situate.app.web.configured import (
        create_configured_app as create_configured_app,
        web_settings as web_settings,
    )
    from situate.app.web.server import serve as serve
    from situate.app.web.settings import WebLimits as WebLimits, WebSettings as WebSettings

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.app.web.application": ("create_app",),
        "situate.app.web.configured": ("create_configured_app", "web_settings"),
        "situate.app.web.server": ("serve",),
        "situate.app.web.settings": ("WebLimits", "WebSettings"),
    },
    extra="app",
    needs=("fastapi", "starlette", "uvicorn"),
)
