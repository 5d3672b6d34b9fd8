"""Public names that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(
    package: str,
    exports: Mapping[str, tuple[str, ...]],
    *,
    extra: str | None = None,
    needs: tuple[str, ...] = (),
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` for ``package``.

    An import of the package costs nothing: a heavy library (torch, qdrant_client) is imported by the first use of a
    class that needs it.

    Args:
        package: The package's full name.
        exports: Full names of modules, and the public names that each holds.
        extra: The extra that installs ``needs``.
        needs: Libraries whose absence is a `MissingExtraError` naming ``extra``.
    """
    homes = {name: module for module, names in exports.items() for name in names}

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(homes[name]), name)
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if extra is None or library not in needs:
                raise
            from situate.errors import MissingExtraError

            raise MissingExtraError.of(library.replace("_", "-"), extra, f"{package}.{name}") from error

    def dir_() -> list[str]:
        return sorted(homes)

    return getattr_, dir_, sorted(homes)
