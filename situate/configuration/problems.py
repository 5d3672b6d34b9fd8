"""What is wrong with a configuration: in which file, line and key, and what was probably meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from situate.configuration.components import BOOSTS, CHUNKERS, EXPANDERS, RERANKERS, SITUATORS
from situate.configuration.yaml_file import Place, YamlFile
from situate.outside import safe_text
from situate.parameters import right_name

#: The kinds of the parts below each key.
_KINDS: Mapping[str, Mapping[Any, Any]] = {
    "chunker": CHUNKERS,
    "situators": SITUATORS,
    "expander": EXPANDERS,
    "rerankers": RERANKERS,
    "boosts": BOOSTS,
}


def problem(error: Any, file: YamlFile | None, prefix: str) -> str:
    """One of pydantic's errors, in words. The value itself is not shown: it may be a key in the wrong place.

    Args:
        error: As `pydantic.ValidationError.errors` gives it.
        file: The file that was read.
        prefix: What the names of environment variables begin with.
    """
    context = error.get("ctx") or {}
    place = _without_kinds(error["loc"])
    message = context.get("hint") or error["msg"].removeprefix("Value error, ")
    if error["type"] in ("unknown_key", "wrong_key"):
        place = (*place, context["key"])
        message = error["msg"]
    elif error["type"] == "union_tag_invalid":
        known = context["expected_tags"].replace("'", "").split(", ")
        meant = right_name(context["tag"], known)
        message = f"there is no {context['tag']!r}; " + (f"did you mean {meant}?" if meant else f"one of {known}")
    elif error["type"] == "union_tag_not_found":
        message = "give its kind: a word, or `kind:` with parameters"
    elif error["type"] == "string_pattern_mismatch" and place[-1:] == ("api_key",):
        message = "a key is not written into a configuration: name its environment variable, as ${NAME}"
    variable = prefix + "__".join(str(part).upper() for part in place)
    if any(os.environ.get(name) is not None for name in (variable, variable.lower())):
        return safe_text(f"environment variable {variable}: {message}")
    return safe_text(f"{where(file, place)}{message}")


def _without_kinds(place: Place) -> Place:
    """A place in the file: pydantic's names the kind of each part that is chosen by one."""
    kept: Place = ()
    for part in place:
        owner = kept[-1] if kept and isinstance(kept[-1], str) else kept[-2] if len(kept) > 1 else None
        if part not in _KINDS.get(str(owner), {}):
            kept = (*kept, part)
    return kept


def where(file: YamlFile | None, place: Place) -> str:
    """The beginning of a message about the value at ``place``."""
    name = ".".join(map(str, place))
    # Not "name: message", which would look like a key and its value where the name is api_key.
    return f"({name}): " if file is None else f"{file.where(place)} ({name}): "
