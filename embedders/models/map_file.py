"""Files of linear maps of vectors: safetensors, which can run no code, with JSON of what a map was fitted for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.outside import load_json, safe_message

#: Bytes of a file that are read, at most: a map of 8,192 by 8,192 numbers has as many.
MAX_BYTES = 256 * 2**20


def write_map(path: Path, arrays: Mapping[str, Vectors], kind: str, facts: Mapping[str, Any]) -> None:
    """Write the arrays, and the facts in the file's metadata under ``kind``."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps(dict(facts), sort_keys=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata={kind: about})


def read_map(path: Path, names: Collection[str], kind: str) -> tuple[dict[str, Vectors], dict[str, Any]]:
    """The arrays and the facts that `write_map` wrote; what they hold is not checked.

    Raises:
        InputError: There is no such file, it is too large, or it holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"it has more than {MAX_BYTES:,} bytes")
        with safe_open(str(path), framework="numpy") as file:
            about = (file.metadata() or {}).get(kind)
            if about is None or set(file.keys()) != set(names):
                raise InputError("it is another file")
            facts = load_json(about, "its metadata")
            if not isinstance(facts, dict):
                raise InputError("it does not say what it was fitted for")
            return {name: file.get_tensor(name) for name in names}, facts
    except InputError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise InputError(safe_message(error)) from error


def check_numbers(**arrays: Vectors) -> None:
    """Refuse arrays that are no matrices of finite float32 numbers.

    Raises:
        InputError: Names the array.
    """
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.ndim != 2:
            raise InputError(f"{name} is {array.dtype} of the shape {array.shape}: a map holds float32 [rows, columns]")
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds NaN or infinity")
