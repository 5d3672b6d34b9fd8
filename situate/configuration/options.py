"""The parameters of a class as a pydantic model: checked, described by a JSON schema, and turned into the object."""

from __future__ import annotations

import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, create_model, model_validator
from pydantic_core import PydanticCustomError

from situate.outside import safe_text
from situate.parameters import right_name

_SCALARS = (str, int, float, bool, Path, datetime, type(None))


def check_keys(owner: str, values: Any, known: Sequence[str]) -> Any:
    """The values, if their keys are known.

    Raises:
        PydanticCustomError: One is not; the message names the nearest one.
    """
    if isinstance(values, Mapping):
        for key in values:
            if key in known:
                continue
            meant = right_name(str(key), known)
            hint = f"did you mean {meant}?" if meant else f"{owner} has {', '.join(sorted(known))}"
            raise PydanticCustomError("unknown_key", "there is no such key; {hint}", {"key": key, "hint": hint})
    return values


class Section(BaseModel):
    """A part of a configuration: frozen, and with known keys only. Its ``repr`` shows no key.

    Attributes:
        short_form: The JSON schema of a value that stands for the whole section.
    """

    short_form: ClassVar[Mapping[str, Any] | None] = None

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        values = check_keys(f"a {cls.__name__}", cls._written(values), list(cls.model_fields))
        if isinstance(values, Mapping):
            for key, value in values.items():
                # pydantic reads true, and YAML's yes and on, as the number 1.
                if isinstance(value, bool) and not _takes_truth(cls.model_fields[key].annotation):
                    raise PydanticCustomError("wrong_key", "it is no truth value, and was given one", {"key": key})
        return values

    @classmethod
    def _written(cls, values: Any) -> Any:
        """The values of a short form: a model's name alone, say."""
        return values

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(core)
        return described if cls.short_form is None else {"anyOf": [dict(cls.short_form), described]}

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, getattr(self, name)) for name in type(self).model_fields if name in self.model_fields_set]

    def __repr__(self) -> str:
        return safe_text(super().__repr__(), 4_000)

    __str__ = __repr__


