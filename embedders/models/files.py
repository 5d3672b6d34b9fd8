"""Reading the files of a model's folder, which are untrusted: a damaged one is a `ModelError` that names it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from situate.embedders.models.quiet import quietly
from situate.errors import ModelError, SituateError
from situate.outside import MAX_JSON_BYTES, load_json, safe_message


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; {} where there is no such file.

    Raises:
        ModelError: The file cannot be read, is nested too deep, or holds something else.
    """
    value = _read(path, {})
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds {_short(value)}, no JSON object: the model's folder is damaged, fetch it again")
    return value


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """The modules in ``modules.json``, as sentence-transformers writes it; [] where there is no such file.

    Raises:
        ModelError: The file cannot be read, is nested too deep, holds something else than a list of objects, or a
            module's folder is outside of the model's.
    """
    path = folder / "modules.json"
    value = _read(path, [])
    if not isinstance(value, list) or not all(isinstance(module, dict) for module in value):
        raise ModelError(
            f"{path} holds {_short(value)}, no list of JSON objects: the model's folder is damaged, fetch it again"
        )
    for module in value:
        inside = str(module.get("path") or "")
        if os.path.isabs(inside) or os.path.normpath(inside).startswith(".."):
            raise ModelError(
                f"{path} names the module folder {inside!r}, which is outside of the model's: do not use it"
            )
    return value


def count(config: Mapping[str, Any], name: str, path: Path, least: int = 1) -> int | None:
    """The whole number of ``least`` or more that ``config``, the object in ``path``, has under ``name``; None for none.

    Raises:
        ModelError: The value is something else.
    """
    value = config.get(name)
    if value is None:
        return None
    whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    if not whole or value < least:
        raise ModelError(f"{path} has {name} = {_short(value)}: it needs to be a whole number of {least} or more")
    return int(value)


@contextmanager
def loading(what: str, folder: Path) -> Iterator[None]:
    """Turn other libraries' errors on a model's damaged files into a `ModelError` that names the folder.

    Their progress bars and notes are left out (`quietly`).

    Args:
        what: What is loaded, for the message: "the model".
        folder: Where it lies.

    Raises:
        ModelError: The block raised an error that is not situate's own. Running out of memory passes through.
    """
    try:
        with quietly():
            yield
    except (SituateError, ImportError, MemoryError):
        raise
    except Exception as error:
        # Damaged weights and configurations raise errors of any class.
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise ModelError(f"{what} in {str(folder)!r} cannot be loaded: {safe_message(error)}") from error


def _read(path: Path, default: Any) -> Any:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_JSON_BYTES + 1)  # one more than `load_json` reads, so that it refuses the rest
    except FileNotFoundError:
        return default
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    try:
        return load_json(data, "it", ModelError)
    except ModelError as error:
        raise ModelError(
            f"{path} is not valid JSON of a model: {error}. The folder is damaged, fetch it again"
        ) from error


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
