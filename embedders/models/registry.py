"""The registry of model families: the records of ``families.toml``, read once, when a model is first looked up."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from situate.embedders.models.families import Family, FewShotFamily, SitEmbFamily
from situate.errors import ConventionError

_CARDS = "https://huggingface.co/"
_KINDS = {"family": Family, "few-shot": FewShotFamily, "situated": SitEmbFamily}
#: Fields about where one model's conventions were found, which no record has.
_MERGED = ("assumed", "sources")


@cache
def families() -> tuple[Family, ...]:
    """The records, in the order in which their patterns are tried."""
    file = Path(__file__).with_name("families.toml")
    return read_families(file.read_text(encoding="utf-8"), file.name)


def family_of(*names: str) -> Family | None:
    """The family in the registry that one of ``names`` belongs to; the first name that fits decides.

    Args:
        names: Hub ids, or folder names (the part after the owner is what is compared then).
    """
    for name in names:
        wanted = name.lower().rstrip("/")
        for family in families():
            if any(fnmatch.fnmatchcase(wanted, pattern) for pattern in family.models):
                return family
        base = wanted.rsplit("/", 1)[-1]
        for family in families():
            if any(fnmatch.fnmatchcase(base, pattern.rsplit("/", 1)[-1]) for pattern in family.models):
                return family
    return None


def read_families(text: str, source: str = "families.toml") -> tuple[Family, ...]:
    """The records in a TOML text; the head of ``families.toml`` says how they are written.

    Args:
        text: The TOML.
        source: Its name in errors.

    Raises:
        ConventionError: It is no TOML, or a record has an unknown key, a value of the wrong type or lacks its name,
            its source or its models; the error names record and key.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConventionError(f"{source} is not valid TOML: {error}") from error
    if unknown := tables.keys() - {"family", "shared"}:
        raise ConventionError(f"{source}: unknown table {min(unknown)!r}; there are 'family' and 'shared'")
    shared = tables.get("shared", {})
    return tuple(_record(table, shared, f"{source}, record {n}") for n, table in enumerate(tables.get("family", []), 1))


def _record(table: Any, shared: Mapping[str, Mapping[str, Any]], where: str) -> Family:
    if not isinstance(table, dict):
        raise ConventionError(f"{where} is {table!r}, no table: write it under [[family]]")
    where = f"{where} ({table.get('name', 'no name')!r})"
    values = dict(table)
    for used in values.pop("use", ()):
        if used not in shared:
            raise ConventionError(f"{where}, key 'use': there is no [shared.{used}] (there are: {', '.join(shared)})")
        values = {**shared[used], **values}
    kind = values.pop("kind", "family")
    if kind not in _KINDS:
        raise ConventionError(f"{where}, key 'kind': {kind!r} is not one of {', '.join(map(repr, _KINDS))}")
    if "card" in values:
        values["source"] = f"{_CARDS}{values.pop('card')}"
    lacking = [key for key in ("name", "source", "models") if key not in values]
    if lacking:
        raise ConventionError(f"{where} lacks the key {lacking[0]!r}")
    types = _field_types(kind)
    for key, value in values.items():
        if key not in types or key in _MERGED:
            known = ", ".join(name for name in types if name not in _MERGED)
            raise ConventionError(f"{where}: unknown key {key!r}; a record has {known}, card, kind and use")
        values[key] = _frozen(value)
        if not _fits(values[key], types[key]):
            raise ConventionError(f"{where}, key {key!r}: {value!r} is no {types[key]}")
    return _KINDS[kind](**values)


@cache
def _field_types(kind: str) -> Mapping[str, Any]:
    return get_type_hints(_KINDS[kind])


def _frozen(value: Any) -> Any:
    """A TOML value as a record holds it: arrays as tuples, tables as tuples of names and values."""
    return tuple(value.items()) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a field's annotation names."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin is UnionType:
        return any(_fits(value, each) for each in inner)
    if origin is not tuple:
        return type(value) is hint  # True is no number of tokens
    if not isinstance(value, tuple):
        return False
    wanted = inner[:1] * len(value) if inner[-1:] == (...,) else inner
    return len(wanted) == len(value) and all(map(_fits, value, wanted))