class Options(Section):
    """Parameters of a class.

    Attributes:
        target: What they are passed to.
        inside: A parameter of it that another class makes of further ones.
    """

    target: ClassVar[Callable[..., Any]]
    inside: ClassVar[tuple[str, Callable[..., Any]] | None] = None

    @model_validator(mode="after")
    def _makes_a_value(self) -> Self:
        # A value is made now, so that what it refuses is said with its line.
        if is_dataclass(self.target) and all(_readable(hint) is not None for _, hint, _ in _parameters(self.target)):
            self.made()
        return self

    def given(self, **further: Any) -> dict[str, Any]:
        """The parameters that are set, nested ones made with ``further``."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {name: _made(value, **further) for name, value in values.items() if name != "kind"}

    def made(self, **further: Any) -> Any:
        """The object.

        Args:
            further: Parameters that no file can hold; those that the class does not take are left out.
        """
        given = self.given(**further)
        known = inspect.signature(self.target).parameters
        injected = {name: value for name, value in further.items() if name in known and name not in given}
        if self.inside is not None:
            name, part = self.inside
            parameters = inspect.signature(part).parameters
            given[name] = part(**{key: given.pop(key) for key in list(given) if key in parameters})
        return self.target(**given, **injected)

    def on(self, value: Any) -> Any:
        """``value``, a frozen dataclass of the same class, with these fields in place of its own."""
        changes = {}
        for name in self.model_fields_set:
            field, now = getattr(self, name), getattr(value, name)
            changes[name] = field.on(now) if isinstance(field, Options) and now is not None else _made(field)
        return replace(value, **changes)


@cache
def options(
    target: Callable[..., Any],
    kind: str | None = None,
    *,
    inside: tuple[str, Callable[..., Any]] | None = None,
    without: frozenset[str] = frozenset(),
    also: tuple[tuple[str, Any], ...] = (),
) -> type[Options]:
    """The model of a class's parameters, as far as a file can hold them.

    Args:
        target: The class.
        kind: The word that chooses it among others.
        inside: A parameter that another class makes, and that class: its parameters are read beside the target's.
        without: Parameters that are left out.
        also: Types of parameters that have another one here.
    """
    fields: dict[str, Any] = {}
    for made, left_out in ((target, without | ({inside[0]} if inside else set())), (inside and inside[1], without)):
        for name, hint, default in _parameters(made) if made is not None else ():
            hint = dict(also).get(name, hint)
            if name in left_out or name in fields or (hint := _readable(hint)) is None:
                continue
            described = Field(default=..., description=_described(made, name))
            if default is inspect.Parameter.empty and name in dict(also) and type(None) in get_args(hint):
                described = Field(default=None, description=_described(made, name))  # made by `made`'s caller
            elif default is not inspect.Parameter.empty:
                plain = name not in dict(also) and isinstance(default, str | int | float | bool | tuple | None)
                shown = default if plain else None
                described = Field(default=shown, description=_described(made, name), validate_default=False)
            fields[name] = (hint, described)
    if kind is not None:
        fields["kind"] = (Literal[kind], Field(default=..., description="What it is."))
    name = getattr(target, "__name__", str(target))
    model: type[Options] = create_model(name, __base__=Options, __doc__=_summary(target), **fields)
    model.target, model.inside = target, inside
    return model


def _takes_truth(hint: Any) -> bool:
    return hint in (bool, Any) or isinstance(hint, bool) or any(map(_takes_truth, get_args(hint)))


def _made(value: Any, **further: Any) -> Any:
    if isinstance(value, Options):
        return value.made(**further)
    if isinstance(value, tuple | list):
        return type(value)(_made(each, **further) for each in value)
    return value


def _parameters(target: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Name, type and default of each parameter; the type is None where it cannot be evaluated here."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(target).parameters.values()
    return [
        (one.name, _evaluated(target, one.name, one.annotation), one.default) for one in parameters if one.kind in named
    ]


def _evaluated(target: Any, name: str, annotation: Any) -> Any:
    """An annotation's type, evaluated in the module of the class that wrote it."""
    homes = [one for one in target.__mro__ if name in inspect.get_annotations(one)] or [target]
    for home in homes:
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            return typing.get_type_hints(holder, vars(sys.modules[home.__module__]), {"os": os, "Path": Path})[name]
        except (NameError, TypeError):
            # A name that only type checkers import, or read, is that of an object: no file can hold it.
            continue
    return None


def _readable(hint: Any) -> Any:
    """The part of a type that a file can hold; None for none."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _SCALARS or origin is Literal or hint is Any or (isinstance(hint, type) and issubclass(hint, Section)):
        return hint
    if origin is typing.Annotated:
        return hint
    if origin in (Union, types.UnionType):
        parts = tuple(part for part in map(_readable, inner) if part is not None)
        return Union[parts] if any(part is not type(None) for part in parts) else None  # noqa: UP007
    if origin in (list, tuple, typing.Sequence) or origin is Sequence:
        item = _readable(inner[0])
        return None if item is None else tuple[item, ...]  # type: ignore[valid-type]  # found at run time
    if origin in (dict, Mapping):
        item = _readable(inner[1])
        return None if item is None else dict[str, item]  # type: ignore[valid-type]
    if isinstance(hint, type) and is_dataclass(hint):
        return options(hint)
    return None


def _summary(target: Any) -> str:
    return (inspect.getdoc(target) or "").partition("\n\n")[0].replace("\n", " ")


def _described(target: Any, name: str) -> str | None:
    """A parameter's line of the docstring, without what follows its first sentence."""
    lines = (inspect.getdoc(target) or "").splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith(f"{name}:"):
            text = line.strip().removeprefix(f"{name}:").strip()
            for following in lines[number + 1 :]:
                if not following.startswith("        "):
                    break
                text += " " + following.strip()
            return text.partition(". ")[0].rstrip(".") + "."
    return None
