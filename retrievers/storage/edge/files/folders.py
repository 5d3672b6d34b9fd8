"""The folders of a store's collections: which are complete, which are unfinished, and which collection each belongs to.

Each holds a label that names its collection, so that it is found again under a `store.json` that names another folder,
as a backup's does: an optimised collection moves to a new folder. A folder that might be a collection is never
deleted, unless its own store has just replaced or deleted it; what is half-made or half-deleted carries a suffix.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from situate.retrievers.storage.edge.files.manifest import CollectionEntry

logger = logging.getLogger(__name__)

COLLECTIONS = "collections"
#: Where folders go that `store.json` does not name.
SET_ASIDE = "set-aside"
LABEL_FILE = "situate-collection.json"
#: How a folder ends while it is copied or unpacked, or once it is to be deleted: no `store.json` names it.
_UNFINISHED, _DELETED = ".unfinished", ".deleted"
_SHARD = re.compile(r"^[0-9a-f]{32}$")
#: ``.unpacked`` is what older versions unpacked snapshots in.
_SCRAP = re.compile(r"^[0-9a-f]{32}\.(unfinished|deleted|unpacked)$")


def unfinished(parent: Path) -> Path:
    """A new folder to make a collection in; `finish` when it is complete."""
    return parent / f"{uuid4().hex}{_UNFINISHED}"


def finish(folder: Path) -> Path:
    """Gives a folder from `unfinished` its final name."""
    return folder.rename(folder.with_suffix(""))


def delete(folder: Path) -> None:
    """Deletes a collection's folder; a suffix marks what a crash leaves of it."""
    with contextlib.suppress(OSError):
        folder = folder.rename(folder.with_suffix(_DELETED))
    shutil.rmtree(folder, ignore_errors=True)


def label(folder: Path, name: str, created_at: str) -> None:
    """Labels a folder with its collection. Only a restored `store.json` needs it, so a full disk is no error."""
    with contextlib.suppress(OSError):
        (folder / LABEL_FILE).write_text(json.dumps({"name": name, "created_at": created_at}))


def unlabel(folder: Path) -> None:
    """Takes the label off a folder that another has replaced."""
    with contextlib.suppress(OSError):
        (folder / LABEL_FILE).unlink()


def located(store: Path, entries: Mapping[str, CollectionEntry]) -> dict[str, CollectionEntry]:
    """The entries, with the folders that their collections are in now; those set aside are put back.

    Args:
        store: The store's folder.
        entries: The content of `store.json`: collection name -> entry.
    """
    parent = store / COLLECTIONS
    owned = {entry.folder for entry in entries.values()}
    found: dict[str, CollectionEntry] = {}
    for name, entry in entries.items():
        here = _label_of(parent / entry.folder) == (name, entry.created_at)
        place = None if here else _newest(store, owned, name, entry)
        if place is None:
            found[name] = entry
            continue
        logger.warning("collection %r is in %s, not in the folder %s of store.json", name, place, entry.folder)
        parent.mkdir(exist_ok=True)
        if place.parent != parent:
            place.rename(parent / place.name)
        found[name] = replace(entry, folder=place.name)
    return found


def _newest(store: Path, owned: set[str], name: str, entry: CollectionEntry) -> Path | None:
    """The folder, of those that no entry names, whose label is the collection's, or that was set aside by its name."""
    labelled = [
        folder
        for folder in _folders(store)
        if (folder.name not in owned or folder.parent.name == SET_ASIDE)
        and _label_of(folder) == (name, entry.created_at)
    ]
    if labelled:
        return max(labelled, key=lambda folder: (folder / LABEL_FILE).stat().st_mtime_ns)
    aside = store / SET_ASIDE / entry.folder
    return aside if aside.is_dir() and not (store / COLLECTIONS / entry.folder).exists() else None


def _folders(store: Path) -> Iterator[Path]:
    for parent in (store / COLLECTIONS, store / SET_ASIDE):
        for folder in parent.iterdir() if parent.is_dir() else ():
            if _SHARD.match(folder.name):
                yield folder


def _label_of(folder: Path) -> tuple[str, str] | None:
    try:
        values = json.loads((folder / LABEL_FILE).read_text())
        return values["name"], values["created_at"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def count(store: Path) -> int:
    """The number of folders among the collections that may be one."""
    return sum(1 for folder in _folders(store) if folder.parent.name == COLLECTIONS)


def sweep(store: Path, entries: Mapping[str, CollectionEntry]) -> None:
    """Deletes what a crash left half-made or half-deleted, and sets aside what no entry names."""
    parent = store / COLLECTIONS
    owned = {entry.folder for entry in entries.values()}
    for folder in list(parent.iterdir()) if parent.is_dir() else ():
        if _SCRAP.match(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
        elif _SHARD.match(folder.name) and folder.name not in owned:
            aside = store / SET_ASIDE
            aside.mkdir(exist_ok=True)
            target = aside / folder.name
            folder.rename(aside / uuid4().hex if target.exists() else target)
            logger.warning(
                "store.json names no collection in %s: moved into %s. A store.json that names it brings it back; "
                "delete it if it is not needed",
                folder,
                aside,
            )
    for name, entry in entries.items():
        if (parent / entry.folder).is_dir() and not (parent / entry.folder / LABEL_FILE).exists():
            label(parent / entry.folder, name, entry.created_at)
