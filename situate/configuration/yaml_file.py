"""A YAML file as values, with the line of each key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from situate.errors import InputError

#: Where a value stands: ("store", "path"), ("situators", 0, "kind").
Place = tuple[str | int, ...]

#: Bytes and values of a file that are read, so that no file of aliases unfolds without end.
_MAX_BYTES = 2**20
_MAX_VALUES = 10_000

#: A value that the environment holds.
VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True)
class YamlFile:
    """What a file holds.

    Attributes:
        path: The file.
        values: Its keys and values.
        lines: The line of each, from 1.
    """

    path: Path
    values: dict[str, Any]
    lines: Mapping[Place, int] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """File and line of the value, or of the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.path}, line {self.lines.get(place, 1)}"


def read_yaml(path: Path, secrets: frozenset[str]) -> YamlFile:
    """The values of a YAML file, with ``${NAME}`` replaced by the environment variable of that name.

    Args:
        path: The file.
        secrets: Keys whose values stay ``${NAME}``: they are read where they are used, and are stored nowhere.

    Raises:
        InputError: The file cannot be read, is no YAML or no mapping, holds a key twice, or names a variable that is
            not set.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise InputError(f"{path} has more than {_MAX_BYTES:,} bytes: a configuration is shorter")
    try:
        root = yaml.compose(data.decode("utf-8-sig"), yaml.SafeLoader)
        reader = _Reader(path, secrets)
        values = {} if root is None else reader.value(root, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise InputError(f"{path}{line}: no YAML ({getattr(error, 'problem', None) or 'unreadable'})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deep for a configuration") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}, line 1: a configuration is keys and values (`model: ...`), not a {_kind(values)}")
    return YamlFile(path, values, reader.lines)


class _Reader:
    """Turns YAML nodes into values, and notes their lines."""

    def __init__(self, path: Path, secrets: frozenset[str]) -> None:
        self.path = path
        self.secrets = secrets
        self.lines: dict[Place, int] = {}
        self._scalars = yaml.SafeLoader("")

    def value(self, node: yaml.Node, place: Place) -> Any:
        self.lines.setdefault(place, node.start_mark.line + 1)
        if len(self.lines) > _MAX_VALUES:
            raise InputError(f"{self.path} holds more than {_MAX_VALUES:,} values: a configuration is shorter")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, number)) for number, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._expanded(self._scalar(node), place)
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise InputError(f"{self.path}, line {line}: a key is a word, not a {_kind(key)}")
            if key in values:
                first = self.lines[*place, key]
                raise InputError(f"{self.path}, line {line}: {key} stands in line {first} already")
            self.lines[*place, key] = line
            values[key] = self.value(value_node, (*place, key))
        return values

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self._scalars.construct_object(node)
        except (ValueError, AttributeError):
            # The 99th of May, a number of a thousand digits, a tag that the text does not fit.
            line = node.start_mark.line + 1
            raise InputError(f"{self.path}, line {line}: no value that is read: put text in quotes") from None

    def _expanded(self, value: Any, place: Place) -> Any:
        if not isinstance(value, str) or (place and place[-1] in self.secrets):
            return value

        def variable(match: re.Match[str]) -> str:
            if (held := os.environ.get(match[1])) is None:
                raise InputError(
                    f"{self.path}, line {self.lines[place]}: {'.'.join(map(str, place))} names the environment "
                    f"variable {match[1]}, which is not set"
                )
            return held

        return VARIABLE.sub(variable, value)


def _kind(value: Any) -> str:
    names = {list: "list", dict: "mapping", type(None): "empty value"}
    return names.get(type(value), type(value).__name__)
