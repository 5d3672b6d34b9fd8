"""The manifest of an embedded store beside its shards: collections, their configuration, aliases."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from situate.errors import StorageError, StoreCorruptError
from situate.outside import load_json

MANIFEST_FILE = "store.json"
FORMAT = 1
_ENTRY_KEYS = ("folder", "config", "created_at")


@dataclass(frozen=True)
class CollectionEntry:
    """One collection.

    Attributes:
        folder: The shard's folder under the store; a name of our own, since collection names need not be file names.
        config: The collection's `CreateCollection`, as JSON values.
        created_at: ISO 8601.
        more: Further keys of the file, which are kept: a newer version may have written them.
    """

    folder: str
    config: dict[str, Any]
    created_at: str
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> CollectionEntry:
        """The entry of JSON values."""
        more = {key: value for key, value in values.items() if key not in _ENTRY_KEYS}
        return cls(values["folder"], values["config"], values["created_at"], more)

    def values(self) -> dict[str, Any]:
        """The entry as JSON values."""
        return {**self.more, **{key: getattr(self, key) for key in _ENTRY_KEYS}}


@dataclass
class Manifest:
    """The store's table of contents.

    Attributes:
        collections: Name -> entry.
        aliases: Alias -> collection name.
    """

    collections: dict[str, CollectionEntry] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, store: Path) -> Manifest:
        """The manifest of the store, empty where there is none yet.

        Raises:
            StoreCorruptError: The file is damaged.
            StorageError: A newer situate wrote it.
        """
        path = store / MANIFEST_FILE
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreCorruptError(f"{path} cannot be read: {error}") from error
        try:
            values = load_json(text, path.name)
            if values["format"] > FORMAT:
                raise StorageError(
                    f"{path} has format {values['format']}, this version reads up to {FORMAT}: upgrade situate"
                )
            return cls(
                collections={name: CollectionEntry.of(entry) for name, entry in values["collections"].items()},
                aliases=dict(values["aliases"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreCorruptError(
                f"{path} is damaged ({error}); the collections' own folders beside it are untouched: restore the file "
                "from a backup or a snapshot"
            ) from error

    def save(self, store: Path) -> None:
        """Replaces the manifest on disk: after a crash at any moment either the old or the new one is complete."""
        values = {
            "format": FORMAT,
            "collections": {name: entry.values() for name, entry in self.collections.items()},
            "aliases": self.aliases,
        }
        path = store / MANIFEST_FILE
        scratch = path.with_suffix(".tmp")
        try:
            with scratch.open("w", encoding="utf-8") as file:
                json.dump(values, file)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
            sync_folder(store)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error}") from error


def sync_folder(folder: Path) -> None:
    """Makes renames inside ``folder`` durable. Folders cannot be opened for that on Windows, where this is no-op."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
